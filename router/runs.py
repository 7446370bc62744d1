"""Runs of evaluations: checked before anything is paid for, carried out, resumed, reported.

Read `create`, then `carry_out`. A run belongs to one process at a time (its owner); everything it
needs to go on after a crash is in the store.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec

from evaluators import gates as gate_rules
from evaluators.base import Answer, AnyMetric, Asking, Cell, Declared, Output, Sample, Score
from evaluators.dataset import Dataset, compile_messages, open_dataset, to_sample
from evaluators.document import RunDocument
from evaluators.gates import Gate, GateResult
from evaluators.metrics import registry
from evaluators.report import Report, Tally, summarise
from evaluators.run import Result, Task, run
from evaluators.scoring import Scorer
from providers.errors import (
    ConflictError,
    ModelNotFoundError,
    NotFoundError,
    RunDocumentError,
)
from router.complete import Asker
from router.demo import SHIPPED
from router.store.base import ENDED, Run, Store

HEARTBEAT_S = 5.0
STALE_AFTER_S = 30.0

# The router sets these itself; a parameter of the same name would be lost in silence.
_RESERVED = ("messages", "model", "stream")


class Live(msgspec.Struct):
    """How far a run is that this process carries out. Changes as it goes.

    Attributes:
        cells: how many there are.
        answered: cells with an answer, earlier attempts included.
        failed: cells whose target failed, earlier attempts included.
        cached: answers taken from the run cache.
        cost_usd: what this attempt's answers cost, as far as prices are known.
    """

    cells: int = 0
    answered: int = 0
    failed: int = 0
    cached: int = 0
    cost_usd: float = 0.0

    @property
    def done(self) -> int:
        """Cells that need no more asking."""
        return self.answered + self.failed


class Outcome(msgspec.Struct, frozen=True):
    """A run with its report and what its gates found."""

    run: Run
    report: Report
    gates: list[GateResult]

    @property
    def passed(self) -> bool:
        """Whether the run completed and every gate held."""
        return self.run.state == "completed" and all(gate.passed for gate in self.gates)


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
        self._owner = _owner(os.getpid())

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
        document = _resolve_metrics(document, base)
        metrics = build_metrics(document)
        self._check_routes(document, metrics)
        _check_parameters(document)
        parse_gates(document, metrics)
        dataset, samples = await asyncio.to_thread(_read_samples, document, base, metrics)
        found = Run(
            id=_new_id(self._now()),
            name=document.name or Path(document.dataset).stem,
            state="queued",
            document=msgspec.to_builtins(document),
            dataset=document.dataset,
            dataset_hash=dataset.hash,
            dataset_rows=len(samples),
            metrics={metric.name: metric.signature for metric in metrics},
            created_at=self._now(),
            cells=len(samples) * len(document.routes) * document.repeats,
            versions={"evalrouter": version("evalrouter"), "python": platform.python_version()},
        )
        await self._store.add_run(found, samples)
        return found

    def _check_routes(self, document: RunDocument, metrics: Sequence[AnyMetric]) -> None:
        for n, route in enumerate(document.routes):
            if route in document.routes[:n]:
                raise RunDocumentError(
                    f"routes[{n}]: {route!r} is named twice", param=f"routes[{n}]"
                )
            try:
                self._asker.check_route(route)
            except ModelNotFoundError as error:
                raise RunDocumentError(
                    f"routes[{n}]: {error.message}", param=f"routes[{n}]"
                ) from None
        for metric in metrics:
            if isinstance(metric, Asking):
                self._asker.check_route(metric.route)
        if document.baseline is not None and document.baseline not in document.routes:
            raise RunDocumentError(
                f"baseline: {document.baseline!r} is not one of the run's routes "
                f"({', '.join(document.routes)})",
                param="baseline",
            )

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
        _check_signatures(found, metrics)
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
        stale_after = 0.0 if _is_dead(found.owner) else STALE_AFTER_S
        if not await self._store.claim_run(found.id, self._owner, self._now(), stale_after):
            raise ConflictError(f"{found.id} is being carried out by another process")

    async def _finish(self, run_id: str, state: str, why: str) -> None:
        self._cancelled.discard(run_id)
        ended = self._now() if state in ENDED else None
        await self._store.update_run(
            run_id, state=state, error=why, finished_at=ended, owner="", heartbeat_at=None
        )

    async def _replay(self, found: Run, document: RunDocument, live: Live) -> str:
        """The run itself; why it stopped early, "" when it did not."""
        unscored = {
            one.cell: one.answer
            async for one in self._store.results(found.id, unscored=True)
            if one.answer is not None
        }
        answered = await self._store.answered_cells(found.id)
        before = await self._store.progress(found.id)
        live.cells, live.failed = found.cells, before.failed
        live.answered = before.answered - len(unscored)
        limit = document.limits.cost_usd

        def over_limit() -> bool:
            return limit is not None and live.cost_usd >= limit

        async def tasks() -> AsyncIterator[Task]:
            async for sample in self._store.samples(found.id):
                for route in document.routes:
                    for repeat in range(document.repeats):
                        cell = Cell(route, sample.id, repeat)
                        if cell in unscored:
                            yield Task(cell, sample, unscored[cell])
                        elif cell not in answered:
                            if over_limit():
                                return
                            yield Task(cell, sample)

        async def complete(cell: Cell, sample: Sample) -> Answer:
            answer = await self._complete(found.id, document, cell, sample)
            # A cached answer keeps what it once cost, so that routes compare; it is not paid again.
            live.cost_usd += 0.0 if answer.cached else answer.cost_usd or 0.0
            return answer

        async def keep_scores(cell: Cell, scores: tuple[Score, ...]) -> None:
            await self._store.keep_scores(found.id, cell, scores)

        def tell(result: Result) -> None:
            if result.answer.text is None:
                live.failed += 1
            else:
                live.answered += 1
                live.cached += result.answer.cached

        heartbeat = asyncio.create_task(self._beat(found.id, asyncio.current_task()))
        try:
            async with Scorer(
                document.metrics, answers=found.cells - before.scored, embed=self._asker.embed
            ) as scorer:
                await run(
                    tasks(),
                    complete=complete,
                    score=scorer.score,
                    keep_scores=keep_scores,
                    tell=tell,
                    concurrency=document.limits.concurrency,
                )
        finally:
            heartbeat.cancel()
        if over_limit() and live.done < live.cells:
            return f"stopped at its limit of {limit} USD; raise it and resume to go on"
        return ""

    async def _complete(
        self, run_id: str, document: RunDocument, cell: Cell, sample: Sample
    ) -> Answer:
        """Ask, and keep the answer before anybody sees it."""
        prepared = self._asker.prepare(
            cell.route, sample, document.parameters, fallback=document.fallback
        )
        if document.cache and not self._asker.is_free(prepared):
            known = await self._store.cached_answer(prepared.hash, cell.repeat)
            if known is not None:
                answer = msgspec.structs.replace(known, cached=True, attempts=0)
                await self._store.keep_answer(run_id, cell, prepared.hash, answer, ())
                return answer
        await self._store.begin(run_id, cell, prepared.hash, str(prepared.plan.targets[0]))
        completed = await self._asker.ask(prepared)
        attempts = msgspec.to_builtins(completed.attempts)
        await self._store.keep_answer(run_id, cell, prepared.hash, completed.answer, attempts)
        return completed.answer

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
        elif found.owner and not _is_dead(found.owner):
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
        found = await self.find(run_id)
        document = msgspec.convert(found.document, RunDocument)
        metrics = build_metrics(document)
        tally = Tally(
            routes=document.routes,
            metrics=metrics,
            expected=dict.fromkeys(document.routes, found.dataset_rows * document.repeats),
            baseline=document.baseline,
        )
        async for one in self._store.results(found.id):
            if one.answer is not None:
                tally.add(one.cell, one.answer, one.scores)
        report = await asyncio.to_thread(summarise, tally)
        # The scores were made by what was installed then, not by what is now.
        report = msgspec.structs.replace(report, signatures=found.metrics)
        scores = {
            (row.route, one.output): one.estimate for row in report.routes for one in row.scores
        }
        results = gate_rules.check(parse_gates(document, metrics), scores, document.baseline)
        return Outcome(found, report, results)


def _resolve_metrics(document: RunDocument, base: Path) -> RunDocument:
    """The document with its metrics' files found. Raises RunDocumentError for a missing one."""
    metrics = tuple(
        registry.resolve(spec, base, param=f"metrics[{n}]")
        for n, spec in enumerate(document.metrics)
    )
    return msgspec.structs.replace(document, metrics=metrics)


