"""What is said about recorded requests, as conditions read it.

given = await RequestFeedback(store, only=None).about(rows)
Subject(row, latest_values(given[row.id]))
"""

from __future__ import annotations

from collections.abc import Sequence

from router.loop.conditions import FeedbackValue
from router.loop.recorded_conversations import text_of
from router.store.feedback import FeedbackRow, FeedbackStore, conversation_subject
from router.store.traffic import TrafficRow


class RequestFeedback:
    """Reads feedback about requests.

    Args:
        store: has the feedback.
        only: the id of the key whose feedback alone is read; None for all.
    """

    def __init__(self, store: FeedbackStore, only: str | None) -> None:
        self._store = store
        self._only = only

    async def about(self, rows: Sequence[TrafficRow]) -> dict[str, list[FeedbackRow]]:
        """Return the feedback about each request by its record's id, the newest last.

        What was said about a conversation counts for its requests, before what is about one alone.
        """
        subjects = {
            row.id: conversation_subject(row.key_id, row.conversation)
            for row in rows
            if row.conversation
        }
        given = await self._store.feedback_about(
            [row.id for row in rows],
            conversations=sorted({*subjects.values()}),
            key_id=self._only,
        )
        by_subject: dict[str, list[FeedbackRow]] = {}
        of_request: dict[str, list[FeedbackRow]] = {}
        for feedback in sorted(given, key=lambda feedback: feedback.number):
            if feedback.record_id:
                of_request.setdefault(feedback.record_id, []).append(feedback)
            else:
                by_subject.setdefault(feedback.subject, []).append(feedback)
        return {
            row.id: [*by_subject.get(subjects.get(row.id, ""), ()), *of_request.get(row.id, ())]
            for row in rows
        }


def latest_values(given: Sequence[FeedbackRow]) -> dict[str, FeedbackValue]:
    """Return the last value and comment of each name."""
    return {
        feedback.name: FeedbackValue(value_of(feedback), feedback.comment) for feedback in given
    }


def value_of(feedback: FeedbackRow) -> str | float | bool | None:
    """Return the value of feedback as conditions compare it."""
    value = feedback.value
    if isinstance(value, dict):
        # The message that should have been the answer.
        return text_of(value) or None
    return value
