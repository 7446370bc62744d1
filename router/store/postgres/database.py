"""Reads and writes: the threads and connections through which every part reaches PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import psycopg

from providers.base import Secret
from providers.errors import StoreUnavailableError
from router.store.postgres.connection import PostgresConnection
from router.store.postgres.listening import Listener
from router.store.postgres.migrations import migrate
from router.store.postgres.server import PostgresServer, is_away
from router.store.postgres.transactions import PostgresTransactions
from router.store.sql.connection import Connection
from router.store.sql.database import SqlDatabase

_Result = TypeVar("_Result")

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresDatabase(SqlDatabase):
    """A PostgreSQL database, the writing thread of this process and its reading threads.

    Args:
        address, password: as `PostgresServer` takes them.
        clock: seconds since the epoch, in place of this host's clock and the server's.
        room: how many writes may be on their way before the next one waits.
    """

    def __init__(
        self,
        address: str,
        password: Secret,
        *,
        clock: Callable[[], float] | None = None,
        room: int = 1024,
    ) -> None:
        super().__init__(clock or time.time, room)
        self._claims_clock = clock
        self._server = PostgresServer(address, password)
        self._idle: list[psycopg.Connection] = []
        self._listener: Listener | None = None

    @property
    def name(self) -> str:
        """The database's address without names and passwords of users."""
        return self._server.name

    async def open(self) -> None:
        await asyncio.to_thread(self._migrate)
        self._start(PostgresTransactions(self._server, self._claims_clock))
        self._listener = Listener(self._server, self.changes)

    def _migrate(self) -> None:
        def attempt() -> None:
            with self._server.connect() as connection:
                migrate(connection)

        try:
            self._server.patiently(attempt)
        except psycopg.Error as error:
            raise self._server.refusal("open the database", error) from error

    async def close(self) -> None:
        writer, readers, listener = self._writer, self._readers, self._listener
        if writer is None or readers is None or listener is None:
            return
        self._readers = None
        await listener.close()
        await asyncio.to_thread(readers.shutdown)
        while self._idle:
            self._idle.pop().close()
        await writer.close()
        self._writer = None

    def end_within(self, seconds: float) -> None:
        self._server.end_within(seconds)

    # whether it works

    @property
    def generation(self) -> int:
        # Where another server takes over, it has the same database.
        return 0

    async def check(self) -> None:
        # Beginning to write tells whether writes work; of a full disk, only what takes space does.
        if self._server.is_full:
            await self.write("write to the database", _take_space)
            self._server.is_full = False
        else:
            await self.write("write to the database", _do_nothing)
        await self.read("read from the database", _read_a_row)

    def delay(self) -> StoreUnavailableError | None:
        return self._server.away() if self._server.is_down else None

    # reads

    def _read(self, doing: str, operation: Callable[[Connection], _Result]) -> _Result:
        try:
            return self._server.patiently(lambda: self._read_once(operation))
        except (psycopg.Error, msgspec.MsgspecError, UnicodeError, OverflowError) as error:
            raise self._server.refusal(doing, error) from error

    def _read_once(self, operation: Callable[[Connection], _Result]) -> _Result:
        """Read on an idle connection, or a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._read_on(self._server.connect(), operation)
            try:
                return self._read_on(connection, operation)
            except psycopg.Error as error:
                # It may have been idle for long, and a pooler or the server have ended it.
                if not is_away(error):
                    raise

    def _read_on(
        self, connection: psycopg.Connection, operation: Callable[[Connection], _Result]
    ) -> _Result:
        try:
            connection.execute(_BEGIN, prepare=False)
            result = operation(PostgresConnection(connection, self._claims_clock))
        except BaseException:
            self._put_back(connection)
            raise
        self._put_back(connection)
        return result

    def _put_back(self, connection: psycopg.Connection) -> None:
        """End the transaction. What was read stays good where that fails."""
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK", prepare=False)
        if connection.closed:
            connection.close()
        else:
            self._idle.append(connection)


def _do_nothing(_: Connection) -> None:
    pass


def _take_space(db: Connection) -> None:
    """Write a megabyte, which the end of the transaction gives back."""
    db.execute(
        "CREATE TEMPORARY TABLE space ON COMMIT DROP AS"
        " SELECT repeat('x', 1000) AS text FROM generate_series(1, 1000)"
    )


def _read_a_row(db: Connection) -> None:
    db.execute("SELECT version FROM key_changes").fetchone()
    db.execute("SELECT id FROM runs LIMIT 1").fetchone()
