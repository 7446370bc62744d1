"""A model in a copy that others share, which leaves when its last answer is done. Without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from providers.base import Lifecycle, Provider


class SharedModel:
    """A loaded model, which counts the requests that use it.

    Args:
        engine: the engine that answers for it.
        left: called when it begins to leave.
    """

    def __init__(self, engine: Provider, left: Callable[[], object]) -> None:
        self.engine = engine
        self._left = left
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        # Ray calls this to make a model leave. Python itself ignores it on an instance.
        self.__del__ = self._leave

    @property
    def busy(self) -> bool:
        """Whether a request waits for an answer."""
        return self._users > 0

    def enter(self) -> None:
        """Count one more request, for which the model has to stay."""
        self._users += 1
        self._unused.clear()

    def exit(self) -> None:
        """Count one request less."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def _leave(self) -> None:
        self._left()
        await self._unused.wait()
        if isinstance(self.engine, Lifecycle):
            await self.engine.close()
