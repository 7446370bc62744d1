"""The tables of the review queue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from providers.errors import ConflictError, NotFoundError
from router.store.columns.authors import BY_AUTHOR, author_text
from router.store.columns.review import REVIEW_COLUMNS, review_columns, review_row_of
from router.store.columns.traffic import FILTER_COLUMNS
from router.store.columns.values import json_text, readable
from router.store.review import (
    NewReviewRow,
    ReviewFilter,
    ReviewRow,
    ReviewStore,
    SimilarRow,
    ToxicityProgress,
)
from router.store.sql.connection import Connection, insert, upsert
from router.store.sql.database import SqlPart
from router.store.sql.filters import conditions_of, given
from router.store.traffic import TrafficFilter

_COLUMNS = ", ".join(REVIEW_COLUMNS)
_INSERT = insert("review_rows", REVIEW_COLUMNS)
_CHANGES = ", ".join(f"{name} = ?" for name in REVIEW_COLUMNS[1:])
_SIMILAR = 1000
# What filters of requests select by here.
_OF_REQUEST = FILTER_COLUMNS | {
    "id": "request_id",
    "request_id": "x_request_id",
    "since": "request_at",
    "until": "request_at",
}
_OTHERS = {
    "user": f"(user_id = :user OR {BY_AUTHOR})",
    # Deletions select by no rollout.
    "rollout": "1 = 0",
    "arm": "1 = 0",
}
_decode_progress = msgspec.json.Decoder(ToxicityProgress).decode
# In the place of a version's hash while that is being written.
_BEING_PUBLISHED = "-"


class SqlReview(SqlPart, ReviewStore):
    """The review queue."""

    async def review_key(self, new: bytes) -> bytes:
        return await self._database.write("read the key of placeholders", _key, new)

    async def review_position(self) -> int:
        return await self._database.read("read the review queue", _position)

    async def keep_review_position(self, number: int) -> None:
        await self._database.write("take feedback to the review queue", _keep_position, number)

    async def toxicity_progress(self) -> ToxicityProgress:
        return await self._database.read("read the review queue", _progress)

    async def keep_toxicity_progress(self, progress: ToxicityProgress) -> None:
        await self._database.write("judge the review queue", _keep_progress, progress)

    async def add_review_rows(self, rows: Sequence[NewReviewRow], *, max_waiting: int) -> None:
        await self._database.write("add to the review queue", _add, rows, max_waiting)

    async def similar_review_rows(self, dataset: str, bands: Collection[str]) -> list[SimilarRow]:
        return await self._database.read("read the review queue", _similar, dataset, bands)

    async def review_rows(
        self, matching: ReviewFilter, *, limit: int, after: int = 0, before: int | None = None
    ) -> list[ReviewRow]:
        return await self._database.read(
            "list the review queue", _page, matching, limit, after, before
        )

    async def count_review_rows(self, matching: ReviewFilter) -> int:
        return await self._database.read("count the review queue", count_rows, matching)

    async def review_row(self, row_id: str) -> ReviewRow:
        return await self._database.read("read the review queue", _row, row_id)

    async def change_review_row(self, row: ReviewRow) -> bool:
        return await self._database.write("change the review queue", _change, row)

    async def begin_publishing(self, dataset: str) -> list[ReviewRow]:
        return await self._database.write("publish reviewed rows", _begin, dataset)

    async def end_publishing(self, ids: Collection[str], content: str) -> list[str]:
        return await self._database.write("publish reviewed rows", _end, ids, content)

    async def expire_review_rows(self, now: float, limit: int) -> int:
        return await self._database.write("expire reviewed rows", _expire, now, limit)

    async def forget_review_rows(self, matching: TrafficFilter, limit: int) -> int:
        return await self._database.write("delete from the review queue", _forget, matching, limit)


def _key(db: Connection, new: bytes) -> bytes:
    db.execute(
        "INSERT INTO review_keys (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
        ("placeholders", new.hex()),
    )
    [value] = db.execute(
        "SELECT value FROM review_keys WHERE name = ?", ("placeholders",)
    ).fetchone()
    return bytes.fromhex(value)


def _position(db: Connection) -> int:
    row = db.execute("SELECT value FROM review_keys WHERE name = ?", ("feedback",)).fetchone()
    return 0 if row is None else int(row[0])


def _keep_position(db: Connection, number: int) -> None:
    db.execute(upsert("review_keys", ("name", "value"), ("name",)), ("feedback", str(number)))


def _progress(db: Connection) -> ToxicityProgress:
    row = db.execute("SELECT value FROM review_keys WHERE name = ?", ("toxicity",)).fetchone()
    return ToxicityProgress() if row is None else _decode_progress(row[0])


def _keep_progress(db: Connection, progress: ToxicityProgress) -> None:
    value = msgspec.json.encode(progress).decode()
    db.execute(upsert("review_keys", ("name", "value"), ("name",)), ("toxicity", value))


def _add(db: Connection, rows: Sequence[NewReviewRow], max_waiting: int) -> None:
    waiting = count_rows(db, ReviewFilter(state="waiting"))
    if waiting + len(rows) > max_waiting:
        raise ConflictError(
            f"{waiting} rows wait for a review, and at most {max_waiting} may (review.max_rows); "
            "review some first"
        )
    numbers = db.new_numbers("review_rows", len(rows))
    db.insert_rows(
        "review_rows",
        (*REVIEW_COLUMNS, "digest", "sketch"),
        [
            (*review_columns(number, new.row), new.digest, new.sketch)
            for number, new in zip(numbers, rows, strict=True)
        ],
    )
    db.insert_rows(
        "review_bands",
        ("row_number", "band"),
        [
            (number, band)
            for number, new in zip(numbers, rows, strict=True)
            for band in sorted(set(new.bands))
        ],
    )


def _similar(db: Connection, dataset: str, bands: Collection[str]) -> list[SimilarRow]:
    rows = db.execute(
        "SELECT id, digest, sketch FROM review_rows WHERE dataset = :dataset AND number IN"
        f" (SELECT row_number FROM review_bands WHERE {db.any_of('band', ':bands')})"
        " ORDER BY number LIMIT :limit",
        {"dataset": dataset, "bands": db.array(sorted(set(bands))), "limit": _SIMILAR},
    )
    return [SimilarRow(*row) for row in rows]


def _where(matching: ReviewFilter) -> tuple[str, dict[str, Any]]:
    where, values = given(
        {
            "state = :state": matching.state,
            "dataset = :dataset": matching.dataset,
            "origin = :origin": matching.origin,
            "route = :route": matching.route,
        }
    )
    if matching.published is not None:
        where.append("published <> ''" if matching.published else "published = ''")
    return " AND ".join(where) or "1 = 1", values


def _page(
    db: Connection, matching: ReviewFilter, limit: int, after: int, before: int | None
) -> list[ReviewRow]:
    where, values = _where(matching)
    if before is not None:
        return _rows(
            db,
            f"{where} AND number > :after AND number < :before ORDER BY number DESC LIMIT :limit",
            values | {"after": after, "before": before, "limit": limit},
        )[::-1]
    return _rows(
        db,
        f"{where} AND number > :after ORDER BY number LIMIT :limit",
        values | {"after": after, "limit": limit},
    )


def _rows(db: Connection, where: str, values: Any) -> list[ReviewRow]:
    with db.lenient_text():
        rows = db.execute(f"SELECT {_COLUMNS} FROM review_rows WHERE {where}", values).fetchall()
    return readable(rows, review_row_of, lambda columns: f"the row {columns[1]} to review")


def count_rows(db: Connection, matching: ReviewFilter) -> int:
    """Return how many rows of the queue match."""
    where, values = _where(matching)
    [count] = db.execute(f"SELECT count(*) FROM review_rows WHERE {where}", values).fetchone()
    return int(count)


def _row(db: Connection, row_id: str) -> ReviewRow:
    rows = _rows(db, "id = ?", (row_id,))
    if not rows:
        raise NotFoundError(f"There is no row {row_id!r} in the review queue.")
    return rows[0]


def _change(db: Connection, row: ReviewRow) -> bool:
    changed = db.execute(
        f"UPDATE review_rows SET {_CHANGES} WHERE id = ? AND version = ? AND published = ''",
        (*review_columns(row.number, row)[1:], row.id, row.version - 1),
    )
    return changed.rowcount > 0


def _begin(db: Connection, dataset: str) -> list[ReviewRow]:
    # What a crash has left half done is begun anew.
    where = "dataset = :dataset AND state = 'accepted' AND published IN ('', :mark)"
    values = {"dataset": dataset, "mark": _BEING_PUBLISHED}
    db.execute(f"UPDATE review_rows SET published = :mark WHERE {where}", values)
    return _rows(db, f"{where} ORDER BY number", values)


def _end(db: Connection, ids: Collection[str], content: str) -> list[str]:
    rows = db.execute(
        f"SELECT id FROM review_rows WHERE {db.any_of('id', ':ids')}",
        {"ids": db.array(sorted(ids))},
    ).fetchall()
    db.execute(
        f"UPDATE review_rows SET published = :content WHERE {db.any_of('id', ':ids')}",
        {"content": content, "ids": db.array(sorted(ids))},
    )
    return [row_id for (row_id,) in rows]


def _expire(db: Connection, now: float, limit: int) -> int:
    return _delete(db, "state <> 'accepted' AND expires_at <= :now", {"now": now, "limit": limit})


def _forget(db: Connection, matching: TrafficFilter, limit: int) -> int:
    conditions = conditions_of(db, matching, columns=_OF_REQUEST, others=_OTHERS)
    return _delete(
        db,
        conditions.where,
        conditions.values | {"limit": limit, "authors": author_text(matching.user)},
    )


def delete_unpublished(db: Connection, feedback_id: str, record_id: str) -> None:
    """Delete the rows that were made of feedback about a request and are in no dataset yet."""
    _delete(
        db,
        "request_id = :record_id AND replace(feedback, :feedback_id, '') <> feedback"
        " AND published IN ('', :mark)",
        {
            "record_id": record_id,
            "feedback_id": json_text(feedback_id),
            "mark": _BEING_PUBLISHED,
            "limit": _SIMILAR,
        },
    )


def _delete(db: Connection, where: str, values: dict[str, Any]) -> int:
    rows = db.execute(
        f"SELECT number FROM review_rows WHERE {where} ORDER BY number LIMIT :limit", values
    ).fetchall()
    numbers = {"numbers": db.array([number for (number,) in rows])}
    db.execute(f"DELETE FROM review_bands WHERE {db.any_of('row_number', ':numbers')}", numbers)
    db.execute(f"DELETE FROM review_rows WHERE {db.any_of('number', ':numbers')}", numbers)
    return len(rows)
