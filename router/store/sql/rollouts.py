"""The tables of rollouts: their state, decisions, requests, scores, units and statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from providers.errors import ConflictError, NotFoundError
from router.records import Arm, AssignedArm, Record
from router.store.columns.rollouts import (
    BATCH_FIELDS,
    DECISION_FIELDS,
    REQUEST_COLUMNS,
    ROLLOUT_FIELDS,
    changed_columns,
    decision_columns,
    decision_of,
    request_columns,
    request_of,
    rollout_columns,
    rollout_of,
    score_of,
)
from router.store.columns.values import readable
from router.store.rollouts import (
    ACTIVE,
    ArmTotals,
    AssignedRequests,
    CountedScore,
    FeedbackBaseline,
    JudgedRequests,
    Rollout,
    RolloutBatch,
    RolloutChange,
    RolloutDecision,
    RolloutRequest,
    RolloutScore,
    RolloutStore,
    RouteBaseline,
    Uncounted,
)
from router.store.routes import RouteChange
from router.store.sql.connection import Connection, add_up, insert
from router.store.sql.database import SqlPart
from router.store.sql.routes import set_route

_SELECT = f"SELECT {', '.join(ROLLOUT_FIELDS)} FROM rollouts"
_ACTIVE = f"state IN ({', '.join(repr(state) for state in ACTIVE)})"
# The candidate's requests that another target answered have failed, and so have the control's that
# the candidate answered: what is compared is who was meant to answer.
_FAILED = (
    "CASE WHEN requests.failed = 1"
    " OR requests.target <> ''"
    " AND (requests.arm = 'candidate') <> (requests.target = rollouts.candidate)"
    " THEN 1 ELSE 0 END"
)
_UNCOUNTED = f"""
    SELECT requests.number, requests.id, requests.at, requests.unit, requests.arm, requests.step,
        {_FAILED}, requests.target, requests.first_byte_s, requests.total_s, requests.cost_usd,
        requests.finish_reason, requests.completion_tokens,
        units.control, units.candidate
    FROM rollout_requests AS requests
    JOIN rollouts ON rollouts.id = requests.rollout
    LEFT JOIN rollout_units AS units
        ON units.rollout = requests.rollout AND units.unit = requests.unit
    WHERE requests.rollout = :rollout AND requests.counted = 0
    ORDER BY requests.number LIMIT :limit
"""
# A score waits until its request is counted, so that its unit is known.
_SCORES = """
    SELECT scores.number, scores.signal, scores.value, scores.at,
        requests.unit, requests.arm, requests.step, units.control, units.candidate
    FROM rollout_scores AS scores
    JOIN rollout_requests AS requests ON requests.number = scores.request
    JOIN rollout_units AS units
        ON units.rollout = requests.rollout AND units.unit = requests.unit
    WHERE scores.rollout = :rollout AND scores.counted = 0 AND requests.counted > 0
    ORDER BY scores.number LIMIT :limit
"""
_COUNTED = f"""
    SELECT requests.counted, requests.number, requests.id, requests.at, requests.unit, requests.arm,
        requests.step, {_FAILED}, requests.target, requests.first_byte_s, requests.total_s,
        requests.cost_usd, requests.finish_reason, requests.completion_tokens
    FROM rollout_requests AS requests
    JOIN rollouts ON rollouts.id = requests.rollout
    WHERE requests.rollout = :rollout AND requests.counted > 0
        AND (requests.counted, requests.number) > (:batch, :number)
    ORDER BY requests.counted, requests.number LIMIT :limit
"""
_COUNTED_SCORES = """
    SELECT scores.counted, scores.number, scores.signal, scores.value, scores.at,
        requests.unit, requests.arm, requests.step
    FROM rollout_scores AS scores
    JOIN rollout_requests AS requests ON requests.number = scores.request
    WHERE scores.rollout = :rollout AND scores.counted > 0
        AND (scores.counted, scores.number) > (:batch, :number)
    ORDER BY scores.counted, scores.number LIMIT :limit
