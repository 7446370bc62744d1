"""Clears the response cache once requests were deleted, in whatever process.

    sync = CacheSync(cache, store)
    await sync.follow()   # at the start, and at once where this process has deleted
    await sync.watch()    # until cancelled: looks every second, or as soon as the database tells

All of it: an answer does not say whose it is, and would be the last copy of what has to go.
"""

from __future__ import annotations

import logging

from router.gateway.cache import ResponseCache
from router.store.changes import follow_changes
from router.store.traffic import TrafficStore

log = logging.getLogger("evalrouter")

POLL_S = 1.0


class CacheSync:
    """Keeps answers to deleted requests from being given again.

    Args:
        cache: the response cache of this process.
        store: where requests are stored, and deleted.
    """

    def __init__(self, cache: ResponseCache, store: TrafficStore) -> None:
        self._cache = cache
        self._store = store
        self._deletions: int | None = None

    async def follow(self) -> None:
        """Clear the cache if requests were deleted since the last call; the first reads how often.

        Raises:
            StoreError: the store cannot be read.
        """
        # An empty one need not know. After a deletion meanwhile, its first answers go once.
        if self._deletions is not None and not len(self._cache):
            return
        deletions = await self._store.traffic_deletions()
        if deletions != self._deletions:
            self._deletions = deletions
            self._cache.clear()

    async def watch(self) -> None:
        """Follow all processes, until cancelled."""
        await follow_changes(
            self._store,
            "deletions",
            self.follow,
            within=POLL_S,
            failing="cannot look for deleted requests",
        )
