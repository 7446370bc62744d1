"""Adds rows to a dataset: a new version with the rows of the newest one, and more.

    rows = [{"input": "Why?"}]
    version = await add_rows(store, datasets, "questions", rows, source=..., provenance={})

What clients' keys made of their own requests is left out: only they see it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import msgspec

from providers.errors import ConflictError
from router.datasets.artifacts import temporary_folder
from router.datasets.registry import DatasetRegistry, Lineage, check_dataset_name
from router.datasets.sources import collect
from router.loop.dataset_owners import key_of
from router.store.datasets import DatasetRow, DatasetStore
from router.store.leases import Lease, LeaseStore
from router.store.lineage import RowSource

# Seconds until others may add rows after a process was killed; it is renewed meanwhile.
_ADDING_S = 20.0
_PATIENCE_S = 30.0
_BETWEEN_TRIES_S = 0.05


class GrowingStore(DatasetStore, LeaseStore, Protocol):
    """What it takes to add rows to datasets."""


_encode = msgspec.json.Encoder().encode


async def newest_version(store: DatasetStore, name: str) -> DatasetRow | None:
    """Return the newest version but for those that clients' keys made of their requests."""
    for version in await store.datasets(name):
        if not key_of(version):
            return version
    return None


@asynccontextmanager
async def adding_to(store: LeaseStore, name: str) -> AsyncGenerator[None]:
    """Wait until no other task adds rows to a dataset, in this process or another, and hold it.

    A version that is made of the newest one would otherwise lack what is added meanwhile.

    Raises:
        ConflictError: others still add rows after half a minute.
        StoreError: the database does not work.
    """
    lease = Lease(store, f"add rows to {name}", secrets.token_hex(16), _ADDING_S)
    async with lease.released_at_the_end():
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not await lease.claim():  # noqa: ASYNC110  # of other processes, too
                    await asyncio.sleep(_BETWEEN_TRIES_S)
        except TimeoutError:
            raise ConflictError(
                f"Others add rows to the dataset {name!r} at the moment. Try it again."
            ) from None
        async with lease.renewed():
            yield


def lines_of(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return b"".join(_encode(row) + b"\n" for row in rows)


async def add_rows(
    store: GrowingStore,
    datasets: DatasetRegistry,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    source: str,
    provenance: Mapping[str, Any],
) -> DatasetRow:
    """Register a version of a dataset that has more rows; its first one where there is none.

    Args:
        store: the versions.
        datasets: where it is registered.
        name: the dataset's name.
        rows: what is added, without ids; columns have known names.
        source: what the rows come from.
        provenance: how they were made; JSON types only.

    Raises:
        DatasetError: no dataset can have the name, or it cannot be written.
        ArtifactError, StoreError: it cannot be written.
        ConflictError: the version was deleted meanwhile, or others add rows for too long.
    """
    check_dataset_name(name)
    async with adding_to(store, name):
        return await _add_rows(store, datasets, name, rows, source=source, provenance=provenance)


async def derive_from(
    datasets: DatasetRegistry,
    name: str,
    earlier: DatasetRow | None,
    lines: AsyncIterator[bytes],
    *,
    source: str,
    provenance: Mapping[str, Any],
    sources: Sequence[RowSource] = (),
) -> DatasetRow:
    """Register a version of a dataset that has an earlier version's rows, and more.

    Args:
        datasets: where it is registered.
        name: the dataset's name.
        earlier: the earlier version; None for the first one.
        lines: all rows, as JSON lines.
        source: what the added rows come from.
        provenance: how they were made; JSON types only.
        sources: the requests that added rows were copied from.

    Raises:
        As `collect` and `DatasetRegistry.derive` do.
    """
    made: dict[str, Any] = dict(provenance)
    if earlier is not None:
        made["of"] = {"dataset": name, "hash": earlier.hash}
    with temporary_folder() as folder:
        path = folder / "rows.jsonl"
        await collect(lines, path, datasets.max_bytes, name)
        return await datasets.derive(
            path,
            name=name,
            source=source,
            provenance=made,
            lineage=Lineage(
                sources=sources,
                made_of=() if earlier is None else (earlier.hash,),
                registered="" if earlier is None else earlier.hash,
            ),
        )


async def _add_rows(
    store: DatasetStore,
    datasets: DatasetRegistry,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    source: str,
    provenance: Mapping[str, Any],
) -> DatasetRow:
    earlier = await newest_version(store, name)
    added = [{"id": f"row-{secrets.token_hex(8)}"} | dict(row) for row in rows]

    async def lines() -> AsyncIterator[bytes]:
        if earlier is not None:
            async with aclosing(datasets.all_rows(earlier)) as batches:
                async for batch in batches:
                    yield await asyncio.to_thread(
                        lines_of, [{"id": row.id} | row.fields for row in batch]
                    )
        yield await asyncio.to_thread(lines_of, added)

    made = dict(provenance) | {"added_rows": len(added)}
    return await derive_from(datasets, name, earlier, lines(), source=source, provenance=made)
