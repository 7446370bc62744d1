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
from router.store.sqlite.file import DatabaseFile, write_a_page
from router.store.sqlite.writer import SqliteWriter

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

READERS = 4


class SqliteDatabase:
    """One SQLite file, its writing thread and its reading threads.

    Args:
        path: the file; its folder must exist.
        create: whether it is made when it is not there.
        clock: seconds since the epoch; stamps answers.
        room: how many writes may be on their way before the next one waits.

    Attributes:
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        room: int = 1024,
    ) -> None:
        self.clock = clock
        self._file = DatabaseFile(path, create=create)
        self._room = room
        self._writer: SqliteWriter | None = None
        self._readers: ThreadPoolExecutor | None = None
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
        self._writer = SqliteWriter(db, self._file, room=self._room)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="evalrouter-store-read")
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
        if self._writer is not None:
            self._writer.end_within(seconds)

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
        await self.write("write to the database", write_a_page)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(checks, self._file.check_reading)
        except (sqlite3.Error, OSError, StoreUnavailableError) as error:
            raise self._file.refusal("read from the database", error) from error

    def delay(self) -> StoreUnavailableError | None:
        """Return what holds up a `check` that takes its time; None where that is not known."""
        if self._file.is_corrupt:
            return self._file.corrupt()
        if self._writer is not None and self._writer.is_locked_out:
            return self._file.locked()
        return None

    # reads and writes

    async def write(
        self,
        doing: str,
        operation: Callable[Concatenate[Database, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Call `operation(db, ...)` on the writing thread; `doing` completes "cannot ..."."""
        if self._writer is None:
            raise StoreError(f"cannot {doing}: the database is not open")
        return await self._writer.write(doing, lambda db: operation(db, *args, **kwargs))

    async def read(
        self,
        doing: str,
        operation: Callable[Concatenate[Database, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Call `operation(db, ...)` on a reading thread; all its queries see one state."""
        if self._readers is None:
            raise StoreError(f"cannot {doing}: the database is not open")

        def read() -> _Result:
            try:
                with self._reader() as db:
                    return operation(db, *args, **kwargs)
            except (
                sqlite3.Error,
                msgspec.MsgspecError,
                UnicodeError,
                OverflowError,
                StoreUnavailableError,
            ) as error:
                raise self._file.refusal(doing, error) from error

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, read)
        except StoreUnavailableError as error:
            if error.fault != "replaced":
                raise
        # The writing thread takes the new file over.
        await self.write(doing, _do_nothing)
        return await loop.run_in_executor(self._readers, read)

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


class SqlitePart:
    """A part of the store: what implements one protocol, over the database of all parts."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database


@contextlib.contextmanager
def lenient_text(db: Database) -> Iterator[None]:
    """Read text that is not UTF-8 as far as it is: sqlite3 would give up the whole query."""
    db.conn.text_factory = _lenient
    try:
        yield
    finally:
        db.conn.text_factory = str


def contains(column: str, value: str) -> str:
    """Return the condition that a column's JSON array contains a parameter; damaged ones do not.

    json_each() would give up the whole query where a single row is not JSON.
    """
    array = f"CASE WHEN json_valid({column}) THEN {column} ELSE '[]' END"
    return f"EXISTS (SELECT 1 FROM json_each({array}) WHERE json_each.value = {value})"  # noqa: S608 - constants


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _do_nothing(_: Database) -> None:
    pass
