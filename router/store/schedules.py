"""What people (and, for the first run, the router) decided about schedules.

Each decision is a row, and the newest ones say how a schedule stands: whether it is paused, and
which run was accepted last. When schedules are due and what came of that is in `occurrences.py`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

ScheduleAction = Literal["pause", "resume", "accept"]


class ScheduleDecision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about a schedule.

    Attributes:
        name: the schedule's name.
        at: when it was taken, seconds since the epoch.
        action: `pause` or `resume`, or `accept` for a run that the next ones are compared with.
        run_id: the run that is accepted; "" for the others.
        actor: who decided.
        reason: why.
    """

    name: str
    at: float
    action: ScheduleAction
    run_id: str = ""
    actor: str = ""
    reason: str = ""


class ScheduleStore(Protocol):
    """Stores decisions about schedules."""

    async def add_schedule_decision(self, decision: ScheduleDecision) -> None:
        """Store a decision."""
        ...

    async def schedule_decisions(
        self, name: str, *, action: ScheduleAction | None = None, limit: int = 50
    ) -> list[ScheduleDecision]:
        """List the decisions about a schedule, newest first."""
        ...

    async def standing_decisions(self) -> dict[str, list[ScheduleDecision]]:
        """Return those that say how schedules stand, by name: the last pause or resume and accept.

        The newest is first.
        """
        ...
