"""The table of which rows of datasets were copied from which requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from providers.errors import ConflictError
from router.store.columns.authors import BY_AUTHOR, author_text
from router.store.columns.lineage import SOURCE_COLUMNS, source_columns
from router.store.datasets import DatasetRow
from router.store.lineage import CopiedRows, LineageStore, RowSource
from router.store.sql.connection import Connection
from router.store.sql.datasets import SqlDatasets, insert_version
from router.store.sql.filters import conditions_of
from router.store.sql.watches import forget_watched
from router.store.traffic import TrafficFilter

_COLUMNS = ", ".join(SOURCE_COLUMNS)
# All but the hash.
_OTHERS = ", ".join(SOURCE_COLUMNS[1:])
_INSERT = f"INSERT INTO dataset_sources ({_COLUMNS})"
_KNOWN_STAYS = "ON CONFLICT (hash, row_id) DO NOTHING"
_OF_USER = {"user": f"(user_id = :user OR {BY_AUTHOR})"}


class SqlLineage(SqlDatasets, LineageStore):
    """Where rows of datasets come from."""

    async def add_sources(
        self,
        content: str,
        sources: Sequence[RowSource],
        *,
        made_of: Collection[str] = (),
        registered: str = "",
        version: DatasetRow | None = None,
    ) -> None:
        origins = _Origins(sources, made_of, registered)
        await self._database.write("store a dataset's sources", _add, content, origins, version)

    async def copied_rows(self, matching: TrafficFilter) -> CopiedRows | None:
        return await self._database.read("look for copies of requests", _copied, matching)

    async def forget_sources(self, content: str, rows: Collection[str]) -> None:
        await self._database.write("forget a dataset's sources", _forget, content, rows)

    async def replace_versions(
        self, old: str, new: Sequence[DatasetRow], without: Collection[str]
    ) -> None:
        await self._database.write("replace dataset versions", _replace, old, new, without)


class _Origins(NamedTuple):
    """Where rows come from; fields as the arguments of `add_sources`."""

    sources: Sequence[RowSource]
    made_of: Collection[str]
    registered: str


def _add(db: Connection, content: str, origins: _Origins, version: DatasetRow | None) -> None:
    _check_there(db, origins.registered)
    places = ", ".join("?" * len(SOURCE_COLUMNS))
    db.executemany(
        f"{_INSERT} VALUES ({places}) {_KNOWN_STAYS}",
        [source_columns(content, source) for source in origins.sources],
    )
    for origin in sorted(origins.made_of):
        _inherit(db, content, origin, ())
    if version is not None:
        insert_version(db, version)


def _check_there(db: Connection, registered: str) -> None:
    """Refuse rows of a version that has gone, unless it is known where they come from."""
    if not registered:
        return
    for table in ("datasets", "dataset_sources"):
        # Written, so that a deletion that takes the version's place waits, and the other way round.
        locked = db.execute(f"UPDATE {table} SET hash = hash WHERE hash = ?", (registered,))
        if locked.rowcount:
            return
    raise ConflictError(
        "The dataset that the rows are from was deleted, or requests that rows of it are copies "
        "of: they cannot become part of another dataset.",
        code="requests_deleted",
    )


def _inherit(db: Connection, version: str, origin: str, without: Collection[str]) -> None:
    """Give the versions with one hash the sources of those with another."""
    # WHERE, because SQLite would read ON CONFLICT as a part of the SELECT.
    db.execute(
        f"{_INSERT} SELECT :version, {_OTHERS} FROM dataset_sources WHERE hash = :origin"
        f" AND NOT ({db.any_of('row_id', ':without')}) {_KNOWN_STAYS}",
        {"version": version, "origin": origin, "without": db.array(sorted(without))},
    )


def _copied(db: Connection, matching: TrafficFilter) -> CopiedRows | None:
    conditions = conditions_of(db, matching, others=_OF_USER)
    values = conditions.values | {"authors": author_text(matching.user)}
    first = db.execute(
        f"SELECT hash FROM dataset_sources WHERE {conditions.where} LIMIT 1", values
    ).fetchone()
    if first is None:
        return None
    rows = db.execute(
        f"SELECT row_id FROM dataset_sources WHERE hash = :version AND {conditions.where}",
        values | {"version": first[0]},
    )
    return CopiedRows(first[0], frozenset(row for (row,) in rows))


def _forget(db: Connection, version: str, rows: Collection[str]) -> None:
    forget_watched(db, version)
    db.execute(
        f"DELETE FROM dataset_sources WHERE hash = :version AND {db.any_of('row_id', ':rows')}",
        {"version": version, "rows": db.array(sorted(rows))},
    )


def _replace(db: Connection, old: str, new: Sequence[DatasetRow], without: Collection[str]) -> None:
    for row in new:
        insert_version(db, row)
        _inherit(db, row.hash, old, without)
    forget_watched(db, old)
    db.execute("DELETE FROM datasets WHERE hash = ?", (old,))
    db.execute("DELETE FROM dataset_sources WHERE hash = ?", (old,))
