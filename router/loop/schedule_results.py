"""What came of each time that a schedule was due, as its history shows it.

An occurrence's `detail` is a `ScheduleResult` once its run has ended; before, and where nothing was
done, it has a `reason` at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from evaluators.reports.gates import GateResult
from evaluators.reports.headlines import headline_score, headlines
from evaluators.reports.report import Report
from evaluators.stats.comparison import Comparison, Verdict
from router.store.occurrences import Cause, Occurrence, OccurrenceState

# Of a run with more routes and outputs, the first ones are in the history; the run has them all.
MAX_SCORES = 200

GateOutcome = Literal["passed", "failed", "none"]


class ScheduledScore(msgspec.Struct, frozen=True, kw_only=True):
    """A route's score on one output: a point of the history's chart.

    Attributes:
        route, output: what was scored; for a judge's score that labels correct, the corrected one.
        estimate: the score; None where nothing was scored.
        low, high: its 95% interval.
        n: samples with a score.
        higher_is_better: None where neither direction is.
        change: the difference from the last accepted run, on the samples of both; None without one.
        change_low, change_high: its 95% interval.
        verdict: what is shown of it, corrected for all outputs.
    """

    route: str
    output: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    higher_is_better: bool | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    verdict: Verdict | None = None


class ScheduleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of a schedule showed.

    Attributes:
        gate: whether all gates were passed; `none` without any, and for a run that did not
            complete.
        gates: their results: those of the document, and those of the schedule.
        undecided: gates that name `last`, while there was no accepted run.
        scores: of each route and output.
        answered, failed, cached: answers, failed requests, and answers from the run cache. The last
            is 0, because what is scheduled is measured anew.
        cost_usd: what the run cost, judges and embeddings included, as far as prices are known.
        cost_unknown: answers whose price is unknown.
        last: the accepted run that it was compared with; "" for none.
        accepted: whether it became the last accepted run by itself.
        warnings: what differs from the accepted run beside the answers, and the report's warnings.
        error: why the run failed or stopped, or could not begin; "" otherwise.
    """

    gate: GateOutcome = "none"
    gates: tuple[GateResult, ...] = ()
    undecided: tuple[str, ...] = ()
    scores: tuple[ScheduledScore, ...] = ()
    answered: int = 0
    failed: int = 0
    cached: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0
    last: str = ""
    accepted: bool = False
    warnings: tuple[str, ...] = ()
    error: str = ""

    def failed_gates(self) -> str:
        """Return the texts of the gates that were not passed, in a list to be read."""
        return ", ".join(dict.fromkeys(gate.gate for gate in self.gates if not gate.passed))


class ScheduledRun(msgspec.Struct, frozen=True, kw_only=True):
    """One time at which a schedule was due, or a person wanted it.

    Attributes:
        schedule: the schedule's name.
        due: when it was due.
        cause: `due`, `catch_up` where that was late, or `person`.
        state: `running`, `completed`, `failed`, `missed` (no server was there) or `skipped` (the
            one before was still running).
        started_at, finished_at: when it was begun and finished; None for neither.
        run_id: the run; "" for none.
        reason: why nothing was done, or why a person wanted it.
        result: what it showed; None until it has ended, and where nothing was done.
    """

    schedule: str
    due: float
    cause: Cause
    state: OccurrenceState
    started_at: float | None
    finished_at: float | None
    run_id: str
    reason: str = ""
    result: ScheduleResult | None = None


def scheduled_run(row: Occurrence) -> ScheduledRun:
    """Return an occurrence of a schedule as its history shows it."""
    result, reason = None, str(row.detail.get("reason", ""))
    if row.state in {"completed", "failed"}:
        try:
            result = msgspec.convert(dict(row.detail), ScheduleResult)
        except msgspec.ValidationError as error:
            # One damaged row must hide no other.
            reason = f"what it showed cannot be read: {error}"
    return ScheduledRun(
        schedule=row.name,
        due=row.due,
        cause=row.cause,
        state=row.state,
        started_at=row.started_at,
        finished_at=row.finished_at,
        run_id=row.run_id,
        reason=reason,
        result=result,
    )


def detail_of(result: ScheduleResult, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the detail of a finished occurrence, with the reason that it had before."""
    reason = {"reason": before["reason"]} if "reason" in before else {}
    detail: dict[str, Any] = {**msgspec.to_builtins(result), **reason}
    return detail


def scores_of(report: Report, comparisons: Sequence[Comparison]) -> tuple[ScheduledScore, ...]:
    """Return the scores of a report, beside the differences from the last accepted run."""
    corrected = headlines(report.outputs)
    compared = {(each.route, each.output): each for each in comparisons}
    scores = []
    for route in report.routes:
        for output in report.outputs:
            if output.corrects:
                continue
            score = headline_score(route.scores, output.name, corrected)
            change = compared.get((route.route, score.output))
            scores.append(
                ScheduledScore(
                    route=route.route,
                    output=score.output,
                    estimate=_finite(score.estimate),
                    low=_finite(score.low),
                    high=_finite(score.high),
                    n=score.n,
                    higher_is_better=output.higher_is_better,
                    change=None if change is None else _finite(change.difference),
                    change_low=None if change is None else _finite(change.low),
                    change_high=None if change is None else _finite(change.high),
                    verdict=None if change is None else change.verdict,
                )
            )
    return tuple(scores[:MAX_SCORES])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
