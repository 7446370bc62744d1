"""Reads what several callers need once for all of them, and caches it while it stays the same.

reads = SharedReads[Outcome](max_cached=64)
await reads.of(run.id, (run.state, run.finished_at), read)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


class Lasting(NamedTuple, Generic[_T]):
    """A value, and for how many seconds it is good; 0 for one that is not cached."""

    value: _T
    seconds: float = float("inf")


class _Cached(NamedTuple, Generic[_T]):
    version: Hashable
    value: _T
    until: float


class SharedReads(Generic[_T]):
    """Values that take long to read. Two callers at once wait for the same reading.

    Args:
        max_cached: how many values are cached; another one takes the place of the oldest.
    """

    def __init__(self, *, max_cached: int) -> None:
        self._max_cached = max_cached
        self._cached: dict[Hashable, _Cached[_T]] = {}
        self._reading: dict[tuple[Hashable, Hashable], asyncio.Task[_T]] = {}

    def cached(self, key: Hashable, version: Hashable) -> _T | None:
        """Return the cached value of this version; None without one."""
        known = self._cached.get(key)
        if known is None or known.version != version:
            return None
        return known.value if asyncio.get_running_loop().time() < known.until else None

    async def of(
        self, key: Hashable, version: Hashable, read: Callable[[], Awaitable[Lasting[_T]]]
    ) -> _T:
        """Return a value, cached or read.

        Args:
            key: what the value is of. One version of it is cached.
            version: what the value depends on.
            read: reads it. Its errors are raised.
        """
        cached = self.cached(key, version)
        if cached is not None:
            return cached
        place = (key, version)
        task = self._reading.get(place)
        if task is None:
            task = self._reading[place] = asyncio.create_task(self._read(key, version, read))
            task.add_done_callback(lambda _: self._reading.pop(place))
        # A caller that goes away must not take the others' answer with it.
        return await asyncio.shield(task)

    async def _read(
        self, key: Hashable, version: Hashable, read: Callable[[], Awaitable[Lasting[_T]]]
    ) -> _T:
        value, seconds = await read()
        if seconds > 0:
            self._cached.pop(key, None)
            while len(self._cached) >= self._max_cached:
                del self._cached[next(iter(self._cached))]
            until = asyncio.get_running_loop().time() + seconds
            self._cached[key] = _Cached(version, value, until)
        return value
