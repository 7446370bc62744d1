"""Reads and writes: what every part asks of a database."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from providers.errors import StoreError, StoreUnavailableError
from router.store.sql.changes import Changes
from router.store.sql.connection import Connection, Steps
from router.store.sql.writer import Transactions, Writer

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Thread = TypeVar("_Thread")


READERS = 4


class SqlDatabase(ABC):
    """A database: its writing thread and its reading threads.

    Args:
        clock: seconds since the epoch; stamps requests and answers.
        room: how many writes may be on their way before the next one waits.

    Attributes:
        clock: seconds since the epoch.
        changes: those who wait for changes.
    """

    def __init__(self, clock: Callable[[], float], room: int) -> None:
        self.clock = clock
        self.changes = Changes()
        self._room = room
        self._writer: Writer | None = None
        self._readers: ThreadPoolExecutor | None = None

    @abstractmethod
    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: it cannot be used, or was written by a newer evalrouter.
        """

    @abstractmethod
    async def close(self) -> None:
        """Write what is queued, then disconnect. Closing twice does nothing."""

    def _start(self, transactions: Transactions) -> None:
        """Start the threads."""
        self._writer = Writer(transactions, room=self._room)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="evalrouter-store-read")

    @abstractmethod
    def end_within(self, seconds: float) -> None:
        """Wait at most so long from now for a database that does not work."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""

    @abstractmethod
    async def check(self) -> None:
        """Write, then read.

        Raises:
            StoreUnavailableError: reads or writes do not work now, and why.
        """

    @abstractmethod
    def delay(self) -> StoreUnavailableError | None:
        """Return what holds up a `check` that takes its time; None where that is not known."""

    @abstractmethod
    def _read(self, doing: str, operation: Callable[[Connection], _Result]) -> _Result:
        """Call `operation(db)` in a transaction, on a reading thread."""

    async def write(
        self,
        doing: str,
        operation: Callable[Concatenate[Connection, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Call `operation(db, ...)` on the writing thread; `doing` completes "cannot ...".

        `operation` may run more than once, so it must do nothing but read and write the database.
        """
        writer = _open(self._writer, doing)
        return await writer.write(doing, lambda db: operation(db, *args, **kwargs))

    async def write_in_steps(
        self,
        doing: str,
        operation: Callable[Concatenate[Connection, _Args], Steps[_Result]],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Write as `write` does, in the steps of the operation: for what is written often."""
        writer = _open(self._writer, doing)
        return await writer.write_in_steps(doing, lambda db: operation(db, *args, **kwargs))

    async def read(
        self,
        doing: str,
        operation: Callable[Concatenate[Connection, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Call `operation(db, ...)` on a reading thread; all its queries see one state."""
        readers = _open(self._readers, doing)

        def read() -> _Result:
            return self._read(doing, lambda db: operation(db, *args, **kwargs))

        return await asyncio.get_running_loop().run_in_executor(readers, read)


def _open(thread: _Thread | None, doing: str) -> _Thread:
    if thread is None:
        raise StoreError(f"cannot {doing}: the database is not open")
    return thread


class SqlPart:
    """A part of the store: what implements one protocol, over the database of all parts."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database
        # The runs that this process has claimed, each with its owner: what it writes to them is
        # refused once they are another's.
        self._owners: dict[str, str] = {}