"""
_NEW_FEEDBACK = """
    SELECT requests.number, 'feedback:' || feedback.name, feedback.author, feedback.score,
        feedback.at
    FROM feedback JOIN rollout_requests AS requests ON requests.id = feedback.record_id
    WHERE feedback.rollout = :rollout AND feedback.rollout <> '' AND requests.rollout = :rollout
        AND feedback.score IS NOT NULL AND {of_names}
        AND NOT EXISTS (
            SELECT 1 FROM rollout_scores AS scores WHERE scores.request = requests.number
            AND scores.signal = 'feedback:' || feedback.name AND scores.source = feedback.author)
    ORDER BY feedback.number LIMIT :limit
"""
_FEEDBACK_BASELINE = """
    SELECT name, count(*), avg(score), avg(score * score) FROM feedback
    WHERE route = :route AND request_at >= :since AND score IS NOT NULL GROUP BY name
"""
_KEEP_SCORE = (
    "INSERT INTO rollout_scores (number, rollout, request, signal, source, value, at, counted)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (request, signal, source) DO NOTHING"
)

_JUDGED_KEY = ("rollout", "day", "outcome")
_ADD_JUDGED = add_up("rollout_judging", (*_JUDGED_KEY, "requests", "usd"), _JUDGED_KEY)
_ADD_ASSIGNED = add_up("rollout_assigned", (*AssignedArm._fields, "requests"), AssignedArm._fields)


def _seen(column: str) -> str:
    return f"{column} = CASE WHEN excluded.{column} = 1 THEN 1 ELSE rollout_units.{column} END"


_ADD_UNITS = f"""
    INSERT INTO rollout_units (rollout, unit, control, candidate)
    SELECT requests.rollout, requests.unit,
        max(CASE WHEN requests.arm = 'control' THEN 1 ELSE 0 END),
        max(CASE WHEN requests.arm = 'candidate' THEN 1 ELSE 0 END)
    FROM rollout_requests AS requests
    WHERE {{numbers}}
    GROUP BY requests.rollout, requests.unit
    ON CONFLICT (rollout, unit) DO UPDATE SET
        {_seen("control")}, {_seen("candidate")}
"""
_TOTALS = f"""
    SELECT requests.arm, count(*), count(DISTINCT requests.unit), sum({_FAILED}),
        avg(requests.first_byte_s), avg(requests.total_s), avg(requests.cost_usd)
    FROM rollout_requests AS requests
    JOIN rollouts ON rollouts.id = requests.rollout
    JOIN rollout_units AS units
        ON units.rollout = requests.rollout AND units.unit = requests.unit
    WHERE requests.rollout = :rollout AND requests.counted > 0{{condition}}
    GROUP BY requests.arm
"""
_PER_PROTOCOL = (
    " AND units.control + units.candidate = 1"
    " AND (requests.arm = 'candidate') = (requests.target = rollouts.candidate)"
)


_BASELINE = """
    SELECT count(*), count(CASE WHEN user_id = '' THEN 1 END),
        count(DISTINCT CASE WHEN user_id <> '' THEN user_id END),
        count(DISTINCT CASE WHEN user_id <> '' THEN
            CAST(CAST(at / 86400.0 AS BIGINT) AS TEXT) || ' ' || user_id END),
        coalesce(max(at) - min(at), 0.0),
        count(CASE WHEN status <> 499 AND (status >= 400 OR error_code <> '') THEN 1 END),
        count(CASE WHEN finish_reason = 'length' THEN 1 END),
        count(CASE WHEN finish_reason IN ('content_filter', 'refusal') THEN 1 END)
    FROM traffic WHERE route = :route AND klass = 'live' AND at >= :since
