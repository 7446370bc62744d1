"""Copying a whole store from one database into another: `copy(source, target, ...)`.

The source is read in one state of it. The target is filled in one transaction, which is kept only
when everything that was read back from both was the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from graphlib import TopologicalSorter
from typing import Any, Literal

import msgspec

from providers.errors import ConflictError, InputError, MissingExtraError, StoreError
from router.config.storage import Storage
from router.store.sql.connection import Connection
from router.store.sql.copying import CopyEnd, CopyTarget, Fingerprint, TableShape, rows_in
from router.store.sqlite import copying as sqlite

# How often progress is told, in rows.
_ROWS_BETWEEN = 1000
_NAMES = {int: "an integer", float: "a number", str: "a text", bytes: "bytes"}
# What changes with whatever a server stores.
_SIGNS = (
    "SELECT (SELECT max(number) FROM traffic), (SELECT max(id) FROM answers),"
    " (SELECT max(number) FROM judgements), (SELECT max(heartbeat_at) FROM runs),"
    " (SELECT max(version) FROM key_changes), (SELECT max(spend) FROM key_changes),"
    " (SELECT max(version) FROM route_changes), (SELECT max(version) FROM rollout_changes),"
    " (SELECT max(version) FROM learned_changes),"
    " (SELECT max(changed_at) FROM sealed_traffic), (SELECT count(*) FROM sealed_traffic),"
    " (SELECT max(number) FROM feedback), (SELECT sum(version) FROM review_rows),"
    " (SELECT max(lease_until) FROM occurrences),"
    " (SELECT max(number) FROM watch_probes), (SELECT sum(number) FROM watch_references),"
    " (SELECT max(number) FROM schedule_decisions)"
)

# What is done: to which table, and to how many of its rows.
ProgressCallback = Callable[[Literal["copy", "compare"], str, int], None]


class CopiedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table after the copy.

    Attributes:
        table: its name.
        rows: how many rows it has.
        hash: what both databases have, whatever the order of the rows.
    """

    table: str
    rows: int
    hash: str


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied.

    Attributes:
        source, target: the databases, without secrets.
        rows: all rows.
        tables: each table.
        copied_s, compared_s: what both steps took, in seconds.
        written_meanwhile: whether the source was written to after it was read.
    """

    source: str
    target: str
    rows: int
    tables: tuple[CopiedTable, ...]
    copied_s: float
    compared_s: float
    written_meanwhile: bool


def tables_in_order() -> dict[str, TableShape]:
    """Return the tables of a store, each behind those that it refers to."""
    tables = sqlite.tables()
    order = TopologicalSorter({name: sorted(table.refers_to) for name, table in tables.items()})
    return {name: tables[name] for name in order.static_order()}


def copy(
    source: Storage,
    target: Storage,
    progress: ProgressCallback,
    stale_after: Callable[[str], float],
) -> Copied:
    """Copy everything from one database into an empty one, and compare what both have then.

    Args:
        source: the database that is read.
        target: the database that is filled.
        progress: is told what is done.
        stale_after: the seconds of silence after which an owner of a run is taken for dead.

    Raises:
        InputError: the source is not there or of an older version, or the target is not empty.
        ConflictError: a living process executes a run of the source.
        StoreError: a database cannot be read or written, or they differ; then nothing is copied.
    """
    tables = tables_in_order()
    _refuse_itself(source, target)
    with _reading(source) as end:
        _refuse_living_owners(end, stale_after)
        signs = _signs(end.connection)
        with _filling(target, tables) as filled:
            began = time.monotonic()
            for name, table in tables.items():
                filled.insert(name, list(table.kinds), _checked_rows(end, name, table, progress))
            filled.complete()
            copied = time.monotonic()
            results = tuple(
                _compared(end, filled, name, table, progress) for name, table in tables.items()
            )
            compared = time.monotonic()
            with _reading(source) as later:
                written_meanwhile = _signs(later.connection) != signs
    return Copied(
        source=end.name,
        target=filled.name,
        rows=sum(result.rows for result in results),
        tables=results,
        copied_s=copied - began,
        compared_s=compared - copied,
        written_meanwhile=written_meanwhile,
    )


def _reading(storage: Storage) -> AbstractContextManager[CopyEnd]:
    if not storage.is_postgres:
        return sqlite.reading(storage.sqlite_path())
    end: AbstractContextManager[CopyEnd] = _postgres().reading(storage.database, storage.password)
    return end


def _filling(storage: Storage, tables: Collection[str]) -> AbstractContextManager[CopyTarget]:
    if not storage.is_postgres:
        return sqlite.filling(storage.sqlite_path())
    end: AbstractContextManager[CopyTarget] = _postgres().filling(
        storage.database, storage.password, tables
    )
    return end


def _postgres() -> Any:
    try:
        # Only where it is used, because the driver is an extra.
        from router.store.postgres import copying  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("a PostgreSQL database", "postgres") from None
    return copying


def _refuse_itself(source: Storage, target: Storage) -> None:
    paths = [s.sqlite_path().resolve() for s in (source, target) if not s.is_postgres]
    if source.database == target.database or (len(paths) == 2 and paths[0] == paths[1]):
        raise InputError("SOURCE and TARGET are the same database")


def _refuse_living_owners(end: CopyEnd, stale_after: Callable[[str], float]) -> None:
    """Two servers would execute a run that one of them does not know to be the other's."""
    now = end.connection.now()
    for run_id, owner, heartbeat_at in end.connection.execute(
        "SELECT id, owner, heartbeat_at FROM runs WHERE state IN ('queued', 'running')"
        " AND owner <> '' AND heartbeat_at IS NOT NULL ORDER BY id"
    ):
        if heartbeat_at > now - stale_after(owner):
            raise ConflictError(
                f"{end.name}: {run_id} is being executed by {owner.partition(':')[0]}; "
                "stop the servers that use the database, or wait for the run's end"
            )


