"""Runs of evaluations: checked before anything is paid for, carried out, resumed, reported.

Read `create`, then `carry_out`. A run belongs to one process at a time (its owner); everything it
needs to go on after a crash is in the store.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec

from evaluators.document import RunDocument
from providers.errors import ConflictError, NotFoundError
from router.check import (
    build_metrics,
    check_parameters,
    check_routes,
    check_signatures,
    parse_gates,
    resolve_metrics,
)
from router.complete import Asker
from router.demo import SHIPPED
from router.outcome import Outcome, outcome
from router.owner import is_dead, owner_of
from router.replay import Live, Replay
from router.samples import prepare
from router.store.base import ENDED, Run, Store

HEARTBEAT_S = 5.0
STALE_AFTER_S = 30.0


class Runs:
    """All runs of this process. `close()` stops those under way, resumable."""

    def __init__(
        self,
        store: Store,
        asker: Asker,
        *,
        most_at_once: int = 2,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._asker = asker
        self._now = now
        self._room = asyncio.Semaphore(most_at_once)
        self._tasks: dict[str, asyncio.Task[Run]] = {}
        self._cancelled: set[str] = set()
        self._owner = owner_of(os.getpid())

    # Creating

    async def create(self, document: RunDocument, *, base: Path) -> Run:
        """Check a document down to the last template and keep the run as `queued`.

        Args:
            document: what to do.
            base: the folder that relative dataset paths start from.

        Raises:
            RunDocumentError, DatasetError, MissingExtraError: what is wrong, and where; nothing
                was kept and nothing was sent.
        """
        document = resolve_metrics(document, base)
        metrics = build_metrics(document)
        check_routes(self._asker, document, metrics)
        check_parameters(document)
        parse_gates(document, metrics)
        path = SHIPPED.get(document.dataset, base / document.dataset)
        prepared = await asyncio.to_thread(prepare, document, path, metrics)
        found = Run(
            id=_new_id(self._now()),
            name=document.name or Path(document.dataset).stem,
            state="queued",
            document=msgspec.to_builtins(document),
            dataset=document.dataset,
            dataset_hash=prepared.dataset.hash,
            dataset_rows=prepared.count,
            metrics={metric.name: metric.signature for metric in metrics},
            created_at=self._now(),
            cells=prepared.count * len(document.routes) * document.repeats,
            versions={"evalrouter": version("evalrouter"), "python": platform.python_version()},
        )
        await self._store.add_run(found, prepared.samples())
        return found

    # Carrying out

    def start(self, run_id: str, *, retry_failed: bool = False) -> None:
        """Carry a run out in the background of this process, when its turn comes.

        Raises:
            ConflictError: it is under way already.
        """
        if run_id in self._tasks:
            raise ConflictError(f"{run_id} is being carried out already")
        task = asyncio.create_task(self._in_turn(run_id, retry_failed), name=run_id)
        self._tasks[run_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run_id, None))

    async def _in_turn(self, run_id: str, retry_failed: bool) -> Run:
        async with self._room:
            return await self.carry_out(run_id, retry_failed=retry_failed)

    async def carry_out(
        self, run_id: str, *, live: Live | None = None, retry_failed: bool = False
    ) -> Run:
        """Ask what is not answered, score what is not scored; the run as it ends.

        Cancelling the task stops the run; everything answered is kept and it can be resumed.

        Args:
            run_id: the run, or a unique prefix.
            live: kept up to date on the way.
            retry_failed: ask again where the target failed.

        Raises:
            NotFoundError: no such run.
            ConflictError: another process carries it out, or its metrics have changed since.
        """
        found = await self.find(run_id)
        run_id = found.id
        document = msgspec.convert(found.document, RunDocument)
        metrics = build_metrics(document)
        check_signatures(found, metrics)
        live = live or Live()
        await self._claim(found)
        if retry_failed:
            await self._store.forget_failed(run_id)
        try:
            await self._store.update_run(
                run_id, state="running", started_at=found.started_at or self._now(), error=""
            )
            why = await self._replay(found, document, live)
        except asyncio.CancelledError:
            wanted = run_id in self._cancelled
            await asyncio.shield(self._finish(run_id, "cancelled" if wanted else "queued", ""))
            raise
        except Exception as error:
            await self._finish(run_id, "failed", str(error))
            raise
        await self._finish(run_id, "cancelled" if why else "completed", why)
        return await self.find(run_id)

    async def _claim(self, found: Run) -> None:
        stale_after = 0.0 if is_dead(found.owner) else STALE_AFTER_S
        if not await self._store.claim_run(found.id, self._owner, self._now(), stale_after):
            raise ConflictError(f"{found.id} is being carried out by another process")

    async def _finish(self, run_id: str, state: str, why: str) -> None:
        self._cancelled.discard(run_id)
        ended = self._now() if state in ENDED else None
        await self._store.update_run(
            run_id, state=state, error=why, finished_at=ended, owner="", heartbeat_at=None
        )

    async def _replay(self, found: Run, document: RunDocument, live: Live) -> str:
        """Carry it out with a heartbeat beside it; why it stopped early."""
        heartbeat = asyncio.create_task(self._beat(found.id, asyncio.current_task()))
        try:
            return await Replay(self._store, self._asker, found, document, live).carry_out()
        finally:
            heartbeat.cancel()

    async def _beat(self, run_id: str, worker: asyncio.Task[object] | None) -> None:
        """Say that we are alive; stop the worker when somebody else has taken the run over."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if not await self._store.heartbeat(run_id, self._owner, self._now()) and worker:
                worker.cancel()

    async def cancel(self, run_id: str) -> Run:
        """Stop a run. What is answered stays, and it can be resumed.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has ended, or another process carries it out.
        """
        found = await self.find(run_id)
        if found.state in ENDED:
            raise ConflictError(f"{found.id} has already ended: it is {found.state}")
        task = self._tasks.get(found.id)
        if task is not None:
            self._cancelled.add(found.id)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        elif found.owner and not is_dead(found.owner):
            raise ConflictError(f"{found.id} is being carried out by another process")
        # A task that was still waiting for its turn has not said so itself.
        await self._finish(found.id, "cancelled", "")
        return await self.find(run_id)

    async def close(self) -> None:
        """Stop every run of this process; each can be resumed."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Reading

    async def find(self, run_id: str) -> Run:
        """The run with this id or unique prefix. Raises NotFoundError."""
        found = await self._store.run(run_id)
        if found is None:
            raise NotFoundError(f"There is no run {run_id!r}.")
        return found

    async def outcome(self, run_id: str) -> Outcome:
        """The run, its report as far as it has got, and its gates."""
        return await outcome(self._store, await self.find(run_id))


def _new_id(now: float) -> str:
    """Ids sort by time: milliseconds, then randomness."""
    return f"run_{int(now * 1000):011x}{uuid.uuid4().hex[:8]}"