"""


_BASELINE_FIELDS = RouteBaseline.__struct_fields__[:-1]


class SqlRollouts(SqlPart, RolloutStore):
    """Rollouts and what they have seen."""

    async def add_rollout(self, rollout: Rollout, decision: RolloutDecision) -> None:
        await self._database.write("add a rollout", _insert, rollout, decision)

    async def rollout(self, rollout_id: str) -> Rollout | None:
        return await self._database.read("read a rollout", _find, rollout_id)

    async def rollouts(
        self, *, route: str | None = None, active: bool | None = None, limit: int = 50
    ) -> list[Rollout]:
        return await self._database.read("list rollouts", page_of_rollouts, route, active, limit)

    async def rollout_version(self) -> int:
        return await self._database.read("read whether rollouts changed", _version)

    async def rollout_decisions(self, rollout_id: str) -> list[RolloutDecision]:
        return await self._database.read("list decisions", _decisions, rollout_id)

    async def change_rollout(self, change: RolloutChange) -> None:
        await self._database.write("change a rollout", _change, change)

    async def uncounted(self, rollout_id: str, limit: int) -> Uncounted:
        return await self._database.read("read requests", _uncounted, rollout_id, limit)

    async def count_requests(
        self,
        rollout_id: str,
        seen: Uncounted,
        statistics: str,
        change: RolloutChange | None,
        batch: RolloutBatch,
    ) -> None:
        await self._database.write(
            "count requests of a rollout", _count, rollout_id, seen, statistics, change, batch
        )

    async def rollout_batches(
        self, rollout_id: str, *, after: int = 0, limit: int = 1000
    ) -> list[RolloutBatch]:
        return await self._database.read("read batches", _batches, rollout_id, after, limit)

    async def counted_requests(
        self, rollout_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 1000
    ) -> list[tuple[int, RolloutRequest]]:
        return await self._database.read(
            "read counted requests", _counted_requests, rollout_id, after, limit
        )

    async def counted_scores(
        self, rollout_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 1000
    ) -> list[tuple[int, CountedScore]]:
        return await self._database.read(
            "read counted scores", _counted_scores, rollout_id, after, limit
        )

    async def rollout_statistics(self, rollout_id: str) -> str:
        return await self._database.read("read statistics", _statistics, rollout_id)

    async def new_feedback_scores(
        self, rollout_id: str, names: Sequence[str], limit: int
    ) -> list[RolloutScore]:
        return await self._database.read(
            "read feedback about a rollout", _new_feedback, rollout_id, names, limit
        )

    async def keep_rollout_scores(self, rollout_id: str, scores: Sequence[RolloutScore]) -> None:
        if scores:
            await self._database.write("keep scores of a rollout", _keep, rollout_id, scores)

    async def rollout_request_numbers(
        self, rollout_id: str, record_ids: Sequence[str]
    ) -> dict[str, int]:
        return await self._database.read("read requests", _numbers, rollout_id, record_ids)

    async def add_judged(self, rollout_id: str, judged: Sequence[JudgedRequests]) -> None:
        if judged:
            await self._database.write("count judged requests", _add_judged, rollout_id, judged)

    async def judged(self, rollout_id: str) -> list[JudgedRequests]:
        return await self._database.read("read judged requests", _judged, rollout_id)

    async def forget_rollout_requests(
        self, *, record_id: str | None = None, units: Sequence[str] = ()
    ) -> int:
        return await self._database.write("delete requests of rollouts", _forget, record_id, units)

    async def rollout_totals(
        self, rollout_id: str, *, per_protocol: bool = False
    ) -> dict[Arm, ArmTotals]:
        return await self._database.read("add up a rollout", _totals, rollout_id, per_protocol)

    async def route_baseline(self, route: str, since: float) -> RouteBaseline:
        return await self._database.read("add up a route's requests", _baseline, route, since)


def insert_requests(db: Connection, records: Sequence[Record]) -> None:
    """Insert those requests that are in a rollout's sample, and count all that are assigned."""
    sampled = [record for record in records if record.rollout]
    if sampled:
        # Not those of their records, which are given again once all records are deleted.
        numbers = db.new_numbers("rollout_requests", len(sampled))
        rows = list(map(request_columns, numbers, sampled))
        db.insert_rows("rollout_requests", REQUEST_COLUMNS, rows)
    assigned = Counter([record.assigned for record in records if record.assigned is not None])
    if assigned:
        _add_assigned(db, assigned)


