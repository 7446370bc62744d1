"""A model in a copy that others share, which leaves when its last answer is done. Knows no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from providers.base import Lifecycle, Provider


class SharedModel:
    """A model that is loaded, and how many use it.

    Args:
        engine: which answers for it.
        left: called when it begins to leave.
    """

    def __init__(self, engine: Provider, left: Callable[[], object]) -> None:
        self.engine = engine
        self._left = left
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        # What Ray calls to have a model leave. On the instance, where Python does not look for it.
        self.__del__ = self._leave

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._users > 0

    def enter(self) -> None:
        """It has to stay for one more."""
        self._users += 1
        self._unused.clear()

    def exit(self) -> None:
        """It need not stay for one of them."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def _leave(self) -> None:
        self._left()
        await self._unused.wait()
        if isinstance(self.engine, Lifecycle):
            await self.engine.close()
