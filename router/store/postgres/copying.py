"""The two ends of a copy of a whole store in PostgreSQL: `reading(...)` and `filling(...)`."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg

from providers.base import Secret
from providers.errors import InputError
from router.store.postgres import traffic_index
from router.store.postgres.connection import PostgresConnection
from router.store.postgres.migrations import applied_steps, mark_unfinished, migrate, missing_steps
from router.store.postgres.server import PostgresServer
from router.store.sql.connection import Connection
from router.store.sql.copying import COUNTERS, UNFINISHED, UNFINISHED_COPY, CopyEnd, CopyTarget

# How long to wait for tables that other processes use.
_LOCK_TIMEOUT = "10s"
_MEMORY_FOR_INDEXES = "256MB"

_COLUMNS = """
    SELECT attname, format_type(atttypid, NULL), attidentity <> '' FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
_KEY = """
    SELECT attname FROM pg_index, unnest(indkey) WITH ORDINALITY AS keys (attnum, place)
    JOIN pg_attribute USING (attnum)
    WHERE indrelid = to_regclass(%s) AND indisprimary AND attrelid = indrelid ORDER BY place
"""
# Those that stand for no constraint.
_INDEXES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = to_regclass(%s)
        AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid)
"""


class _PostgresEnd(CopyTarget):
    """A database inside a transaction."""

    def __init__(self, server: PostgresServer, connection: psycopg.Connection) -> None:
        self.name = server.name
        self.connection: Connection = PostgresConnection(connection)
        self._server = server
        self._connection = connection
        self._left_out: list[str] = []
        self._filled: list[str] = []

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        types, identities = self._columns(table)
        key = [name for (name,) in self._connection.execute(_KEY, (table,))]
        # The number of a row tells when it was inserted.
        order = ", ".join(identities or key)
        query = f"SELECT {', '.join(columns)} FROM {table}{' ORDER BY ' if order else ''}{order}"
        # Here, because whoever takes the rows may be of another database.
        with _refusals(self._server, "read"):
            cursor = self._connection.cursor()
            with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
                copy.set_types([types[column] for column in columns])
                yield from copy.rows()

    def _columns(self, table: str) -> tuple[dict[str, str], list[str]]:
        """Return the types of a table's columns, and those that number its rows."""
        columns = self._connection.execute(_COLUMNS, (table,)).fetchall()
        types = {name: kind for name, kind, _ in columns}
        return types, [name for name, _, numbers in columns if numbers]

    def leave_out(self, tables: Collection[str]) -> None:
        """Drop indexes, disable triggers, and drop the rows that counters have from the start."""
        for table in tables:
            for name, sql in self._connection.execute(_INDEXES, (table,)).fetchall():
                self._connection.execute(f"DROP INDEX {name}".encode())
                self._left_out.append(sql)
            self._connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
            self._filled.append(table)
            if table in COUNTERS:
                self._connection.execute(f"DELETE FROM {table}".encode())

    def insert(self, table: str, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self._connection.cursor().copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def complete(self) -> None:
        execute = self._connection.execute
        execute(f"SET LOCAL maintenance_work_mem = '{_MEMORY_FOR_INDEXES}'".encode())
        for sql in self._left_out:
            execute(sql.encode())
        for table in self._filled:
            execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
            for column in self._columns(table)[1]:
                execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'),"
                    f" coalesce(max({column}), 0) + 1, false) FROM {table}".encode()
                )
            execute(f"ANALYZE {table}".encode())
        # A request's number stays its own when the request is in a file.
        execute(
            b"SELECT setval('traffic_number_seq', greatest(nextval('traffic_number_seq'),"
            b" (SELECT max(last_number) FROM sealed_traffic)))"
        )
        for statement in traffic_index.FILL:
            execute(statement.encode())


@contextlib.contextmanager
def reading(address: str, password: Secret) -> Iterator[CopyEnd]:
    """Open a database read-only, in one state of it.

    Raises:
        InputError: there is no evalrouter's database of this version.
        StoreError: it cannot be read.
    """
    server = PostgresServer(address, password)
    with _refusals(server, "read"), contextlib.closing(server.connect()) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        applied = applied_steps(connection)
        if not applied:
            raise InputError(f"{server.name}: it is no database of evalrouter")
        if UNFINISHED in applied:
            raise InputError(f"{server.name}: {UNFINISHED_COPY}")
        if missing := missing_steps(applied):
            raise InputError(
                f"{server.name}: it was written by an older evalrouter ({missing[0]} is missing); "
                "start `evalrouter serve` on it once, which brings it up to date"
            )
        yield _PostgresEnd(server, connection)


@contextlib.contextmanager
def filling(address: str, password: Secret, tables: Collection[str]) -> Iterator[CopyTarget]:
    """Open a database whose `tables` are to be filled; all or nothing is kept.

    Until the block has ended without an error, no server starts on it.

    Raises:
        InputError: something is stored in it.
        StoreError: it cannot be written, or other processes use it.
    """
    server = PostgresServer(address, password)
    with _refusals(server, "fill"), contextlib.closing(server.connect()) as connection:
        applied = applied_steps(connection)
        if not applied:
            migrate(connection)
        elif missing_steps(applied):
            raise InputError(
                f"{server.name}: it was written by an older evalrouter; name an empty database"
            )
        with connection.transaction():
            _lock_empty(server, connection, tables)
            mark_unfinished(connection, unfinished=True)
        with connection.transaction():
            _lock_empty(server, connection, tables)
            end = _PostgresEnd(server, connection)
            end.leave_out(tables)
            yield end
            mark_unfinished(connection, unfinished=False)


def _lock_empty(
    server: PostgresServer, connection: psycopg.Connection, tables: Collection[str]
) -> None:
    """Keep others from all tables until the transaction ends. Raises InputError for rows."""
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE".encode())
    for table in tables:
        query = f"SELECT 1 FROM {table} LIMIT 1".encode()
        if table not in COUNTERS and connection.execute(query).fetchone():
            raise InputError(
                f"{server.name}: {table} has rows; only a new or an empty database can be filled"
            )


@contextlib.contextmanager
def _refusals(server: PostgresServer, doing: str) -> Iterator[None]:
    """Turn PostgreSQL's errors into the store's."""
    try:
        yield
    except psycopg.Error as error:
        raise server.refusal(f"{doing} the database", error) from error