def _add_assigned(db: Connection, assigned: Counter[AssignedArm]) -> None:
    # In order, and last in their transaction: other processes wait for these rows.
    db.executemany(_ADD_ASSIGNED, [(*arm, number) for arm, number in sorted(assigned.items())])


def forget_requests_of(db: Connection, numbers: Sequence[int]) -> None:
    """Delete what rollouts have of requests, by the numbers of their records."""
    chosen = db.any_of("number", ":numbers")
    ids = f"SELECT id FROM traffic WHERE {chosen} AND rollout <> ''"
    _forget_where(db, f"id IN ({ids})", {"numbers": db.array(numbers)})


def _forget_where(db: Connection, where: str, values: dict[str, Any]) -> int:
    db.execute(
        "DELETE FROM rollout_scores WHERE request IN"
        f" (SELECT number FROM rollout_requests WHERE {where})",
        values,
    )
    return db.execute(f"DELETE FROM rollout_requests WHERE {where}", values).rowcount


def _forget(db: Connection, record_id: str | None, units: Sequence[str]) -> int:
    if record_id is not None:
        return _forget_where(db, "id = :id", {"id": record_id})
    values = {"units": db.array(units)}
    deleted = _forget_where(db, db.any_of("unit", ":units"), values)
    db.execute(f"DELETE FROM rollout_units WHERE {db.any_of('unit', ':units')}", values)
    return deleted


def _insert(db: Connection, rollout: Rollout, decision: RolloutDecision) -> None:
    columns = rollout_columns(rollout)
    try:
        db.execute(insert("rollouts", list(columns)), list(columns.values()))
    except db.duplicate:
        raise _has_one(rollout.route) from None
    db.execute(
        "INSERT INTO rollout_statistics (rollout, statistics, counted) VALUES (?, '', 0)",
        (rollout.id,),
    )
    _add_decision(db, decision)


def _has_one(route: str) -> ConflictError:
    return ConflictError(
        f"the route {route!r} has a rollout that has not ended; promote it or roll it back first",
        code="rollout_active",
    )


def _add_decision(db: Connection, decision: RolloutDecision) -> None:
    columns = decision_columns(decision)
    db.execute(insert("rollout_decisions", list(columns)), list(columns.values()))


def _find(db: Connection, rollout_id: str) -> Rollout | None:
    row = db.execute(f"{_SELECT} WHERE id = ?", (rollout_id,)).fetchone()
    return None if row is None else rollout_of(row)


def page_of_rollouts(
    db: Connection, route: str | None = None, active: bool | None = None, limit: int = 50
) -> list[Rollout]:
    """List rollouts; see `RolloutStore.rollouts`."""
    conditions = ["TRUE"]
    if route is not None:
        conditions.append("route = :route")
    if active is not None:
        conditions.append(_ACTIVE if active else f"NOT {_ACTIVE}")
    rows = db.execute(
        f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit",
        {"route": route, "limit": limit},
    )
    return readable(rows, rollout_of, lambda row: f"the rollout {row[0]}")


def _version(db: Connection) -> int:
    version: int = db.execute("SELECT version FROM rollout_changes").fetchone()[0]
    return version


def _decisions(db: Connection, rollout_id: str) -> list[RolloutDecision]:
    rows = db.execute(
        f"SELECT {', '.join(DECISION_FIELDS)} FROM rollout_decisions"
        " WHERE rollout = ? ORDER BY revision",
        (rollout_id,),
    )
    return readable(rows, decision_of, lambda row: f"the decision {row[1]} of {row[0]}")


