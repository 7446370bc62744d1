"""Requests in PostgreSQL, whose indexes grow with every write: the server has threads for that."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.sql.connection import Connection
from router.store.traffic import TrafficFilter


def new_numbers(db: Connection, count: int) -> Sequence[int]:
    """Return numbers for new requests; other processes may get those in between."""
    return db.new_numbers("traffic", count)


def numbers_of(
    db: Connection, matching: TrafficFilter, *, limit: int, before: int | None = None
) -> list[int]:
    """Return the numbers of the newest requests that match, newest first."""
    low, high = matching.status or (0, 0)
    conditions = {
        "route = :route": matching.route,
        "NOT (route = ANY(:except_routes))": matching.except_routes or None,
        "target = :target": matching.target,
        "key_id = :key_id": matching.key_id,
        "klass = :traffic_class": matching.traffic_class,
        "status BETWEEN :low AND :high": matching.status,
        "at >= :since": matching.since,
        "at < :until": matching.until,
        "number < :before": before,
        # Follows from the range, but only this takes the index of failures.
        "status >= 400": True if matching.status and matching.status[0] >= 400 else None,
    }
    where = " AND ".join(text for text, value in conditions.items() if value is not None)
    rows = db.execute(
        f"SELECT number FROM traffic{f' WHERE {where}' if where else ''}"
        " ORDER BY number DESC LIMIT :limit",
        msgspec.structs.asdict(matching)
        | {"except_routes": list(matching.except_routes), "status": None}
        | {"low": low, "high": high, "before": before, "limit": limit},
    )
    return [number for (number,) in rows]


def delete(db: Connection, numbers: Sequence[int]) -> None:
    """Delete requests with their bodies."""
    for table in ("traffic_bodies", "traffic"):
        db.execute(f"DELETE FROM {table} WHERE {db.any_of('number')}", (db.array(numbers),))


def index_block(_: Connection) -> bool:
    """Return that nothing is left to index."""
    return False
