"""Feedback as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.columns.values import json_text
from router.store.feedback import FeedbackRow, NewFeedback

# Those of FeedbackRow that are stored as they are, in order; then what is JSON.
_PLAIN = (
    "number", "id", "at", "key_id", "name", "kind", "score", "weight", "comment", "source",
    "subject", "record_id", "conversation", "x_request_id", "response_id", "request_key",
    "request_user", "route", "target", "status", "rollout", "arm", "request_at",
)  # fmt: skip
READ_FEEDBACK_COLUMNS = (*_PLAIN, "user_id", "klass", "value", "metadata", "sent_along")
FEEDBACK_COLUMNS = (*READ_FEEDBACK_COLUMNS, "author", "idempotency_key", "digest")
BODY_COLUMNS = ("number", "messages", "answer")

_value = msgspec.json.Decoder(bool | float | str | dict[str, Any]).decode
_metadata = msgspec.json.Decoder(dict[str, Any]).decode
_messages = msgspec.json.Decoder(list[dict[str, Any]] | None).decode


def feedback_columns(number: int, entry: NewFeedback) -> tuple[Any, ...]:
    """Return the values of FEEDBACK_COLUMNS.

    Raises:
        StoreError: a number is NaN or infinite.
    """
    row = entry.row
    plain = tuple(getattr(row, name) for name in _PLAIN[1:])
    return (
        number,
        *plain,
        row.user,
        row.traffic_class,
        json_text(row.value),
        json_text(row.metadata),
        int(row.sent_along),
        row.author,
        entry.idempotency_key or None,
        entry.digest,
    )


def feedback_of(columns: Sequence[Any]) -> FeedbackRow:
    """Read feedback from READ_FEEDBACK_COLUMNS and whether it is superseded."""
    *plain, user, traffic_class, value, metadata, sent_along, superseded = columns
    return FeedbackRow(
        **dict(zip(_PLAIN, plain, strict=True)),
        user=user,
        traffic_class=traffic_class,
        value=_value(value),
        metadata=_metadata(metadata),
        sent_along=bool(sent_along),
        superseded=bool(superseded),
    )


def body_columns(number: int, row: FeedbackRow) -> tuple[Any, ...]:
    """Return the values of BODY_COLUMNS."""
    return number, json_text(row.messages), row.answer


def with_texts(row: FeedbackRow, texts: Sequence[Any]) -> FeedbackRow:
    """Return the row with what was sent along, from messages and answer."""
    messages, answer = texts
    return msgspec.structs.replace(row, messages=_messages(messages), answer=answer)
