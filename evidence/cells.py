"""The cells of the table: data with a known truth, and what the code makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ends: TypeAlias = tuple[float, float] | None

ALPHA = 0.05
MARGIN_ALPHA = 0.025
"""Statements about a margin are made at half of the level of the interval, on one side."""


class Data(NamedTuple):
    """One draw of a cell's data.

    Attributes:
        values: shape (n,), or (n, repeats), or (comparisons, n) for a family.
        baseline: what they are compared with, of the same shape; None without one.
        clusters: the cluster of each sample; None when each stands alone.
        paired: whether values and baseline are of the same samples.
    """

    values: Floats
    baseline: Floats | None = None
    clusters: list[int] | None = None
    paired: bool = True

    def key(self) -> bytes:
        """Return the same bytes for samples that are the same but for their order."""
        if self.baseline is not None and not self.paired:
            return np.sort(self.values).tobytes() + np.sort(self.baseline).tobytes()
        columns = [self.values if self.values.ndim > 1 else self.values[None, :]]
        if self.baseline is not None:
            columns.append(self.baseline if self.baseline.ndim > 1 else self.baseline[None, :])
        table = np.vstack(columns)
        if self.clusters is None and self.values.ndim == 1:
            table = table[:, np.lexsort(table)]
        return table.tobytes() + np.asarray(self.clusters or [], dtype=np.int64).tobytes()


class Outcome(NamedTuple):
    """What the code makes of one draw.

    Attributes:
        ends: of the interval; None where none is given.
        method: of the interval or verdict.
        wrong: whether a test, verdict or gate says what is not so; None where none is tested.
        contradicts: whether the interval holds a value that the p-value beside it rejects, or the
            other way about.
        candidates: intervals of other methods, to see what a narrower one would cost.
    """

    ends: Ends = None
    method: str = ""
    wrong: bool | None = None
    contradicts: bool = False
    candidates: Mapping[str, Ends] = {}


class Cell(NamedTuple):
    """One row of the table.

    Attributes:
        kind: what is computed.
        name: the data.
        n: samples, or clusters.
        draw: makes one sample.
        compute: calls the code that reports and gates call.
        truth: what the interval has to hold.
        nominal: how often the test, verdict or gate may be wrong.
        over: why the interval may cover more than 97%: `discrete` (few different samples are
            possible), `bounded` (a bound from the range allows for what samples do not show) or
            `always-valid`; "" where it may not.
        refused: why reports give no interval here; "" where they give one.
        group: `0 or 1` where all scores are, which reports know.
        asked: the width that was asked for, which the mean one has to come near; None for none.
        sequential: whether each replication is a run with many looks, so that fewer are made.
        decides: whether gates on a margin go by this interval alone, so that each of its ends has
            to hold.
    """

    kind: str
    name: str
    n: int
    draw: Callable[[np.random.Generator], Data]
    compute: Callable[[Data], Outcome]
    truth: float = 0.0
    nominal: float = ALPHA
    over: str = ""
    refused: str = ""
    group: str = ""
    sequential: bool = False
    asked: float | None = None
    decides: bool = False

    @property
    def family(self) -> tuple[str, ...]:
        """Return what a report knows of the data, besides the data.

        It cannot tell the cells of a family from each other, so a method that misses in one of
        them is no choice for the others. Cells in which methods may cover less than they should
        only because few different samples are possible, or because samples do not show all there
        is, form families; every other cell stands alone.
        """
        if self.over not in {"discrete", "bounded"}:
            return (self.title,)
        return self.kind, self.group, str(self.n)

    @property
    def title(self) -> str:
        """Return the words by which cells are chosen on the command line."""
        return f"{self.kind}: {self.name}, n {self.n}"


def ends(low: float | None, high: float | None) -> Ends:
    """Return the ends of an interval; None without one."""
    return None if low is None or high is None else (low, high)
