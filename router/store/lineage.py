"""Lineage: which rows of datasets were copied from which requests, so that they can be deleted.

A row here says what filters of requests select by, because the request itself may be too old to be
stored. Versions that were made of a version (labelled, extended) have its lineage, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from router.store.datasets import DatasetRow, DatasetStore
from router.store.traffic import TrafficFilter


class RowSource(msgspec.Struct, frozen=True, kw_only=True):
    """The request that a row of a dataset was copied from.

    Attributes:
        row: the row's id.
        id, at, key_id, user, request_id, response_id, conversation, rollout, arm, route, target,
            traffic_class, status: of the request, as in `router.store.traffic.TrafficRow`.
        authors: the users whose feedback about the request is in the row.
    """

    row: str
    id: str
    at: float
    key_id: str = ""
    user: str = ""
    request_id: str = ""
    response_id: str = ""
    conversation: str = ""
    rollout: str = ""
    arm: str = ""
    route: str = ""
    target: str = ""
    traffic_class: str = "live"
    status: int = 200
    authors: frozenset[str] = frozenset()


class CopiedRows(msgspec.Struct, frozen=True):
    """Rows of the versions with a hash that were copied from some requests, by their ids."""

    hash: str
    rows: frozenset[str]


class LineageStore(DatasetStore, Protocol):
    """Stores where rows of datasets come from."""

    async def add_sources(
        self,
        content: str,
        sources: Sequence[RowSource],
        *,
        made_of: Collection[str] = (),
        registered: str = "",
        version: DatasetRow | None = None,
    ) -> None:
        """Store where rows of the versions with a hash come from; what is known already stays.

        Args:
            content: the hash.
            sources: of each row that was copied from a request.
            made_of: hashes of versions whose rows may be in it: it has their sources, too.
            registered: the hash of a registered version that its rows were taken from; "" for none.
            version: is registered in the same transaction.

        Raises:
            ConflictError: the registered version is gone, and rows of it may have been deleted
                with their requests; nothing is stored.
        """
        ...

    async def copied_rows(self, matching: TrafficFilter) -> CopiedRows | None:
        """Return the rows of one hash that were copied from requests that match; None for none."""
        ...

    async def forget_sources(self, content: str, rows: Collection[str]) -> None:
        """Forget where rows of the versions with a hash come from: they are not in it any more.

        The answers to them that references and probes of watches have are deleted.
        """
        ...

    async def replace_versions(
        self, old: str, new: Sequence[DatasetRow], without: Collection[str]
    ) -> None:
        """Put versions in the place of all that have the hash `old`, without some of its rows.

        They have its lineage, but for those rows. Where `new` is empty, the old ones are gone. The
        answers to the old ones that references and probes of watches have are deleted.
        """
        ...
