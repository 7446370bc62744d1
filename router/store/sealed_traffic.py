"""Sealed traffic: old requests in Parquet files of the artifact store, one row here for each file.

A file begins as `writing`: its row is there before the file, so that what a crash leaves behind is
found. Once the file is whole it is `sealed`, and its requests leave the table of live ones step by
step, in the order of their numbers. Each step deletes live requests and makes the same requests of
the file visible (those up to `visible_to`) in one transaction. So at any moment a request is either
live or visible in one file. A step for requests of which some are gone does nothing: what was
deleted meanwhile must not come back. A file that is no longer used is `removed` until the artifact
store has deleted it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow, TrafficStore, TrafficTotal

# Columns of requests whose values each file has a filter of.
FilteredColumn = Literal["id", "key_id", "user_id", "request_id", "response_id", "conversation"]
FILTERED: tuple[FilteredColumn, ...] = (
    "id", "key_id", "user_id", "request_id", "response_id", "conversation",
)  # fmt: skip

# Parts of an index of its rows: see `router/sealing/strips.py`.
IndexPart = Literal["kinds", "rows", "users"]

FileField = FilteredColumn | IndexPart

Kind = tuple[str, str, str, int]


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a sealed file has.

    Attributes:
        requests, size, sha256: how many requests, and the file's bytes and their hash.
        first, last: the lowest and the highest number of its requests.
        earliest, latest: the first and the last moment at which one of them came.
        kinds: each combination of route, target, class and status in it; None where too many.
    """

    requests: int
    size: int
    sha256: str
    first: int
    last: int
    earliest: float
    latest: float
    kinds: tuple[Kind, ...] | None


class SealedFile(FileFacts, frozen=True, kw_only=True):
    """A sealed file.

    Attributes:
        number: of its row.
        key: where the artifact store has it.
        visible_to: the highest number of its requests that is no longer live.
    """

    number: int
    key: str
    visible_to: int

    @property
    def is_visible(self) -> bool:
        """Whether all its requests have left the table of live ones."""
        return self.visible_to >= self.last

    def when_visible(self) -> SealedFile:
        """Return the file as it is once all its requests have left the table of live ones."""
        return msgspec.structs.replace(self, visible_to=self.last)

    def visible_before(self, before: int | None) -> int | None:
        """Return what the numbers of its visible requests before `before` are below.

        None where they are all its requests.
        """
        if self.is_visible:
            return before
        return self.visible_to + 1 if before is None else min(before, self.visible_to + 1)

    def may_have(self, matching: TrafficFilter) -> bool:
        """Return whether a visible request of it may match, as far as this row says."""
        if self.visible_to < self.first:
            return False
        if matching.since is not None and self.latest < matching.since:
            return False
        if matching.until is not None and self.earliest >= matching.until:
            return False
        return self.kinds is None or any(kind_matches(kind, matching) for kind in self.kinds)

    def has_only(self, matching: TrafficFilter) -> bool:
        """Return whether all its requests are known to match, as far as this row says."""
        if matching.names_few or matching.key_id is not None or matching.user is not None:
            return False
        if matching.since is not None and self.earliest < matching.since:
            return False
        if matching.until is not None and self.latest >= matching.until:
            return False
        return self.kinds is not None and all(kind_matches(kind, matching) for kind in self.kinds)


def kind_matches(kind: Kind, matching: TrafficFilter) -> bool:
    """Return whether the filter selects requests of a kind."""
    route, target, traffic_class, status = kind
    low, high = matching.status or (status, status)
    return (
        matching.route in {None, route}
        and route not in matching.except_routes
        and matching.target in {None, target}
        and matching.traffic_class in {None, traffic_class}
        and low <= status <= high
    )


class LiveRequest(NamedTuple):
    """The number of a request to seal, and how many bytes its bodies have."""

    number: int
    body_bytes: int


class UnusedFile(NamedTuple):
    """A row whose file is to be deleted."""

    number: int
    key: str


class SealedTrafficStore(TrafficStore, Protocol):
    """Stores, beside live requests, which are in which file, and moves them there.

    `*_and_sealed` return live requests together with the files that may have others, in one state
    of the store.
    """

    async def traffic_and_sealed(
        self, matching: TrafficFilter, *, limit: int, before: int | None = None
    ) -> tuple[list[TrafficRow], list[SealedFile]]:
        """List live requests, newest first, and the files, the newest requests first."""
        ...

    async def request_and_sealed(
        self, matching: TrafficFilter
    ) -> tuple[TrafficRow | None, list[SealedFile]]:
        """Return the newest live request that matches, with its bodies; the files."""
        ...

    async def totals_and_sealed(
        self, matching: TrafficFilter, by: Sequence[TotalsBy], *, limit: int
    ) -> tuple[list[TrafficTotal], list[SealedFile]]:
        """Add up live requests; in all groups where files may have others, else in `limit`."""
        ...

    async def sealed_files(self) -> list[SealedFile]:
        """List all sealed files, visible or not, the newest requests first."""
        ...

    async def sealed_filters(self, numbers: Sequence[int], field: FileField) -> dict[int, bytes]:
        """Return the files' filters of a column, or parts of their indexes, by their numbers."""
        ...

    async def oldest_traffic(self, since: float, until: float) -> float | None:
        """Return the moment of a live request of that time, about the earliest; None without."""
        ...

    async def traffic_to_seal(
        self, since: float, until: float, *, after: int, limit: int
    ) -> list[LiveRequest]:
        """List live requests of a time with a number above `after`, in their order."""
        ...

    async def traffic_columns(self, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return live requests as TRAFFIC_COLUMNS, request and response, by number."""
        ...

    async def begin_file(self, key: str) -> int:
        """Store that a file is being written; return the number of its row."""
        ...

    async def seal_file(
        self, number: int, facts: FileFacts, filters: dict[FileField, bytes]
    ) -> SealedFile | None:
        """Store that a file is whole, none of it visible; None where its row was given up."""
        ...

    async def move_to_file(self, file: SealedFile, numbers: Sequence[int]) -> SealedFile | None:
        """Delete live requests, and make the file's visible up to the last of them.

        None, with nothing done, where one of them is not live any more, or the file not in use.
        """
        ...

    async def replace_file(
        self,
        old: SealedFile,
        number: int,
        facts: FileFacts,
        filters: dict[FileField, bytes],
    ) -> bool:
        """Put a whole file in the place of another; False, with nothing done, if that is gone."""
        ...

    async def drop_file(self, file: SealedFile) -> bool:
        """Stop using a file; False where that has happened."""
        ...

    async def unused_files(self, older_than_s: float) -> list[UnusedFile]:
        """List the removed files; those that were being written for longer than that are, too."""
        ...

    async def give_up_file(self, number: int) -> bool:
        """Make a file removed that is not sealed; False where it is, or where its row is gone."""
        ...

    async def forget_file(self, number: int) -> None:
        """Delete the row of a removed file."""
        ...
