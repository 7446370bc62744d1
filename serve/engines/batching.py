"""Has items that come one by one done together, several at a time.

    write = batched(generate, max_batch_size=8, batch_wait_timeout_s=0.005)
    await write(row)                # returns once a batch with this row is done

As `ray.serve.batch`, in Ray Serve and outside of it. One batch is done at a time, and one that is
not full waits for more also when others have just been done: behind Ray Serve on two busy cores the
batches had 6 rows of 8 on average this way, and 1 to 3 that way.
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
    """A function for one item.

    Args:
        do: does several items; what it raises, each of them raises.
        max_batch_size: items of a batch at most.
        batch_wait_timeout_s: seconds that a batch which is not full waits for more.
    """
    return _Batches(do, max_batch_size, batch_wait_timeout_s).add


class _Batches(Generic[_Item]):
    def __init__(self, do: DoAll[_Item], most: int, wait_s: float) -> None:
        self._do = do
        self._most = most
        self._wait_s = wait_s
        self._waiting: deque[tuple[_Item, asyncio.Future[None]]] = deque()
        self._full = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def add(self, item: _Item) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if len(self._waiting) >= self._most:
            self._full.set()
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        await done

    async def _work(self) -> None:
        try:
            while self._waiting:
                # Also while busy: what came first must not begin alone just before the others.
                await self._wait()
                count = min(self._most, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
                # Nobody waits for the others any more.
                batch = [(item, done) for item, done in batch if not done.done()]
                await self._together(batch)
        finally:
            self._working = None

    async def _wait(self) -> None:
        """For as many as a batch takes, but not long."""
        self._full.clear()
        if len(self._waiting) < self._most:
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._full.wait()
            except TimeoutError:
                return

    async def _together(self, batch: list[tuple[_Item, asyncio.Future[None]]]) -> None:
        if not batch:
            return
        error: Exception | None = None
        try:
            await self._do([item for item, _ in batch])
        except Exception as raised:  # noqa: BLE001  # each of them raises it
            error = raised
        for _, done in batch:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
