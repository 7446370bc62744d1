"""The tables of requests. Bodies have their own, so that a page of the list reads no body."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlite_utils import Database

from router.records import Record
from router.store.columns.traffic import (
    TRAFFIC_COLUMNS,
    has_bodies,
    traffic_columns,
    traffic_of,
    with_bodies,
)
from router.store.sqlite.database import SqlitePart, lenient_text
from router.store.traffic import TrafficFilter, TrafficRow, TrafficStore

_COLUMNS = ", ".join(TRAFFIC_COLUMNS)
_INSERT = (
    f"INSERT INTO traffic ({_COLUMNS})"  # noqa: S608 - constants
    f" VALUES ({', '.join('?' * len(TRAFFIC_COLUMNS))})"
)
_SELECT = f"SELECT {_COLUMNS} FROM traffic"  # noqa: S608 - constants


class SqliteTraffic(SqlitePart, TrafficStore):
    """Requests with their bodies."""

    async def keep_traffic(self, records: Sequence[Record]) -> None:
        await self._database.write("keep request records", _insert, records)

    async def traffic(
        self, matching: TrafficFilter, *, limit: int = 50, before: int | None = None
    ) -> list[TrafficRow]:
        return await self._database.read("list request records", _page, matching, limit, before)

    async def request(self, request_id: str) -> TrafficRow | None:
        return await self._database.read("read a request record", _request, request_id)

    async def forget_traffic(self, before: float, limit: int) -> int:
        return await self._database.write("delete old request records", _forget, before, limit)


def _insert(db: Database, records: Sequence[Record]) -> None:
    first = 1 + (db.execute("SELECT max(number) FROM traffic").fetchone()[0] or 0)
    rows = [traffic_columns(number, record) for number, record in enumerate(records, first)]
    db.conn.executemany(_INSERT, rows)
    bodies = [
        (number, record.request, record.response)
        for number, record in enumerate(records, first)
        if has_bodies(record)
    ]
    if bodies:
        db.conn.executemany(
            "INSERT INTO traffic_bodies (number, request, response) VALUES (?, ?, ?)", bodies
        )


def _page(
    db: Database, matching: TrafficFilter, limit: int, before: int | None
) -> list[TrafficRow]:
    conditions = {
        "route = :route": matching.route,
        "target = :target": matching.target,
        "key_id = :key_id": matching.key_id,
        "klass = :traffic_class": matching.traffic_class,
        "status BETWEEN :low AND :high": matching.status,
        "at >= :since": matching.since,
        "at < :until": matching.until,
        "number < :before": before,
        # Follows from the range, but SQLite only takes the index of failures when it reads this.
        "status >= 400": True if matching.status and matching.status[0] >= 400 else None,
    }
    where = " AND ".join(text for text, value in conditions.items() if value is not None)
    low, high = matching.status or (0, 0)
    with lenient_text(db):
        rows = db.execute(
            _SELECT + (f" WHERE {where}" if where else "") + " ORDER BY number DESC LIMIT :limit",
            msgspec.structs.asdict(matching)
            | {"low": low, "high": high, "before": before, "limit": limit, "status": None},
        )
        return [traffic_of(row) for row in rows]


def _request(db: Database, request_id: str) -> TrafficRow | None:
    columns = db.execute(
        _SELECT + " WHERE id = ? ORDER BY number DESC LIMIT 1", (request_id,)
    ).fetchone()
    if columns is None:
        return None
    row = traffic_of(columns)
    bodies = db.execute(
        "SELECT request, response FROM traffic_bodies WHERE number = ?", (row.number,)
    ).fetchone()
    return row if bodies is None else with_bodies(row, bodies)


def _forget(db: Database, before: float, limit: int) -> int:
    numbers = db.execute(
        "SELECT number FROM traffic WHERE at < ? ORDER BY at LIMIT ?", (before, limit)
    ).fetchall()
    db.conn.executemany("DELETE FROM traffic_bodies WHERE number = ?", numbers)
    db.conn.executemany("DELETE FROM traffic WHERE number = ?", numbers)
    return len(numbers)
