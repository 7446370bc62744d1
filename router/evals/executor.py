"""Carries a run out: asks what is not answered, scores what is not scored.

Read `Replay.execute`. Who owns the run and what state it ends in is `runs.py`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import NamedTuple

import msgspec

from evaluators.base import Answer, AnyMetric, Cell, Embed, JudgeMetric, Sample, Score
from evaluators.document import RunDocument
from evaluators.execution.evaluation import AnsweredItem, CellResult, CellTask, Unanswered, run
from evaluators.execution.scheduler import Lane, LanePlace
from evaluators.execution.scoring import Scorer
from evaluators.execution.worker_pool import Scores, WorkerPool
from evaluators.stats.sequential import StopRule
from router.config.section import IN_PLACE
from router.evals.cluster import Cluster
from router.evals.concurrency import TRIES
from router.evals.embeddings import EmbeddingClient
from router.evals.judges.requests import JudgeClient
from router.evals.lanes import TargetLane, lanes_of
from router.evals.requests import EvalRequester
from router.evals.validation import (
    PRECOMPUTED,
    asked_routes,
    build_metrics,
    check_signatures,
    outputs_of,
    routes_of,
)
from router.gateway.routing import share
from router.records import Attempt
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import Run, RunState

# Batches scored at a time where judges are asked, or a cluster scores.
_BATCHES = 8
# Answers that a dataset brings along, kept in one go.
_KEPT_AT_ONCE = 256


class RunProgress(msgspec.Struct):
    """How far a run is that this process carries out. Changes as it goes.

    Attributes:
        cells: how many there are.
        answered: cells with an answer, earlier attempts included.
        failed: cells whose target failed, earlier attempts included.
        cached: answers taken from the run cache.
        cost_usd, tokens: what the answers took, as far as it is known, earlier attempts included;
            cached answers took nothing.
    """

    cells: int = 0
    answered: int = 0
    failed: int = 0
    cached: int = 0
    cost_usd: float = 0.0
    tokens: int = 0

    @property
    def done(self) -> int:
        """Cells that need no more asking."""
        return self.answered + self.failed


class Stop(NamedTuple):
    """Why a run ends before every cell is done, and the state it ends in."""

    state: RunState
    why: str = ""


class Replay:
    """One attempt at a run.

    Args:
        store: where the run is kept.
        asker: asks its routes.
        found: the run.
        live: kept up to date on the way.
        clock: seconds, monotonic.

    Attributes:
        stop: why nothing more is asked; None while there is no reason.
    """

    def __init__(
        self,
        store: Store,
        asker: EvalRequester,
        found: Run,
        live: RunProgress,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._run = found
        self._document = msgspec.convert(found.document, RunDocument)
        self._asker = asker = asker.for_run(self._document)
        self._metrics = build_metrics(self._document)
        self._live = live
        self._clock = clock
        self._began = clock()
        self._before_s = 0.0
        self.stop: Stop | None = None
        # A route that is changed meanwhile must not change the run.
        self._table = asker.table
        asked = msgspec.structs.replace(self._document, routes=asked_routes(self._document))
        self._lanes = lanes_of(asked, self._table, asker.pacing)
        self._by_target = {(lane.route, lane.target): lane for lane in self._lanes}
        self._rule: StopRule | None = None
        self._clusters: dict[str, str] = {}
        # The attempts of cells that a rate limit has put off.
        self._refused: dict[Cell, list[Attempt]] = {}

    def wind_down(self, state: RunState, why: str = "") -> None:
        """Ask nothing more, finish what is in flight. The first reason counts."""
        self.stop = self.stop or Stop(state, why)

    async def execute(self) -> Stop | None:
        """Until every cell is done; why it stopped early, None when it did not.

        Raises:
            ConflictError: a metric that is needed is not what it was.
        """
        found, document, live = self._run, self._document, self._live
        while await self._store.unscore_some(found.id):
            pass
        before = await self._store.progress(found.id)
        live.cells, live.answered, live.failed = found.cells, before.scored, before.failed
        if not found.only_scores:
            await self._add_up_what_was_spent()
        await self._watch_for_an_answer()
        async with AsyncExitStack() as stack:
            pool: Callable[..., Scores] = WorkerPool
            if document.execution != "local":
                cluster = await stack.enter_async_context(Cluster(document.execution))
                pool = cluster.pool
                asks = before.answered + before.failed < found.cells and not found.only_scores
                await self._load_models(cluster, asks=asks)
            bench = JudgeClient(
                self._store,
                self._asker,
                found.id,
                concurrency=document.limits.concurrency,
                share=document.cache,
                pay=self._pay,
            )
            scorers = _Scorers(
                found,
                document,
                self._metrics,
                stack,
                embed=EmbeddingClient(self._store, self._asker, found.id, pay=self._pay),
                bench=bench,
                pool=pool,
            )
            if before.answered + before.failed < found.cells and not found.only_scores:
                # What cannot be loaded is to be told before anything is paid for.
                await scorers.scorer(tuple(range(len(self._metrics))))
            await run(
                [Lane(self._tasks(lane), lane) for lane in self._lanes]
                + [Lane(self._brought()) for route in document.routes if route == PRECOMPUTED],
                complete=self._complete,
                score=scorers.score,
                keep_scores=self._keep_scores,
                tell=self._tell,
                concurrency=document.limits.concurrency,
                batches=_BATCHES if pool is not WorkerPool or self._asks_judges() else 1,
                halted=self._is_halted,
            )
        left = live.cells - live.done
        if not left:
            return None
        if found.only_scores and self.stop is None:
            return Stop("cancelled", f"{left} cells were never answered; resume it to ask them")
        failed = [lane.stopped for lane in self._lanes if lane.stopped]
        return self.stop or (Stop("failed", "; ".join(failed)) if failed else None)

    async def _load_models(self, cluster: Cluster, *, asks: bool) -> None:
        """Have those loaded that the run asks in its own workers.

        Raises:
            ConfigError: one of them cannot be.
        """
        routes = {*asked_routes(self._document)} if asks else set()
        for metric in self._metrics:
            routes |= {*routes_of(metric)}
        targets = {target for route in routes for target in self._table.first_targets(route)}
        names = [target.model for target in targets if target.provider == IN_PLACE]
        if names:
            assert self._asker.in_place is not None, "else the table has no such target"
            await self._asker.in_place.load(cluster, names)

    def _asks_judges(self) -> bool:
        return any(isinstance(one, JudgeMetric) for one in self._metrics)

    async def _tasks(self, lane: TargetLane) -> AsyncGenerator[CellTask]:
        """The lane's cells, in the order of the dataset."""
        document, route = self._document, lane.route
        cells = len(document.routes) * document.repeats
        async with aclosing(self._store.open_samples(self._run.id, cells)) as open_samples:
            async for one in open_samples:
                if self._lane(route, one.sample) is not lane:
                    continue
                for repeat in range(document.repeats):
                    if (route, repeat) in one.settled:
                        continue
                    cell = Cell(route, one.sample.id, repeat)
                    kept = one.unscored.get((route, repeat))
                    if kept is not None:
                        yield CellTask(cell, one.sample, kept.answer, kept.scores)
                    elif not lane.stopped and not self._run.only_scores:
                        yield CellTask(cell, one.sample)

    async def _brought(self) -> AsyncGenerator[CellTask]:
        """The cells that the dataset has answered, their answers kept."""
        async with aclosing(
            self._store.open_samples(self._run.id, len(self._document.routes))
        ) as open_samples:
            batch: list[CellTask] = []
            async for one in open_samples:
                kept = one.unscored.get((PRECOMPUTED, 0))
                cell = Cell(PRECOMPUTED, one.sample.id, 0)
                if kept is not None:
                    yield CellTask(cell, one.sample, kept.answer, kept.scores)
                elif (PRECOMPUTED, 0) not in one.settled and not self._run.only_scores:
                    batch.append(CellTask(cell, one.sample, _answer_of(one.sample)))
                if len(batch) == _KEPT_AT_ONCE:
                    await self._keep_brought(batch)
                    for task in batch:
                        yield task
                    batch = []
            await self._keep_brought(batch)
            for task in batch:
                yield task

    async def _keep_brought(self, batch: Sequence[CellTask]) -> None:
        await asyncio.gather(
            *(
                self._store.keep_answer(self._run.id, task.cell, "", task.answer, ())
                for task in batch
                if task.answer is not None
            )
        )

    def _lane(self, route: str, sample: Sample) -> TargetLane:
        """The lane that a cell belongs to."""
        return self._by_target[route, self._table.plan(route, share(sample.id, route)).targets[0]]

    async def _complete(self, cell: Cell, sample: Sample, place: LanePlace) -> Answer | Unanswered:
        """Ask, and keep the answer before anybody sees it."""
        run_id, document = self._run.id, self._document
        prepared = self._asker.prepare(
            cell.route, sample, document.parameters, fallback=document.fallback, table=self._table
        )
        known = await self._store.begin(
            run_id,
            cell,
            prepared.hash,
            str(prepared.plan.targets[0]),
            unless_known=document.cache and not self._asker.is_free(prepared),
        )
        if known is not None:
            # It keeps what it once cost, so that routes compare; it is not paid again.
            answer = msgspec.structs.replace(known, cached=True, attempts=0)
            await self._store.keep_answer(run_id, cell, prepared.hash, answer, ())
            return answer
        lane = self._by_target[cell.route, prepared.plan.targets[0]]
        await place.take()
        if lane.stopped or self._is_halted():
            await self._store.withdraw(run_id, cell)
            return Unanswered.DROPPED
        completed = await self._asker.ask(prepared)
        attempts = self._refused.pop(cell, []) + list(completed.attempts)
        if completed.try_later and len(attempts) < TRIES:
            # Nothing was done and nothing was paid for: it is as if it had not been asked.
            place.leave()
            await self._store.withdraw(run_id, cell)
            self._refused[cell] = attempts
            return Unanswered.LATER
        answer = msgspec.structs.replace(completed.answer, attempts=len(attempts))
        self._pay(answer)
        lane.ended(answer)
        # The next request leaves while this answer is on its way to the disk.
        place.leave()
        said = msgspec.to_builtins(attempts)
        await self._store.keep_answer(run_id, cell, prepared.hash, answer, said)
        return answer

    async def _keep_scores(self, scored: Mapping[Cell, tuple[Score, ...]]) -> None:
        await self._store.keep_all_scores(self._run.id, scored)

    def _tell(self, result: CellResult) -> None:
        if result.answer.text is None:
            self._live.failed += 1
        else:
            self._live.answered += 1
            self._live.cached += result.answer.cached
        if self._rule is not None:
            self._count(self._rule, result)
            if why := self._rule.reason():
                self.wind_down("completed", why)

    def _count(self, rule: StopRule, result: CellResult | ScoredAnswer) -> None:
        if result.answer is not None:
            cluster = self._clusters.get(result.cell.sample_id, "")
            rule.add(result.cell, result.answer, result.scores, cluster=cluster)

    async def _watch_for_an_answer(self) -> None:
        """Begin with what is known already."""
        document = self._document
        if document.stop_when is None or self._run.only_scores:
            return
        self._rule = StopRule(
            document.stop_when,
            routes=document.routes,
            outputs=outputs_of(self._metrics),
            baseline=document.baseline,
            repeats=document.repeats,
        )
        self._clusters = await self._store.clusters(self._run.id)
        async with aclosing(self._store.results(self._run.id)) as results:
            async for one in results:
                # What has no scores yet is counted when it has.
                if one.scores or (one.answer is not None and one.answer.text is None):
                    self._count(self._rule, one)
        if why := self._rule.reason():
            self.wind_down("completed", why)

    # When to stop

    def _pay(self, answer: Answer) -> None:
        usage = answer.usage
        parts = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        self._live.cost_usd += answer.cost_usd or 0.0
        self._live.tokens += parts if usage.total_tokens is None else usage.total_tokens

    async def _add_up_what_was_spent(self) -> None:
        """By earlier attempts: limits are of the run. What only scores has them for itself."""
        spent = await self._store.spent(self._run.id)
        self._live.cost_usd, self._live.tokens = spent.cost_usd, spent.tokens
        for use in await self._store.judge_use(self._run.id):
            self._live.cost_usd += use.cost_usd
            self._live.tokens += use.tokens
        for embedded in await self._store.embedding_use(self._run.id):
            self._live.cost_usd += embedded.cost_usd
            self._live.tokens += embedded.tokens
        self._before_s = self._run.ran_s

    def _is_halted(self) -> bool:
        if self.stop is None:
            limits, live = self._document.limits, self._live
            seconds = self._before_s + self._clock() - self._began
            for name, limit, found in (
                ("cost_usd", limits.cost_usd, live.cost_usd),
                ("tokens", limits.tokens, live.tokens),
                ("seconds", limits.seconds, seconds),
            ):
                if limit is not None and found >= limit:
                    why = f"stopped at its limit {name}: {limit:g}; resume it with a higher one"
                    self.wind_down("cancelled", why)
        return self.stop is not None


