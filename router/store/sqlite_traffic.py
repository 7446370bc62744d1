"""What the traffic methods of `SqliteStore` say to SQLite, as `sqlite_rows.py` does for the others.

A row of `traffic` holds what can be asked for in columns and the rest as JSON in `detail`. Bodies
are in a table of their own, so that a page of the list reads no body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlite_utils import Database

from providers.base import AS_IT_CAME, Translation
from router.records import Attempt, Record
from router.store.traffic import TrafficFilter, TrafficRow


class _Detail(msgspec.Struct, omit_defaults=True):
    attempts: Sequence[Attempt] = ()
    translation: Translation | None = None
    system_fingerprint: str = ""
    total_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    trace: str = ""
    lost_tokens: int = 0
    estimated: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Detail).decode

# In the order of the table.
_COLUMNS = (
    "number, id, at, key_id, path, route, target, status, error_code, klass, stream, cached,"
    " finish_reason, prompt_tokens, completion_tokens, cost_usd, first_byte_s, total_s, model,"
    " bodies, detail"
)
_INSERT = f"INSERT INTO traffic ({_COLUMNS}) VALUES ({', '.join('?' * 21)})"  # noqa: S608 - constants
_SELECT = f"SELECT {_COLUMNS} FROM traffic"  # noqa: S608 - constants of this file


def insert(db: Database, records: Sequence[Record]) -> None:
    """Rows for records, in their order."""
    first = 1 + (db.execute("SELECT max(number) FROM traffic").fetchone()[0] or 0)
    db.conn.executemany(_INSERT, [_row(first + n, one) for n, one in enumerate(records)])
    bodies = [
        (first + n, one.request, one.response) for n, one in enumerate(records) if _has_bodies(one)
    ]
    if bodies:
        db.conn.executemany(
            "INSERT INTO traffic_bodies (number, request, response) VALUES (?, ?, ?)", bodies
        )


def _has_bodies(record: Record) -> bool:
    return record.keep == "full" and (record.request is not None or record.response is not None)


def _row(number: int, record: Record) -> tuple[Any, ...]:
    detail = _Detail(
        record.attempts,
        None if record.translation is AS_IT_CAME else record.translation,
        record.system_fingerprint,
        record.total_tokens,
        record.cached_tokens,
        record.written_tokens,
        f"{record.trace.trace_id:032x}" if record.trace is not None else "",
        record.lost_tokens,
        record.estimated,
    )
    return (
        number,
        record.id,
        record.at,
        record.key_id,
        record.path,
        record.route,
        record.asked(),
        record.status,
        record.error_code,
        record.traffic_class,
        record.stream,
        record.cached,
        record.finish_reason,
        record.prompt_tokens,
        record.completion_tokens,
        record.cost_usd,
        record.first_byte_s,
        record.total_s,
        record.model,
        _has_bodies(record),
        _encode(detail).decode(),
    )


def page(db: Database, wanted: TrafficFilter, limit: int, before: int | None) -> list[TrafficRow]:
    """Newest first."""
    conditions = {
        "route = :route": wanted.route,
        "target = :target": wanted.target,
        "key_id = :key_id": wanted.key_id,
        "klass = :traffic_class": wanted.traffic_class,
        "status BETWEEN :low AND :high": wanted.status,
        "at >= :since": wanted.since,
        "at < :until": wanted.until,
        "number < :before": before,
        # Says nothing new, but SQLite only takes the index of failures when it reads this.
        "status >= 400": True if wanted.status and wanted.status[0] >= 400 else None,
    }
    where = " AND ".join(text for text, value in conditions.items() if value is not None)
    low, high = wanted.status or (0, 0)
    rows = db.execute(
        _SELECT + (f" WHERE {where}" if where else "") + " ORDER BY number DESC LIMIT :limit",
        msgspec.structs.asdict(wanted)
        | {"low": low, "high": high, "before": before, "limit": limit, "status": None},
    )
    return [_read(row) for row in rows]


def one(db: Database, request_id: str) -> TrafficRow | None:
    """The newest row of that id, with its bodies."""
    row = db.execute(_SELECT + " WHERE id = ? ORDER BY number DESC LIMIT 1", (request_id,))
    found = row.fetchone()
    if found is None:
        return None
    read = _read(found)
    bodies = db.execute(
        "SELECT request, response FROM traffic_bodies WHERE number = ?", (read.number,)
    ).fetchone()
    if bodies is None:
        return read
    request, response = (None if one is None else one.decode("utf-8", "replace") for one in bodies)
    return msgspec.structs.replace(read, request=request, response=response)


def forget(db: Database, before: float, most: int) -> int:
    """Delete up to `most` rows from before a moment, oldest first; how many it were."""
    numbers = db.execute(
        "SELECT number FROM traffic WHERE at < ? ORDER BY at LIMIT ?", (before, most)
    ).fetchall()
    db.conn.executemany("DELETE FROM traffic_bodies WHERE number = ?", numbers)
    db.conn.executemany("DELETE FROM traffic WHERE number = ?", numbers)
    return len(numbers)


def _read(row: Sequence[Any]) -> TrafficRow:
    detail = _decode(row[20])
    return TrafficRow(
        number=row[0],
        id=row[1],
        at=row[2],
        key_id=row[3],
        path=row[4],
        route=row[5],
        target=row[6],
        status=row[7],
        error_code=row[8],
        traffic_class=row[9],
        stream=bool(row[10]),
        cached=bool(row[11]),
        finish_reason=row[12],
        prompt_tokens=row[13],
        completion_tokens=row[14],
        cost_usd=row[15],
        first_byte_s=row[16],
        total_s=row[17],
        model=row[18],
        bodies=bool(row[19]),
        attempts=tuple(detail.attempts),
        translation=detail.translation,
        system_fingerprint=detail.system_fingerprint,
        total_tokens=detail.total_tokens,
        cached_tokens=detail.cached_tokens,
        written_tokens=detail.written_tokens,
        lost_tokens=detail.lost_tokens,
        estimated=detail.estimated,
        trace_id=detail.trace,
    )