def build_metrics(document: RunDocument) -> list[AnyMetric]:
    """The document's metrics. Raises RunDocumentError for an unknown or repeated one."""
    metrics: list[AnyMetric] = []
    seen: dict[str, str] = {}
    for n, spec in enumerate(document.metrics):
        metric = registry.build(spec, param=f"metrics[{n}]")
        for output in metric.outputs:
            if output.name in seen:
                raise RunDocumentError(
                    f"metrics[{n}]: {seen[output.name]} already produces {output.name!r}",
                    param=f"metrics[{n}]",
                )
            seen[output.name] = metric.name
        metrics.append(metric)
    return metrics


def outputs_of(metrics: Sequence[Declared]) -> list[Output]:
    """Every output of the metrics, in order."""
    return [output for metric in metrics for output in metric.outputs]


def parse_gates(document: RunDocument, metrics: Sequence[Declared]) -> list[Gate]:
    """The document's gates. Raises RunDocumentError."""
    names = [output.name for output in outputs_of(metrics)]
    return [
        gate_rules.parse(
            text, names, has_baseline=document.baseline is not None, param=f"gates[{n}]"
        )
        for n, text in enumerate(document.gates)
    ]


def _check_parameters(document: RunDocument) -> None:
    for name in _RESERVED:
        if name in document.parameters:
            raise RunDocumentError(
                f"parameters.{name}: set by the run itself, leave it out",
                param=f"parameters.{name}",
            )
    if document.parameters.get("n", 1) != 1:
        raise RunDocumentError(
            "parameters.n: one answer per request; use repeats for more", param="parameters.n"
        )


