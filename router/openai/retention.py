"""Deletes stored responses: those that have expired, and those of requests that are deleted."""

from __future__ import annotations

import time
from collections.abc import Callable

from router.rounds import Rounds
from router.sealing.deletion import Deletion, DeletionStep, delete_rows
from router.store.responses import RESPONSE_FIELDS, ResponseStore
from router.store.traffic import TrafficFilter

EVERY_S = 600.0
AT_ONCE = 500


class ExpiredResponses:
    """Deletes responses that have expired; a server opens and closes it.

    Args:
        store: has them.
        clock: returns seconds since the epoch.
    """

    def __init__(self, store: ResponseStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = clock
        self._rounds = Rounds(
            self.run_once,
            every=EVERY_S,
            name="evalrouter-responses",
            failing="expired responses could not be deleted",
        )

    async def open(self) -> None:
        """Begin."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop."""
        await self._rounds.close()

    async def run_once(self) -> None:
        """Delete those that have expired by now.

        Raises:
            StoreError: the database does not work.
        """
        while await self._store.delete_expired_responses(self._now(), AT_ONCE) == AT_ONCE:
            pass


class ResponsesDeletion(DeletionStep):
    """Deletes the stored responses of requests.

    Args:
        store: has them.
    """

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete those of requests that match, as far as responses are stored with what selects."""
        unknown = [
            name
            for name in matching.__struct_fields__
            if name not in RESPONSE_FIELDS and getattr(matching, name) is not None
        ]
        if unknown:
            names = ", ".join(unknown)
            return Deletion(
                elsewhere=(f"responses that clients may continue are not stored with {names}",)
            )

        async def delete(limit: int) -> int:
            return await self._store.delete_responses(matching, limit)

        return await delete_rows(delete, at_most=at_most, at_once=AT_ONCE)
