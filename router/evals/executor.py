"""Executes a run: requests the answers that it lacks, scores those without scores.

Read `Replay.execute`. `worker.py` decides which process executes a run and what state it ends in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import NamedTuple

import msgspec

from evaluators.base import (
    PRECOMPUTED,
    Answer,
    AnyMetric,
    Cell,
    Embed,
    JudgeMetric,
    JudgeRequest,
    Sample,
    Score,
)
from evaluators.document import RunDocument
from evaluators.execution.evaluation import AnsweredItem, CellResult, CellTask, Unanswered, run
from evaluators.execution.scheduler import Lane, LanePlace
from evaluators.execution.scoring import Scorer
from evaluators.execution.worker_pool import Scores, WorkerPool
from evaluators.metrics.registry import routes_of
from evaluators.stats.sequential import StopRule
from evaluators.text.answers import SHORTFALLS, read_answer, read_for_scoring, reads_text
from router.config.section import IN_PLACE
from router.evals.cluster import Cluster
from router.evals.concurrency import TRIES
from router.evals.embeddings import EmbeddingClient
from router.evals.judges.requests import JudgeClient
from router.evals.lanes import TargetLane, lanes_of
from router.evals.requests import EvalRequester
from router.evals.results import stop_reason_of
from router.evals.run_log import RunLog
from router.evals.run_spans import RunSpans
from router.evals.spending import total_spending
from router.evals.validation import (
    build_metrics,
    check_signatures,
    lacking_scores,
    outputs_of,
    requested_routes,
)
from router.gateway.routing import share
from router.gateway.spans import SpanSink
from router.records import Attempt
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import Run, RunState

# Batches scored at a time where judges are requested, or a cluster scores.
_BATCHES = 8
# Answers that a dataset brings along, stored in one go.
_PRECOMPUTED_BATCH = 256


class RunProgress(msgspec.Struct):
    """How far a run is that this process executes. Changes as it goes.

    Attributes:
        cells: how many cells the run has.
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
        """Return the number of cells that need no more requests."""
        return self.answered + self.failed


class Stop(NamedTuple):
    """Why a run ends before every cell is done, and the state it ends in."""

    state: RunState
    why: str = ""


# The stop rule has seen enough; whether the report has is still to be found out.
_MAY_STOP = Stop("completed", "stop_when")


