"""Deletion of what rollouts have of requests: whose arm they were in, and how they went.

Requests that are live go with their records. This step is for those whose records are in files, or
too old to be stored: they are found by their ids, and by their users, whose hash is made anew for
each rollout. What was counted stays in the statistics, which name no user.
"""

from __future__ import annotations

from router.loop.assignment import unit_of
from router.records import key_of_user
from router.sealing.deletion import Deletion, DeletionStep
from router.store.rollouts import RolloutStore
from router.store.traffic import TrafficFilter

MAX_ROLLOUTS = 100_000


class RolloutRequestsDeletion(DeletionStep):
    """Deletes requests from rollouts.

    Args:
        store: has the rollouts.
    """

    def __init__(self, store: RolloutStore) -> None:
        self._store = store

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete the request of an id, or those of a user."""
        if matching.id is not None:
            await self._store.forget_rollout_requests(record_id=matching.id)
        if matching.user is not None:
            rollouts = await self._store.rollouts(limit=MAX_ROLLOUTS)
            key = key_of_user(matching.user)
            units = [unit_of(rollout, key) for rollout in rollouts]
            await self._store.forget_rollout_requests(units=units)
        return Deletion()
