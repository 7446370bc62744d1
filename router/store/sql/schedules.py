"""The table of decisions about schedules."""

from __future__ import annotations

import msgspec

from router.store.schedules import ScheduleAction, ScheduleDecision, ScheduleStore
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import given

_COLUMNS = ScheduleDecision.__struct_fields__
_ADD = insert("schedule_decisions", ("number", *_COLUMNS))
_STANDING = f"""
    SELECT {", ".join(_COLUMNS)} FROM schedule_decisions WHERE number IN (
        SELECT max(number) FROM schedule_decisions
        GROUP BY name, CASE action WHEN 'accept' THEN 1 ELSE 0 END
    ) ORDER BY number DESC
"""


class SqlSchedules(SqlPart, ScheduleStore):
    """Decisions about schedules."""

    async def add_schedule_decision(self, decision: ScheduleDecision) -> None:
        await self._database.write("note a decision about a schedule", _add, decision)

    async def schedule_decisions(
        self, name: str, *, action: ScheduleAction | None = None, limit: int = 50
    ) -> list[ScheduleDecision]:
        return await self._database.read(
            "read decisions about a schedule", _decisions, name, action, limit
        )

    async def standing_decisions(self) -> dict[str, list[ScheduleDecision]]:
        return await self._database.read("read decisions about schedules", _standing)


def _add(db: Connection, decision: ScheduleDecision) -> None:
    [number] = db.new_numbers("schedule_decisions", 1)
    db.execute(_ADD, (number, *msgspec.structs.astuple(decision)))


def _decisions(db: Connection, name: str, action: str | None, limit: int) -> list[ScheduleDecision]:
    where, values = given({"name = :name": name, "action = :action": action})
    rows = db.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM schedule_decisions WHERE {' AND '.join(where)}"
        " ORDER BY number DESC LIMIT :limit",
        values | {"limit": limit},
    )
    return [_decision_of(row) for row in rows]


def _standing(db: Connection) -> dict[str, list[ScheduleDecision]]:
    standing: dict[str, list[ScheduleDecision]] = {}
    for row in db.execute(_STANDING):
        decision = _decision_of(row)
        standing.setdefault(decision.name, []).append(decision)
    return standing


def _decision_of(row: tuple[object, ...]) -> ScheduleDecision:
    return msgspec.convert(dict(zip(_COLUMNS, row, strict=True)), ScheduleDecision)