def _answer_of(sample: Sample) -> Answer:
    """The answer that a sample brings along."""
    if sample.answer is None:
        missing = "the dataset brings no answer for this sample"
        return Answer(text=None, error=missing, error_code="no_answer", attempts=0)
    return Answer(text=sample.answer, target=PRECOMPUTED, attempts=0)


class _Scorers:
    """Scores answers with those metrics of the run whose scores they lack.

    Usually that is every metric. After a rescore it is the new ones only, and what the others need
    is never loaded.
    """

    def __init__(
        self,
        found: Run,
        document: RunDocument,
        metrics: Sequence[AnyMetric],
        stack: AsyncExitStack,
        *,
        embed: Embed,
        bench: JudgeClient,
        pool: Callable[..., Scores],
    ) -> None:
        self._run = found
        self._specs = document.metrics
        self._metrics = metrics
        self._stack = stack
        self._embed = embed
        self._bench = bench
        self._pool = pool
        # Several batches may be scored at a time.
        self._lock = asyncio.Lock()
        self._scorers: dict[tuple[int, ...], Scorer] = {}

    async def scorer(self, wanted: tuple[int, ...]) -> Scorer:
        """The scorer of these metrics, by their places in the document."""
        async with self._lock:
            if wanted not in self._scorers:
                check_signatures(self._run, [self._metrics[n] for n in wanted])
                specs = [self._specs[n] for n in wanted]
                self._scorers[wanted] = await self._stack.enter_async_context(
                    Scorer(
                        specs,
                        answers=self._run.cells,
                        embed=self._embed,
                        judge=self._bench,
                        pool=self._pool,
                    )
                )
        return self._scorers[wanted]

    async def score(self, batch: Sequence[AnsweredItem]) -> list[tuple[Score, ...]]:
        """All scores of each answer, those it had included."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, one in enumerate(batch):
            groups.setdefault(self._lacking(one), []).append(place)
        scores = [one.scores for one in batch]
        for wanted, places in groups.items():
            if not wanted:
                continue
            scorer = await self.scorer(wanted)
            found = await scorer.score([batch[place].item for place in places])
            for place, new in zip(places, found, strict=True):
                scores[place] += new
        return scores

    def _lacking(self, one: AnsweredItem) -> tuple[int, ...]:
        had = {score.output for score in one.scores}
        return tuple(
            n
            for n, metric in enumerate(self._metrics)
            if not had.issuperset(output.name for output in metric.outputs)
        )