def _change(db: Connection, change: RolloutChange) -> None:
    decision = change.decision
    columns = changed_columns(change.changes) | {"revision": decision.revision}
    assignments = ", ".join(f"{name} = ?" for name in columns)
    try:
        changed = db.execute(
            f"UPDATE rollouts SET {assignments} WHERE id = ? AND revision = ?",
            (*columns.values(), decision.rollout, decision.revision - 1),
        )
    except db.duplicate:
        raise ConflictError(
            "the route has another rollout that has not ended; decide about that one first",
            code="rollout_active",
        ) from None
    if not changed.rowcount:
        rollout = _find(db, decision.rollout)
        if rollout is None:
            raise NotFoundError(f"There is no rollout {decision.rollout!r}.")
        raise ConflictError(
            f"another decision came first: {rollout.id} is {rollout.state} since then "
            f"({rollout.reason}); look at it again",
            code="rollout_changed",
        )
    _add_decision(db, decision)
    if change.route is not None or change.drop_route:
        set_route(
            db,
            RouteChange(
                name=_route_of(db, decision.rollout),
                route=change.route,
                at=decision.at,
                actor=decision.actor,
                reason=f"{decision.rollout}: {decision.reason}",
                config=change.config,
                expected=change.expected,
            ),
        )


def _route_of(db: Connection, rollout_id: str) -> str:
    route: str = db.execute("SELECT route FROM rollouts WHERE id = ?", (rollout_id,)).fetchone()[0]
    return route


def _uncounted(db: Connection, rollout_id: str, limit: int) -> Uncounted:
    values = {"rollout": rollout_id, "limit": limit}
    row = db.execute(
        "SELECT statistics, counted, revision FROM rollout_statistics"
        " JOIN rollouts ON rollouts.id = rollout WHERE rollout = :rollout",
        values,
    ).fetchone()
    if row is None:
        raise NotFoundError(f"There is no rollout {rollout_id!r}.")
    statistics, counted, revision = row
    return Uncounted(
        requests=tuple(map(request_of, db.execute(_UNCOUNTED, values))),
        scores=tuple(map(score_of, db.execute(_SCORES, values))),
        statistics=statistics,
        batch=counted,
        revision=revision,
        assigned=tuple(_assigned(db, rollout_id)),
    )


def _count(  # noqa: PLR0917 - as the method has them
    db: Connection,
    rollout_id: str,
    seen: Uncounted,
    statistics: str,
    change: RolloutChange | None,
    batch: RolloutBatch,
) -> None:
    changed = db.execute(
        "UPDATE rollout_statistics SET statistics = ?, counted = counted + 1"
        " WHERE rollout = ? AND counted = ?",
        (statistics, rollout_id, seen.batch),
    )
    if not changed.rowcount:
        raise ConflictError(f"another process counts the requests of {rollout_id}")
    numbers = db.array([request.number for request in seen.requests])
    if seen.requests:
        where = db.any_of("requests.number", ":numbers")
        db.execute(_ADD_UNITS.format(numbers=where), {"numbers": numbers})
        where = db.any_of("number", ":numbers")
        db.execute(
            f"UPDATE rollout_requests SET counted = :batch WHERE {where}",
            {"numbers": numbers, "batch": batch.number},
        )
    if seen.scores:
        where = db.any_of("number", ":numbers")
        db.execute(
            f"UPDATE rollout_scores SET counted = :batch WHERE {where}",
            {
                "numbers": db.array([score.number for score in seen.scores]),
                "batch": batch.number,
            },
        )
    columns = ["rollout", *BATCH_FIELDS]
    db.execute(
        insert("rollout_batches", columns),
        (rollout_id, *(getattr(batch, name) for name in BATCH_FIELDS)),
    )
    if change is not None:
        _change(db, change)


def _batches(db: Connection, rollout_id: str, after: int, limit: int) -> list[RolloutBatch]:
    rows = db.execute(
        f"SELECT {', '.join(BATCH_FIELDS)} FROM rollout_batches"
        " WHERE rollout = ? AND number > ? ORDER BY number LIMIT ?",
        (rollout_id, after, limit),
    )
    return [RolloutBatch(**dict(zip(BATCH_FIELDS, row, strict=True))) for row in rows]


def _counted_requests(
    db: Connection, rollout_id: str, after: tuple[int, int], limit: int
) -> list[tuple[int, RolloutRequest]]:
    values = {"rollout": rollout_id, "batch": after[0], "number": after[1], "limit": limit}
    rows = db.execute(_COUNTED, values)
    return [(batch, request_of((*row, None, None))) for batch, *row in rows]


