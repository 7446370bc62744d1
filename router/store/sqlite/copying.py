"""The two ends of a copy of a whole store in SQLite: `reading(path)` and `filling(path)`."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from providers.errors import InputError, StoreError
from router.store.sql.connection import Connection, insert
from router.store.sql.copying import (
    COUNTERS,
    UNFINISHED,
    UNFINISHED_COPY,
    CopyEnd,
    CopyTarget,
    TableShape,
)
from router.store.sqlite import traffic_index
from router.store.sqlite.connection import SqliteConnection
from router.store.sqlite.file import DatabaseFile, connect
from router.store.sqlite.migrations import applied_steps, mark_unfinished, migrate, missing_steps

_KINDS: dict[str, type] = {
    "INTEGER": int, "FLOAT": float, "REAL": float, "TEXT": str, "BLOB": bytes
}  # fmt: skip
_BUSY_S = 10.0


def tables() -> dict[str, TableShape]:
    """Return the tables that a copy has: all but those that a database makes from others."""
    db = Database(memory=True)
    db.conn.isolation_level = None
    try:
        migrate(db)
        return {name: _table(db, name) for name in _names(db)}
    finally:
        db.close()


def _names(db: Database) -> list[str]:
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
    internal = {"_sqlite_migrations", "last_numbers", *traffic_index.TABLES}
    return [name for (name,) in rows if name not in internal and not name.startswith("sqlite_")]


def _table(db: Database, name: str) -> TableShape:
    columns = db.execute(f"SELECT name, type, pk FROM pragma_table_info('{name}')").fetchall()
    keys = sorted((place, column) for column, _, place in columns if place)
    refers_to = db.execute(f"SELECT \"table\" FROM pragma_foreign_key_list('{name}')")
    return TableShape(
        kinds={column: _KINDS[kind.upper()] for column, kind, _ in columns},
        key=tuple(column for _, column in keys),
        refers_to=frozenset(other for (other,) in refers_to),
    )


class _SqliteEnd(CopyTarget):
    """A file inside a transaction."""

    def __init__(self, path: Path, db: Database) -> None:
        self.name = f"sqlite:///{path}"
        self.connection: Connection = SqliteConnection(db, time.time)
        self._path = path
        self._db = db
        # Text that is not Unicode is read as far as it is, as lists show it: sqlite3 would give up.
        db.conn.text_factory = partial(str, encoding="utf-8", errors="backslashreplace")
        # What goes without while rows are inserted, in the order in which it was made.
        self._left_out: list[str] = []

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        key = _table(self._db, table).key
        [sql] = self._db.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
        ).fetchone()
        order = ", ".join(key) if "WITHOUT ROWID" in sql else "rowid"
        # Here, because whoever takes the rows may be of another database.
        with _refusals(self._path, "read"):
            yield from self._db.conn.execute(
                f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"
            )

    def leave_out(self) -> None:
        """Drop triggers and indexes, and the rows that counters have from the start."""
        for kind, name, sql in self._db.execute(
            "SELECT type, name, sql FROM sqlite_master"
            " WHERE type IN ('trigger', 'index') AND sql IS NOT NULL ORDER BY rowid"
        ).fetchall():
            self._db.execute(f"DROP {kind} {name}")
            self._left_out.append(sql)
        for table in COUNTERS:
            self._db.execute(f"DELETE FROM {table}")

    def insert(self, table: str, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
        self._db.conn.executemany(insert(table, columns), rows)

    def complete(self) -> None:
        for sql in self._left_out:
            self._db.execute(sql)
        while traffic_index.index_block(self.connection):
            pass


@contextlib.contextmanager
def reading(path: Path) -> Iterator[CopyEnd]:
    """Open a file read-only, in one state of it.

    Raises:
        InputError: there is no evalrouter's database of this version.
        StoreError: it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"sqlite:///{path}: there is no such file")
    with _refusals(path, "read"), contextlib.closing(connect(path.absolute(), "ro", _BUSY_S)) as db:
        db.execute("BEGIN")
        _check_source(path, applied_steps(db))
        yield _SqliteEnd(path, db)


def _check_source(path: Path, applied: list[str]) -> None:
    if not applied:
        raise InputError(f"sqlite:///{path}: it is no database of evalrouter")
    if UNFINISHED in applied:
        raise InputError(f"sqlite:///{path}: {UNFINISHED_COPY}")
    if missing := missing_steps(applied):
        raise InputError(
            f"sqlite:///{path}: it was written by an older evalrouter ({missing[0]} is missing); "
            "start `evalrouter serve` on it once, which brings it up to date"
        )


@contextlib.contextmanager
def filling(path: Path) -> Iterator[CopyTarget]:
    """Open a file to be filled, which is made where there is none; all or nothing is kept.

    Until the block has ended without an error, no server starts on the file.

    Raises:
        InputError: something is stored in the file.
        StoreError: it cannot be written, or another process uses it.
    """
    with _refusals(path, "fill"), contextlib.closing(connect(path.absolute(), "rwc", 0)) as db:
        if applied := applied_steps(db):
            if missing_steps(applied):
                raise InputError(
                    f"sqlite:///{path}: it was written by an older evalrouter; name a new file"
                )
            _check_empty(path, db)
        elif db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise InputError(f"sqlite:///{path}: it is another program's; name a new file")
        # With a journal in place of a log, the rows are written once. It needs the file for itself.
        if db.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":
            raise StoreError(f"sqlite:///{path}: another process uses it; stop it first")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -200000")
        if not applied:
            migrate(db)
        mark_unfinished(db, unfinished=True)
        db.execute("BEGIN EXCLUSIVE")
        try:
            _check_empty(path, db)
            end = _SqliteEnd(path, db)
            end.leave_out()
            yield end
            mark_unfinished(db, unfinished=False)
        except BaseException:
            db.rollback()
            raise
        db.execute("COMMIT")
        db.enable_wal()


def _check_empty(path: Path, db: Database) -> None:
    for name in _names(db):
        if name not in COUNTERS and db.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone():
            raise InputError(
                f"sqlite:///{path}: {name} has rows; only a new or an empty database can be filled"
            )


@contextlib.contextmanager
def _refusals(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's errors into the store's."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseFile(path).refusal(f"{doing} the database", error) from error
