"""Lets feedback wait for a review: corrections, and conversations that clients sent along.

    feeding = FeedbackReview(store, recorded, queue, owner=owner)
    await feeding.open()          # every few seconds, where no other process does it
    await feeding.run_once()      # or once

The conversation of a correction is what the client sent along, else the bodies of the request's
record. Where neither is stored there is nothing to review.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from providers.errors import ConflictError, RequestError
from router.gateway.dialects import dialect_of
from router.loop.recorded_conversations import read_conversation, text_of
from router.loop.review import ReviewCandidate, ReviewQueue
from router.rounds import Rounds
from router.sealing.traffic import RecordedTraffic
from router.store.feedback import FeedbackFilter, FeedbackRow, FeedbackStore
from router.store.leases import Lease, LeaseStore
from router.store.review import ReviewSource, ReviewStore

log = logging.getLogger("evalrouter")

EVERY_S = 10.0
LEASE = "review feedback"
LEASE_S = 120.0
_PAGE = 500
# So much is taken at a time; the rest has its turn in the next round.
_MAX_ROWS = 20_000


class _Store(FeedbackStore, ReviewStore, LeaseStore, Protocol):
    """What is needed of a store."""


class FeedbackReview:
    """Takes feedback that is new to the review queue.

    Args:
        store: has the feedback, and how far it has been taken.
        recorded: the requests that it is about.
        queue: where it waits.
        owner: a name for this part of the process, which no other has.
    """

    def __init__(
        self, store: _Store, recorded: RecordedTraffic, queue: ReviewQueue, *, owner: str
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._queue = queue
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        self._rounds = Rounds(
            self.run_once,
            every=EVERY_S,
            name="evalrouter-review-feedback",
            failing="feedback could not be taken to the review queue",
        )

    async def open(self) -> None:
        """Begin."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop; the next process goes on."""
        await self._rounds.close()

    async def run_once(self) -> int:
        """Take what is new, and return how many rows wait because of it.

        Raises:
            StoreError: what was taken until then waits.
        """
        position = await self._store.review_position()
        new = await self._new(position)
        if not new:
            return 0
        async with self._lease.held() as is_held:
            if not is_held:
                return 0
            # Another process may have been here.
            position = await self._store.review_position()
            return await self._take([row for row in new if row.number > position])

    async def _new(self, position: int) -> list[FeedbackRow]:
        """Return the feedback behind a position, oldest first."""
        rows: list[FeedbackRow] = []
        before = None
        while page := await self._store.feedback(FeedbackFilter(), limit=_PAGE, before=before):
            new = [row for row in page if row.number > position]
            rows += new
            if len(new) < len(page):
                break
            before = page[-1].number
        return rows[::-1][:_MAX_ROWS]

    async def _take(self, rows: list[FeedbackRow]) -> int:
        waiting = 0
        for row in rows:
            if row.kind == "correction" or row.sent_along:
                candidate = await self._candidate(row)
                if candidate is not None:
                    try:
                        [arrival] = await self._queue.add([candidate])
                        waiting += arrival.id is not None
                    except ConflictError:
                        # The queue is full, and this waits in its place.
                        return waiting
                    except RequestError as error:
                        log.warning("the feedback %s cannot be reviewed: %s", row.id, error.message)
            await self._store.keep_review_position(row.number)
        return waiting

    async def _candidate(self, row: FeedbackRow) -> ReviewCandidate | None:
        messages, answer = None, None
        if row.sent_along:
            sent = await self._store.one_feedback(row.id)
            messages, answer = sent.messages, sent.answer
        elif row.record_id:
            request = await self._recorded.request(row.record_id)
            if (
                request is not None
                and dialect_of(request.path).is_conversation
                and request.status == 200
            ):
                conversation = await asyncio.to_thread(read_conversation, request)
                if not isinstance(conversation, str):
                    messages, answer = conversation.messages, conversation.answer
        if not messages:
            return None
        return ReviewCandidate(
            messages=messages,
            answer=answer,
            reference=_reference(row),
            origin="feedback",
            source=ReviewSource(
                id=row.record_id,
                at=row.request_at,
                key_id=row.request_key,
                user=row.request_user,
                route=row.route,
                target=row.target,
                traffic_class=row.traffic_class,
                status=row.status,
                request_id=row.x_request_id,
                response_id=row.response_id,
                conversation=row.conversation,
                feedback=(row.id,),
                authors=frozenset({row.user} - {""}),
            ),
        )


def _reference(row: FeedbackRow) -> str | None:
    """Return the answer that should have been given; None where the feedback does not say."""
    if row.kind != "correction":
        return None
    if isinstance(row.value, dict):
        return text_of(row.value) or None
    return str(row.value)
