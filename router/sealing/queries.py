"""Queries of sealed files: two implementations give the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from providers.errors import ArtifactError
from router.store.sealed_traffic import SealedFile
from router.store.traffic import TotalsBy, TrafficFilter

Row = tuple[Any, ...]

# Columns that are added up.
SUMS = ("prompt_tokens", "completion_tokens", "cost_usd")


class Queries(Protocol):
    """Reads the visible requests of files, on the thread that calls.

    Every method raises NotFoundError where a file is gone, and ArtifactError where one cannot be
    read.
    """

    def page(
        self,
        files: Sequence[SealedFile],
        matching: TrafficFilter,
        *,
        limit: int,
        before: int | None = None,
        bodies: bool = False,
    ) -> list[Row]:
        """Return the newest requests that match as TRAFFIC_COLUMNS, and `request`, `response`."""
        ...

    def totals(
        self, files: Sequence[SealedFile], matching: TrafficFilter, by: Sequence[TotalsBy]
    ) -> list[Row]:
        """Add up requests: for each group the columns below, then the group's values.

        Requests, failures, prompt and completion tokens and cost (None where none has it), and
        how many have no cost.
        """
        ...

    def count(self, file: SealedFile, matching: TrafficFilter) -> int:
        """Return how many visible requests of a file match."""
        ...


def newest_rows(
    files: Sequence[SealedFile],
    limit: int,
    read: Callable[[SealedFile, int], list[Row]],
    above: int = -1,
) -> list[Row]:
    """Return the newest rows of files, newest first, and read no file that can have none of them.

    Args:
        files: in any order.
        limit: the largest number of rows.
        read: returns rows of a file with numbers above the given one; a row begins with its number.
        above: the number that all rows have to be above.
    """
    newest: list[Row] = []
    for file in sorted(files, key=lambda file: file.last, reverse=True):
        lowest = newest[-1][0] if len(newest) == limit else above
        if file.last <= lowest:
            break
        rows = [*newest, *read(file, lowest)]
        newest = sorted(rows, reverse=True, key=lambda row: row[0])[:limit]
    return newest


def damaged(file: SealedFile, error: Exception) -> ArtifactError:
    """Return the error that a file cannot be read."""
    return ArtifactError(f"sealed requests cannot be read: {file.key} is damaged: {error}")
