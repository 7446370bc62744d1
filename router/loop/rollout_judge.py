"""Has a judge score answers of rollouts, once clients have them.

    judging = RolloutJudging(store, assignments, routes, requester, allowed=config.evaluation)
    await judging.open()
    watch = judging.watched["chat"]
    watch.wants(route, record_id, ...)             # on the hot path: is this request drawn?
    judging.after(record)                          # later: it has ended, and here are its bodies
    await judging.close()

Which requests of the rollout's sample are scored is drawn by a hash of their ids, whichever arm
they are in, and the judge sees the conversation and the answer alone. A score reaches the rules as
feedback does: as a value of its request that came later. Each process scores the requests that it
has served; what waits when a process ends has no score.

Texts wait in memory, for a minute at most, and go to the judge only while the store has their
request, so that what was deleted is not sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from evaluators.base import PRECOMPUTED, Judgement, JudgeRequest, Scorable
from evaluators.document import RunDocument
from evaluators.judge.graded import Graded
from providers.errors import EvalrouterError, RequestError, StoreError
from providers.off_loop import off_loop
from router.config.evaluation import Evaluation
from router.config.rollouts import JUDGE, JUDGE_SENDER, RolloutJudge, RolloutSettings
from router.config.routes import Route
from router.config.shadow import NO_REFERENCES, answering, not_named
from router.evals.confinement import confine
from router.evals.requests import EvalRequester
from router.evals.validation import build_metrics, resolve_metrics
from router.gateway.route_table import Routes
from router.gateway.spans import EvaluationResult, SpanSink
from router.loop.assignment import Assignments
from router.loop.live_pairs import IncomparableError, pair_of
from router.loop.rollout_plan import is_judged, settings_of
from router.loop.sampling import RequestSample
from router.records import Record, Trace, new_span_id
from router.rounds import ErrorLog, Rounds
from router.store.keys import KeyStore
from router.store.protocol import Store
from router.store.rollouts import JudgedRequests, Rollout, RolloutScore

log = logging.getLogger("evalrouter")

TICK_S = 1.0
DAY_S = 86400.0
# A request waits so long for its turn at most, and for being stored.
MAX_WAIT_S = 60.0
BUFFERED_BYTES = 64 * 2**20
# Until the next try, where the judge failed; doubled each time.
RETRY_S, RETRY_MAX_S, MAX_FAILURES = 5.0, 300.0, 10
# So many requests beyond four times those that may be sent are looked up at a time.
MORE = 16
# Rounds are a little more than a second apart.
SLACK_S = 0.1


async def judge_metric(judge: RolloutJudge, allowed: Evaluation) -> Graded:
    """Return the metric of a rollout's judge.

    Raises:
        EvalrouterError: there is no such metric, a server may not open what it names, or it does
            not score single answers without a reference.
    """
    document = RunDocument(dataset="rollout", routes=(PRECOMPUTED,), metrics=(judge.metric,))
    document = await confine(document, allowed, datasets=None)
    [metric] = build_metrics(resolve_metrics(document, Path.cwd()))
    if not isinstance(metric, Graded):
        raise RequestError(
            f"{metric.name} has no judge that scores an answer by itself; judge and prometheus have"
        )
    if metric.needs_reference:
        raise RequestError(f"{metric.name} {NO_REFERENCES}")
    return metric


def unshared_judge(metric: Graded, route: Route, routes: Mapping[str, Route]) -> Iterator[str]:
    """Yield a message for each provider of a judge that may not see a route's texts."""
    models = answering(metric.judges, routes)
    yield from not_named(models, route.share_bodies_with, JUDGE_SENDER)


def scale_problems(metric: Graded, settings: RolloutSettings) -> Iterator[tuple[str, str]]:
    """Yield where a signal does not fit the judge's scores: the key of the settings, and why."""
    low, high = metric.scale
    is_better = next(
        output.higher_is_better for output in metric.outputs if output.name == metric.score_name
    )
    for n, signal in enumerate(settings.signals):
        if signal.measure != JUDGE:
            continue
        if signal.low > low or signal.high < high:
            yield (
                f"signals.{n}.low",
                f"{metric.name} scores from {low:g} to {high:g}; set low and high so",
            )
        if is_better is not None and is_better != (signal.better != "lower"):
            better = "higher" if is_better else "lower"
            yield f"signals.{n}.better", f"{better} scores of {metric.name} are better"


