"""What slices of a run's scores are made of: one column of its samples, and one score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from evaluators.base import Cell


class StoredValue(NamedTuple):
    """The value of one sample in a column.

    Attributes:
        sample_id: the sample's id.
        value: `evaluators.data.rows.MISSING` where the sample does not have the column.
        cluster: the cluster that the sample belongs to; "" for none.
    """

    sample_id: str
    value: Any
    cluster: str


class StoredScore(NamedTuple):
    """The score of one answer; `value` is None, and `statistics` empty, where it has none."""

    position: int
    route: str
    repeat: int
    value: float | None
    statistics: tuple[float, ...]


class SliceStore(Protocol):
    """Reads a run column by column, in bounded pages; NotFoundError where no run has the id."""

    async def each_value(
        self, run_id: str, column: str, take: Callable[[StoredValue], None]
    ) -> list[str]:
        """Call `take` with the value of each sample in a column, on threads, one call at a time.

        Args:
            run_id: the run's.
            column: a column's name, or a dotted path as `evaluators.data.rows.value_at` has it.
            take: gets the values in the dataset's order.

        Returns:
            The names of the columns that the samples have, at most MAX_NAMES.
        """
        ...

    async def each_score(
        self, run_id: str, output: str, take: Callable[[StoredScore], None]
    ) -> None:
        """Call `take` with each answer's score by sample and repeat, on threads, one at a time."""
        ...

    async def labelled_texts(self, run_id: str, output: str) -> dict[Cell, str]:
        """Return the texts of the answers that people have scored."""
        ...


MAX_NAMES = 1000
"""Columns of a run's samples that are named; rows may have different ones."""
