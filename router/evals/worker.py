"""Executes queued runs in this process, and stops runs in any.

Read `Jobs.execute`. A run belongs to one process at a time (its owner), which sends a heartbeat
every second and learns from it whether it is to stop. Servers look for runs without an owner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from providers.errors import ConflictError, EvalrouterError, NotFoundError, StoreError
from providers.masking import Masks
from router.config.evaluation import Evaluation
from router.evals.confinement import confine
from router.evals.executor import Replay, RunProgress, Stop
from router.evals.lease import stale_after, this_owner
from router.evals.requests import EvalRequester
from router.evals.run_log import RunLog
from router.evals.spending import total_spending
from router.evals.stored_runs import find_row, find_run, stored_document
from router.gateway.spans import SpanSink
from router.store.protocol import Store
from router.store.runs import ENDED, STOPPED, RequestedState, Run, RunState, UnreadableRun

log = logging.getLogger("evalrouter")

# Also how soon a run of another process obeys.
HEARTBEAT_S = 1.0
# How often a server looks for runs that no process executes.
POLL_S = 2.0
# A run that takes its server down each time must not do so for ever.
MAX_DEATHS = 10
# How long requests in flight are given to finish when a run is paused, or its server ends.
PAUSE_S, CLOSE_S = 30.0, 5.0
# How long `cancel` and `pause` wait for another process.
ANSWER_S = 5.0

Runner = Literal["server", "command"]


class _ExecutingRun:
    """A run that this process executes.

    Attributes:
        replay, task: the execution, and the task that it is in.
        left: the state that the run is left in when its process ends.
        lost: whether another process has the run now.
        dropped: whether `obey` stopped it.
    """

    def __init__(self, replay: Replay, task: asyncio.Task[Stop | None], runner: Runner) -> None:
        self.replay = replay
        self.task = task
        self.left: RunState = "queued" if runner == "server" else "paused"
        self.lost = self.dropped = False

    def obey(self, state: RequestedState) -> None:
        """Begin to bring the run to the state. A second request for it changes nothing."""
        if state == "cancelled":
            self.replay.stop = Stop("cancelled")
            self.drop()
        elif state == "paused" and self.replay.stop is None:
            self.replay.wind_down("paused")
            asyncio.get_running_loop().call_later(PAUSE_S, self.drop)

    def drop(self) -> None:
        """Stop without waiting for what is in flight."""
        if not self.task.done():
            self.dropped = True
            self.task.cancel()


class Jobs:
    """The runs that this process executes. `close()` stops them, resumable.

    Args:
        store: where runs are stored.
        requester: sends their requests.
        allowed: what a server may do for a client.
        on_end: called with the id of each run that has ended here, once that is stored.
        max_runs: how many runs of clients a server executes at a time.
        masks: the secrets that no log may have.
        traces: get the spans of runs; None where none are sent.
        now: the time, seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        requester: EvalRequester,
        allowed: Evaluation,
        *,
        on_end: Callable[[str], None] = lambda _: None,
        max_runs: int = 2,
        masks: Masks,
        traces: SpanSink | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._requester = requester
        self._allowed = allowed
        self._now = now
        self._on_end = on_end
        self._max_runs = max_runs
        self._masks = masks
        self._traces = traces
        self._owner = this_owner()
        self._under_way: dict[str, _ExecutingRun] = {}
        # Those of them that no caller waits for.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._serving: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._queued = asyncio.Event()

    def wake(self) -> None:
        """Have a server look now for a run to take up."""
        self._queued.set()

    async def is_free(self, run: Run) -> bool:
        """Return whether no process executes the run."""
        if not run.owner:
            return True
        silent = await self._store.now() - (run.heartbeat_at or 0.0)
        return silent >= stale_after(run.owner)

    async def execute(self, run_id: str, *, live: RunProgress | None = None) -> Run:
        """Request what a queued run has no answers for, score its answers, and return it.

        Cancelling the task stops the run; every answer is stored and the run can be resumed.

        Args:
            run_id: the run, or a unique prefix.
            live: kept up to date on the way.

        Raises:
            NotFoundError: no such run.
            ConflictError: the run is not queued, another process executes it or has taken it over,
                or its metrics have changed since.
        """
        run = await find_run(self._store, run_id)
        if not await self._store.claim_run(run.id, self._owner, stale_after(run.owner)):
            run = await find_run(self._store, run.id)
            by = " and another process executes it" if run.owner else ""
            raise ConflictError(f"{run.id} is {run.state}{by}")
        async with RunLog(self._store, run.id, self._masks, now=self._now) as run_log:
            return await self._execute_claimed(run.id, live or RunProgress(), run_log)

    async def _execute_claimed(self, run_id: str, live: RunProgress, run_log: RunLog) -> Run:
        """Execute a run that this process has claimed; see `execute`."""
        try:
            replay = await self._begin(run_id, live, run_log)
        except Exception as error:
            await self._end(run_id, Stop("failed"), run_log=run_log, error=str(error))
            raise
        run = replay.run
        task = asyncio.create_task(replay.execute(), name=f"replay {run.id}")
        under_way = self._under_way[run.id] = _ExecutingRun(replay, task, run.runner)
        heartbeat = asyncio.create_task(
            self._send_heartbeats(run.id, under_way), name=f"heartbeat {run.id}"
        )
        try:
            await self._store.update_run(
                run.id, state="running", started_at=run.started_at or self._now()
            )
            stop = await task or Stop("completed")
        except asyncio.CancelledError:
            await _ended(task)
            if under_way.lost:
                with suppress(NotFoundError, StoreError):
                    await self._store.end_run(run.id, self._owner)
                _warn_of_loss(run.id)
                raise ConflictError(f"{run.id} was taken over by another process") from None
            if not under_way.dropped:
                await asyncio.shield(self._end(run.id, Stop(under_way.left), run_log=run_log))
                raise
            stop = replay.stop or Stop("cancelled")
        except Exception as error:
            await _ended(task)
            await self._end(run.id, Stop("failed"), run_log=run_log, error=str(error))
            replay.trace_end(Stop("failed", str(error)), self._now())
            raise
        finally:
            heartbeat.cancel()
            del self._under_way[run.id]
        await self._end(run.id, stop, run_log=run_log)
        if stop.state in ENDED:
            replay.trace_end(stop, self._now())
        return await find_run(self._store, run.id)

    async def _begin(self, run_id: str, live: RunProgress, run_log: RunLog) -> Replay:
        """Return the execution of a run that this process has claimed."""
        # Read after the claim, because until then it could be changed.
        run = await find_run(self._store, run_id)
        document = stored_document(run)
        if run.runner == "server":
            # It may be older than what the config allows now.
            await confine(document, self._allowed, datasets=None)
        return Replay(
            self._store,
            self._requester,
            run,
            document,
            live=live,
            log=run_log,
            traces=self._traces,
        )

    async def _end(
        self, run_id: str, stop: Stop, *, run_log: RunLog | None = None, error: str = ""
    ) -> None:
        if run_log is not None:
            # Whoever follows the run's log stops reading once the run has ended.
            await run_log.flush()
        now = self._now()
        try:
            spent = await total_spending(self._store, run_id)
            ended = await self._store.end_run(
                run_id,
                self._owner,
                state=stop.state,
                stopped=stop.why,
                error=error,
                finished_at=now if stop.state in ENDED else None,
                cost_usd=spent.cost_usd,
            )
            if stop.state in ENDED:
                self._on_end(run_id)
        except StoreError as problem:
            # A full disk, say. The claim goes stale; whoever resumes the run then has every row.
            log.error("%s: how it ended could not be stored: %s", run_id, problem)
        else:
            if not ended:
                _warn_of_loss(run_id)

    async def _send_heartbeats(self, run_id: str, under_way: _ExecutingRun) -> None:
        """Tell that this process is alive, and obey; stop once another process has the run."""
        seen = 0
        while True:
            seen = await self._store.changed("runs", seen, HEARTBEAT_S)
            try:
                state = await self._store.heartbeat(run_id, self._owner)
            except StoreError:
                # The run itself ends when it cannot store an answer.
                continue
            if state is None:
                under_way.lost = True
                under_way.task.cancel()
                return
            under_way.obey(state)

    # Stopping

    async def cancel(self, run_id: str) -> Run:
        """Stop a run at once, whichever process executes it. It can be resumed.

        Its answers stay; requests in flight are dropped.

        Returns:
            The run; its `wish` is still there where its process did not answer within 5 seconds.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has ended.
        """
        return await self._stop(run_id, "cancelled")

    async def pause(self, run_id: str) -> Run:
        """Stop a run as `cancel` does, but let requests in flight finish for up to 30 seconds."""
        return await self._stop(run_id, "paused")

    async def _stop(self, run_id: str, state: RequestedState) -> Run:
        run = await find_run(self._store, run_id)
        if run.state in ENDED or run.state == state:
            raise ConflictError(f"{run.id} has stopped already: it is {run.state}")
        run = await self._store.request_state(run.id, state, stale_after(run.owner))
        if run.id in self._under_way:
            self._under_way[run.id].obey(state)
        until = asyncio.get_running_loop().time() + ANSWER_S
        while run.state not in STOPPED and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
            run = await find_run(self._store, run.id)
        return run

    async def close(self, within: float = CLOSE_S) -> None:
        """Stop every run of this process. The next server on this store goes on with servers' runs.

        Args:
            within: seconds that requests in flight are given to finish.
        """
        for task in (self._serving, self._listening):
            if task is not None:
                task.cancel()
        under_way = list(self._under_way.values())
        for job in under_way:
            job.replay.wind_down(job.left)
        if under_way:
            await asyncio.wait([job.task for job in under_way], timeout=within)
        tasks = list(self._tasks.values())
        for job in under_way:
            job.drop()
        if tasks:
            await asyncio.wait(tasks)

    # Serving

    def serve(self) -> None:
        """From now on, execute those runs of servers on this store that no process executes."""
        self._serving = asyncio.create_task(self._serve(), name="evalrouter-runs")
        self._listening = asyncio.create_task(self._listen(), name="evalrouter-queued")

    async def _listen(self) -> None:
        """Look for runs as soon as another process has queued one."""
        seen = 0
        while True:
            seen = await self._store.changed("runs", seen, POLL_S)
            self.wake()

    async def _serve(self) -> None:
        failing = False
        while True:
            self._queued.clear()
            try:
                for run in await self._store.unfinished_runs():
                    await self._take_up(run)
                failing = False
            except EvalrouterError as error:
                # Once, not at every poll.
                if not failing:
                    log.error("looking for runs to execute: %s", error)
                failing = True
            await self._queued.wait()

    async def _take_up(self, run: Run) -> None:
        if run.id in self._tasks or not await self.is_free(run):
            return
        if isinstance(run, UnreadableRun):
            if await self._give_up(run.id, StoreError(run.error)):
                log.error("%s; it is marked as failed", run.error)
        elif run.wish:
            # Its owner died before it obeyed. What is refused is tried again at the next poll.
            with suppress(NotFoundError, StoreError):
                await self._store.request_state(run.id, run.wish, stale_after(run.owner))
        elif run.deaths >= MAX_DEATHS:
            why = (
                f"its server died {run.deaths} times in a row without getting any further with "
                "it; resume it to try again"
            )
            await self._give_up(run.id, ConflictError(why))
        elif len(self._tasks) < self._max_runs:
            task = asyncio.create_task(self._in_background(run.id), name=run.id)
            self._tasks[run.id] = task
            task.add_done_callback(lambda _: self._left(run.id))

    def _left(self, run_id: str) -> None:
        del self._tasks[run_id]
        self.wake()

    async def _in_background(self, run_id: str) -> None:
        try:
            await self.execute(run_id)
        except (ConflictError, NotFoundError) as error:
            # Another process was quicker, or the run was stopped or deleted meanwhile.
            log.info("%s", error)
        except Exception as error:  # noqa: BLE001 - no caller waits for this task
            log.error("%s failed: %s", run_id, error)
            await self._give_up(run_id, error)

    async def _give_up(self, run_id: str, error: Exception) -> bool:
        """Mark a run as failed that could not even begin, so that it is not tried for ever.

        Return whether that succeeded.
        """
        with suppress(NotFoundError, StoreError):
            owner = (await find_row(self._store, run_id)).owner
            if await self._store.claim_run(run_id, self._owner, stale_after(owner)):
                await self._end(run_id, Stop("failed"), error=str(error))
                return True
        return False


def _warn_of_loss(run_id: str) -> None:
    log.warning(
        "%s: another process took it over or stopped it, because this one gave no sign of life for "
        "long (was it suspended, or cut off from its database?); what it did since is not stored",
        run_id,
    )


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
