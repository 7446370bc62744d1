"""Reads and writes: the threads and connections through which every part reaches the file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import msgspec
from sqlite_utils import Database

from providers.errors import StoreError, StoreUnavailableError
from router.store.sql.connection import Connection
from router.store.sql.database import SqlDatabase
from router.store.sqlite.connection import SqliteConnection
from router.store.sqlite.file import DatabaseFile
from router.store.sqlite.transactions import SqliteTransactions

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class SqliteDatabase(SqlDatabase):
    """One SQLite file, its writing thread and its reading threads.

    Args:
        path: the file; its folder must exist.
        create: whether it is made when it is not there.
        clock: seconds since the epoch; stamps answers.
        room: how many writes may be on their way before the next one waits.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        room: int = 1024,
    ) -> None:
        # No process announces changes: to look once a second costs next to nothing here.
        super().__init__(clock, room)
        self._file = DatabaseFile(path, create=create)
        self._transactions: SqliteTransactions | None = None
        self._checks: ThreadPoolExecutor | None = None
        # Each with the generation of the file that it reads.
        self._idle: list[tuple[int, Database]] = []

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: the path is a folder, is not writable, is no SQLite file, or was written
                by a newer evalrouter.
        """
        db = await asyncio.to_thread(self._file.open_for_writing)
        self._transactions = SqliteTransactions(db, self._file, self.clock)
        self._start(self._transactions)
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-store-check")

    async def close(self) -> None:
        """Write what is queued, then disconnect. Closing twice does nothing."""
        writer, readers, checks = self._writer, self._readers, self._checks
        if writer is None or readers is None or checks is None:
            return
        self._readers = self._checks = None
        await asyncio.to_thread(readers.shutdown)
        await asyncio.to_thread(checks.shutdown)
        while self._idle:
            self._idle.pop()[1].close()
        # Last, because the last connection to leave folds the WAL back into the file.
        await writer.close()
        self._writer = None

    def end_within(self, seconds: float) -> None:
        """Wait at most so long from now for other processes that keep the database locked."""
        if self._transactions is not None:
            self._transactions.end_within(seconds)

    # whether it works

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        return self._file.generation

    async def check(self) -> None:
        """Write a page, then read.

        Raises:
            StoreUnavailableError: reads or writes do not work now, and why.
        """
        checks = self._checks
        if checks is None:
            raise StoreError("cannot check the database: it is not open")
        # First, because it takes over what is in the place of the file.
        await self.write("write to the database", _write_a_page)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(checks, self._file.check_reading)
        except (sqlite3.Error, OSError, StoreUnavailableError) as error:
            raise self._file.refusal("read from the database", error) from error

    def delay(self) -> StoreUnavailableError | None:
        """Return what holds up a `check` that takes its time; None where that is not known."""
        if self._file.is_corrupt:
            return self._file.corrupt()
        if self._transactions is not None and self._transactions.is_locked_out:
            return self._file.locked()
        return None

    # reads

    async def read(
        self,
        doing: str,
        operation: Callable[Concatenate[Connection, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        try:
            return await super().read(doing, operation, *args, **kwargs)
        except StoreUnavailableError as error:
            if error.fault != "replaced":
                raise
        # The writing thread takes the new file over.
        await self.write(doing, _do_nothing)
        return await super().read(doing, operation, *args, **kwargs)

    def _read(self, doing: str, operation: Callable[[Connection], _Result]) -> _Result:
        try:
            with self._reader() as db:
                return operation(SqliteConnection(db, self.clock))
        except (
            sqlite3.Error,
            msgspec.MsgspecError,
            UnicodeError,
            OverflowError,
            StoreUnavailableError,
        ) as error:
            raise self._file.refusal(doing, error) from error

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Database]:
        """Lend an idle reading connection, or a new one, inside a transaction."""
        self._file.check_identity()
        generation = self._file.generation
        db = self._idle_reader(generation) or self._file.open_for_reading()
        try:
            db.execute("BEGIN")
            yield db
        finally:
            db.rollback()
            self._idle.append((generation, db))

    def _idle_reader(self, generation: int) -> Database | None:
        while True:
            try:
                reader_generation, db = self._idle.pop()
            except IndexError:
                return None
            if reader_generation == generation:
                return db
            db.close()


def _write_a_page(db: Connection) -> None:
    """Write the first page unchanged, which fails whenever other writes would."""
    # SQLite leaves the number to applications, and evalrouter has no other use for it.
    number = db.execute("PRAGMA user_version").fetchone()[0]
    db.execute(f"PRAGMA user_version = {number:d}")


def _do_nothing(_: Connection) -> None:
    pass
