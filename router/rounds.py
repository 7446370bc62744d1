"""Work in the background that is done again and again until it is stopped.

rounds = Rounds(self.run_once, every=10.0, name="evalrouter-seal", failing="could not seal")
rounds.open()
await rounds.close()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from providers.errors import EvalrouterError

log = logging.getLogger("evalrouter")

# Rounds with shorter waits log a message once, until there is another one or a round succeeds.
OFTEN_S = 5.0


class ErrorLog:
    """Logs what is wrong with something, each message once until there is another one."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def error(self, about: str, message: str) -> None:
        """Log a message about something, unless it is the last one that was logged about it."""
        if self._logged.get(about) != message:
            self._logged[about] = message
            log.error("%s", message)

    def forget(self, about: str) -> None:
        """Forget the message about something, so that it is logged if it comes again."""
        self._logged.pop(about, None)


class Rounds:
    """Calls a function, waits, and calls it again; a round that fails is logged.

    Args:
        action: one round.
        every: the seconds between two rounds, or a function that returns them after each.
        name: the task's name.
        failing: what messages begin with, such as "old requests could not be sealed".
        first: the seconds before the first round.
        sleep: waits between rounds.
        finishes: whether a round that has begun is finished when the rounds are closed, because a
            write goes on in the database whoever stops waiting for it.
    """

    def __init__(
        self,
        action: Callable[[], Awaitable[object]],
        *,
        every: float | Callable[[], float],
        name: str,
        failing: str,
        first: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        finishes: bool = False,
    ) -> None:
        self._action = action
        self._every = every
        self._name = name
        self._failing = failing
        self._first = first
        self._sleep = sleep
        self._finishes = finishes
        self._log = ErrorLog()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin, inside the running event loop."""
        self._task = asyncio.create_task(self._repeat(), name=self._name)

    async def close(self) -> None:
        """Stop, at once unless a round is finished. Closing what is not open does nothing."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _repeat(self) -> None:
        if self._first:
            await self._sleep(self._first)
        while True:
            try:
                await (self._finished() if self._finishes else self._action())
                self._log.forget("")
            except EvalrouterError as error:
                self._log.error("", f"{self._failing}: {error.message}")
            except Exception:
                # The next round may succeed.
                log.exception("%s", self._failing)
            wait = self._every() if callable(self._every) else self._every
            if wait >= OFTEN_S:
                # The next round may log it again.
                self._log.forget("")
            await self._sleep(wait)

    async def _finished(self) -> None:
        """Do a round that goes on to its end when it is cancelled."""
        action = asyncio.ensure_future(self._action())
        try:
            await asyncio.shield(action)
        except asyncio.CancelledError:
            await asyncio.gather(action, return_exceptions=True)
            raise
