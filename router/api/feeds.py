"""Feeds: what many clients watch is read once for all of them, and sent when it changes.

    async with feeds.follow("run 7", read) as values:
        async for value in values:
            ...

The newest value comes at once, and another one whenever it has changed.
"""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from providers.errors import RateLimitError

_T = TypeVar("_T")
# Of one process and kind; each holds a connection.
MAX_FOLLOWERS = 1000


def _never(_: object) -> bool:
    return False


class _Feed(Generic[_T]):
    """The newest value of one thing, for all who follow it."""

    def __init__(
        self,
        read: Callable[[], Awaitable[_T]],
        *,
        name: str,
        poll_s: float,
        is_last: Callable[[_T], bool],
        differs: Callable[[_T, _T], bool],
    ) -> None:
        self._read = read
        self._poll_s = poll_s
        self._is_last = is_last
        self._differs = differs
        # The number says which one it is; two that follow each other may be one object.
        self._newest: tuple[int, _T] | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Condition()
        self.followers = 0
        self.polling = asyncio.create_task(self._poll(), name=name)

    async def values(self) -> AsyncIterator[_T]:
        """Yield the newest value, and another one whenever there is one, up to the last.

        Raises:
            Exception: whatever the reading has raised.
        """
        seen = -1
        while True:
            async with self._changed:
                while self._error is None and (self._newest is None or self._newest[0] == seen):
                    await self._changed.wait()
                newest, error = self._newest, self._error
            if error is not None:
                raise error
            assert newest is not None
            seen, value = newest
            yield value
            if self._is_last(value):
                return

    async def _poll(self) -> None:
        number = 0
        while True:
            try:
                value = await self._read()
            except Exception as error:  # noqa: BLE001  # whatever it is, the followers get it
                async with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            if self._newest is None or self._differs(value, self._newest[1]):
                async with self._changed:
                    self._newest = (number, value)
                    self._changed.notify_all()
                number += 1
            if self._is_last(value):
                return
            await asyncio.sleep(self._poll_s)


class Feeds(Generic[_T]):
    """All feeds of one kind in this process.

    Args:
        what: what is followed, for messages: "runs".
        poll_s: the pause between two readings, in seconds.
        is_last: whether nothing follows a value.
        differs: whether a value is news after another; all that are not equal are by default.
    """

    def __init__(
        self,
        what: str,
        *,
        poll_s: float,
        is_last: Callable[[_T], bool] = _never,
        differs: Callable[[_T, _T], bool] = operator.ne,
    ) -> None:
        self._what = what
        self._poll_s = poll_s
        self._is_last = is_last
        self._differs = differs
        self._feeds: dict[Hashable, _Feed[_T]] = {}
        self._by_holder: Counter[str] = Counter()

    def check_room(self, holder: str = "") -> None:
        """Raise RateLimitError where as many clients follow as may, in all or with one key.

        A key's clients get no more places than are free. So one key takes half of them at most,
        two a third each, and there is always room for another key (Choudhury and Hahne, 1998,
        "Dynamic queue length thresholds for shared-memory packet switches").

        Args:
            holder: the id of the client's key; "" while no key is needed.
        """
        free = MAX_FOLLOWERS - sum(feed.followers for feed in self._feeds.values())
        if free <= 0:
            raise RateLimitError(
                f"{MAX_FOLLOWERS:,} clients follow {self._what} of this server already.",
                retry_after=5.0,
            )
        if holder and self._by_holder[holder] >= free:
            raise RateLimitError(
                f"{self._by_holder[holder]:,} clients with this key follow {self._what} of this "
                "server already. The other places are left to other keys.",
                retry_after=5.0,
            )

    @asynccontextmanager
    async def follow(
        self, key: Hashable, read: Callable[[], Awaitable[_T]], *, holder: str = ""
    ) -> AsyncIterator[AsyncIterator[_T]]:
        """Give the values of one thing; see `_Feed.values`.

        Args:
            key: who follows the same key gets the same values.
            read: reads the newest one.
            holder: the id of the client's key; "" while no key is needed.
        """
        # Once more, because many may have been let in before any of them began.
        self.check_room(holder)
        feed = self._feeds.get(key)
        # One that has ended would not see that there is more, such as a run that was resumed.
        if feed is None or feed.polling.done():
            feed = self._feeds[key] = _Feed(
                read,
                name=f"followers of {self._what}",
                poll_s=self._poll_s,
                is_last=self._is_last,
                differs=self._differs,
            )
        feed.followers += 1
        self._by_holder[holder] += 1
        try:
            yield feed.values()
        finally:
            feed.followers -= 1
            self._by_holder[holder] -= 1
            if not self._by_holder[holder]:
                del self._by_holder[holder]
            if not feed.followers:
                feed.polling.cancel()
                if self._feeds.get(key) is feed:
                    del self._feeds[key]
