"""The tables of sealed files, and how requests move into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.store.columns.sealed_traffic import (
    FACT_COLUMNS,
    FILE_COLUMNS,
    fact_columns,
    sealed_file_of,
)
from router.store.columns.traffic import TRAFFIC_COLUMNS
from router.store.sealed_traffic import (
    FileFacts,
    FileField,
    LiveRequest,
    SealedFile,
    SealedTrafficStore,
    UnusedFile,
)
from router.store.sql.connection import Connection
from router.store.sql.traffic import (
    SqlTraffic,
    TrafficIndex,
    find_request,
    page_of_traffic,
    totals_of_traffic,
)
from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow, TrafficTotal

_FILES = f"SELECT {', '.join(FILE_COLUMNS)} FROM sealed_traffic WHERE state = 'sealed'"
_ALL = 2**62


class SqlSealedTraffic(SqlTraffic, SealedTrafficStore):
    """Sealed files beside the live requests."""

    async def traffic_and_sealed(
        self, matching: TrafficFilter, *, limit: int, before: int | None = None
    ) -> tuple[list[TrafficRow], list[SealedFile]]:
        return await self._database.read(
            "list request records", _page, self.traffic_index, matching, limit, before
        )

    async def request_and_sealed(
        self, matching: TrafficFilter
    ) -> tuple[TrafficRow | None, list[SealedFile]]:
        return await self._database.read(
            "read a request record", _request, self.traffic_index, matching
        )

    async def totals_and_sealed(
        self, matching: TrafficFilter, by: Sequence[TotalsBy], *, limit: int
    ) -> tuple[list[TrafficTotal], list[SealedFile]]:
        async with self.adding_up:
            return await self._database.read(
                "add up requests", _totals, self.traffic_index, matching, by, limit
            )

    async def sealed_files(self) -> list[SealedFile]:
        return await self._database.read("list sealed files", _all_files)

    async def sealed_filters(self, numbers: Sequence[int], field: FileField) -> dict[int, bytes]:
        return await self._database.read("read filters of sealed files", _filters, numbers, field)

    async def oldest_traffic(self, since: float, until: float) -> float | None:
        return await self._database.read(
            "look for old requests", self.traffic_index.oldest, since, until
        )

    async def traffic_to_seal(
        self, since: float, until: float, *, after: int, limit: int
    ) -> list[LiveRequest]:
        return await self._database.read(
            "list old requests",
            _to_seal,
            self.traffic_index,
            TrafficFilter(since=since, until=until),
            after,
            limit,
        )

    async def traffic_columns(self, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
        return await self._database.read("read old requests", _columns, numbers)

    async def begin_file(self, key: str) -> int:
        return await self._database.write("begin a sealed file", _begin, key)

    async def seal_file(
        self, number: int, facts: FileFacts, filters: dict[FileField, bytes]
    ) -> SealedFile | None:
        return await self._database.write(
            "seal a file", _seal, number, facts, filters, facts.first - 1
        )

    async def move_to_file(self, file: SealedFile, numbers: Sequence[int]) -> SealedFile | None:
        return await self._database.write(
            "move requests to a sealed file", _move, self.traffic_index, file, numbers
        )

    async def replace_file(
        self,
        old: SealedFile,
        number: int,
        facts: FileFacts,
        filters: dict[FileField, bytes],
    ) -> bool:
        return await self._database.write(
            "replace a sealed file", _replace, old, number, facts, filters
        )

    async def drop_file(self, file: SealedFile) -> bool:
        return await self._database.write("drop a sealed file", _drop, file)

    async def unused_files(self, older_than_s: float) -> list[UnusedFile]:
        return await self._database.write("list unused sealed files", _unused, older_than_s)

    async def give_up_file(self, number: int) -> bool:
        return await self._database.write("give a sealed file up", _give_up, number)

    async def forget_file(self, number: int) -> None:
        await self._database.write("forget a sealed file", _forget, number)


# reading


def _page(
    db: Connection, index: TrafficIndex, matching: TrafficFilter, limit: int, before: int | None
) -> tuple[list[TrafficRow], list[SealedFile]]:
    rows = page_of_traffic(db, index, matching, limit, before)
    # Files whose requests are all older than those have nothing to add.
    above = rows[-1].number if len(rows) >= limit else None
    return rows, _files(db, matching, before, above)


def _request(
    db: Connection, index: TrafficIndex, matching: TrafficFilter
) -> tuple[TrafficRow | None, list[SealedFile]]:
    return find_request(db, index, matching), _files(db, matching)


def _totals(
    db: Connection,
    index: TrafficIndex,
    matching: TrafficFilter,
    by: Sequence[TotalsBy],
    limit: int,
) -> tuple[list[TrafficTotal], list[SealedFile]]:
    files = _files(db, matching)
    return totals_of_traffic(db, index, matching, by, _ALL if files else limit), files


def _files(
    db: Connection, matching: TrafficFilter, before: int | None = None, above: int | None = None
) -> list[SealedFile]:
    """Return the files that may have requests that match, with numbers between the two."""
    conditions = {
        "first_number < :before": before,
        "last_number > :above": above,
        "latest >= :since": matching.since,
        "earliest < :until": matching.until,
    }
    where = "".join(f" AND {text}" for text, value in conditions.items() if value is not None)
    rows = db.execute(
        f"{_FILES}{where} ORDER BY last_number DESC, number DESC",
        {"before": before, "above": above, "since": matching.since, "until": matching.until},
    )
    files = map(sealed_file_of, rows)
    return [file for file in files if file.may_have(matching)]


def _all_files(db: Connection) -> list[SealedFile]:
    rows = db.execute(f"{_FILES} ORDER BY last_number DESC, number DESC")
    return [sealed_file_of(row) for row in rows]


def _filters(db: Connection, numbers: Sequence[int], field: FileField) -> dict[int, bytes]:
    rows = db.execute(
        f"SELECT file, bits FROM sealed_traffic_filters WHERE {db.any_of('file')} AND field = ?",
        (db.array(numbers), field),
    )
    return {number: bytes(bits) for number, bits in rows}


def _to_seal(
    db: Connection, index: TrafficIndex, matching: TrafficFilter, after: int, limit: int
) -> list[LiveRequest]:
    source, where, values = index.selection(db, matching)
    rows = db.execute(
        "SELECT chosen.number, coalesce(length(bodies.request), 0)"
        " + coalesce(length(bodies.response), 0)"
        f" FROM (SELECT number FROM {source} AS traffic WHERE {' AND '.join(where)}"
        " AND number > :after_number ORDER BY number LIMIT :limit) AS chosen"
        " LEFT JOIN traffic_bodies AS bodies ON bodies.number = chosen.number"
        " ORDER BY chosen.number",
        values | {"after_number": after, "limit": limit},
    )
    return [LiveRequest(*row) for row in rows]


def _columns(db: Connection, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    columns = ", ".join(f"traffic.{name}" for name in TRAFFIC_COLUMNS)
    with db.lenient_text():
        return db.execute(
            f"SELECT {columns}, bodies.request, bodies.response FROM traffic"
            " LEFT JOIN traffic_bodies AS bodies ON bodies.number = traffic.number"
            f" WHERE {db.any_of('traffic.number')} ORDER BY traffic.number",
            (db.array(numbers),),
        ).fetchall()


# writing


def _begin(db: Connection, key: str) -> int:
    [number] = db.new_numbers("sealed_traffic", 1)
    db.execute(
        "INSERT INTO sealed_traffic (number, file, state, changed_at) VALUES (?, ?, 'writing', ?)",
        (number, key, db.now()),
    )
    return number


def _seal(
    db: Connection,
    number: int,
    facts: FileFacts,
    filters: dict[FileField, bytes],
    visible_to: int,
) -> SealedFile | None:
    columns = ", ".join(f"{name} = ?" for name in FACT_COLUMNS)
    sealed = db.execute(
        f"UPDATE sealed_traffic SET state = 'sealed', changed_at = ?, visible_to = ?, {columns}"
        " WHERE number = ? AND state = 'writing'",
        (db.now(), visible_to, *fact_columns(facts), number),
    )
    if not sealed.rowcount:
        return None
    rows = [(number, field, bits) for field, bits in filters.items()]
    db.insert_rows("sealed_traffic_filters", ("file", "field", "bits"), rows)
    return _current(db, number)


def _current(db: Connection, number: int) -> SealedFile | None:
    row = db.execute(f"{_FILES} AND number = ?{db.for_update}", (number,)).fetchone()
    return None if row is None else sealed_file_of(row)


def _move(
    db: Connection, index: TrafficIndex, file: SealedFile, numbers: Sequence[int]
) -> SealedFile | None:
    now = _current(db, file.number)
    if now is None or now.visible_to != file.visible_to:
        return None
    # Locked, where a database does that: they must not be deleted by others before this ends.
    live = db.execute(
        f"SELECT number FROM traffic WHERE {db.any_of('number')}{db.for_update}",
        (db.array(numbers),),
    ).fetchall()
    if len(live) < len(numbers):
        return None
    index.delete(db, numbers)
    db.execute(
        "UPDATE sealed_traffic SET visible_to = ?, changed_at = ? WHERE number = ?",
        (numbers[-1], db.now(), file.number),
    )
    return _current(db, file.number)


def _replace(
    db: Connection,
    old: SealedFile,
    number: int,
    facts: FileFacts,
    filters: dict[FileField, bytes],
) -> bool:
    now = _current(db, old.number)
    if now is None or _seal(db, number, facts, filters, now.visible_to) is None:
        return False
    _remove(db, old.number)
    return True


def _drop(db: Connection, file: SealedFile) -> bool:
    if _current(db, file.number) is None:
        return False
    _remove(db, file.number)
    return True


def _remove(db: Connection, number: int) -> None:
    db.execute("DELETE FROM sealed_traffic_filters WHERE file = ?", (number,))
    db.execute(
        "UPDATE sealed_traffic SET state = 'removed', changed_at = ? WHERE number = ?",
        (db.now(), number),
    )


def _unused(db: Connection, older_than_s: float) -> list[UnusedFile]:
    # Whoever writes such a file can no longer seal it.
    db.execute(
        "UPDATE sealed_traffic SET state = 'removed' WHERE state = 'writing' AND changed_at <= ?",
        (db.now() - older_than_s,),
    )
    rows = db.execute("SELECT number, file FROM sealed_traffic WHERE state = 'removed'")
    return [UnusedFile(*row) for row in rows.fetchall()]


def _give_up(db: Connection, number: int) -> bool:
    given_up = db.execute(
        "UPDATE sealed_traffic SET state = 'removed' WHERE number = ? AND state <> 'sealed'",
        (number,),
    )
    return given_up.rowcount > 0


def _forget(db: Connection, number: int) -> None:
    db.execute("DELETE FROM sealed_traffic WHERE number = ? AND state = 'removed'", (number,))
