"""Carries queued runs out in this process, and stops runs in any.

Read `Jobs.execute`. A run belongs to one process at a time (its owner), which gives a sign of
life every second and learns with it whether it is to stop. Servers look for runs that nobody has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import msgspec

from evaluators.document import RunDocument
from providers.errors import ConflictError, EvalrouterError, NotFoundError, StoreError
from router.config.evaluation import Evaluation
from router.evals.confinement import confine
from router.evals.executor import Replay, RunProgress, Stop
from router.evals.lease import is_dead, this_owner
from router.evals.requests import EvalRequester
from router.store.protocol import Store
from router.store.runs import ENDED, STOPPED, RequestedState, Run, RunState, UnreadableRun

log = logging.getLogger("evalrouter")

# Also how soon a run of another process obeys.
HEARTBEAT_S = 1.0
STALE_AFTER_S = 30.0
# How often a server looks for runs that nobody carries out.
LOOK_S = 2.0
# A run that takes its server down each time must not do so for ever.
MOST_DEATHS = 10
# How long requests in flight are given to finish when a run is paused, or its server ends.
PAUSE_S, CLOSE_S = 30.0, 5.0
# How long `cancel` and `pause` wait for another process.
ANSWER_S = 5.0

Runner = Literal["server", "command"]


class _UnderWay:
    """A run that this process carries out."""

    def __init__(self, replay: Replay, work: asyncio.Task[Stop | None], runner: Runner) -> None:
        self.replay = replay
        self.work = work
        # The state it is left in when its process ends.
        self.left: RunState = "queued" if runner == "server" else "paused"
        # Whether somebody else has it now; whether it was stopped by `obey`.
        self.lost = self.dropped = False

    def obey(self, wish: RequestedState) -> None:
        """Begin to stop. Being asked again changes nothing."""
        if wish == "cancelled":
            self.replay.stop = Stop("cancelled")
            self.drop()
        elif wish == "paused" and self.replay.stop is None:
            self.replay.wind_down("paused")
            asyncio.get_running_loop().call_later(PAUSE_S, self.drop)

    def drop(self) -> None:
        """Stop without waiting for what is in flight."""
        if not self.work.done():
            self.dropped = True
            self.work.cancel()


class Jobs:
    """The runs that this process carries out. `close()` stops them, resumable."""

    def __init__(
        self,
        store: Store,
        asker: EvalRequester,
        allowed: Evaluation,
        *,
        most_at_once: int = 2,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._asker = asker
        self._allowed = allowed
        self._now = now
        self._most_at_once = most_at_once
        self._owner = this_owner()
        self._under_way: dict[str, _UnderWay] = {}
        # Those of them that no caller waits for.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._serving: asyncio.Task[None] | None = None
        self._look = asyncio.Event()

    def look(self) -> None:
        """There may be a run to take up."""
        self._look.set()

    def is_free(self, found: Run) -> bool:
        """Whether nobody carries the run out."""
        silent = self._now() - (found.heartbeat_at or 0.0)
        return not found.owner or silent >= stale_after(found.owner)

    async def find(self, run_id: str) -> Run:
        """Return the run with this id or unique prefix.

        Raises:
            NotFoundError: no such run.
            StoreError: its row cannot be read.
        """
        run = await self._stored(run_id)
        if isinstance(run, UnreadableRun):
            raise StoreError(run.error)
        return run

    async def delete(self, run_id: str) -> None:
        """Delete a run with its answers and scores, also one whose row cannot be read.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has not stopped.
        """
        run = await self._stored(run_id)
        if run.state not in STOPPED:
            raise ConflictError(f"{run.id} is {run.state}: cancel it first")
        await self._store.delete_run(run.id)

    async def _stored(self, run_id: str) -> Run:
        run = await self._store.run(run_id)
        if run is None:
            raise NotFoundError(f"There is no run {run_id!r}.")
        return run

    async def execute(self, run_id: str, *, live: RunProgress | None = None) -> Run:
        """Ask what is not answered, score what is not scored, of a queued run; it as it ends.

        Cancelling the task stops the run; everything answered is kept and it can be resumed.

        Args:
            run_id: the run, or a unique prefix.
            live: kept up to date on the way.

        Raises:
            NotFoundError: no such run.
            ConflictError: it is not to be done, somebody else carries it out or has taken it over,
                or its metrics have changed since.
        """
        found = await self.find(run_id)
        if not await self._store.claim_run(
            found.id, self._owner, self._now(), stale_after(found.owner)
        ):
            found = await self.find(found.id)
            by = " and carried out by another process" if found.owner else ""
            raise ConflictError(f"{found.id} is {found.state}{by}")
        try:
            # Once more, because until now it could have been changed.
            found = await self.find(found.id)
            if found.runner == "server":
                # It may be older than what the config allows now.
                document = msgspec.convert(found.document, RunDocument)
                await confine(document, self._allowed, datasets=None)
            replay = Replay(self._store, self._asker, found, live or RunProgress())
        except Exception as error:
            await self._end(found.id, Stop("failed"), error=str(error))
            raise
        work = asyncio.create_task(replay.execute(), name=f"replay {found.id}")
        under_way = self._under_way[found.id] = _UnderWay(replay, work, found.runner)
        beat = asyncio.create_task(self._beat(found.id, under_way), name=f"beat {found.id}")
        try:
            await self._store.update_run(
                found.id, state="running", started_at=found.started_at or self._now()
            )
            stop = await work or Stop("completed")
        except asyncio.CancelledError:
            await _ended(work)
            if under_way.lost:
                raise ConflictError(f"{found.id} was taken over by another process") from None
            if not under_way.dropped:
                await asyncio.shield(self._end(found.id, Stop(under_way.left)))
                raise
            stop = replay.stop or Stop("cancelled")
        except Exception as error:
            await _ended(work)
            await self._end(found.id, Stop("failed"), error=str(error))
            raise
        finally:
            beat.cancel()
            del self._under_way[found.id]
        await self._end(found.id, stop)
        return await self.find(found.id)

    async def _end(self, run_id: str, stop: Stop, *, error: str = "") -> None:
        now = self._now()
        try:
            await self._store.end_run(
                run_id,
                self._owner,
                now,
                state=stop.state,
                stopped=stop.why,
                error=error,
                finished_at=now if stop.state in ENDED else None,
            )
        except StoreError as problem:
            # A full disk, say. The claim goes stale; whoever resumes it then finds every row.
            log.error("%s: how it ended could not be kept: %s", run_id, problem)

    async def _beat(self, run_id: str, under_way: _UnderWay) -> None:
        """Say that we are alive, and obey; drop the work once somebody else has the run."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                wish = await self._store.heartbeat(run_id, self._owner, self._now())
            except StoreError:
                # The run itself ends when it cannot keep an answer.
                continue
            if wish is None:
                under_way.lost = True
                under_way.work.cancel()
                return
            under_way.obey(wish)

    # Stopping

    async def cancel(self, run_id: str) -> Run:
        """Stop a run at once, whichever process carries it out. It can be resumed.

        What is answered stays; what is in flight is dropped.

        Returns:
            The run; its `wish` is still there where its process did not answer within 5 seconds.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has ended.
        """
        return await self._stop(run_id, "cancelled")

    async def pause(self, run_id: str) -> Run:
        """As `cancel`, but what is in flight is finished and kept, for up to 30 seconds."""
        return await self._stop(run_id, "paused")

    async def _stop(self, run_id: str, wish: RequestedState) -> Run:
        found = await self.find(run_id)
        if found.state in ENDED or found.state == wish:
            raise ConflictError(f"{found.id} has stopped already: it is {found.state}")
        found = await self._store.request_state(
            found.id, wish, self._now(), stale_after(found.owner)
        )
        if found.id in self._under_way:
            self._under_way[found.id].obey(wish)
        until = asyncio.get_running_loop().time() + ANSWER_S
        while found.state not in STOPPED and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
            found = await self.find(found.id)
        return found

    async def close(self, within: float = CLOSE_S) -> None:
        """Stop every run of this process. Those of servers go on with the next one on this store.

        Args:
            within: seconds that what is in flight is given to finish.
        """
        if self._serving is not None:
            self._serving.cancel()
        under_way = list(self._under_way.values())
        for one in under_way:
            one.replay.wind_down(one.left)
        if under_way:
            await asyncio.wait([one.work for one in under_way], timeout=within)
        tasks = list(self._tasks.values())
        for one in under_way:
            one.drop()
        if tasks:
            await asyncio.wait(tasks)

    # Serving

    def serve(self) -> None:
        """From now on, carry out what servers on this store began and nobody carries out."""
        self._serving = asyncio.create_task(self._serve(), name="evalrouter-runs")

    async def _serve(self) -> None:
        failing = False
        while True:
            self._look.clear()
            try:
                for found in await self._store.unfinished_runs():
                    await self._take_up(found)
                failing = False
            except EvalrouterError as error:
                # Once, not at every look.
                if not failing:
                    log.error("looking for runs to carry out: %s", error)
                failing = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_S)

    async def _take_up(self, found: Run) -> None:
        if found.id in self._tasks or not self.is_free(found):
            return
        if isinstance(found, UnreadableRun):
            if await self._give_up(found.id, StoreError(found.error)):
                log.error("%s; it is marked as failed", found.error)
        elif found.wish:
            # Whoever was to obey it died first. What is refused is tried again at the next look.
            with suppress(NotFoundError, StoreError):
                stale = stale_after(found.owner)
                await self._store.request_state(found.id, found.wish, self._now(), stale)
        elif found.deaths >= MOST_DEATHS:
            why = (
                f"its server died {found.deaths} times in a row without getting any further with "
                "it; resume it to try again"
            )
            await self._give_up(found.id, ConflictError(why))
        elif len(self._tasks) < self._most_at_once:
            task = asyncio.create_task(self._in_background(found.id), name=found.id)
            self._tasks[found.id] = task
            task.add_done_callback(lambda _: self._left(found.id))

    def _left(self, run_id: str) -> None:
        del self._tasks[run_id]
        self.look()

    async def _in_background(self, run_id: str) -> None:
        try:
            await self.execute(run_id)
        except (ConflictError, NotFoundError) as error:
            # Another process was quicker, or the run was stopped or deleted meanwhile.
            log.info("%s", error)
        except Exception as error:  # noqa: BLE001 - nobody waits for this task
            log.error("%s failed: %s", run_id, error)
            await self._give_up(run_id, error)

    async def _give_up(self, run_id: str, error: Exception) -> bool:
        """Mark a run as failed that could not even be begun, so that it is not tried for ever.

        Return whether that succeeded.
        """
        with suppress(NotFoundError, StoreError):
            stale = stale_after((await self._stored(run_id)).owner)
            if await self._store.claim_run(run_id, self._owner, self._now(), stale):
                await self._end(run_id, Stop("failed"), error=str(error))
                return True
        return False


def stale_after(owner: str) -> float:
    """Seconds of silence after which a run may be taken from its owner."""
    return 0.0 if is_dead(owner) else STALE_AFTER_S


async def _ended(work: asyncio.Task[Any]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