class _Active(NamedTuple):
    """What is needed of a rollout whose answers are judged."""

    rollout: str
    route: str
    judge: RolloutJudge
    sample: RequestSample
    metric: Graded
    excluded: frozenset[str]
    is_over_budget: bool

    def wants(self, _: Route, record_id: str, *, key_id: str, stored: bool) -> bool:
        """Return whether a request of the rollout's sample is drawn."""
        return stored and key_id not in self.excluded and self.sample.has(record_id)


class _Waiting(NamedTuple):
    """A request that waits for the judge, since a moment."""

    record: Record
    size: int
    since: float


class _Queue:
    """What a process does for one rollout.

    Attributes:
        waiting: requests that wait for the judge.
        tasks: those that are judged now.
        slots: limits them.
        failures: how often the judge has failed since its last answer, at one time or another.
        retry_at: when it may have its next request after that.
        next_at: when the next ones may be sent by `limits.rps`.
        counts: what became of requests, and what that cost, not stored yet.
    """

    def __init__(self, concurrency: int) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.slots = asyncio.Semaphore(concurrency)
        self.failures = 0
        self.retry_at = 0.0
        self.next_at = 0.0
        self.counts: Counter[str] = Counter()
        self.usd: dict[str, float] = defaultdict(float)

    def take(self, size: int) -> list[_Waiting]:
        """Remove requests from the front."""
        return [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]


