"""Requests in PostgreSQL, whose indexes grow with every write: the server has threads for that."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.sql.connection import Connection
from router.store.sql.traffic import Selection
from router.store.traffic import TrafficFilter


def new_numbers(db: Connection, count: int) -> Sequence[int]:
    """Return numbers for new requests; other processes may get those in between."""
    return db.new_numbers("traffic", count)


def numbers_of(
    db: Connection, matching: TrafficFilter, *, limit: int, before: int | None = None
) -> list[int]:
    """Return the numbers of the newest requests that match, newest first."""
    _, where, values = selection(db, matching)
    if before is not None:
        where = [*where, "number < :before"]
    rows = db.execute(
        f"SELECT number FROM traffic{' WHERE ' if where else ''}{' AND '.join(where)}"
        " ORDER BY number DESC LIMIT :limit",
        values | {"before": before, "limit": limit},
    )
    return [number for (number,) in rows]


def selection(_: Connection, matching: TrafficFilter) -> Selection:
    """Return what selects the requests that match."""
    low, high = matching.status or (0, 0)
    conditions = {
        "id = :id": matching.id,
        "route = :route": matching.route,
        "NOT (route = ANY(:except_routes))": matching.except_routes or None,
        "target = :target": matching.target,
        "key_id = :key_id": matching.key_id,
        "user_id = :user": matching.user,
        # Follows from it, but only this takes the index, which leaves out requests without one.
        "user_id <> ''": matching.user or None,
        "klass = :traffic_class": matching.traffic_class,
        # A range of one value has no order in an index; the value itself has.
        f"status {'= :low' if low == high else 'BETWEEN :low AND :high'}": matching.status,
        "at >= :since": matching.since,
        "at < :until": matching.until,
        # Follows from the range, but only this takes the index of failures.
        "status >= 400": True if matching.status and matching.status[0] >= 400 else None,
    }
    values = msgspec.structs.asdict(matching) | {"low": low, "high": high, "status": None}
    values["except_routes"] = list(matching.except_routes)
    where = [text for text, value in conditions.items() if value is not None]
    return Selection("traffic", where, values)


def oldest(db: Connection, since: float, until: float) -> float | None:
    """Return the moment of the earliest request of that time; None without one."""
    row = db.execute(
        "SELECT at FROM traffic WHERE at >= ? AND at < ? ORDER BY at LIMIT 1", (since, until)
    ).fetchone()
    return None if row is None else row[0]


def delete(db: Connection, numbers: Sequence[int]) -> None:
    """Delete requests with their bodies."""
    for table in ("traffic_bodies", "traffic"):
        db.execute(f"DELETE FROM {table} WHERE {db.any_of('number')}", (db.array(numbers),))


def index_block(_: Connection) -> bool:
    """Return that nothing is left to index."""
    return False
