"""What sealed files are asked: two implementations give the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
