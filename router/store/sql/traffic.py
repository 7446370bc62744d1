"""The tables of requests. Bodies have their own, so that a page of the list reads no body."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from router.records import Record
from router.store.columns.traffic import (
    GROUP_COLUMNS,
    TRAFFIC_COLUMNS,
    has_bodies,
    traffic_columns,
    traffic_of,
    with_bodies,
)
from router.store.sql.connection import Connection
from router.store.sql.database import SqlDatabase, SqlPart
from router.store.sql.rollouts import forget_requests_of, insert_requests
from router.store.traffic import (
    AddedTotal,
    AddedTraffic,
    TotalsBy,
    TrafficFilter,
    TrafficRow,
    TrafficStore,
    TrafficTotal,
)

_SELECT = f"SELECT {', '.join(TRAFFIC_COLUMNS)} FROM traffic"
_SUMS = (
    "SELECT count(*), count(CASE WHEN status >= 400 THEN 1 END),"
    # As fractions, because a sum of integers fails where it leaves 64 bits.
    " coalesce(sum(CAST(prompt_tokens AS DOUBLE PRECISION)), 0.0),"
    " coalesce(sum(CAST(completion_tokens AS DOUBLE PRECISION)), 0.0),"
    " coalesce(sum(cost_usd), 0.0), count(*) - count(cost_usd)"
)


class Selection(NamedTuple):
    """Requests as a part of a SELECT.

    Attributes:
        source: a table with the columns of `traffic`.
        where: conditions.
        values: parameters of both.
    """

    source: str
    where: Sequence[str]
    values: dict[str, Any]


class TrafficIndex(Protocol):
    """How a database numbers requests, finds them by a filter, and deletes them."""

    def new_numbers(self, db: Connection, count: int) -> Sequence[int]:
        """Return numbers for new requests, greater than those given before."""
        ...

    def numbers_of(
        self, db: Connection, matching: TrafficFilter, *, limit: int, before: int | None = None
    ) -> list[int]:
        """Return the numbers of the newest requests that match, newest first."""
        ...

    def selection(self, db: Connection, matching: TrafficFilter) -> Selection:
        """Return what selects the requests that match, of whatever number."""
        ...

    def oldest(self, db: Connection, since: float, until: float) -> float | None:
        """Return the moment of a request of that time, about the earliest; None without one."""
        ...

    def delete(self, db: Connection, numbers: Sequence[int]) -> None:
        """Delete requests with their bodies."""
        ...

    def index_block(self, db: Connection) -> bool:
        """Index a bounded number of requests; return whether there were any."""
        ...


class SqlTraffic(SqlPart, TrafficStore):
    """Requests with their bodies.

    Attributes:
        traffic_index: the database's own way to find them.
        adding_up: held by what adds up requests.
    """

    traffic_index: TrafficIndex

    def __init__(self, database: SqlDatabase) -> None:
        super().__init__(database)
        # One at a time, so that readers are left for what takes milliseconds.
        self.adding_up = asyncio.Semaphore(1)

    async def keep_traffic(self, records: Sequence[Record]) -> None:
        await self._database.write("keep request records", _insert, self.traffic_index, records)

    async def traffic(
        self, matching: TrafficFilter, *, limit: int = 50, before: int | None = None
    ) -> list[TrafficRow]:
        return await self._database.read(
            "list request records", page_of_traffic, self.traffic_index, matching, limit, before
        )

    async def request(self, matching: TrafficFilter) -> TrafficRow | None:
        return await self._database.read(
            "read a request record", find_request, self.traffic_index, matching
        )

    async def traffic_totals(
        self, matching: TrafficFilter, by: Sequence[TotalsBy], *, limit: int
    ) -> list[TrafficTotal]:
        async with self.adding_up:
            return await self._database.read(
                "add up requests", totals_of_traffic, self.traffic_index, matching, by, limit
            )

    async def added_traffic(
        self, key_id: str | None, *, after: int, seen: int, since: float, stretch_s: float
    ) -> AddedTraffic:
        return await self._database.read(
            "add up requests", _added, self.traffic_index, key_id,
            after=after, seen=seen, since=since, stretch_s=stretch_s,
        )  # fmt: skip

    async def answer_times(
        self, key_id: str | None, *, since: float, limit: int
    ) -> list[tuple[str, float]]:
        matching = TrafficFilter(key_id=key_id, since=since)
        return await self._database.read(
            "read times of answers", _times, self.traffic_index, matching, limit
        )

    async def forget_traffic(self, matching: TrafficFilter, limit: int) -> int:
        return await self._database.write(
            "delete request records", _forget, self.traffic_index, matching, limit
        )

    async def announce_deletion(self) -> None:
        await self._database.write("announce a deletion", _announce)

    async def traffic_deletions(self) -> int:
        return await self._database.read("read whether requests were deleted", _deletions)

    async def index_traffic(self) -> bool:
        return await self._database.write("index request records", self.traffic_index.index_block)


def _insert(db: Connection, index: TrafficIndex, records: Sequence[Record]) -> None:
    numbered = list(zip(index.new_numbers(db, len(records)), records, strict=True))
    rows = [traffic_columns(number, record) for number, record in numbered]
    db.insert_rows("traffic", TRAFFIC_COLUMNS, rows)
    bodies = [
        (number, record.request, record.response)
        for number, record in numbered
        if has_bodies(record)
    ]
    db.insert_rows("traffic_bodies", ("number", "request", "response"), bodies)
    insert_requests(db, records)


def page_of_traffic(
    db: Connection, index: TrafficIndex, matching: TrafficFilter, limit: int, before: int | None
) -> list[TrafficRow]:
    """List live requests, newest first."""
    numbers = index.numbers_of(db, matching, limit=limit, before=before)
    with db.lenient_text():
        rows = db.execute(
            f"{_SELECT} WHERE {db.any_of('number')} ORDER BY number DESC", (db.array(numbers),)
        )
        return [traffic_of(row) for row in rows]


def totals_of_traffic(
    db: Connection,
    index: TrafficIndex,
    matching: TrafficFilter,
    by: Sequence[TotalsBy],
    limit: int,
) -> list[TrafficTotal]:
    """Add up the live requests that match, in groups."""
    source, where, values = index.selection(db, matching)
    groups = ", ".join(GROUP_COLUMNS[name] for name in by)
    with db.lenient_text():
        rows = db.execute(
            f"{_SUMS}{', ' if by else ''}{groups} FROM {source} AS traffic"
            f"{' WHERE ' if where else ''}{' AND '.join(where)}"
            f"{' GROUP BY ' if by else ''}{groups}"
            f" ORDER BY 1 DESC{', ' if by else ''}{groups} LIMIT :limit",
            values | {"limit": limit},
        ).fetchall()
    return [_total(dict(zip(by, row[6:], strict=True)), row) for row in rows]


def _total(group: dict[str, str | int], row: Sequence[Any]) -> TrafficTotal:
    """Return a total of a row that begins with `_SUMS`."""
    requests, failures, prompt, completion, cost, unpriced, *_ = row
    return TrafficTotal(
        group=group,
        requests=requests,
        failures=failures,
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        cost_usd=cost,
        unpriced=unpriced,
    )


def _added(
    db: Connection,
    index: TrafficIndex,
    key_id: str | None,
    *,
    after: int,
    seen: int,
    since: float,
    stretch_s: float,
) -> AddedTraffic:
    if after:
        where: Sequence[str] = ["number > :after", "at >= :since"]
        where = where if key_id is None else [*where, "key_id = :key_id"]
        values = {"after": after, "since": since, "key_id": key_id}
        source = "traffic"
    else:
        source, where, values = index.selection(db, TrafficFilter(key_id=key_id, since=since))
    stretch = db.floor("at / :stretch_s")
    with db.lenient_text():
        rows = db.execute(
            f"{_SUMS}, route, {stretch}, CASE WHEN number > :seen THEN 1 ELSE 0 END"
            f" FROM {source} AS traffic WHERE {' AND '.join(where)} GROUP BY 7, 8, 9",
            values | {"seen": seen, "stretch_s": stretch_s},
        ).fetchall()
    last = db.execute("SELECT coalesce(max(number), 0) FROM traffic").fetchone()[0]
    totals = [AddedTotal(int(row[7]), bool(row[8]), _total({"route": row[6]}, row)) for row in rows]
    return AddedTraffic(last, _deletions(db), totals)


def _times(
    db: Connection, index: TrafficIndex, matching: TrafficFilter, limit: int
) -> list[tuple[str, float]]:
    numbers = index.numbers_of(db, matching, limit=limit)
    with db.lenient_text():
        return db.execute(
            f"SELECT route, total_s FROM traffic WHERE {db.any_of('number')}"
            " AND status < 400 AND cached = 0",
            (db.array(numbers),),
        ).fetchall()


def find_request(db: Connection, index: TrafficIndex, matching: TrafficFilter) -> TrafficRow | None:
    """Return the newest live request that matches, with its bodies."""
    rows = page_of_traffic(db, index, matching, 1, None)
    if not rows:
        return None
    [row] = rows
    bodies = db.execute(
        "SELECT request, response FROM traffic_bodies WHERE number = ?", (row.number,)
    ).fetchone()
    return row if bodies is None else with_bodies(row, bodies)


def _forget(db: Connection, index: TrafficIndex, matching: TrafficFilter, limit: int) -> int:
    numbers = index.numbers_of(db, matching, limit=limit)
    forget_requests_of(db, numbers)
    index.delete(db, numbers)
    return len(numbers)


def _announce(db: Connection) -> None:
    db.execute("UPDATE traffic_deletions SET version = version + 1")


def _deletions(db: Connection) -> int:
    version: int = db.execute("SELECT version FROM traffic_deletions").fetchone()[0]
    return version
