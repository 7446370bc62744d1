"""Executes schedules at their times, each time once over all processes.

    controller = ScheduleController(store, runs, jobs, documents, owner=this_owner())
    await controller.open()       # every few seconds, where the config has schedules
    await controller.close()

    await controller.run_once()   # or once

A time that is due is an *occurrence*, which the first process to claim it inserts
(`store/occurrences.py`). That process creates the run; any server on the store executes it, and
goes on with it after a crash, as with any other run. When it has ended, the occurrence's owner
stores what it showed. An owner that is killed is replaced once its lease has passed, or at once on
its own machine. What it was about to do is known from the occurrence: the run's id is stored before
the run is, and the run is queued by whoever owns the occurrence then, so that there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from providers.errors import (
    ConflictError,
    EvalrouterError,
    NotFoundError,
    StoreError,
)
from router.config.schedules import Schedule
from router.evals.lease import is_dead
from router.evals.reference_gates import LastComparison, compare_with_last
from router.evals.runs import Runs, new_id
from router.evals.stored_runs import cost_of, stored_document
from router.evals.worker import Jobs
from router.loop.schedule_documents import ScheduledDocument, ScheduleDocuments, tag_of
from router.loop.schedule_results import ScheduleResult, detail_of, scores_of
from router.loop.timetable import dues_of
from router.rounds import ErrorLog, Rounds
from router.store.occurrences import Cause, Occurrence
from router.store.protocol import Store
from router.store.runs import ENDED, Run, RunFilter
from router.store.schedules import ScheduleDecision

log = logging.getLogger("evalrouter")

# How often a process looks: while a run is under way, and while none is.
BUSY_S, EVERY_S = 0.5, 2.0
LEASE_S = 30.0
# How often a command looks whether its run has ended.
FOLLOW_S = 0.2
# How many times the history has at most, those with nothing done included.
MAX_HISTORY = 10_000
KIND: Final = "schedule"
# The run of an occurrence has an id, but need not have been added yet.
_PLANNED = "planned"
_ROUTER = "evalrouter"


class ScheduleController:
    """Begins what is due, and stores what came of it.

    Args:
        store: has the schedules' times and runs.
        runs: creates runs, and reports on them.
        jobs: executes them.
        documents: the schedules.
        owner: a name for this part of the process, which no other has.

    Attributes:
        counts: what this process stored: by schedule, state and outcome of the gates.
        next_due: when each schedule is due next, as far as this process has looked; seconds since
            the epoch.
    """

    def __init__(
        self, store: Store, runs: Runs, jobs: Jobs, documents: ScheduleDocuments, *, owner: str
    ) -> None:
        self._store = store
        self._runs = runs
        self._jobs = jobs
        self._documents = documents
        self._owner = owner
        self._rounds = Rounds(
            self.run_once,
            every=lambda: BUSY_S if self._is_busy else EVERY_S,
            name="evalrouter-schedules",
            failing="schedules wait",
        )
        self._errors = ErrorLog()
        self._tasks: dict[tuple[str, float], asyncio.Task[None]] = {}
        self._looked_at: float | None = None
        self._is_busy = False
        self._forgotten: set[str] = set()
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.next_due: dict[str, float] = {}

    async def open(self) -> None:
        """Begin, where there are schedules."""
        if self._documents.schedules:
            self._rounds.open()

    async def close(self) -> None:
        """Stop, and leave what is running to other processes."""
        await self._rounds.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._documents.schedules:
            return
        with contextlib.suppress(EvalrouterError):
            for row in await self._store.occurrences(KIND, running=True, limit=1000):
                if row.owner == self._owner:
                    await self._store.extend_occurrence(KIND, row.name, row.due, self._owner, 0.0)

    async def run_once(self) -> None:
        """Go on with what is running, and begin what is due.

        Raises:
            StoreError: the database does not work.
        """
        now = await self._store.now()
        running = await self._store.occurrences(KIND, running=True, limit=1000)
        self._is_busy = bool(running)
        for row in running:
            await self._attend(row, now)
        if self._looked_at is not None and now < self._looked_at:
            # The clock was put back; what is due next may be earlier now.
            self.next_due.clear()
        self._looked_at = now
        for name, schedule in self._documents.schedules.items():
            await self._follow_line(name, schedule, now)

    async def settled(self) -> None:
        """Wait until what the last round began is done."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    # Times

    async def _follow_line(self, name: str, schedule: Schedule, now: float) -> None:
        """Begin what is due of a schedule, and note what was missed."""
        if not schedule.enabled:
            if name not in self._forgotten:
                await self._store.forget_timetables(KIND, name)
                self._forgotten.add(name)
            return
        if name in self.next_due and now < self.next_due[name]:
            return
        line = schedule.line
        # Before the pause is looked at: a line is followed while its schedule is paused, too.
        dues = await dues_of(self._store, KIND, name, line, now=now, catch_up=schedule.catch_up)
        if not await self.is_paused(name):
            if dues.missed:
                reason = "no server was running, or the clock was put forward"
                reason += "; so were others before, which are not listed" if dues.unlisted else ""
                missed = await self._store.note_occurrences(
                    KIND, name, dues.missed, state="missed", detail={"reason": reason}
                )
                self.counts[name, "missed", "none"] += missed
            if dues.run is not None:
                await self._begin(name, dues.run, "catch_up" if dues.late else "due")
        self.next_due[name] = line.next_after(now)

    async def is_paused(self, name: str) -> bool:
        """Return whether a person has paused a schedule."""
        standing = (await self._store.standing_decisions()).get(name, ())
        return any(decision.action == "pause" for decision in standing)

    async def _begin(self, name: str, due: float, cause: Cause) -> None:
        """Claim a time that is due; note it as skipped where another one is running."""
        claimed = await self._store.claim_occurrence(
            KIND, name, due, self._owner, LEASE_S, cause=cause, only_new=True
        )
        if claimed:
            row = await self._store.occurrence(KIND, name, due)
            if row is not None:
                self._spawn(row, self._create(row))
        elif await self._store.occurrence(KIND, name, due) is None:
            for running in await self._store.occurrences(KIND, name, running=True, limit=1):
                reason = f"the run that was due {_time(running.due)} was still under way"
                skipped = await self._store.note_occurrences(
                    KIND, name, [due], state="skipped", detail={"reason": reason}
                )
                self.counts[name, "skipped", "none"] += skipped

    async def begin_now(self, name: str, reason: str) -> Occurrence:
        """Begin a run that a person wants, and return its occurrence once it is queued or failed.

        Raises:
            NotFoundError: no such schedule.
            ConflictError: a run of the schedule is under way.
        """
        self._documents.find(name)
        due = await self._store.now()
        detail = {"reason": reason} if reason else {}
        claimed = await self._store.claim_occurrence(
            KIND,
            name,
            due,
            self._owner,
            LEASE_S,
            cause="person",
            only_new=True,
            detail=detail,
        )
        row = await self._store.occurrence(KIND, name, due)
        if not claimed or row is None:
            running = await self._store.occurrences(KIND, name, running=True, limit=1)
            run_id = running[0].run_id if running else ""
            raise ConflictError(
                f"a run of {name} is under way{f' ({run_id})' if run_id else ''}; wait for its "
                "end, or cancel it",
                code="schedule_running",
            )
        # A client that goes away must not take it along.
        await asyncio.shield(self._spawn(row, self._create(row)))
        return await self._store.occurrence(KIND, name, due) or row

    async def follow(self, name: str, due: float) -> Occurrence:
        """Attend to an occurrence until it is finished, where no rounds do, and return it.

        Raises:
            NotFoundError: it is gone.
        """
        while True:
            row = await self._store.occurrence(KIND, name, due)
            if row is None:
                raise NotFoundError(f"{name} has no run that was due {_time(due)}")
            if row.state != "running":
                return row
            await self._attend(row, await self._store.now())
            await self.settled()
            await asyncio.sleep(FOLLOW_S)

    # What is running

    async def _attend(self, row: Occurrence, now: float) -> None:
        """Go on with an occurrence that is this process's, or that nobody attends to any more."""
        is_free = not now < row.lease_until <= now + 2 * LEASE_S
        dead = row.owner if row.owner != self._owner and is_dead(row.owner) else ""
        if row.owner != self._owner:
            if not (is_free or dead) or not await self._store.claim_occurrence(
                KIND, row.name, row.due, self._owner, LEASE_S, dead=dead
            ):
                return
            log.info("%s, due %s: another process left it", row.name, _time(row.due))
        elif row.lease_until < now + LEASE_S / 2 and not await self._store.extend_occurrence(
            KIND, row.name, row.due, self._owner, LEASE_S
        ):
            return
        if (row.name, row.due) in self._tasks:
            return
        # Once more, because a step of this process may have ended since it was read.
        stored = await self._store.occurrence(KIND, row.name, row.due)
        if stored is None or stored.state != "running" or stored.owner != self._owner:
            return
        run = await self._run(stored.run_id)
        if (row.name, row.due) not in self._tasks:
            self._go_on(stored, run)

    def _go_on(self, row: Occurrence, run: Run | None) -> None:
        """Begin the next step of an occurrence of this process."""
        if _PLANNED in row.detail or not row.run_id:
            step = self._create(row) if run is None else self._start(row, run.id)
            self._spawn(row, step)
        elif run is None:
            self._spawn(row, self._fail(row, f"its run {row.run_id} was deleted"))
        elif run.state in ENDED:
            self._spawn(row, self._finish(row, run))

    def _spawn(self, row: Occurrence, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        key = (row.name, row.due)
        task = asyncio.create_task(self._guarded(row, step), name=f"schedule {row.name}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return task

    async def _guarded(self, row: Occurrence, step: Coroutine[Any, Any, None]) -> None:
        """Do one step of an occurrence; what the database refuses is tried again next time."""
        try:
            await step
            self._errors.forget(row.name)
        except StoreError as error:
            self._errors.error(row.name, f"the schedule {row.name} waits: {error.message}")
        except EvalrouterError as error:
            await self._fail_later(row, error.message)
        except Exception as error:
            log.exception("the schedule %s failed", row.name)
            await self._fail_later(row, f"{type(error).__name__}: {error}")

    async def _fail_later(self, row: Occurrence, why: str) -> None:
        with contextlib.suppress(StoreError):
            await self._fail(row, why)

    async def _run(self, run_id: str) -> Run | None:
        run = await self._store.run(run_id) if run_id else None
        # An id that is the beginning of another one is not meant.
        return run if run is not None and run.id == run_id else None

    async def _create(self, row: Occurrence) -> None:
        run_id = new_id(await self._store.now())
        detail = {**row.detail, _PLANNED: True}
        if not await self._store.extend_occurrence(
            KIND, row.name, row.due, self._owner, LEASE_S, run_id=run_id, detail=detail
        ):
            return
        scheduled = await self._documents.read(row.name)
        await self._runs.create(
            scheduled.document, base=scheduled.base, runner="server", paused_as=run_id
        )
        await self._start(row, run_id)

    async def _start(self, row: Occurrence, run_id: str) -> None:
        detail = {name: value for name, value in row.detail.items() if name != _PLANNED}
        if await self._store.start_occurrence(
            KIND, row.name, row.due, self._owner, run_id, detail=detail
        ):
            self._jobs.wake()
        else:
            # Another process has begun another run of it, or will.
            with contextlib.suppress(NotFoundError, ConflictError):
                await self._runs.delete(run_id)

    async def _fail(self, row: Occurrence, why: str) -> None:
        stored = await self._store.occurrence(KIND, row.name, row.due)
        run = None if stored is None else await self._run(stored.run_id)
        if await self._store.finish_occurrence(
            KIND,
            row.name,
            row.due,
            self._owner,
            state="failed",
            detail=detail_of(ScheduleResult(error=why), row.detail),
            # The id may have been that of a run that was never added.
            run_id="" if run is None else run.id,
        ):
            log.error("the schedule %s, due %s: %s", row.name, _time(row.due), why)
            self.counts[row.name, "failed", "none"] += 1

    async def _finish(self, row: Occurrence, run: Run) -> None:
        """Store what a run that has ended showed, and whether it is the last accepted one now."""
        result = await self._result(row.name, run)
        if result.accepted:
            await self._accept(row.name, run.id)
        completed = run.state == "completed"
        if not await self._store.finish_occurrence(
            KIND,
            row.name,
            row.due,
            self._owner,
            state="completed" if completed else "failed",
            detail=detail_of(result, row.detail),
        ):
            return
        self.counts[row.name, "completed" if completed else "failed", result.gate] += 1
        if result.gate == "failed":
            failed = result.failed_gates()
            log.info("the schedule %s: %s does not pass %s", row.name, run.id, failed)
        await self._delete_old(row.name)

    async def _result(self, name: str, run: Run) -> ScheduleResult:
        outcome = await self._runs.outcome(run.id)
        routes = outcome.report.routes
        result = ScheduleResult(
            scores=scores_of(outcome.report, ()),
            answered=sum(route.answered for route in routes),
            failed=sum(route.failed for route in routes),
            cached=sum(sum(route.cached_from.values()) for route in routes),
            cost_usd=await cost_of(self._store, run.id),
            cost_unknown=sum(route.cost.unknown for route in routes),
            warnings=outcome.report.warnings,
            error=run.error
            or run.stopped
            or (f"it is {run.state}" if run.state != "completed" else ""),
        )
        if run.state != "completed":
            return result
        # A schedule that is gone from the config has no gates of its own any more.
        known = name in self._documents.schedules
        scheduled = await self._documents.read(name) if known else None
        gates = list(outcome.gates)
        undecided: tuple[str, ...] = ()
        compared = LastComparison((), (), ())
        last = await self._last_accepted(name, run.id)
        of_last = () if scheduled is None else scheduled.gates
        if last:
            compared = await self._compared(run, last, scheduled)
            gates += compared.gates
        else:
            undecided = tuple(gate.text for gate in of_last if gate.last)
        passed = all(gate.passed for gate in gates)
        return msgspec.structs.replace(
            result,
            gate="none" if not gates else "passed" if passed else "failed",
            gates=tuple(gates),
            undecided=undecided,
            scores=scores_of(outcome.report, compared.comparisons),
            last=last,
            accepted=passed
            and known
            and (not last or self._documents.schedules[name].accept == "passed")
            and (_is_whole(result, run) or any(gate.kind == "coverage" for gate in of_last)),
            warnings=(*outcome.report.warnings, *compared.warnings),
        )

    async def _compared(
        self, run: Run, last: str, scheduled: ScheduledDocument | None
    ) -> LastComparison:
        """Compare a run with the last accepted one; where that cannot be, its gates fail."""
        gates = () if scheduled is None else scheduled.gates
        try:
            return await compare_with_last(self._runs, self._store, run.id, last, gates)
        except StoreError:
            raise
        except EvalrouterError as error:
            if isinstance(error, NotFoundError):
                why = f"{last}, the last accepted run, was deleted; accept another one"
            else:
                why = f"{last}, the last accepted run, cannot be compared with: {error.message}"
            document = stored_document(run)
            routes = [name for name in document.routes if name != document.baseline]
            return LastComparison.impossible(routes, gates, why)

    async def _last_accepted(self, name: str, other_than: str) -> str:
        """Return the id of the last accepted run; that of this run itself does not count."""
        for decision in await self._store.schedule_decisions(name, action="accept"):
            if decision.run_id != other_than:
                return decision.run_id
        return ""

    async def _accept(self, name: str, run_id: str) -> None:
        """Make a run the last accepted one, once."""
        decisions = await self._store.schedule_decisions(name, action="accept", limit=1)
        if not decisions or decisions[0].run_id != run_id:
            reason = "it passed" if decisions else "it is the first one that completed and passed"
            await self._store.add_schedule_decision(
                ScheduleDecision(
                    name=name,
                    at=await self._store.now(),
                    action="accept",
                    run_id=run_id,
                    actor=_ROUTER,
                    reason=reason,
                )
            )

    async def _delete_old(self, name: str) -> None:
        """Delete old runs, where the schedule says how many are kept, and very old history."""
        await self._store.delete_occurrences(KIND, name, MAX_HISTORY)
        schedule = self._documents.schedules.get(name)
        if schedule is None or schedule.keep is None:
            return
        tagged = await self._store.runs(RunFilter(tag=tag_of(name)), limit=schedule.keep + 100)
        if len(tagged) <= schedule.keep:
            return
        # Anybody may give a run of theirs the tag.
        scheduled = await self._store.occurrence_runs(KIND, name)
        accepted = await self._last_accepted(name, "")
        for run in [run for run in tagged if run.id in scheduled][schedule.keep :]:
            if run.id != accepted:
                with contextlib.suppress(NotFoundError, ConflictError):
                    await self._runs.delete(run.id)


def _is_whole(result: ScheduleResult, run: Run) -> bool:
    """Return whether every request of a run has an answer."""
    return not result.failed and result.answered == run.cells


def _time(due: float) -> str:
    return f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC"
