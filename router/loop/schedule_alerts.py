"""What alerts say of schedules: gates that failed, runs that failed, and times that were missed."""

from __future__ import annotations

from collections.abc import Sequence

from router.config.alerts import AlertSubject
from router.loop.alerts import AlertCondition
from router.loop.schedule_results import ScheduledRun
from router.loop.schedules import Schedules


class ScheduleAlerts:
    """Tells which schedules did not go as they should the last time that they were due.

    A condition holds until the schedule has gone well once more, or is paused or disabled.

    Args:
        schedules: the schedules.
    """

    subjects: Sequence[AlertSubject] = ("schedule",)
    tells_all = True

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return a condition for each schedule whose last time failed or was missed."""
        return [
            condition
            for view in await self._schedules.views()
            if view.last is not None and view.enabled and view.paused is None
            for condition in _conditions(view.last)
        ]


def _conditions(last: ScheduledRun) -> Sequence[AlertCondition]:
    name, result = last.schedule, last.result
    if last.state in {"missed", "skipped"}:
        return [
            _condition(last, last.state, f"the schedule {name} was {last.state}: {last.reason}")
        ]
    if last.state == "failed":
        why = "" if result is None else result.error
        return [_condition(last, "run", f"the run of the schedule {name} failed: {why}")]
    if result is not None and result.gate == "failed":
        failed = result.failed_gates()
        return [_condition(last, "gate", f"the run of the schedule {name} does not pass {failed}")]
    return []


def _condition(last: ScheduledRun, problem: str, summary: str) -> AlertCondition:
    return AlertCondition(
        subject="schedule",
        labels={"schedule": last.schedule, "problem": problem},
        summary=summary,
        # Its history has the gates of each run, which a run by itself does not.
        link=f"/schedules/{last.schedule}",
        since=last.finished_at,
    )
