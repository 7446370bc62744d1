"""Who waits for changes in this process, and what wakes them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import get_args

from router.store.changes import Topic


class Changes:
    """Counts changes by topic. Its methods are called on the event loop."""

    def __init__(self) -> None:
        self._counts: dict[Topic, int] = dict.fromkeys(get_args(Topic), 0)
        self._news: dict[Topic, asyncio.Event] = {topic: asyncio.Event() for topic in self._counts}

    def announce(self, topic: str) -> None:
        """Wake those who wait for a topic; other texts than topics wake nobody."""
        for known, news in self._news.items():
            if known == topic:
                self._counts[known] += 1
                news.set()
                self._news[known] = asyncio.Event()
                return

    def announce_all(self) -> None:
        """Wake everybody: what has changed meanwhile is not known."""
        for topic in self._counts:
            self.announce(topic)

    async def wait(self, topic: Topic, seen: int, within: float) -> int:
        """Wait as `ChangeStore.changed` does."""
        if self._counts[topic] == seen:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._news[topic].wait()
        return self._counts[topic]