class Replay:
    """One attempt at a run.

    Args:
        store: where the run is stored.
        requester: sends its requests.
        run: the run.
        document: the run's.
        live: kept up to date on the way.
        log: the run's.
        traces: get the run's spans; None where none are sent.
        clock: seconds, monotonic.

    Attributes:
        run: as given.
        stop: why no more requests are sent; None while they are.
    """

    def __init__(
        self,
        store: Store,
        requester: EvalRequester,
        run: Run,
        document: RunDocument,
        *,
        live: RunProgress,
        log: RunLog,
        traces: SpanSink | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.run = run
        self._document = document
        self._requester = requester = requester.for_run(document, log)
        self._log = log
        self._metrics = build_metrics(document)
        self._spans: RunSpans | None = None
        if traces is not None and traces.contexts.has_evaluations:
            self._spans = RunSpans(traces, run, document, self._metrics)
        self._live = live
        self._clock = clock
        self._began = clock()
        self._before_s = 0.0
        self.stop: Stop | None = None
        # A route that is changed meanwhile must not change the run.
        self._table = requester.table
        # What only scores needs no route, which may be gone.
        self._lanes: list[TargetLane] = []
        if not run.only_scores:
            self._lanes = lanes_of(document, self._table, requester.pacing)
        self._by_target = {(lane.route, lane.target): lane for lane in self._lanes}
        self._rule: StopRule | None = None
        self._clusters: dict[str, str] = {}
        # The attempts of cells that a rate limit has put off.
        self._refused: dict[Cell, list[Attempt]] = {}

    def wind_down(self, state: RunState, why: str = "") -> None:
        """Send no more requests, finish those in flight. The first reason counts."""
        self.stop = self.stop or Stop(state, why)

    async def execute(self) -> Stop | None:
        """Fill every cell; return why it stopped early, None when it did not.

        Raises:
            ConflictError: a metric that is needed is not what it was.
        """
        stored, document, live = self.run, self._document, self._live
        while await self._store.unscore_some(stored.id):
            pass
        before = await self._store.progress(stored.id)
        live.cells, live.answered, live.failed = stored.cells, before.scored, before.failed
        if not stored.only_scores:
            await self._add_earlier_spending()
        await self._start_stop_rule()
        requests = before.answered + before.failed < stored.cells and not stored.only_scores
        async with AsyncExitStack() as stack:
            pool: Callable[..., Scores] = WorkerPool
            if document.execution != "local":
                cluster = await stack.enter_async_context(
                    Cluster(document.execution, on_output=self._log.add_output)
                )
                pool = cluster.pool
                await self._load_models(cluster, requests=requests)
            scorers = self._scorers(stack, pool)
            if requests:
                # What cannot be loaded is to be reported before anything is paid for.
                await scorers.scorer(tuple(range(len(self._metrics))))
            going = True
            while going:
                await run(
                    self._task_lanes(),
                    complete=self._complete,
                    score=scorers.score,
                    store_scores=self._store_scores,
                    on_result=self._count_result,
                    concurrency=document.limits.concurrency,
                    batches=_BATCHES if pool is not WorkerPool or self._has_judges() else 1,
                    halted=self._is_halted,
                )
                going = self.stop is _MAY_STOP and not await self._is_answered()
        left = live.cells - live.done
        if not left:
            return None
        if stored.only_scores and self.stop is None:
            return Stop("cancelled", f"{left} cells were never answered; resume it to request them")
        failed = [lane.stopped for lane in self._lanes if lane.stopped]
        return self.stop or (Stop("failed", "; ".join(failed)) if failed else None)

    def _task_lanes(self) -> list[Lane[CellTask]]:
        if self.run.only_scores:
            return [Lane(self._answered())]
        return [Lane(self._tasks(lane), lane) for lane in self._lanes] + [
            Lane(self._precomputed()) for route in self._document.routes if route == PRECOMPUTED
        ]

    def _scorers(self, stack: AsyncExitStack, pool: Callable[..., Scores]) -> _Scorers:
        spans = self._spans
        embed = EmbeddingClient(
            self._store,
            self._requester,
            self.run.id,
            pay=self._pay,
            new_trace=_no_trace if spans is None else spans.embedding_trace,
        )
        judges = JudgeClient(
            self._store,
            self._requester,
            self.run.id,
            concurrency=self._document.limits.concurrency,
            share=self._document.uses_run_cache,
            pay=self._pay,
            trace_of=_no_trace if spans is None else spans.judge_trace,
        )
        return _Scorers(
            self.run,
            self._document,
            self._metrics,
            stack,
            embed=embed,
            judges=judges,
            pool=pool,
            on_output=self._log.add_output,
        )

    async def _load_models(self, cluster: Cluster, *, requests: bool) -> None:
        """Load the models that the run requests in its own workers.

        Raises:
            ConfigError: one of them cannot be loaded.
        """
        routes = {*requested_routes(self._document)} if requests else set()
        for metric in self._metrics:
            routes |= {*routes_of(metric)}
        targets = {target for route in routes for target in self._table.first_targets(route)}
        names = [target.model for target in targets if target.provider == IN_PLACE]
        if names:
            assert self._requester.in_place is not None, "else the table has no such target"
            await self._requester.in_place.load(cluster, names)

    def _has_judges(self) -> bool:
        return any(isinstance(metric, JudgeMetric) for metric in self._metrics)

    async def _tasks(self, lane: TargetLane) -> AsyncGenerator[CellTask]:
        """Yield the lane's cells, in the order of the dataset."""
        document, route = self._document, lane.route
        cells = len(document.routes) * document.repeats
        async with aclosing(self._store.open_samples(self.run.id, cells)) as open_samples:
            async for entry in open_samples:
                if self._lane(route, entry.sample) is not lane:
                    continue
                for repeat in range(document.repeats):
                    if (route, repeat) in entry.settled:
                        continue
                    cell = Cell(route, entry.sample.id, repeat)
                    stored = entry.unscored.get((route, repeat))
                    if stored is not None:
                        yield self._scorable(cell, entry.sample, stored.answer, stored.scores)
                    elif not lane.stopped:
                        yield CellTask(cell, entry.sample)

    def _scorable(
        self, cell: Cell, sample: Sample, answer: Answer | None, scores: tuple[Score, ...] = ()
    ) -> CellTask:
        """Return the task of scoring a stored answer."""
        if self._spans is not None and answer is not None:
            self._spans.rescored(cell, sample, answer, scores)
        return CellTask(cell, sample, answer, scores)

    async def _answered(self) -> AsyncGenerator[CellTask]:
        """Yield the cells whose answers lack scores, in the order of the dataset."""
        cells = len(self._document.routes) * self._document.repeats
        async with aclosing(self._store.open_samples(self.run.id, cells)) as open_samples:
            async for entry in open_samples:
                for (route, repeat), stored in entry.unscored.items():
                    cell = Cell(route, entry.sample.id, repeat)
                    yield self._scorable(cell, entry.sample, stored.answer, stored.scores)

    async def _precomputed(self) -> AsyncGenerator[CellTask]:
        """Yield the cells that the dataset has answered, their answers stored."""
        cells = len(self._document.routes)
        async with aclosing(self._store.open_samples(self.run.id, cells)) as open_samples:
            batch: list[CellTask] = []
            async for entry in open_samples:
                stored = entry.unscored.get((PRECOMPUTED, 0))
                cell = Cell(PRECOMPUTED, entry.sample.id, 0)
                if stored is not None:
                    yield self._scorable(cell, entry.sample, stored.answer, stored.scores)
                elif (PRECOMPUTED, 0) not in entry.settled:
                    answer = await self._read(_answer_of(entry.sample))
                    batch.append(self._scorable(cell, entry.sample, answer))
                if len(batch) == _PRECOMPUTED_BATCH:
                    await self._store_precomputed(batch)
                    for task in batch:
                        yield task
                    batch = []
            await self._store_precomputed(batch)
            for task in batch:
                yield task

    async def _store_precomputed(self, batch: Sequence[CellTask]) -> None:
        await asyncio.gather(
            *(
                self._store.keep_answer(self.run.id, task.cell, "", task.answer, ())
                for task in batch
                if task.answer is not None
            )
        )

    def _lane(self, route: str, sample: Sample) -> TargetLane:
        """Return the lane that a cell belongs to."""
        return self._by_target[route, self._table.plan(route, share(sample.id, route)).targets[0]]

    async def _complete(self, cell: Cell, sample: Sample, place: LanePlace) -> Answer | Unanswered:
        """Request an answer, and store it before anything else is done with it."""
        run_id, document, spans = self.run.id, self._document, self._spans
        if spans is not None:
            spans.begin(cell, sample)
        prepared = self._requester.prepare(
            cell.route, sample, document.parameters, fallback=document.fallback, table=self._table
        )
        known = await self._store.begin(
            run_id,
            cell,
            prepared.hash,
            str(prepared.plan.targets[0]),
            unless_known=document.uses_run_cache and not self._requester.is_free(prepared),
        )
        if spans is not None and document.uses_run_cache:
            spans.cache_read(cell, hit=known is not None)
        if known is not None:
            # Its cost stays, so that routes compare, although it is not paid again.
            answer = msgspec.structs.replace(known, attempts=0)
            answer = await self._read(answer)
            await self._store.keep_answer(run_id, cell, prepared.hash, answer, ())
            if spans is not None:
                spans.answered(cell, answer)
            return answer
        lane = self._by_target[cell.route, prepared.plan.targets[0]]
        await place.take()
        if lane.stopped or self._is_halted():
            await self._store.withdraw(run_id, cell)
            if spans is not None:
                spans.forget(cell)
            return Unanswered.DROPPED
        refused = self._refused.get(cell, [])
        trace = None if spans is None else spans.request_trace(cell)
        completed = await self._requester.ask(prepared, tries=TRIES - len(refused), trace=trace)
        self._refused.pop(cell, None)
        attempts = refused + list(completed.attempts)
        if completed.try_later and len(attempts) < TRIES:
            # Nothing was done and nothing was paid for, as if it had not been sent.
            place.leave()
            await self._store.withdraw(run_id, cell)
            self._refused[cell] = attempts
            return Unanswered.LATER
        answer = msgspec.structs.replace(completed.answer, attempts=len(attempts))
        answer = await self._read(answer)
        self._pay(answer)
        lane.ended(answer)
        # The next request leaves while this answer is on its way to the disk.
        place.leave()
        await self._store.keep_answer(
            run_id, cell, prepared.hash, answer, msgspec.to_builtins(attempts)
        )
        if spans is not None:
            spans.answered(cell, answer)
        return answer

    async def _read(self, answer: Answer) -> Answer:
        """Split off thoughts; on a thread where the user's own pattern finds them."""
        rules = self._document.answer
        if isinstance(rules.strip_thinking, str):
            return await asyncio.to_thread(read_answer, answer, rules)
        return read_answer(answer, rules)

    async def _store_scores(self, scored: Mapping[Cell, tuple[Score, ...]]) -> None:
        await self._store.keep_scores(self.run.id, scored)

    def _count_result(self, result: CellResult) -> None:
        if result.answer.text is None:
            self._live.failed += 1
        else:
            self._live.answered += 1
            self._live.cached += result.answer.cached
        if self._spans is not None:
            self._spans.ended(result)
        if self._rule is not None:
            self._feed(self._rule, result)
            self._obey_rule(self._rule)

    def trace_end(self, stop: Stop, at: float) -> None:
        """Send the run's own span, once it has ended for good."""
        if self._spans is not None:
            self._spans.run_ended(stop.state, stop.why, at, self._live.answered, self._live.failed)

    def _obey_rule(self, rule: StopRule) -> None:
        """Wind down once the rule says that the run's question may be answered."""
        if self.stop is None and rule.may_stop():
            self.stop = _MAY_STOP

    async def _is_answered(self) -> bool:
        """Say whether the report shows what the stop rule saw; go on where it does not.

        What was in flight has come in since, and the report may see more than the rule does.
        """
        assert self._rule is not None, "it has stopped the run"
        why = await stop_reason_of(self._store, self.run, self._document, self._metrics)
        if self.stop is not _MAY_STOP:
            return True  # meanwhile the run has been stopped for another reason
        self.stop = Stop("completed", why) if why else None
        self._rule.postpone()
        return bool(why)

    def _feed(self, rule: StopRule, result: CellResult | ScoredAnswer) -> None:
        if result.answer is not None:
            cluster = self._clusters.get(result.cell.sample_id, "")
            rule.add(result.cell, result.answer, result.scores, cluster=cluster)

    async def _start_stop_rule(self) -> None:
        """Give the run's `stop_when` the results that the store has."""
        document = self._document
        if document.stop_when is None or self.run.only_scores:
            return
        self._rule = StopRule(
            document.stop_when,
            routes=document.routes,
            outputs=outputs_of(self._metrics),
            baseline=document.baseline,
            repeats=document.repeats,
        )
        self._clusters = await self._store.clusters(self.run.id)
        async with aclosing(self._store.results(self.run.id)) as results:
            async for result in results:
                # What has no scores yet is counted when it has.
                failed = result.answer is not None and result.answer.text is None
                if result.scores or failed:
                    self._feed(self._rule, result)
        self._obey_rule(self._rule)

    # When to stop

    def _pay(self, answer: Answer) -> None:
        usage = answer.usage
        parts = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        self._live.cost_usd += answer.cost_usd or 0.0
        self._live.tokens += parts if usage.total_tokens is None else usage.total_tokens

    async def _add_earlier_spending(self) -> None:
        """Count what earlier attempts took, because limits hold for the run as a whole.

        A rescore has them to itself.
        """
        spent = await total_spending(self._store, self.run.id)
        self._live.cost_usd, self._live.tokens = spent.cost_usd, spent.tokens
        self._before_s = self.run.ran_s

    def _is_halted(self) -> bool:
        if self.stop is None:
            limits, live = self._document.limits, self._live
            seconds = self._before_s + self._clock() - self._began
            for name, limit, used in (
                ("cost_usd", limits.cost_usd, live.cost_usd),
                ("tokens", limits.tokens, live.tokens),
                ("seconds", limits.seconds, seconds),
            ):
                if limit is not None and used >= limit:
                    why = f"stopped at its limit {name}: {limit:g}; resume it with a higher one"
                    self.wind_down("cancelled", why)
        return self.stop is not None


def _no_trace(*_: JudgeRequest) -> None:
    return None


def _answer_of(sample: Sample) -> Answer:
    """Return the answer that a sample brings along."""
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
        run: Run,
        document: RunDocument,
        metrics: Sequence[AnyMetric],
        stack: AsyncExitStack,
        *,
        embed: Embed,
        judges: JudgeClient,
        pool: Callable[..., Scores],
        on_output: Callable[[bytes], bytes],
    ) -> None:
        self._run = run
        self._specs = document.metrics
        self._rules = document.answer
        self._on_truncated = document.on_truncated
        self._metrics = metrics
        self._stack = stack
        self._embed = embed
        self._judges = judges
        self._pool = pool
        self._on_output = on_output
        # Several batches may be scored at a time.
        self._lock = asyncio.Lock()
        self._scorers: dict[tuple[int, ...], Scorer] = {}

    async def scorer(self, indexes: tuple[int, ...]) -> Scorer:
        """Return the scorer of these metrics, by their indexes in the document."""
        async with self._lock:
            if indexes not in self._scorers:
                metrics = [self._metrics[n] for n in indexes]
                check_signatures(self._run, metrics)
                self._scorers[indexes] = await self._stack.enter_async_context(
                    Scorer(
                        [self._specs[n] for n in indexes],
                        metrics=metrics,
                        answers=self._run.cells,
                        embed=self._embed,
                        judge=self._judges,
                        pool=self._pool,
                        on_output=self._on_output,
                    )
                )
        return self._scorers[indexes]

    async def score(self, batch: Sequence[AnsweredItem]) -> list[tuple[Score, ...]]:
        """Return all scores of each answer, those it had included."""
        # Answers of earlier runs were stored as they came.
        answers = await asyncio.to_thread(self._read, [answered.item.answer for answered in batch])
        groups: dict[tuple[int, ...], list[int]] = {}
        scores = [answered.scores for answered in batch]
        for n, answered in enumerate(batch):
            indexes = lacking_scores(self._metrics, answered.scores)
            if answers[n].shortfall and self._on_truncated == "exclude":
                scores[n] += self._excluded(indexes, answers[n].shortfall)
                indexes = tuple(at for at in indexes if not reads_text(self._metrics[at]))
            groups.setdefault(indexes, []).append(n)
        for indexes, members in groups.items():
            if not indexes:
                continue
            scorer = await self.scorer(indexes)
            added = await scorer.score([batch[n].item._replace(answer=answers[n]) for n in members])
            for n, new in zip(members, added, strict=True):
                scores[n] += new
        return scores

    def _read(self, answers: Sequence[Answer]) -> list[Answer]:
        """Read answers by the run's rules."""
        return [read_for_scoring(answer, self._rules, self._on_truncated) for answer in answers]

    def _excluded(self, indexes: tuple[int, ...], shortfall: str) -> tuple[Score, ...]:
        """Return scores without a value for the metrics that would read the text."""
        why = f"answers that {SHORTFALLS[shortfall]} are excluded (on_truncated)"
        return tuple(
            Score(output=output.name, value=None, error=why)
            for at in indexes
            if reads_text(self._metrics[at])
            for output in self._metrics[at].outputs
        )
