"""The table of feedback. What was sent along has its own, so that a list reads no texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from providers.errors import ConflictError, NotFoundError
from router.store.columns.feedback import (
    BODY_COLUMNS,
    FEEDBACK_COLUMNS,
    READ_FEEDBACK_COLUMNS,
    body_columns,
    feedback_columns,
    feedback_of,
    with_texts,
)
from router.store.columns.traffic import FILTER_COLUMNS
from router.store.columns.values import readable
from router.store.feedback import (
    MAX_HISTORY,
    FeedbackFilter,
    FeedbackRow,
    FeedbackStore,
    NewFeedback,
    StoredFeedback,
    request_subject,
)
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import conditions_of, given
from router.store.sql.review import delete_unpublished
from router.store.traffic import FeedbackSummary, TrafficFilter

_LATER = (
    "EXISTS (SELECT 1 FROM feedback AS later WHERE later.subject = feedback.subject"
    " AND later.name = feedback.name AND later.author = feedback.author"
    " AND later.number > feedback.number)"
)
_COLUMNS = f"{', '.join(READ_FEEDBACK_COLUMNS)}, CASE WHEN {_LATER} THEN 1 ELSE 0 END"
_CURRENT = f"NOT {_LATER}"
# A name that is taken is no error: another process has just stored the same.
_INSERT = f"{insert('feedback', FEEDBACK_COLUMNS)} ON CONFLICT (key_id, idempotency_key) DO NOTHING"
_INSERT_BODY = insert("feedback_bodies", BODY_COLUMNS)
# What filters of requests select by here.
_OF_REQUEST = FILTER_COLUMNS | {
    "id": "subject",
    "request_id": "x_request_id",
    "key_id": "request_key",
    "since": "request_at",
    "until": "request_at",
}
_OF_USER = {"user": "(request_user = :user OR user_id = :user)"}


class SqlFeedback(SqlPart, FeedbackStore):
    """Feedback, with what was sent along."""

    async def add_feedback(self, entries: Sequence[NewFeedback]) -> list[StoredFeedback]:
        return await self._database.write("store feedback", _add, entries)

    async def feedback(
        self,
        matching: FeedbackFilter,
        *,
        limit: int = 50,
        before: int | None = None,
        oldest_first: bool = False,
    ) -> list[FeedbackRow]:
        return await self._database.read(
            "list feedback", _page, matching, limit, before, oldest_first
        )

    async def one_feedback(self, feedback_id: str, *, key_id: str | None = None) -> FeedbackRow:
        return await self._database.read("read feedback", _feedback_of_id, feedback_id, key_id)

    async def feedback_about(
        self,
        record_ids: Sequence[str],
        *,
        conversations: Sequence[str] = (),
        key_id: str | None = None,
    ) -> list[FeedbackRow]:
        return await self._database.read("read feedback", _about, record_ids, conversations, key_id)

    async def feedback_summaries(
        self, record_ids: Sequence[str], *, key_id: str | None = None
    ) -> dict[str, tuple[FeedbackSummary, ...]]:
        return await self._database.read("add up feedback", _summaries, record_ids, key_id)

    async def delete_feedback(self, feedback_id: str, *, key_id: str | None = None) -> int:
        return await self._database.write("delete feedback", _delete_one, feedback_id, key_id)

    async def forget_feedback(self, matching: TrafficFilter, limit: int) -> int:
        return await self._database.write("delete feedback", _forget, matching, limit)


def _add(db: Connection, entries: Sequence[NewFeedback]) -> list[StoredFeedback]:
    return [_add_one(db, entry) for entry in entries]


def _add_one(db: Connection, entry: NewFeedback) -> StoredFeedback:
    while True:
        known = _of_idempotency_key(db, entry)
        if known is not None:
            row, digest = known
            if digest == entry.digest:
                return StoredFeedback(row, False)
            if not entry.replaces:
                raise ConflictError(
                    f"The idempotency key {entry.idempotency_key!r} was used for other feedback "
                    f"({row.id}). Use a new one; the same only repeats a request as it was."
                )
            db.execute("UPDATE feedback SET idempotency_key = NULL WHERE number = ?", (row.number,))
        [number] = db.new_numbers("feedback", 1)
        if db.execute(_INSERT, feedback_columns(number, entry)).rowcount:
            break
    if entry.row.sent_along:
        db.execute(_INSERT_BODY, body_columns(number, entry.row))
    _bound_history(db, entry.row)
    [row] = _rows(db, "number = ?", (number,))
    return StoredFeedback(row, True)


def _of_idempotency_key(db: Connection, entry: NewFeedback) -> tuple[FeedbackRow, str] | None:
    if not entry.idempotency_key:
        return None
    stored = db.execute(
        "SELECT number, digest FROM feedback WHERE key_id = ? AND idempotency_key = ?",
        (entry.row.key_id, entry.idempotency_key),
    ).fetchone()
    if stored is None:
        return None
    number, digest = stored
    [row] = _rows(db, "number = ?", (number,))
    return row, digest


def _bound_history(db: Connection, row: FeedbackRow) -> None:
    """Delete the oldest feedback of the row's author about its subject, where it is too much."""
    values = {
        "subject": row.subject, "name": row.name, "author": row.author, "many": MAX_HISTORY
    }  # fmt: skip
    same = "subject = :subject AND name = :name AND author = :author"
    last = db.execute(
        f"SELECT number FROM feedback WHERE {same} ORDER BY number DESC LIMIT 1 OFFSET :many",
        values,
    ).fetchone()
    if last is not None:
        _delete(db, f"{same} AND number <= :last", values | {"last": last[0]})