def _check_signatures(found: Run, metrics: Sequence[Declared]) -> None:
    for metric in metrics:
        before = found.metrics.get(metric.name)
        if before != metric.signature:
            raise ConflictError(
                f"{metric.name} is now {metric.signature!r} and was {before!r} when {found.id} "
                "began; scores of one run must have one signature. Start a new run: its answers "
                "come from the cache."
            )


def _read_samples(
    document: RunDocument, base: Path, metrics: Sequence[Declared]
) -> tuple[Dataset, list[Sample]]:
    """Everything of the dataset that could go wrong goes wrong here, before any request."""
    path = SHIPPED.get(document.dataset, base / document.dataset)
    dataset = open_dataset(
        path,
        columns=document.columns,
        name=document.dataset,
        # With a template of its own, a dataset needs no column of a known name.
        needs_prompt=document.messages is None and document.prompt is None,
    )
    render = compile_messages(document.messages, document.prompt, dataset.columns)
    needing = [metric.name for metric in metrics if metric.needs_reference]
    samples: list[Sample] = []
    without: list[str] = []
    for row in dataset.rows():
        if document.limit is not None and len(samples) == document.limit:
            break
        sample = to_sample(row, render)
        if needing and not sample.references:
            without.append(sample.id)
        samples.append(sample)
    if without:
        some = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        raise RunDocumentError(
            f"{document.dataset}: {len(without)} of {len(samples)} samples have no reference "
            f"(id {some}), which {', '.join(needing)} needs. Add them, drop those rows, or "
            "leave the metric out.",
            param="dataset",
        )
    return dataset, samples


def _new_id(now: float) -> str:
    """Ids sort by time: milliseconds, then randomness."""
    return f"run_{int(now * 1000):011x}{uuid.uuid4().hex[:8]}"


def _owner(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """When the process began, so that a process with a reused id is not taken for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _is_dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit() or not Path("/proc/self").exists():
        return False
    return owner != _owner(int(pid))
