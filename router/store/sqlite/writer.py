"""The one thread that writes to a SQLite file, and group commit.

`await writer.write("keep an answer", work)` runs `work(db)` on the thread and returns its result
once it is committed. Everything that has come in while the thread was at work goes to it as one
batch, up to a bound, and is committed as one transaction: a commit, and waking a thread, costs the
same for one write as for a hundred. When one of a batch fails, all of it is undone and done again,
each write in a savepoint of its own, so that one that fails takes no neighbour with it.

Room is bounded: when `room` writes are on their way, the next caller waits (its task, never the
event loop). A caller that is cancelled loses only the result: its write is still carried out whole.

While another process keeps the database locked, the thread tries again for up to `BUSY_S`, or until
the moment that `end_within` sets; what comes later is refused at once, as long as that lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlite_utils import Database

from providers.errors import StoreError
from router.store.sqlite.file import BUSY_S, DatabaseFile

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


class SqliteWriter:
    """Owns the writing connection from construction to `close()`.

    Construct it on the event loop that will write. `db` comes from the file's `open_for_writing`.

    """

    def __init__(
        self, db: Database, file: DatabaseFile, *, room: int = 1024, most: int = 256
    ) -> None:
        self._db = db
        self._file = file
        # Since when another process has kept the database locked; 0 when it does not.
        self._locked_at = 0.0
        self._give_up_at = math.inf
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

    @property
    def is_locked_out(self) -> bool:
        """Whether another process kept the thread from writing when it last tried."""
        return self._locked_at > 0

    def end_within(self, seconds: float) -> None:
        """Stop waiting for a locked database so long from now: each write tries once after that."""
        self._give_up_at = time.monotonic() + seconds

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
            self._db = self._file.current(self._db)
            self._lock()
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever goes wrong
            for write in batch:
                write.error = self._file.refusal(write.doing, error)
            return False
        return True

    def _lock(self) -> None:
        """Begin, waiting for `BUSY_S` in all if need be: what comes after that tries once."""
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                now = time.monotonic()
                self._locked_at = self._locked_at or now
                if now >= min(self._locked_at + BUSY_S, self._give_up_at):
                    raise
            else:
                self._locked_at = 0.0
                return

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
                self._execute(write)
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a write does
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            if len(batch) == 1:
                batch[0].error = self._file.refusal(batch[0].doing, error)
                return
            # A full disk, say: what is too large must not fail what still fits.
            for write in batch:
                if self._begin([write]):
                    self._commit_apart([write])

    def _execute(self, write: _Write) -> None:
        """One write in its savepoint. Raises only when the whole transaction is lost."""
        write.error = None
        self._db.execute("SAVEPOINT one_write")
        try:
            write.result = write.work(self._db)
        except Exception as error:
            if not self._db.conn.in_transaction:
                raise
            self._db.execute("ROLLBACK TO one_write")
            write.error = self._file.refusal(write.doing, error)
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
