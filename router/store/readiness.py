"""Whether the database works, for callers that check often and do not wait long.

    readiness = Readiness(store)
    fault = await readiness.fault()     # None while it works; within LIMIT_S

One check runs at a time, all callers meanwhile get its result, and a result is good for a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from providers.errors import StoreUnavailableError

log = logging.getLogger("evalrouter")

FRESH_S = 1.0
# A slower check is not waited for: the result is what holds it up, or else the previous result.
LIMIT_S = 1.5
# A disk that is slow for longer than this does not work.
HUNG_S = 10.0


class DatabaseState(NamedTuple):
    """A database as it was found, without anything done to it.

    Attributes:
        exists: whether there is one; else it is made when a server starts.
        missing_steps: changes of its schema that the next start makes.
        clock: seconds since the epoch by its server's clock; None for a file.
    """

    exists: bool
    missing_steps: list[str]
    clock: float | None = None


class CheckedStore(Protocol):
    """A database that can check whether it works."""

    async def check(self) -> None:
        """Write a page, then read.

        Raises:
            StoreUnavailableError: reads or writes do not work now, and why.
        """
        ...

    def delay(self) -> StoreUnavailableError | None:
        """Return what holds up a `check` that takes its time; None where that is not known."""
        ...


class Readiness:
    """Checks a store, at most once a second.

    Args:
        store: the database; it must be open by the first call of `fault`.
        clock: seconds, monotonic.
    """

    def __init__(self, store: CheckedStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._fault: StoreUnavailableError | None = None
        self._checking: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._ended_at = -FRESH_S

    async def close(self) -> None:
        """Cancel the check under way."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])

    async def fault(self) -> StoreUnavailableError | None:
        """Return what keeps the store from working; None while it works."""
        if self._checking is None or self._checking.done():
            if self._clock() - self._ended_at < FRESH_S:
                return self._fault
            self._began_at = self._clock()
            self._checking = asyncio.create_task(self._check(), name="evalrouter-readiness")
        taken = self._clock() - self._began_at
        await asyncio.wait([self._checking], timeout=max(0.0, LIMIT_S - taken))
        if not self._checking.done():
            delay = self._store.delay()
            if delay is None and taken > HUNG_S:
                reason = "reading from and writing to the database takes too long"
                delay = StoreUnavailableError(reason, fault="slow", reason=reason)
            if delay is not None:
                self._set(delay)
        return self._fault

    async def _check(self) -> None:
        try:
            await self._store.check()
        except StoreUnavailableError as error:
            self._set(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the database did not answer
            reason = "the database does not work; the log says more"
            self._set(StoreUnavailableError(str(error), fault="failing", reason=reason))
        else:
            self._set(None)
        self._ended_at = self._clock()

    def _set(self, fault: StoreUnavailableError | None) -> None:
        before, self._fault = self._fault, fault
        if fault is None:
            if before is not None:
                log.warning("the database works again")
        elif before is None or before.fault != fault.fault:
            log.error("the database does not work: %s", fault.message)
