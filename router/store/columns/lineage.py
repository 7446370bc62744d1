"""The source of a dataset's row as columns of a table."""

from __future__ import annotations

from typing import Any

from router.store.columns.authors import authors_text
from router.store.lineage import RowSource
from router.store.review import ReviewSource

SOURCE_COLUMNS = ("hash", "row_id", "id", "at", "key_id", "user_id", "route", "target", "klass",
                  "status", "request_id", "response_id", "conversation", "rollout",
                  "arm", "authors")  # fmt: skip


def request_values(source: RowSource | ReviewSource) -> tuple[Any, ...]:
    """Return what filters select requests by, from the id to the conversation."""
    return (
        source.id,
        source.at,
        source.key_id,
        source.user,
        source.route,
        source.target,
        source.traffic_class,
        source.status,
        source.request_id or source.id,
        source.response_id,
        source.conversation,
    )


def source_columns(version: str, source: RowSource) -> tuple[Any, ...]:
    """Return the values of SOURCE_COLUMNS for a row of the versions with a hash."""
    return (
        version,
        source.row,
        *request_values(source),
        source.rollout,
        source.arm,
        authors_text(source.authors),
    )