class RolloutJudging:
    """Scores answers of the rollouts that have a judge. See `router.gateway.hooks.AnswerHook`.

    Args:
        store: takes the scores.
        assignments: say which rollouts there are.
        routes: the routes as they are.
        requester: sends requests to judges, in the traffic class of evaluations.
        allowed: what a judge's metric may open.
        traces: get the scores, and spans of the judges; None where none are sent.
        clock: seconds since the epoch.

    Attributes:
        watched: what is needed of the routes whose answers are judged.
        totals: how many requests of a route had which outcome, since the process began.
    """

    def __init__(
        self,
        store: Store,
        assignments: Assignments,
        routes: Routes,
        requester: EvalRequester,
        *,
        allowed: Evaluation,
        traces: SpanSink | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._traces = traces
        self._assignments = assignments
        self._routes = routes
        self._requester = requester
        self._allowed = allowed
        self._clock = clock
        self.watched: Mapping[str, _Active] = {}
        self._queues: dict[str, _Queue] = {}
        self._metrics: dict[str, Graded] = {}
        self._bytes = 0
        self._rounds = Rounds(
            self.run_once,
            every=TICK_S,
            name="evalrouter-rollout-judges",
            failing="judges of rollouts wait",
        )
        self._log = ErrorLog()
        self.totals: Counter[tuple[str, str]] = Counter()

    async def open(self) -> None:
        """Begin."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop; what waits has no score."""
        await self._rounds.close()
        tasks = [task for queue in self._queues.values() for task in queue.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(EvalrouterError):
            await self._flush()

    # the hot path

    def after(self, record: Record) -> None:
        """Take a request that was drawn, where it is part of the rollout; never blocks."""
        active = self.watched.get(record.route)
        if active is None or record.rollout != active.rollout:
            return
        queue = self._queues[active.rollout]
        size = len(record.request or b"") + len(record.response or b"")
        if active.is_over_budget:
            self._count(active, "over_budget")
        elif (
            len(queue.waiting) >= active.judge.limits.waiting or self._bytes + size > BUFFERED_BYTES
        ):
            self._count(active, "shed")
        else:
            queue.waiting.append(_Waiting(record, size, self._clock()))
            self._bytes += size

    def _count(self, active: _Active, outcome: str, *, usd: float = 0.0) -> None:
        queue = self._queues[active.rollout]
        queue.counts[outcome] += 1
        queue.usd[outcome] += usd
        self.totals[active.route, outcome] += 1

    # off the hot path

    async def run_once(self) -> None:
        """Do what is done about once a second: follow the rollouts, and send what waits.

        Raises:
            StoreError: the database does not work.
        """
        if not self._queues and not any(map(_is_judged, self._assignments.active.values())):
            return
        await self._flush()
        await self._follow()
        for active in self.watched.values():
            await self._send(active)

    async def idle(self) -> None:
        """Wait until what was sent has been answered, and store what became of it."""
        await asyncio.gather(*(task for queue in self._queues.values() for task in queue.tasks))
        await self._flush()

    async def _flush(self) -> None:
        """Store what became of requests."""
        day = self._day()
        for rollout_id, queue in [*self._queues.items()]:
            counts, queue.counts = queue.counts, Counter()
            usd, queue.usd = queue.usd, defaultdict(float)
            judged = [
                JudgedRequests(day=day, outcome=outcome, requests=number, usd=usd[outcome])
                for outcome, number in counts.items()
            ]
            try:
                await self._store.add_judged(rollout_id, judged)
            except StoreError:
                queue.counts.update(counts)
                for outcome, each in usd.items():
                    queue.usd[outcome] += each
                raise

    async def _follow(self) -> None:
        """Learn which rollouts have a judge that may score their answers."""
        active: dict[str, _Active] = {}
        for name, rollout in self._assignments.active.items():
            if not _is_judged(rollout):
                continue
            try:
                active[name] = await self._made(rollout)
                self._log.forget(name)
            except RequestError as error:
                self._log.error(name, f"{rollout.id} is not judged: {error.message}")
        before, self.watched = self.watched, active
        ids = {each.rollout for each in active.values()}
        for each in before.values():
            if each.rollout not in ids:
                self._drop(each, "stopped")
        for rollout_id in [*self._queues]:
            queue = self._queues[rollout_id]
            if rollout_id not in ids and not queue.tasks and not queue.counts:
                del self._queues[rollout_id]
                self._metrics.pop(rollout_id, None)

    async def _made(self, rollout: Rollout) -> _Active:
        """Return what is needed of a rollout. Raises RequestError where its judge must not be."""
        judge = settings_of(rollout).judge
        assert judge is not None, "the caller has seen it"
        metric = self._metrics.get(rollout.id)
        if metric is None:
            metric = self._metrics[rollout.id] = await judge_metric(judge, self._allowed)
        routes = self._routes.table.routes
        if rollout.route in routes:
            for message in unshared_judge(metric, routes[rollout.route], routes):
                raise RequestError(f"share_bodies_with: {message}")
        self._queues.setdefault(rollout.id, _Queue(judge.limits.concurrency))
        judged = await self._store.judged(rollout.id)
        spent = sum(each.usd for each in judged if each.day == self._day())
        return _Active(
            rollout.id,
            rollout.route,
            judge,
            RequestSample(judge.sample, rollout.id),
            metric,
            await excluded_keys(judge, self._store),
            spent >= judge.limits.usd_per_day,
        )

    def _day(self) -> float:
        return self._clock() // DAY_S * DAY_S

    def _drop(self, active: _Active, outcome: str) -> None:
        queue = self._queues[active.rollout]
        for each in queue.take(len(queue.waiting)):
            self._bytes -= each.size
            self._count(active, outcome)

    async def _send(self, active: _Active) -> None:
        """Send what may be sent now to the judge."""
        queue, limits = self._queues[active.rollout], active.judge.limits
        if active.is_over_budget:
            self._drop(active, "over_budget")
        now = self._clock()
        waiting = queue.take(len(queue.waiting))
        for each in waiting:
            if each.since < now - MAX_WAIT_S:
                self._bytes -= each.size
                self._count(active, "shed")
            else:
                queue.waiting.append(each)
        a_tick = max(1, int(limits.rps * TICK_S))
        free = max(a_tick, limits.concurrency) - len(queue.tasks)
        size = 1 if queue.failures else min(free, a_tick)
        if (
            now < max(queue.next_at, queue.retry_at)
            or size > free
            or size <= 0
            or not queue.waiting
        ):
            return
        # More than are sent, because some may not be stored yet, and those that are deleted never.
        first = queue.take(4 * size + MORE)
        numbers = await self._store.rollout_request_numbers(
            active.rollout, [each.record.id for each in first]
        )
        known = [each for each in first if each.record.id in numbers]
        queue.waiting.extendleft(reversed(known[size:]))
        queue.waiting.extend(each for each in first if each.record.id not in numbers)
        chosen = known[:size]
        queue.next_at = now + len(chosen) / limits.rps - SLACK_S
        for each in chosen:
            judging = self._judge(active, each, numbers[each.record.id])
            task = asyncio.create_task(judging, name=f"judge {each.record.id}")
            queue.tasks.add(task)
            task.add_done_callback(partial(self._judged, queue, each.size))

    def _judged(self, queue: _Queue, size: int, task: asyncio.Task[None]) -> None:
        queue.tasks.discard(task)
        self._bytes -= size

    async def _judge(self, active: _Active, waiting: _Waiting, number: int) -> None:
        """Have an answer scored, and store the score."""
        queue = self._queues[active.rollout]
        outcome, usd = "error", 0.0
        async with queue.slots:
            try:
                scorable = await off_loop(waiting.size, _scorable, waiting.record, active)
                value, usd = await self._score(queue, active, scorable, waiting.record.trace)
                if value is not None:
                    self._trace_score(active, value, waiting.record.trace)
                    score = RolloutScore(
                        request=number, signal=JUDGE, source="", value=value, at=self._clock()
                    )
                    await self._store.keep_rollout_scores(active.rollout, [score])
                    outcome = "scored"
            except IncomparableError:
                outcome = "unjudgeable"
            except EvalrouterError as error:
                log.error("%s: a score is lost: %s", active.rollout, error.message)
            except Exception:
                log.exception("the request %s could not be judged", waiting.record.id)
        self._count(active, outcome, usd=usd)

    async def _score(
        self, queue: _Queue, active: _Active, scorable: Scorable, live: Trace | None
    ) -> tuple[float | None, float]:
        """Return the judge's score, None where it gave none, and what it cost in US dollars."""
        metric = active.metric
        costs: list[float] = []
        failed = False

        async def ask(request: JudgeRequest) -> Judgement:
            nonlocal failed
            prepared = self._requester.prepare_judge_request(request)
            trace = self._judge_trace(active, live)
            judgement = await self._requester.ask_judge(prepared, trace=trace)
            costs.append(judgement.answer.cost_usd or 0.0)
            failed = failed or judgement.answer.error is not None
            return judgement

        [scores] = await metric.judge([scorable], ask)
        value = next(score.value for score in scores if score.output == metric.score_name)
        if value is not None:
            queue.failures = 0
        elif failed and self._clock() >= queue.retry_at:
            # Once for all that were in flight.
            pause = min(RETRY_MAX_S, RETRY_S * 2.0**queue.failures)
            queue.failures = min(queue.failures + 1, MAX_FAILURES)
            queue.retry_at = self._clock() + pause
        return value, sum(costs)

    def _judge_trace(self, active: _Active, live: Trace | None) -> Trace | None:
        """Return the trace for a request to the judge: below the live request's span."""
        if self._traces is None or live is None:
            return None
        trace = self._traces.contexts.below(live, new_span_id())
        trace.attributes["evalrouter.rollout"] = active.rollout
        trace.attributes["evalrouter.metric"] = active.metric.name
        return trace

    def _trace_score(self, active: _Active, value: float, live: Trace | None) -> None:
        if self._traces is not None and live is not None:
            score = EvaluationResult(active.metric.score_name, value, annotator="LLM")
            attributes = {"evalrouter.rollout": active.rollout}
            self._traces.evaluate("rollout score", live, [score], self._clock(), attributes)


def _is_judged(rollout: Rollout) -> bool:
    """Return whether a rollout counts scores of a judge now."""
    return rollout.state in ("running", "holding") and is_judged(settings_of(rollout))


def _scorable(record: Record, active: _Active) -> Scorable:
    """Return what the judge gets of a request. Raises IncomparableError where that is nothing."""
    pair = pair_of(record, candidates=(), keep_texts=False, salt=active.rollout)
    if problem := active.metric.sample_error(pair.sample):
        raise IncomparableError(problem)
    return Scorable(pair.sample, pair.answer)


async def excluded_keys(judge: RolloutJudge, store: KeyStore) -> frozenset[str]:
    """Return the ids of the keys whose requests a judge never gets.

    Raises:
        RequestError: no key has one of their names, which may be misspelt.
    """
    if not judge.exclude_keys:
        return frozenset()
    ids = {row.name: row.id for row in (await store.keys()).by_hash.values()}
    for name in judge.exclude_keys:
        if name not in ids:
            raise RequestError(f"judge.exclude_keys: no key is named {name!r}")
    return frozenset(ids[name] for name in judge.exclude_keys)