def _signs(connection: Connection) -> Any:
    return connection.execute(_SIGNS).fetchone()


def _in_key_order(table: TableShape) -> list[str]:
    """Return the columns, those that name a row first."""
    return [*table.key, *(column for column in table.kinds if column not in table.key)]


def _checked_rows(
    end: CopyEnd, name: str, table: TableShape, progress: ProgressCallback
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows to insert, which have values that any database can hold."""
    good: set[tuple[type, ...]] = set()
    done = 0
    progress("copy", name, 0)
    for row in end.rows(name, list(table.kinds)):
        kinds = tuple(map(type, row))
        if kinds not in good:
            _check_kinds(name, table, row)
            good.add(kinds)
        yield row
        done += 1
        if done % _ROWS_BETWEEN == 0:
            progress("copy", name, done)
    progress("copy", name, done)


def _check_kinds(name: str, table: TableShape, row: Sequence[Any]) -> None:
    values = dict(zip(table.kinds, row, strict=True))
    for column, kind in table.kinds.items():
        value = values[column]
        if value is not None and type(value) is not kind:
            key = _key(table, [values[column] for column in table.key])
            raise StoreError(
                f"cannot copy {name}: where {key}, {column} is {_NAMES[type(value)]} in place of "
                f"{_NAMES[kind]}; repair or delete that row"
            )


def _compared(
    source: CopyEnd, target: CopyEnd, name: str, table: TableShape, progress: ProgressCallback
) -> CopiedTable:
    """Read a table back from both. Raises StoreError where they differ."""
    columns = _in_key_order(table)
    progress("compare", name, 0)
    ours, theirs = (Fingerprint(end.rows(name, columns)) for end in (source, target))
    progress("compare", name, ours.rows)
    if (ours.rows, ours.hash) != (theirs.rows, theirs.hash):
        where = _where_different((source, target), name, table, ours.differing(theirs))
        raise StoreError(
            f"{name} is not the same in both: {source.name} has {ours.rows} rows with the hash "
            f"{ours.hash}, {target.name} has {theirs.rows} with {theirs.hash}{where}; "
            "nothing was copied"
        )
    return CopiedTable(table=name, rows=ours.rows, hash=ours.hash)


def _where_different(
    ends: tuple[CopyEnd, CopyEnd], name: str, table: TableShape, sums: frozenset[int]
) -> str:
    """Return the first and the last row that only one of both has, as the end of a sentence."""
    columns = _in_key_order(table)
    ours, theirs = (rows_in(sums, end.rows(name, columns), len(table.key)) for end in ends)
    keys = {(ours | theirs)[number] for number in ours.keys() ^ theirs.keys()}
    if not table.key or not keys:
        return ""
    return f", from the row {_key(table, min(keys))} to {_key(table, max(keys))}"


def _key(table: TableShape, values: Sequence[Any]) -> str:
    return ", ".join(f"{column} {value!r}" for column, value in zip(table.key, values, strict=True))
