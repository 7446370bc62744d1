"""Changes by other processes, for those who look for them every few seconds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from providers.errors import StoreError

log = logging.getLogger("evalrouter")

Topic = Literal["deletions", "keys", "learned", "rollouts", "routes", "runs"]


class ChangeStore(Protocol):
    """Tells of changes at once where the database does, so that nobody waits for the next look."""

    async def changed(self, topic: Topic, seen: int, within: float) -> int:
        """Wait until there is a change that the caller has not seen.

        Args:
            topic: what changes: deletions of requests; keys; learned models; rollouts; overrides of
                routes; runs that were queued, stopped or requested to stop.
            seen: what the last call returned; 0 at first.
            within: seconds after which it returns anyway. A change may never be told: look then.
        """
        ...


async def follow_changes(
    store: ChangeStore,
    topic: Topic,
    follow: Callable[[], Awaitable[None]],
    *,
    within: float,
    failing: str,
) -> None:
    """Call a function whenever there may be a change, until cancelled.

    Args:
        store: tells of changes.
        topic: what changes.
        follow: takes the change over.
        within: seconds after which it is called anyway.
        failing: what the message about a StoreError begins with. Only the first of several failures
            in a row is logged.
    """
    is_failing, seen = False, 0
    while True:
        seen = await store.changed(topic, seen, within)
        try:
            await follow()
            is_failing = False
        except StoreError as error:
            if not is_failing:
                log.error("%s: %s", failing, error.message)
            is_failing = True