def _rows(db: Connection, where: str, values: Any, *, end: str = "") -> list[FeedbackRow]:
    with db.lenient_text():
        rows = db.execute(f"SELECT {_COLUMNS} FROM feedback WHERE {where}{end}", values).fetchall()
    return readable(rows, feedback_of, lambda columns: f"the feedback {columns[1]}")


def _page(
    db: Connection,
    matching: FeedbackFilter,
    limit: int,
    before: int | None,
    oldest_first: bool,
) -> list[FeedbackRow]:
    where, values = given(
        {
            "key_id = :key_id": matching.key_id,
            "user_id = :user": matching.user,
            "name = :name": matching.name,
            "kind = :kind": matching.kind,
            "subject = :subject": matching.record_id and request_subject(matching.record_id),
            "conversation = :conversation": matching.conversation,
            "route = :route": matching.route,
            "rollout = :rollout": matching.rollout,
            "arm = :arm": matching.arm,
            "at >= :since": matching.since,
            "at < :until": matching.until,
            f"number {'>' if oldest_first else '<'} :before": before,
        }
    )
    if not matching.history:
        where.append(_CURRENT)
    return _rows(
        db,
        " AND ".join(where) or "1 = 1",
        values | {"limit": limit},
        end=f" ORDER BY number{'' if oldest_first else ' DESC'} LIMIT :limit",
    )


def _feedback_of_id(db: Connection, feedback_id: str, key_id: str | None) -> FeedbackRow:
    rows = _rows(db, *_identity(feedback_id, key_id))
    if not rows:
        raise NotFoundError(f"There is no feedback {feedback_id!r}.")
    [row] = rows
    texts = db.execute(
        "SELECT messages, answer FROM feedback_bodies WHERE number = ?", (row.number,)
    ).fetchone()
    return row if texts is None else with_texts(row, texts)


def _identity(feedback_id: str, key_id: str | None) -> tuple[str, dict[str, Any]]:
    of_key = "" if key_id is None else " AND key_id = :key_id"
    return f"id = :id{of_key}", {"id": feedback_id, "key_id": key_id}


def _about(
    db: Connection, record_ids: Sequence[str], conversations: Sequence[str], key_id: str | None
) -> list[FeedbackRow]:
    of_key = "" if key_id is None else " AND key_id = :key_id"
    subjects = [*map(request_subject, record_ids), *conversations]
    return _rows(
        db,
        f"{db.any_of('subject', ':subjects')}{of_key} AND {_CURRENT}",
        {"subjects": db.array(subjects), "key_id": key_id},
        end=" ORDER BY number",
    )


def _summaries(
    db: Connection, record_ids: Sequence[str], key_id: str | None
) -> dict[str, tuple[FeedbackSummary, ...]]:
    of_key = "" if key_id is None else " AND key_id = :key_id"
    rows = db.execute(
        "SELECT record_id, name, count(*), sum(score * weight)"
        " / nullif(sum(CASE WHEN score IS NULL THEN 0.0 ELSE weight END), 0.0)"
        f" FROM feedback WHERE {db.any_of('subject', ':subjects')}{of_key} AND {_CURRENT}"
        " GROUP BY record_id, name ORDER BY record_id, name",
        {"subjects": db.array([*map(request_subject, record_ids)]), "key_id": key_id},
    )
    summaries: dict[str, tuple[FeedbackSummary, ...]] = {}
    for record_id, name, count, mean in rows:
        summary = FeedbackSummary(name=name, count=count, mean=mean)
        summaries[record_id] = (*summaries.get(record_id, ()), summary)
    return summaries


def _delete_one(db: Connection, feedback_id: str, key_id: str | None) -> int:
    where, values = _identity(feedback_id, key_id)
    stored = db.execute(
        f"SELECT subject, name, author, number FROM feedback WHERE {where}", values
    ).fetchone()
    if stored is None:
        return 0
    values = dict(zip(("subject", "name", "author", "number"), stored, strict=True))
    where = "subject = :subject AND name = :name AND author = :author AND number <= :number"
    gone = db.execute(f"SELECT id, record_id FROM feedback WHERE {where}", values).fetchall()
    for gone_id, record_id in gone:
        delete_unpublished(db, gone_id, record_id)
    return _delete(db, where, values)


def _forget(db: Connection, matching: TrafficFilter, limit: int) -> int:
    conditions = conditions_of(db, matching, columns=_OF_REQUEST, others=_OF_USER)
    subject = None if matching.id is None else request_subject(matching.id)
    selected = db.execute(
        f"SELECT number FROM feedback WHERE {conditions.where} ORDER BY number LIMIT :limit",
        conditions.values | {"id": subject, "limit": limit},
    ).fetchall()
    numbers = db.array([number for (number,) in selected])
    return _delete(db, db.any_of("number", ":numbers"), {"numbers": numbers}) if selected else 0


def _delete(db: Connection, where: str, values: dict[str, Any]) -> int:
    db.execute(
        f"DELETE FROM feedback_bodies WHERE number IN (SELECT number FROM feedback WHERE {where})",
        values,
    )
    return db.execute(f"DELETE FROM feedback WHERE {where}", values).rowcount
