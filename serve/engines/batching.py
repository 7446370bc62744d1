"""Collects items that come one by one into batches.

    write = batched(generate, max_batch_size=8, batch_wait_timeout_s=0.005)
    await write(row)                # returns once a batch with this row is done

It works as `ray.serve.batch` does, in Ray Serve and outside of it. One batch is done at a time, and
one that is not full waits for more even when another has just been done: behind Ray Serve on two
busy cores the batches had 6 rows of 8 on average, and 1 to 3 with Ray's own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

_Item = TypeVar("_Item")

DoAll = Callable[[list[_Item]], Awaitable[Any]]


def batched(
    do: DoAll[_Item], *, max_batch_size: int, batch_wait_timeout_s: float
) -> Callable[[_Item], Awaitable[None]]:
    """Return a function for one item, which returns once the item's batch is done.

    Args:
        do: does several items; an error that it raises is raised for each of them.
        max_batch_size: items of a batch at most.
        batch_wait_timeout_s: seconds that a batch which is not full waits for more.
    """
    return _Batches(do, max_batch_size, batch_wait_timeout_s).add


class _Batches(Generic[_Item]):
    def __init__(self, do: DoAll[_Item], max_batch_size: int, wait_s: float) -> None:
        self._do = do
        self._max_batch_size = max_batch_size
        self._wait_s = wait_s
        self._waiting: deque[tuple[_Item, asyncio.Future[None]]] = deque()
        self._full = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def add(self, item: _Item) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if len(self._waiting) >= self._max_batch_size:
            self._full.set()
        if self._working is None:
            self._working = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        try:
            while self._waiting:
                # Also after a batch: the first item must not begin alone just before the others.
                await self._wait()
                count = min(self._max_batch_size, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
                # The callers of the others have left.
                batch = [(item, done) for item, done in batch if not done.done()]
                await self._do_batch(batch)
        finally:
            self._working = None

    async def _wait(self) -> None:
        """Wait for a full batch, but no longer than its time-out."""
        self._full.clear()
        if len(self._waiting) < self._max_batch_size:
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._full.wait()
            except TimeoutError:
                return

    async def _do_batch(self, batch: list[tuple[_Item, asyncio.Future[None]]]) -> None:
        if not batch:
            return
        error: Exception | None = None
        try:
            await self._do([item for item, _ in batch])
        except Exception as raised:  # noqa: BLE001  # each item's caller gets it
            error = raised
        for _, done in batch:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
