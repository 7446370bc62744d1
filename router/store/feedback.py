"""Feedback: what people and programs say of answers that were given to clients.

It is about a request, about a conversation, or about a text that the client sent along because no
record of the request is stored. Later feedback of the same name and author about the same thing
supersedes earlier feedback, which stays as history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from router.store.traffic import FeedbackSummary, TrafficFilter

FeedbackKind = Literal["bool", "number", "text", "correction"]
FeedbackSource = Literal["evalrouter", "tensorzero", "portkey", "langfuse"]

# How much feedback of one name and author about one thing is stored, the newest first.
MAX_HISTORY = 100


class FeedbackRow(msgspec.Struct, frozen=True, kw_only=True, rename={"traffic_class": "class"}):
    """Feedback as it is stored.

    Attributes:
        number: grows with every row; 0 for one that is not stored yet.
        id: a UUID, in the order of time.
        at: when it came, seconds since the epoch.
        key_id: the id of the key that gave it; "" without one.
        user: who gave it, by `router.records.stored_name`; "" where only the key is known.
        name: what it says something about, as `thumb` or `helpful`.
        kind: what `value` is.
        value: a truth value, a number, a text, or the answer that should have been given: a text,
            or an assistant's message as an object.
        score: the value as a number; None for a text and a correction.
        weight: how much it counts in a mean.
        comment, metadata: as they came.
        source: whose form the request had.
        subject: what it is about: feedback supersedes other feedback of the same subject.
        record_id: the id of the request's record; "" where it is about no single request.
        conversation: the conversation that it is about, or that the request belongs to.
        x_request_id, response_id, request_key, request_user, route, target, traffic_class, status,
            rollout, arm, request_at: those of the request, because its record may not be stored as
            long; of the newest one of a conversation; as far as they are known of a text that was
            sent along.
        superseded: whether there is later feedback of the same subject, name and author.
        sent_along: whether the client sent the conversation; `messages` and `answer` are only read
            with one row.
    """

    number: int = 0
    id: str
    at: float
    key_id: str
    user: str
    name: str
    kind: FeedbackKind
    value: bool | float | str | dict[str, Any]
    score: float | None
    weight: float = 1.0
    comment: str = ""
    metadata: dict[str, Any] = {}
    source: FeedbackSource = "evalrouter"
    subject: str
    record_id: str = ""
    conversation: str = ""
    x_request_id: str = ""
    response_id: str = ""
    request_key: str
    request_user: str
    route: str
    target: str = ""
    traffic_class: str = "live"
    status: int = 0
    rollout: str = ""
    arm: str = ""
    request_at: float
    superseded: bool = False
    sent_along: bool = False
    messages: list[dict[str, Any]] | None = None
    answer: str | None = None

    @property
    def author(self) -> str:
        """Return whose feedback is superseded by this: the user's, else the key's."""
        return f"user:{self.user}" if self.user else f"key:{self.key_id}"


class NewFeedback(NamedTuple):
    """Feedback to be stored.

    Attributes:
        row: the feedback.
        idempotency_key: what its sender calls it; "" where it is new in any case. What a key has
            sent by that name already is not stored a second time.
        digest: a hash of what was sent, to know it again.
        replaces: whether other feedback that was sent by that name gives the name up.
    """

    row: FeedbackRow
    idempotency_key: str = ""
    digest: str = ""
    replaces: bool = False


class StoredFeedback(NamedTuple):
    """Feedback in the store, and whether it was not there before."""

    row: FeedbackRow
    is_new: bool


class FeedbackFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects feedback; a field that is None selects all.

    Attributes:
        key_id, user, name, kind, record_id, conversation, route, rollout, arm: as in FeedbackRow.
        since, until: when it came, seconds since the epoch; `until` itself is left out.
        history: whether feedback that was superseded is selected too.
    """

    key_id: str | None = None
    user: str | None = None
    name: str | None = None
    kind: FeedbackKind | None = None
    record_id: str | None = None
    conversation: str | None = None
    route: str | None = None
    rollout: str | None = None
    arm: str | None = None
    since: float | None = None
    until: float | None = None
    history: bool = False


class FeedbackStore(Protocol):
    """Stores feedback and lists it."""

    async def add_feedback(self, entries: Sequence[NewFeedback]) -> list[StoredFeedback]:
        """Store feedback, all or none; what is stored already is returned as it is.

        Raises:
            ConflictError: an idempotency key was used for other feedback.
        """
        ...

    async def feedback(
        self,
        matching: FeedbackFilter,
        *,
        limit: int = 50,
        before: int | None = None,
        oldest_first: bool = False,
    ) -> list[FeedbackRow]:
        """List feedback, newest first; `before` is the number of the previous page's last row."""
        ...

    async def one_feedback(self, feedback_id: str, *, key_id: str | None = None) -> FeedbackRow:
        """Return feedback by its id, with what was sent along.

        `key_id` selects what one key gave; None selects all.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def feedback_about(
        self,
        record_ids: Sequence[str],
        *,
        conversations: Sequence[str] = (),
        key_id: str | None = None,
    ) -> list[FeedbackRow]:
        """Return the feedback about requests and conversations that nothing supersedes.

        Args:
            record_ids: the ids of the requests' records.
            conversations: subjects of conversations, as `conversation_subject` has them.
            key_id: only what this key gave; None for all.
        """
        ...

    async def feedback_summaries(
        self, record_ids: Sequence[str], *, key_id: str | None = None
    ) -> dict[str, tuple[FeedbackSummary, ...]]:
        """Add up the feedback about requests, by their records' ids, without those that have none.

        `key_id` selects what one key gave; None selects all.
        """
        ...

    async def delete_feedback(self, feedback_id: str, *, key_id: str | None = None) -> int:
        """Delete feedback and what it has superseded; return how many rows that were.

        Rows of the review queue that were made of it and are in no dataset yet go with it.

        `key_id` selects what one key gave; None selects all.
        """
        ...

    async def forget_feedback(self, matching: TrafficFilter, limit: int) -> int:
        """Delete the feedback about requests that match, whether these are stored or not.

        A filter by user selects what that user gave, too. At most `limit` rows are deleted; it
        returns how many.
        """
        ...


def request_subject(record_id: str) -> str:
    """Return the subject of feedback about a request."""
    return f"request:{record_id}"


def conversation_subject(key_id: str, conversation: str) -> str:
    """Return the subject of feedback about a conversation, whose name is its key's own."""
    return f"conversation:{key_id}:{conversation}"


def text_subject(feedback_id: str) -> str:
    """Return the subject of feedback about a text that was sent along with it."""
    return f"text:{feedback_id}"
