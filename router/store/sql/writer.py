"""The one thread of a process that writes to a database, and group commit.

`await writer.write("keep an answer", operation)` runs `operation(db)` on the thread and returns its
result once it is committed. All writes that arrive while the thread is busy go to it as one batch,
up to a bound, and are committed as one transaction: a commit, and waking a thread, costs the same
for one write as for a hundred. When one write of a batch fails, the whole batch is undone and
repeated, each write in a savepoint of its own, so that one that fails takes no neighbour with it.

Room is bounded: when `room` writes are on their way, the next caller waits (its task, never the
event loop). A caller that is cancelled loses only the result: its write is still executed whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from providers.errors import EvalrouterError, StoreError
from router.store.sql.connection import Connection, Steps, in_one_go

_Result = TypeVar("_Result")
# How often a batch is tried that fails of what has nothing to do with its writes.
ATTEMPTS = 5
_log = logging.getLogger(__name__)


class Transactions(Protocol):
    """The connection of a writer; its methods are called on the writing thread alone."""

    def begin(self) -> Connection:
        """Begin a transaction, and return the connection that it is on.

        Raises:
            Exception: the database cannot be written to; see `refusal`.
        """
        ...

    def in_step(self, operations: Sequence[Steps[Any]]) -> list[Any]:
        """Execute operations side by side; return their results."""
        ...

    def commit(self) -> None:
        """Commit. Raises only where nothing of the transaction is in the database."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, if there is one. Raises nothing."""
        ...

    def is_lost(self, error: Exception) -> bool:
        """Return whether an error of one write ended the whole transaction, or has to."""
        ...

    def is_passing(self, error: Exception) -> bool:
        """Return whether a transaction failed of what has nothing to do with its writes."""
        ...

    def refusal(self, doing: str, error: Exception) -> EvalrouterError:
        """Return the error for the caller whose `doing` failed, an object of its own."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class _Write:
    """A write on its way: its operation, then its result or error."""

    __slots__ = ("doing", "error", "future", "has_steps", "holds_room", "operation", "result")

    def __init__(
        self,
        doing: str,
        operation: Callable[[Connection], Any],
        future: asyncio.Future[Any],
        *,
        has_steps: bool,
    ) -> None:
        self.doing = doing
        self.operation = operation
        self.has_steps = has_steps
        self.future = future
        self.holds_room = True
        self.result: Any = None
        self.error: Exception | None = None


class Writer:
    """Owns the writing connection from construction to `close()`.

    Construct it on the event loop that will write.

    Args:
        transactions: the connection.
        room: how many writes may be on their way before the next one waits.
        batch_size: how many writes share a transaction at most.
    """

    def __init__(
        self, transactions: Transactions, *, room: int = 1024, batch_size: int = 256
    ) -> None:
        self._transactions = transactions
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(room)
        self._all_room = room
        self._batch_size = batch_size
        # The writes that came in since the thread was last given a batch; None ends the thread.
        self._waiting: deque[_Write] = deque()
        self._batches: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="evalrouter-store", daemon=True)
        self._thread.start()

    async def write(self, doing: str, operation: Callable[[Connection], _Result]) -> _Result:
        """Execute `operation(db)` on the thread; return its result once it is in the database.

        `operation` may run more than once (after a neighbour ruined the transaction), so it must do
        nothing but read and write the database. `doing` completes "cannot ...".

        Raises:
            StoreError: the database refused; nothing of this write is in it.
            EvalrouterError: what `operation` itself raised, with the same promise.
        """
        result: _Result = await self._write(doing, operation, has_steps=False)
        return result

    async def write_in_steps(
        self, doing: str, operation: Callable[[Connection], Steps[_Result]]
    ) -> _Result:
        """Execute `operation(db)` as `write` does, step by step beside the others of its batch.

        What they read may be from before what an earlier one of the batch writes.
        """
        result: _Result = await self._write(doing, operation, has_steps=True)
        return result

    async def _write(
        self, doing: str, operation: Callable[[Connection], Any], *, has_steps: bool
    ) -> Any:
        if self._closing:
            raise StoreError(f"cannot {doing}: the database is closed")
        write = _Write(doing, operation, self._loop.create_future(), has_steps=has_steps)
        try:
            await self._room.acquire()
        except asyncio.CancelledError:
            # Past the bound rather than lost: the caller may have paid for what it writes.
            write.holds_room = False
            write.future.cancel()
            self._add(write)
            raise
        self._add(write)
        return await write.future

    async def close(self) -> None:
        """Execute all requested writes, then end the thread and close the connection."""
        if self._closing:
            return
        self._closing = True
        # Room is given first come, first served: all callers that wait for it get in before this.
        for _ in range(self._all_room):
            await self._room.acquire()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)
        self._transactions.close()

    def _add(self, write: _Write) -> None:
        """On the event loop: pass a write on, unless the thread is busy already."""
        self._waiting.append(write)
        if not self._busy:
            self._busy = True
            # Not at once: other writes of this turn of the loop join the batch.
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """On the event loop: give the thread the next batch of waiting writes."""
        batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        self._busy = bool(batch)
        if batch:
            self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._commit(batch)
            # The loop is gone when its program ended without close(), and no caller waits.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle, batch)

    def _commit(self, batch: list[_Write]) -> None:
        """Commit the batch in one transaction; each write ends with a result or an error."""
        db = self._begin(batch)
        if db is not None and not self._commit_together(db, batch):
            db = self._begin(batch)
            if db is not None:
                self._commit_apart(db, batch)

    def _begin(self, batch: list[_Write]) -> Connection | None:
        """Begin a transaction; return None, with an error for every write, where that fails."""
        try:
            return self._transactions.begin()
        except Exception as error:  # noqa: BLE001 - the thread must outlive whatever goes wrong
            for write in batch:
                write.error = self._transactions.refusal(write.doing, error)
            return None

    def _commit_together(self, db: Connection, batch: list[_Write]) -> bool:
        """Commit without savepoints, as usual; return False when one failed and all are undone."""
        try:
            for has_steps, writes in groupby(batch, key=attrgetter("has_steps")):
                if has_steps:
                    self._execute_in_step(db, list(writes))
                else:
                    for write in writes:
                        write.result = write.operation(db)
            self._transactions.commit()
        except Exception:  # noqa: BLE001 - it fails again in its savepoint
            self._transactions.rollback()
            return False
        return True

    def _execute_in_step(self, db: Connection, writes: list[_Write]) -> None:
        results = self._transactions.in_step([write.operation(db) for write in writes])
        for write, result in zip(writes, results, strict=True):
            write.result = result

    def _commit_apart(self, db: Connection, batch: list[_Write], attempts: int = ATTEMPTS) -> None:
        """Commit with a savepoint for each write, so that only those that fail are undone."""
        try:
            for write in batch:
                self._execute(db, write)
            self._transactions.commit()
        except Exception as error:  # noqa: BLE001 - the thread must outlive any write
            self._transactions.rollback()
            if attempts > 1 and self._transactions.is_passing(error):
                again = self._begin(batch)
                if again is not None:
                    self._commit_apart(again, batch, attempts - 1)
                return
            if len(batch) == 1:
                batch[0].error = self._transactions.refusal(batch[0].doing, error)
                return
            # A full disk, say: a write that is too large must not fail one that still fits.
            for write in batch:
                alone = self._begin([write])
                if alone is not None:
                    self._commit_apart(alone, [write])

    def _execute(self, db: Connection, write: _Write) -> None:
        """Execute one write in its savepoint. Raises only when the whole transaction is lost."""
        write.error = None
        db.execute("SAVEPOINT one_write")
        try:
            result = write.operation(db)
            write.result = in_one_go(result) if write.has_steps else result
        except Exception as error:
            if self._transactions.is_lost(error):
                raise
            db.execute("ROLLBACK TO one_write")
            write.error = self._transactions.refusal(write.doing, error)
        db.execute("RELEASE one_write")

    def _settle(self, batch: list[_Write]) -> None:
        """On the event loop: give back room, wake the callers, pass the next batch on."""
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
