"""Changes by other processes, for those who look for them every few seconds."""

from __future__ import annotations

from typing import Literal, Protocol

Topic = Literal["deletions", "keys", "rollouts", "routes", "runs"]


class ChangeStore(Protocol):
    """Tells of changes at once where the database does, so that nobody waits for the next look."""

    async def changed(self, topic: Topic, seen: int, within: float) -> int:
        """Wait until there is a change that the caller has not seen.

        Args:
            topic: what changes: deletions of requests; keys; rollouts; overrides of routes; runs
                that were queued, stopped or requested to stop.
            seen: what the last call returned; 0 at first.
            within: seconds after which it returns anyway. A change may never be told: look then.
        """
        ...
