"""The schedules as people see them, and what people decide about them.

    await schedules.report("nightly")
    await schedules.pause("nightly", "the dataset is being changed", actor="key ann (key_1)")

`schedule_controller.py` executes them.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from providers.errors import ConflictError, EvalrouterError, NotFoundError, RequestError
from providers.names import check_name
from router.config.documents import Document
from router.config.schedules import Schedule
from router.loop.schedule_controller import KIND, ScheduleController
from router.loop.schedule_documents import ScheduleDocuments
from router.loop.schedule_results import ScheduledRun, scheduled_run
from router.store.protocol import Store
from router.store.schedules import ScheduleDecision

_PAGE = 200

_Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class ScheduleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person wants of a schedule: to pause or resume it.

    Attributes:
        reason: why, for the record.
    """

    reason: _Reason


class ScheduleRunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person wants of a schedule: a run now.

    Attributes:
        reason: why, for the record.
    """

    reason: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class ScheduleAcceptance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run that the next ones are compared with.

    Attributes:
        reason: why, for the record.
        run: the run's id; None for the last one that completed, if it passed its gates.
    """

    reason: _Reason
    run: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it stands.

    Attributes:
        name: its name.
        document: the path of its run document; "" where the config has the document itself.
        cron, timezone, gates, accept, enabled, catch_up, keep: as in the config.
        next_due: when it is due next, seconds since the epoch; None where it is not, because it is
            paused or not enabled.
        paused: who paused it, when and why; None where it is not paused.
        accepted: the last accepted run, who accepted it, when and why; None where there is none.
        running: what is under way; None for nothing.
        last: the last time that it was due, and what came of that; None before the first.
    """

    name: str
    document: str
    cron: str
    timezone: str
    gates: tuple[str, ...]
    accept: Literal["first", "passed"]
    enabled: bool
    catch_up: bool
    keep: int | None
    next_due: float | None
    paused: ScheduleDecision | None
    accepted: ScheduleDecision | None
    running: ScheduledRun | None
    last: ScheduledRun | None


class ScheduleReport(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule with its history.

    Attributes:
        schedule: as it stands.
        document: the run document as it would be executed now; None where it cannot be read.
        error: why it cannot be read; "" otherwise.
        history: the times that it was due, newest first.
        decisions: what was decided about it, newest first.
    """

    schedule: ScheduleView
    document: dict[str, Any] | None
    error: str
    history: list[ScheduledRun]
    decisions: list[ScheduleDecision]


