"""Draws a cell's data many times, counts the outcomes, and compares the shares with their bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from evidence.cells import Cell, Ends, Outcome

REPLICATIONS = 10_000
SEQUENTIAL = 2_000
"""Replications of a cell in which each one is a run with many looks."""

COVERAGE = 0.93
OVER = 0.97
SHORT = (1 - COVERAGE) / 2
"""How often intervals that decide gates may end on the near side of the truth, seen from zero.

Such an interval says that the difference is smaller than it is, and a gate passes by it that should
fail. Half of all misses may be of this kind: the gate's level, 2.5%, is half of the interval's.
"""

WIDER = 1.25
AS_ASKED = 0.1
"""How far the mean width may be from the one that was asked for, as a share of it."""

REFUSED = 0.99


class Interval(NamedTuple):
    """How a method's intervals do.

    Attributes:
        coverage: the share of intervals that hold the truth.
        width: their mean width.
        refused: the share of draws for which no interval is given.
        short: the share of intervals that end between zero and the truth, or beyond zero; 0 where
            the truth is zero.
    """

    coverage: float
    width: float
    refused: float
    short: float

    @property
    def covers(self) -> bool:
        """Say whether the method covers; a draw without an interval counts as a miss."""
        return self.coverage * (1 - self.refused) >= COVERAGE


class Counts(NamedTuple):
    """What was counted of a cell.

    Attributes:
        replications: how many draws were made.
        method: the commonest method.
        interval: of the intervals that reports show; None without any.
        candidates: of other methods.
        wrong: the share of claims that are wrong; None where nothing is claimed.
        contradictions: how often interval and p-value contradict each other.
    """

    replications: int
    method: str
    interval: Interval | None
    candidates: Mapping[str, Interval]
    wrong: float | None
    contradictions: int


class Finding(NamedTuple):
    """The counts of a cell, beside those of others.

    Attributes:
        counts: of the cell.
        best: the narrowest method that covers in all cells of the family, and its mean width here;
            None where no other method was tried.
        faults: what is outside its band, in words.
    """

    counts: Counts
    best: tuple[str, float] | None
    faults: tuple[str, ...]


def replications_of(cell: Cell, replications: int) -> int:
    """Return how many draws to make, where most cells get `replications`."""
    return replications * SEQUENTIAL // REPLICATIONS if cell.sequential else replications


def count(cell: Cell, replications: int, *, seed: int = 0) -> Counts:
    """Draw a cell's data so many times, and count."""
    random = np.random.Generator(np.random.PCG64([seed, crc32(cell.title.encode())]))
    outcomes: list[Outcome] = []
    # Of discrete data the same sample comes again and again.
    seen: dict[bytes, Outcome] = {}
    for _ in range(replications):
        data = cell.draw(random)
        key = data.key()
        if key not in seen:
            seen[key] = cell.compute(data)
        outcomes.append(seen[key])
    wrong = [outcome.wrong for outcome in outcomes if outcome.wrong is not None]
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.candidates)
    candidates = {
        name: _interval([outcome.candidates.get(name) for outcome in outcomes], cell.truth)
        for name in names
    }
    return Counts(
        replications=replications,
        method=Counter(outcome.method for outcome in outcomes).most_common(1)[0][0],
        interval=_interval([outcome.ends for outcome in outcomes], cell.truth),
        candidates={name: counted for name, counted in candidates.items() if counted is not None},
        wrong=sum(wrong) / len(wrong) if wrong else None,
        contradictions=sum(outcome.contradicts for outcome in outcomes),
    )


def _interval(given: Sequence[Ends], truth: float) -> Interval | None:
    intervals = [interval for interval in given if interval is not None]
    if not intervals:
        return None
    low, high = np.array(intervals).T
    below, above = truth < low - 1e-12, high + 1e-12 < truth
    nearer = above if truth > 0 else below
    return Interval(
        coverage=float((~below & ~above).mean()),
        width=float((high - low).mean()),
        refused=1 - len(intervals) / len(given),
        short=float(nearer.mean()) if truth else 0.0,
    )


def assess(counted: Sequence[tuple[Cell, Counts]]) -> list[Finding]:
    """Compare each cell's counts with the bands, and with other methods that cover."""
    failing: dict[tuple[str, ...], set[str]] = {}
    for cell, counts in counted:
        failing.setdefault(cell.family, set()).update(
            name
            for name, interval in counts.candidates.items()
            if not interval.covers or (cell.decides and interval.short > SHORT)
        )
    findings = []
    for cell, counts in counted:
        best = _best(counts, failing[cell.family])
        faults = tuple(_faults(cell, counts, best))
        findings.append(Finding(counts, best, faults))
    return findings


def _best(counts: Counts, failing: Collection[str]) -> tuple[str, float] | None:
    covering = [
        (interval.width, name)
        for name, interval in counts.candidates.items()
        if name not in failing
    ]
    if counts.candidates and counts.interval is not None and counts.interval.covers:
        covering.append((counts.interval.width, counts.method))
    return (min(covering)[1], min(covering)[0]) if covering else None


def _faults(cell: Cell, counts: Counts, best: tuple[str, float] | None) -> Iterable[str]:
    interval, replications = counts.interval, counts.replications
    if counts.contradictions:
        yield f"{counts.contradictions} contradictions of interval and p"
    if cell.refused:
        if interval is not None and interval.refused < REFUSED:
            yield "an interval is given"
    elif interval is not None:
        if interval.coverage < COVERAGE - _allowance(cell, COVERAGE, replications):
            yield "covers too little"
        elif interval.coverage > OVER + _allowance(cell, OVER, replications) and not cell.over:
            yield "covers too much"
        if cell.decides and interval.short > SHORT + _allowance(cell, SHORT, replications):
            yield "ends short of the truth too often"
        if best is not None and interval.width > WIDER * best[1]:
            yield f"{interval.width / best[1]:.2f} times as wide as need be"
        if cell.asked is not None and abs(interval.width / cell.asked - 1) > AS_ASKED:
            yield f"{interval.width / cell.asked:.2f} times as wide as asked"
    if counts.wrong is not None:
        error = (cell.nominal * (1 - cell.nominal) / replications) ** 0.5
        if counts.wrong > cell.nominal + 3 * error:
            yield f"wrong in more than {cell.nominal:.1%}"


def _allowance(cell: Cell, share: float, replications: int) -> float:
    """Return three Monte Carlo errors where there are too few replications for the exact band."""
    if replications >= (SEQUENTIAL if cell.sequential else REPLICATIONS):
        return 0.0
    return float(3 * (share * (1 - share) / replications) ** 0.5)
