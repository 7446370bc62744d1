"""The tables of occurrences and timetables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.store.columns.occurrences import (
    OCCURRENCE_COLUMNS,
    occurrence_columns,
    occurrence_of,
)
from router.store.columns.values import json_text, readable
from router.store.occurrences import (
    Cause,
    Occurrence,
    OccurrenceKind,
    OccurrenceState,
    OccurrenceStore,
)
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import given

_COLUMNS = ", ".join(OCCURRENCE_COLUMNS)
# Another one that is running is a conflict, too, see the index `occurrences_running`.
_ADD = f"{insert('occurrences', OCCURRENCE_COLUMNS)} ON CONFLICT DO NOTHING"
_THIS = "kind = :kind AND name = :name AND due = :due"
_CLAIMED = f"{_THIS} AND state = 'running' AND owner = :owner"


class SqlOccurrences(SqlPart, OccurrenceStore):
    """Occurrences, and since when timetables are followed."""

    async def claim_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        seconds: float,
        *,
        cause: Cause = "due",
        dead: str = "",
        only_new: bool = False,
        detail: Mapping[str, Any] = {},
    ) -> bool:
        row = Occurrence(
            kind=kind, name=name, due=due, cause=cause, owner=owner, detail=dict(detail)
        )
        return await self._database.write(
            "claim an occurrence", _claim, row, seconds, dead, only_new
        )

    async def extend_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        seconds: float,
        *,
        run_id: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> bool:
        changes = {
            "run_id": run_id,
            "detail": None if detail is None else json_text(detail),
        }
        claim = {"kind": kind, "name": name, "due": due, "owner": owner}
        return await self._database.write("extend an occurrence", _extend, claim, seconds, changes)

    async def start_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        run_id: str,
        *,
        detail: Mapping[str, Any] = {},
    ) -> bool:
        claim = {"kind": kind, "name": name, "due": due, "owner": owner}
        return await self._database.write(
            "start an occurrence", _start, claim, run_id, json_text(detail)
        )

    async def finish_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        *,
        state: OccurrenceState,
        detail: dict[str, Any],
        run_id: str | None = None,
    ) -> bool:
        claim = {"kind": kind, "name": name, "due": due, "owner": owner}
        return await self._database.write(
            "finish an occurrence", _finish, claim, state, json_text(detail), run_id
        )

    async def note_occurrences(
        self,
        kind: OccurrenceKind,
        name: str,
        dues: Sequence[float],
        *,
        state: OccurrenceState,
        detail: Mapping[str, Any] = {},
    ) -> int:
        rows = [
            Occurrence(kind=kind, name=name, due=due, state=state, detail=dict(detail))
            for due in dues
        ]
        return await self._database.write("note occurrences", _note, rows)

    async def occurrence(self, kind: OccurrenceKind, name: str, due: float) -> Occurrence | None:
        return await self._database.read("read an occurrence", _occurrence, kind, name, due)

    async def occurrences(
        self,
        kind: OccurrenceKind,
        name: str | None = None,
        *,
        before: float | None = None,
        limit: int = 50,
        running: bool | None = None,
    ) -> list[Occurrence]:
        matching = {"kind = :kind": kind, "name = :name": name, "due < :before": before}
        return await self._database.read("list occurrences", _occurrences, matching, limit, running)

    async def occurrence_runs(self, kind: OccurrenceKind, name: str) -> frozenset[str]:
        return await self._database.read("list occurrences' runs", _runs, kind, name)

    async def last_due(self, kind: OccurrenceKind, name: str, until: float) -> float | None:
        return await self._database.read("read a timetable", _last_due, kind, name, until)

    async def delete_occurrences(self, kind: OccurrenceKind, name: str, keep: int) -> int:
        return await self._database.write("delete occurrences", _delete, kind, name, keep)

    async def timetable_since(self, kind: OccurrenceKind, name: str, line: str) -> float:
        return await self._database.write("follow a timetable", _since, kind, name, line)

    async def restart_timetables(self, kind: OccurrenceKind, name: str) -> None:
        await self._database.write("restart a timetable", _restart, kind, name)

    async def forget_timetables(self, kind: OccurrenceKind, name: str) -> None:
        await self._database.write("forget a timetable", _forget, kind, name)


def _claim(db: Connection, row: Occurrence, seconds: float, dead: str, only_new: bool) -> bool:
    now = db.now()
    values = dict(zip(OCCURRENCE_COLUMNS, occurrence_columns(row), strict=True))
    values |= {"lease_until": now + seconds, "started_at": now}
    if db.execute(_ADD, tuple(values.values())).rowcount > 0:
        return True
    if only_new:
        return False
    claimed = db.execute(
        "UPDATE occurrences SET owner = :owner, lease_until = :lease_until"
        f" WHERE {_THIS} AND state = 'running' AND (owner = :owner OR owner = :dead"
        # One that ends later than any that is claimed by now is of a clock that was put back.
        " OR lease_until <= :now OR lease_until > :too_late)",
        {
            "kind": row.kind,
            "name": row.name,
            "due": row.due,
            "owner": row.owner,
            "lease_until": now + seconds,
            "dead": dead,
            "now": now,
            "too_late": now + 2 * seconds,
        },
    )
    return claimed.rowcount > 0


def _extend(
    db: Connection, claim: dict[str, Any], seconds: float, changes: dict[str, str | None]
) -> bool:
    changed = {name: value for name, value in changes.items() if value is not None}
    settings = "".join(f", {name} = :{name}" for name in changed)
    extended = db.execute(
        f"UPDATE occurrences SET lease_until = :lease_until{settings} WHERE {_CLAIMED}",
        {**claim, "lease_until": db.now() + seconds, **changed},
    )
    return extended.rowcount > 0


def _start(db: Connection, claim: dict[str, Any], run_id: str, detail: str) -> bool:
    started = db.execute(
        f"UPDATE occurrences SET detail = :detail WHERE {_CLAIMED} AND run_id = :run",
        {**claim, "run": run_id, "detail": detail},
    )
    if not started.rowcount:
        return False
    db.execute(
        "UPDATE runs SET state = 'queued' WHERE id = ? AND state = 'paused'"
        " AND hidden_since IS NULL",
        (run_id,),
    )
    return True


def _finish(
    db: Connection, claim: dict[str, Any], state: str, detail: str, run_id: str | None
) -> bool:
    run = "" if run_id is None else ", run_id = :run_id"
    values = {**claim, "state": state, "detail": detail, "now": db.now()}
    finished = db.execute(
        f"UPDATE occurrences SET state = :state, detail = :detail, finished_at = :now{run}"
        f" WHERE {_CLAIMED}",
        values if run_id is None else {**values, "run_id": run_id},
    )
    return finished.rowcount > 0


def _note(db: Connection, rows: Sequence[Occurrence]) -> int:
    now = db.now()
    stored = 0
    for row in rows:
        values = dict(zip(OCCURRENCE_COLUMNS, occurrence_columns(row), strict=True))
        stored += db.execute(_ADD, tuple((values | {"finished_at": now}).values())).rowcount
    return stored


def _occurrence(db: Connection, kind: str, name: str, due: float) -> Occurrence | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM occurrences WHERE {_THIS}",
        {"kind": kind, "name": name, "due": due},
    ).fetchone()
    return None if row is None else occurrence_of(row)


def _occurrences(
    db: Connection, matching: Mapping[str, Any], limit: int, running: bool | None
) -> list[Occurrence]:
    where, values = given(matching)
    if running is not None:
        where.append("state = 'running'" if running else "state <> 'running'")
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM occurrences WHERE {' AND '.join(where)}"
            " ORDER BY due DESC, name LIMIT :limit",
            values | {"limit": limit},
        )
        return readable(
            rows, occurrence_of, lambda row: f"what {row[0]} {row[1]} did at {row[2]:.0f}"
        )


def _runs(db: Connection, kind: str, name: str) -> frozenset[str]:
    rows = db.execute(
        "SELECT run_id FROM occurrences WHERE kind = ? AND name = ? AND run_id <> ''", (kind, name)
    )
    return frozenset(run_id for (run_id,) in rows)


def _last_due(db: Connection, kind: str, name: str, until: float) -> float | None:
    due: float | None = db.execute(
        "SELECT max(due) FROM occurrences WHERE kind = ? AND name = ? AND due <= ?"
        " AND cause <> 'person'",
        (kind, name, until),
    ).fetchone()[0]
    return due


def _delete(db: Connection, kind: str, name: str, keep: int) -> int:
    return db.execute(
        "DELETE FROM occurrences WHERE kind = :kind AND name = :name AND state <> 'running'"
        " AND due <= (SELECT due FROM occurrences WHERE kind = :kind AND name = :name"
        " ORDER BY due DESC LIMIT 1 OFFSET :keep)",
        {"kind": kind, "name": name, "keep": keep},
    ).rowcount


def _since(db: Connection, kind: str, name: str, line: str) -> float:
    values = {"kind": kind, "name": name, "line": line, "now": db.now()}
    db.execute(
        "INSERT INTO timetables (kind, name, line, since) VALUES (:kind, :name, :line, :now)"
        " ON CONFLICT (kind, name, line) DO UPDATE SET since = excluded.since"
        " WHERE timetables.since > excluded.since",
        values,
    )
    since: float = db.execute(
        "SELECT since FROM timetables WHERE kind = :kind AND name = :name AND line = :line", values
    ).fetchone()[0]
    return since


def _restart(db: Connection, kind: str, name: str) -> None:
    db.execute(
        "UPDATE timetables SET since = ? WHERE kind = ? AND name = ?", (db.now(), kind, name)
    )


def _forget(db: Connection, kind: str, name: str) -> None:
    db.execute("DELETE FROM timetables WHERE kind = ? AND name = ?", (kind, name))