class Schedules:
    """Shows schedules, and does what people decide about them.

    Args:
        store: has their times and runs.
        documents: the schedules.
        controller: executes them.

    Attributes:
        documents: as given.
    """

    def __init__(
        self, store: Store, documents: ScheduleDocuments, controller: ScheduleController
    ) -> None:
        self._store = store
        self.documents = documents
        self._controller = controller

    async def check(self, written: Document | None = None) -> None:
        """Check the schedules' documents.

        Args:
            written: the config file, which says on which lines they are.

        Raises:
            ConfigError: naming everything that is wrong.
        """
        await self.documents.check(written)

    async def views(self) -> list[ScheduleView]:
        """Return all schedules, in the order of the config."""
        standing = await self._store.standing_decisions()
        now = await self._store.now()
        return [
            await self._view(name, schedule, standing.get(name, []), now)
            for name, schedule in self.documents.schedules.items()
        ]

    async def report(
        self, name: str, *, before: float | None = None, limit: int = 50
    ) -> ScheduleReport:
        """Return a schedule with a page of its history.

        Args:
            name: the schedule's name.
            before: only times that were due before.
            limit: how many at most.

        Raises:
            NotFoundError: no such schedule.
            RequestError: `before` is not a finite number.
        """
        if before is not None and not math.isfinite(before):
            raise RequestError("before: must be a number", param="before")
        view = await self.view(name)
        document, error = None, ""
        try:
            scheduled = await self.documents.read(name)
            document = msgspec.to_builtins(scheduled.document)
        except EvalrouterError as problem:
            error = problem.message
        rows = await self._store.occurrences(KIND, name, before=before, limit=limit)
        return ScheduleReport(
            schedule=view,
            document=document,
            error=error,
            history=[scheduled_run(row) for row in rows],
            decisions=await self._store.schedule_decisions(name),
        )

    async def view(self, name: str) -> ScheduleView:
        """Return a schedule as it stands. Raises NotFoundError."""
        schedule = self.documents.find(name)
        standing = (await self._store.standing_decisions()).get(name, [])
        return await self._view(name, schedule, standing, await self._store.now())

    async def _view(
        self, name: str, schedule: Schedule, standing: list[ScheduleDecision], now: float
    ) -> ScheduleView:
        paused = next((each for each in standing if each.action == "pause"), None)
        accepted = next((each for each in standing if each.action == "accept"), None)
        running = await self._store.occurrences(KIND, name, running=True, limit=1)
        last = await self._store.occurrences(KIND, name, running=False, limit=1)
        is_followed = schedule.enabled and paused is None
        return ScheduleView(
            name=name,
            document=schedule.run if isinstance(schedule.run, str) else "",
            cron=schedule.cron,
            timezone=schedule.timezone,
            gates=schedule.gates,
            accept=schedule.accept,
            enabled=schedule.enabled,
            catch_up=schedule.catch_up,
            keep=schedule.keep,
            next_due=schedule.line.next_after(now) if is_followed else None,
            paused=paused,
            accepted=accepted,
            running=scheduled_run(running[0]) if running else None,
            last=scheduled_run(last[0]) if last else None,
        )

    async def begin(self, name: str, request: ScheduleRunRequest, *, actor: str) -> ScheduledRun:
        """Begin a run now, whether or not the schedule is due, enabled or paused.

        Return it once it is queued, or has failed because its document is wrong.

        Raises:
            NotFoundError: no such schedule.
            ConflictError: a run of the schedule is under way.
        """
        reason = f"{actor}: {request.reason}" if request.reason else actor
        return scheduled_run(await self._controller.begin_now(name, reason))

    async def follow(self, begun: ScheduledRun) -> ScheduledRun:
        """Wait until a run that was begun has ended, in a process without rounds; return it."""
        return scheduled_run(await self._controller.follow(begun.schedule, begun.due))

    async def pause(self, name: str, request: ScheduleRequest, *, actor: str) -> ScheduleView:
        """Begin no run at its times until it is resumed; what is under way goes on.

        Raises:
            NotFoundError: no such schedule.
            ConflictError: it is paused.
        """
        return await self._change(name, "pause", request.reason, actor)

    async def resume(self, name: str, request: ScheduleRequest, *, actor: str) -> ScheduleView:
        """Execute it at its times again, from now on: nothing is caught up with.

        Raises:
            NotFoundError: no such schedule.
            ConflictError: it is not paused.
        """
        return await self._change(name, "resume", request.reason, actor)

    async def _change(
        self, name: str, action: Literal["pause", "resume"], reason: str, actor: str
    ) -> ScheduleView:
        self.documents.find(name)
        is_paused = await self._controller.is_paused(name)
        if is_paused == (action == "pause"):
            raise ConflictError(
                f"{name} is {'paused already' if is_paused else 'not paused'}",
                code="schedule_paused" if is_paused else "schedule_not_paused",
            )
        if action == "resume":
            await self._store.restart_timetables(KIND, name)
        await self._decide(name, action, "", reason, actor)
        return await self.view(name)

    async def accept(self, name: str, request: ScheduleAcceptance, *, actor: str) -> ScheduleView:
        """Compare the next runs of a schedule with a run of it, whatever that showed.

        One that did not pass its gates has to be named.

        Raises:
            RequestError: `run` cannot be the id of a run.
            NotFoundError: no such schedule, or it has no such run.
            ConflictError: the run did not complete, or none has yet; or none is named, and the last
                one did not pass its gates.
        """
        if request.run is not None:
            check_name(request.run, "run")
        self.documents.find(name)
        run_id = await self._completed(name, request.run)
        await self._decide(name, "accept", run_id, request.reason, actor)
        return await self.view(name)

    async def _completed(self, name: str, run_id: str | None) -> str:
        """Return the id of a run that can be accepted: the one named, or the last."""
        before: float | None = None
        while rows := await self._store.occurrences(
            KIND, name, before=before, limit=_PAGE, running=False
        ):
            for row in rows:
                if run_id is None and row.state == "completed":
                    _check_passed(scheduled_run(row))
                    return row.run_id
                if run_id is not None and row.run_id == run_id:
                    if row.state != "completed":
                        raise ConflictError(
                            f"{run_id} did not complete, so nothing can be compared with it",
                            code="run_not_completed",
                        )
                    return run_id
            before = rows[-1].due
        if run_id is None:
            raise ConflictError(f"no run of {name} has completed yet", code="run_not_completed")
        raise NotFoundError(f"{name} has no run {run_id!r} that has ended", param="run")

    async def _decide(
        self,
        name: str,
        action: Literal["pause", "resume", "accept"],
        run_id: str,
        reason: str,
        actor: str,
    ) -> None:
        await self._store.add_schedule_decision(
            ScheduleDecision(
                name=name,
                at=await self._store.now(),
                action=action,
                run_id=run_id,
                actor=actor,
                reason=reason,
            )
        )


def _check_passed(run: ScheduledRun) -> None:
    """Refuse the last run where it did not pass its gates. Raises ConflictError."""
    if run.result is not None and run.result.gate == "failed":
        raise ConflictError(
            f"{run.run_id}, the last run of {run.schedule} that completed, does not pass "
            f"{run.result.failed_gates()}; to accept it all the same, or an earlier one, name the "
            "run",
            code="gate_failed",
        )