def _counted_scores(
    db: Connection, rollout_id: str, after: tuple[int, int], limit: int
) -> list[tuple[int, CountedScore]]:
    values = {"rollout": rollout_id, "batch": after[0], "number": after[1], "limit": limit}
    rows = db.execute(_COUNTED_SCORES, values)
    return [(batch, score_of((*row, None, None))) for batch, *row in rows]


def _statistics(db: Connection, rollout_id: str) -> str:
    row = db.execute(
        "SELECT statistics FROM rollout_statistics WHERE rollout = ?", (rollout_id,)
    ).fetchone()
    return "" if row is None else row[0]


def _new_feedback(
    db: Connection, rollout_id: str, names: Sequence[str], limit: int
) -> list[RolloutScore]:
    rows = db.execute(
        _NEW_FEEDBACK.format(of_names=db.any_of("feedback.name", ":names")),
        {"rollout": rollout_id, "names": db.array(names), "limit": limit},
    )
    return [
        RolloutScore(request=request, signal=signal, source=author, value=score, at=at)
        for request, signal, author, score, at in rows
    ]


def _keep(db: Connection, rollout_id: str, scores: Sequence[RolloutScore]) -> None:
    numbers = db.new_numbers("rollout_scores", len(scores))
    db.executemany(
        _KEEP_SCORE,
        [
            (number, rollout_id, score.request, score.signal, score.source, score.value, score.at)
            for number, score in zip(numbers, scores, strict=True)
        ],
    )


def _numbers(db: Connection, rollout_id: str, record_ids: Sequence[str]) -> dict[str, int]:
    rows = db.execute(
        "SELECT id, number FROM rollout_requests"
        f" WHERE rollout = :rollout AND {db.any_of('id', ':ids')}",
        {"rollout": rollout_id, "ids": db.array(record_ids)},
    )
    return dict(rows)


def _add_judged(db: Connection, rollout_id: str, judged: Sequence[JudgedRequests]) -> None:
    db.executemany(
        _ADD_JUDGED,
        [(rollout_id, each.day, each.outcome, each.requests, each.usd) for each in judged],
    )


def _judged(db: Connection, rollout_id: str) -> list[JudgedRequests]:
    rows = db.execute(
        "SELECT day, outcome, requests, usd FROM rollout_judging WHERE rollout = ?"
        " ORDER BY day, outcome",
        (rollout_id,),
    )
    return [
        JudgedRequests(day=day, outcome=outcome, requests=requests, usd=usd)
        for day, outcome, requests, usd in rows
    ]


def _assigned(db: Connection, rollout_id: str) -> list[AssignedRequests]:
    rows = db.execute(
        "SELECT step, arm, requests FROM rollout_assigned WHERE rollout = ? ORDER BY step, arm",
        (rollout_id,),
    )
    return [AssignedRequests(step=step, arm=arm, requests=requests) for step, arm, requests in rows]


def _totals(db: Connection, rollout_id: str, per_protocol: bool) -> dict[Arm, ArmTotals]:
    rows = db.execute(
        _TOTALS.format(condition=_PER_PROTOCOL if per_protocol else ""), {"rollout": rollout_id}
    )
    return {
        arm: ArmTotals(
            requests=requests,
            units=units,
            failures=int(failures),
            first_byte_s=first,
            total_s=total,
            cost_usd=cost,
        )
        for arm, requests, units, failures, first, total, cost in rows
    }


def _baseline(db: Connection, route: str, since: float) -> RouteBaseline:
    values = {"route": route, "since": since}
    row = db.execute(_BASELINE, values).fetchone()
    feedback = {
        name: FeedbackBaseline(count=count, mean=mean, sd=max(0.0, square - mean * mean) ** 0.5)
        for name, count, mean, square in db.execute(_FEEDBACK_BASELINE, values)
    }
    return RouteBaseline(**dict(zip(_BASELINE_FIELDS, row, strict=True)), feedback=feedback)
