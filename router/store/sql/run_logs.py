"""The table of run logs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.run_logs import MAX_LINES, MAX_TEXT, LogLine, RunLogStore
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.runs import locked_run, run_number

_FIELDS = LogLine.__struct_fields__
_INSERT = insert("run_logs", ("run", *_FIELDS))


class SqlRunLogs(SqlPart, RunLogStore):
    """Lines about runs."""

    async def add_run_log(self, run_id: str, lines: Sequence[LogLine]) -> None:
        await self._database.write("add to a run's log", _add, run_id, lines)

    async def last_logged(self, run_id: str) -> int:
        return await self._database.read("read a run's log", _last, run_id)

    async def run_log(self, run_id: str, *, limit: int = 100, after: int = 0) -> list[LogLine]:
        return await self._database.read("read a run's log", _page, run_id, limit, after)


def _last(db: Connection, run_id: str) -> int:
    number: int | None = db.execute(
        "SELECT max(number) FROM run_logs WHERE run = ?", (run_number(db, run_id),)
    ).fetchone()[0]
    return number or 0


def _add(db: Connection, run_id: str, lines: Sequence[LogLine]) -> None:
    # Locked, so that no line of it has a smaller number than one that was read already.
    run = locked_run(db, run_id)
    numbers = db.new_numbers("run_logs", len(lines))
    rows = [
        msgspec.structs.astuple(
            msgspec.structs.replace(line, number=number, text=line.text[:MAX_TEXT])
        )
        for number, line in zip(numbers, lines, strict=True)
    ]
    db.executemany(_INSERT, [(run, *row) for row in rows])
    db.execute(
        "DELETE FROM run_logs WHERE run = :run AND number <= (SELECT number FROM run_logs"
        " WHERE run = :run ORDER BY number DESC LIMIT 1 OFFSET :many)",
        {"run": run, "many": MAX_LINES},
    )


def _page(db: Connection, run_id: str, limit: int, after: int) -> list[LogLine]:
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {', '.join(_FIELDS)} FROM run_logs"
            " WHERE run = ? AND number > ? ORDER BY number LIMIT ?",
            (run_number(db, run_id), after, limit),
        ).fetchall()
    return [msgspec.convert(dict(zip(_FIELDS, row, strict=True)), LogLine) for row in rows]
