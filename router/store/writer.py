"""The one thread that writes to a SQLite file, and group commit.

`await writer.write("keep an answer", work)` runs `work(db)` on the thread and returns its result
once it is committed. Everything that has come in while the thread was at work goes to it as one
batch, up to a bound, and is committed as one transaction: a commit, and waking a thread, costs the
same for one write as for a hundred. When one of a batch fails, all of it is undone and done again,
each write in a savepoint of its own, so that one that fails takes no neighbour with it.

Room is bounded: when `room` writes are on their way, the next caller waits (its task, never the
event loop). A caller that is cancelled loses only the result: its write is still carried out whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from providers.errors import EvalrouterError, StoreError

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class _Write:
    """A write on its way: what to do, then what came of it."""

    __slots__ = ("doing", "error", "future", "holds_room", "result", "work")

    def __init__(
        self, doing: str, work: Callable[[Database], Any], future: asyncio.Future[Any]
    ) -> None:
        self.doing = doing
        self.work = work
        self.future = future
        self.holds_room = True
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Owns the writing connection from construction to `close()`.

    Construct it on the event loop that will write. `db` must be in autocommit mode
    (`isolation_level=None`) and usable from another thread.
    """

    def __init__(self, db: Database, path: Path, *, room: int = 1024, most: int = 256) -> None:
        self._db = db
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(room)
        self._all_room = room
        self._most = most
        # What has come in since the thread was last given a batch; None ends the thread.
        self._waiting: deque[_Write] = deque()
        self._batches: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="evalrouter-store", daemon=True)
        self._thread.start()

    async def write(self, doing: str, work: Callable[[Database], _Result]) -> _Result:
        """Carry out `work(db)` on the thread; its result, once it is in the database.

        `work` may run more than once (after a neighbour ruined the transaction), so it must do
        nothing but read and write the database. `doing` completes "cannot ...".

        Raises:
            StoreError: the database refused; nothing of this write is in it.
            EvalrouterError: what `work` itself raised, with the same promise.
        """
        if self._closing:
            raise StoreError(f"cannot {doing}: the database is closed")
        write = _Write(doing, work, self._loop.create_future())
        try:
            await self._room.acquire()
        except asyncio.CancelledError:
            # Past the bound rather than lost: the caller may have paid for what it holds.
            write.holds_room = False
            write.future.cancel()
            self._add(write)
            raise
        self._add(write)
        result: _Result = await write.future
        return result

    async def close(self) -> None:
        """Carry out what was asked for, then end the thread and close the connection."""
        if self._closing:
            return
        self._closing = True
        # Room is given first come, first served: whoever waits for it gets in before this.
        for _ in range(self._all_room):
            await self._room.acquire()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)
        self._db.close()

    def _add(self, write: _Write) -> None:
        """On the event loop: pass it on, unless the thread has something to do already."""
        self._waiting.append(write)
        if not self._busy:
            self._busy = True
            # Not at once: whatever else this turn of the loop has to write goes with it.
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """On the event loop: give the thread what waits."""
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        self._busy = bool(batch)
        if batch:
            self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._commit(batch)
            # The loop is gone when its program ended without close(): nobody waits any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle, batch)

    def _commit(self, batch: list[_Write]) -> None:
        """One transaction for the batch; each write ends with a result or an error."""
        if self._begin(batch) and not self._commit_together(batch) and self._begin(batch):
            self._commit_apart(batch)

    def _begin(self, batch: list[_Write]) -> bool:
        """Begin a transaction; where that fails, so has every write."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            for write in batch:
                write.error = refusal(write.doing, self._path, error)
            return False
        return True

    def _commit_together(self, batch: list[_Write]) -> bool:
        """The usual case, without savepoints; False when nothing was done because one failed."""
        try:
            for write in batch:
                write.result = write.work(self._db)
            self._db.execute("COMMIT")
        except Exception:  # noqa: BLE001 - whatever it is shows again, and then it is told
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            return False
        return True

    def _commit_apart(self, batch: list[_Write]) -> None:
        """The same, finding out which of them fails."""
        try:
            for write in batch:
                self._carry_out(write)
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a write does
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            if len(batch) == 1:
                batch[0].error = refusal(batch[0].doing, self._path, error)
                return
            # A full disk, say: what is too large must not fail what still fits.
            for write in batch:
                if self._begin([write]):
                    self._commit_apart([write])

    def _carry_out(self, write: _Write) -> None:
        """One write in its savepoint. Raises only when the whole transaction is lost."""
        write.error = None
        self._db.execute("SAVEPOINT one_write")
        try:
            write.result = write.work(self._db)
        except Exception as error:
            if not self._db.conn.in_transaction:
                raise
            self._db.execute("ROLLBACK TO one_write")
            write.error = refusal(write.doing, self._path, error)
        self._db.execute("RELEASE one_write")

    def _settle(self, batch: list[_Write]) -> None:
        """On the event loop: give back room, wake the callers, pass on what came meanwhile."""
        self._hand_over()
        for write in batch:
            if write.holds_room:
                self._room.release()
            if not write.future.done():
                if write.error is None:
                    write.future.set_result(write.result)
                else:
                    write.future.set_exception(write.error)
            elif write.error is not None:
                _log.error("after its caller was cancelled: %s", write.error)


def refusal(doing: str, path: Path, error: Exception) -> EvalrouterError:
    """The error a caller gets when `doing` failed; what evalrouter raised itself stays as it is."""
    if isinstance(error, EvalrouterError):
        return error
    reason = str(error)
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        match code & 0xFF:
            case sqlite3.SQLITE_FULL:
                reason = (
                    "the disk is full; what was kept before is safe, free some space and resume"
                )
            case sqlite3.SQLITE_BUSY:
                reason = "another process has been writing to it for too long"
            case sqlite3.SQLITE_READONLY:
                reason = "the file or its folder is not writable"
            case sqlite3.SQLITE_CANTOPEN:
                reason = "the file cannot be opened; is its folder there and writable?"
            case sqlite3.SQLITE_NOTADB:
                reason = "the file is not a SQLite database"
    refused = StoreError(f"cannot {doing}: {path}: {reason}")
    refused.__cause__ = error
    return refused
