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
from router.store.sqlite.traffic_index import delete, first_number, index_block, numbers_of
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

    async def forget_traffic(self, matching: TrafficFilter, limit: int) -> int:
        return await self._database.write("delete request records", _forget, matching, limit)

    async def index_traffic(self) -> bool:
        return await self._database.write("index request records", index_block)


def _insert(db: Database, records: Sequence[Record]) -> None:
    first = first_number(db)
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
    numbers = numbers_of(db, matching, limit=limit, before=before)
    with lenient_text(db):
        rows = db.execute(
            f"{_SELECT} WHERE number IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
            " ORDER BY number DESC",
            (msgspec.json.encode(numbers).decode(),),
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


def _forget(db: Database, matching: TrafficFilter, limit: int) -> int:
    numbers = numbers_of(db, matching, limit=limit)
    delete(db, numbers)
    return len(numbers)
