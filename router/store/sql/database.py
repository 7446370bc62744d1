"""Reads and writes: what every part asks of a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from providers.errors import StoreUnavailableError
from router.store.sql.changes import Changes
from router.store.sql.connection import Connection, Steps

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class SqlDatabase(Protocol):
    """A database: its writing thread and its reading threads.

    Attributes:
        clock: seconds since the epoch; stamps requests and answers.
        changes: those who wait for changes.
    """

    clock: Callable[[], float]
    changes: Changes

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: it cannot be used, or was written by a newer evalrouter.
        """
        ...

    async def close(self) -> None:
        """Write what is queued, then disconnect. Closing twice does nothing."""
        ...

    def end_within(self, seconds: float) -> None:
        """Wait at most so long from now for a database that does not work."""
        ...

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        ...

    async def check(self) -> None:
        """Write, then read.

        Raises:
            StoreUnavailableError: reads or writes do not work now, and why.
        """
        ...

    def delay(self) -> StoreUnavailableError | None:
        """Return what holds up a `check` that takes its time; None where that is not known."""
        ...

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
        ...

    async def write_in_steps(
        self,
        doing: str,
        operation: Callable[Concatenate[Connection, _Args], Steps[_Result]],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Write as `write` does, in the steps of the operation: for what is written often."""
        ...

    async def read(
        self,
        doing: str,
        operation: Callable[Concatenate[Connection, _Args], _Result],
        *args: _Args.args,
        **kwargs: _Args.kwargs,
    ) -> _Result:
        """Call `operation(db, ...)` on a reading thread; all its queries see one state."""
        ...


class SqlPart:
    """A part of the store: what implements one protocol, over the database of all parts."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database
        # The runs that this process has claimed, each with its owner: what it writes to them is
        # refused once they are another's.
        self._owners: dict[str, str] = {}
