"""Rows of the review queue as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.columns.authors import authors_of, authors_text
from router.store.columns.lineage import request_values
from router.store.columns.values import json_text
from router.store.review import ReviewContent, ReviewRow, ReviewSource

# Those of ReviewRow that are stored as they are.
_PLAIN = (
    "number", "id", "at", "expires_at", "dataset", "origin", "state", "version", "decided_at",
    "decided_by", "reason", "published",
)  # fmt: skip
_SOURCE = (
    "request_id", "request_at", "key_id", "user_id", "route", "target", "klass", "status",
    "x_request_id", "response_id", "conversation", "authors",
)  # fmt: skip
REVIEW_COLUMNS = (*_PLAIN, "edited", *_SOURCE, "feedback", "content", "findings")

_feedback = msgspec.json.Decoder(tuple[str, ...]).decode
_content = msgspec.json.Decoder(ReviewContent).decode
_findings = msgspec.json.Decoder(tuple[dict[str, Any], ...]).decode


def review_columns(number: int, row: ReviewRow) -> tuple[Any, ...]:
    """Return the values of REVIEW_COLUMNS.

    Raises:
        StoreError: a number is NaN or infinite.
    """
    source = row.source
    return (
        number,
        *(getattr(row, name) for name in _PLAIN[1:]),
        int(row.edited),
        *request_values(source),
        authors_text(source.authors),
        json_text(source.feedback),
        json_text(msgspec.to_builtins(row.content)),
        json_text(row.findings),
    )


def review_row_of(columns: Sequence[Any]) -> ReviewRow:
    """Read a row from REVIEW_COLUMNS."""
    plain, (edited, *source, feedback, content, findings) = (
        columns[: len(_PLAIN)],
        columns[len(_PLAIN) :],
    )
    request_id, at, key_id, user, route, target, traffic_class, status, *names = source
    x_request_id, response_id, conversation, authors = names
    return ReviewRow(
        **dict(zip(_PLAIN, plain, strict=True)),
        edited=bool(edited),
        source=ReviewSource(
            id=request_id,
            at=at,
            key_id=key_id,
            user=user,
            route=route,
            target=target,
            traffic_class=traffic_class,
            status=status,
            request_id="" if x_request_id == request_id else x_request_id,
            response_id=response_id,
            conversation=conversation,
            feedback=_feedback(feedback),
            authors=authors_of(authors),
        ),
        content=_content(content),
        findings=_findings(findings),
    )
