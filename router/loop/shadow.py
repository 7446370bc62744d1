"""Shadows: a route's requests go to candidates too, and the answers are compared pair by pair.

    shadows = Shadows(store, ...)
    await shadows.open()
    watch = shadows.watched["chat"]
    watch.wants(route, record_id, ...)             # on the hot path: is this request to be sent?
    shadows.after(record)                          # later: it has ended, and here are its bodies
    await shadows.report("chat")

A shadow is a run whose dataset grows: see `store/shadows.py`. Every process draws its requests by
the same hash and stores the pairs. One process at a time, which has the lease, makes samples of
them and executes the run, as any run is executed: an answer is stored before it is scored, no
finished request is sent again after a crash, and what the run has cost is read from the store. So
a budget holds for all processes and over restarts.

Requests go out after the client has its answer, in the traffic class of evaluations, which has
breakers and retries of its own and gets a place at a target only when no live request waits for
one. Tool calls are read and never executed.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from evaluators.base import PRECOMPUTED
from evaluators.document import RunDocument, RunLimits
from evaluators.reports.report import Report
from providers.errors import (
    ConfigError,
    ConflictError,
    EvalrouterError,
    NotFoundError,
    RequestError,
    StoreError,
)
from providers.off_loop import off_loop
from router.config.evaluation import Evaluation
from router.config.routes import Route
from router.config.shadow import NO_REFERENCES, Shadow, unshared
from router.evals.confinement import confine
from router.evals.judges.report import JudgeReport
from router.evals.lease import stale_after
from router.evals.requests import EvalRequester
from router.evals.runs import Runs, new_id
from router.evals.stored_runs import cost_of, embeddings_cost_of
from router.evals.validation import build_metrics, check_document, resolve_metrics
from router.evals.worker import Jobs
from router.gateway.route_table import Routes
from router.gateway.routing import Table
from router.loop.live_pairs import IncomparableError, pair_of
from router.loop.sampling import TrafficSample
from router.records import Record, Target
from router.rounds import ErrorLog, Rounds
from router.sealing.deletion import Deletion, delete_rows
from router.store.leases import Lease
from router.store.protocol import Store
from router.store.runs import Run
from router.store.shadows import SHADOW_DATASET, ShadowPair, ShadowRow, ShadowState, TakenPairs
from router.store.traffic import TrafficFilter

log = logging.getLogger("evalrouter")

LEASE = "shadows"
LEASE_S = 10.0
TICK_S = 1.0
DAY_S = 86400.0
# Requests that become samples at a time: as many as may be sent in so many seconds.
BATCH_S, BATCH = 10.0, 64
# Pairs of a process that are on their way into the store.
BUFFERED, BUFFERED_BYTES = 256, 64 * 2**20
# A pair is tried so often, and not after this time; so long one waits at most.
MAX_TRIES = 3
MAX_WAIT_S = 3600.0
# Until the next try, where every candidate or judge failed; doubled each time.
RETRY_S, RETRY_MAX_S = 5.0, 300.0
PRUNE_EVERY_S = 600.0
FORGET_AT_ONCE = 200

_OVER_BUDGET = "its money for today is spent (limits.usd_per_day)"
_FAILING = "every candidate or judge that was requested failed; it is tried again soon"

Condition = Literal["running", "paused", "blocked"]


class ShadowFunnel(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests of a route were judged, and why the others were not.

    Attributes:
        requests: all of them, since the shadow's run began.
        not_sampled: were not drawn.
        excluded: had `store: false`, or a key that is excluded.
        paused: came while the shadow was paused.
        over_budget: came, or still waited, when the day's money was spent.
        shed: found the queue full.
        unjudgeable: cannot be compared, by the reasons in `why_unjudgeable`.
        error: a candidate or a judge failed, or they waited for more than an hour.
        stopped: waited when the shadow ended, or another run took its place.
        deleted: were deleted on demand before they were scored.
        waiting: wait to be sent, or are under way.
        scored: were answered by every candidate, and scored.
        why_unjudgeable: `tool_calls`, `truncated`, `empty`, `failed` (the live request), `path`
            (other than chat completions), `several_answers`, `same_target` (a candidate answered
            the client), `too_long`, `unreadable`, or `candidate` (which gave no text).
    """

    requests: int
    not_sampled: int
    excluded: int
    paused: int
    over_budget: int
    shed: int
    unjudgeable: int
    error: int
    stopped: int
    deleted: int
    waiting: int
    scored: int
    why_unjudgeable: dict[str, int]

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> ShadowFunnel:
        """Return the funnel of what the store has counted."""
        prefix = "unjudgeable:"
        why = {
            reason.removeprefix(prefix): number
            for reason, number in counts.items()
            if reason.startswith(prefix)
        }
        if counts.get("unjudgeable"):
            why["candidate"] = counts["unjudgeable"]
        named = {
            name: counts.get(name, 0)
            for name in cls.__struct_fields__
            if name not in {"requests", "unjudgeable", "waiting", "why_unjudgeable"}
        }
        return cls(
            **named,
            requests=sum(counts.values()),
            unjudgeable=sum(why.values()),
            waiting=counts.get("waiting", 0) + counts.get("taken", 0),
            why_unjudgeable=dict(sorted(why.items())),
        )


class ShadowView(msgspec.Struct, frozen=True, kw_only=True):
    """A shadow of a route.

    Attributes:
        route: the name of the route.
        state: `running`, `paused` by a person, or `blocked` (see there).
        reason, changed_by, changed_at: why a person paused or resumed it, the id of their key, and
            when; "" and None where no one has.
        blocked: why nothing is sent at present, "" while requests are.
        run: the id of its run, which pages, exports and commands for runs show; "" before it.
        shadow: the settings of the route; None where it has no shadow any more.
        spent_today_usd: what candidates, judges and embeddings have cost today (UTC).
        funnel: what was judged, and why the rest was not.
    """

    route: str
    state: Condition
    reason: str = ""
    changed_by: str = ""
    changed_at: float | None = None
    blocked: str = ""
    run: str = ""
    shadow: Shadow | None = None
    spent_today_usd: float = 0.0
    funnel: ShadowFunnel


class ShadowChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person does with a shadow.

    Attributes:
        action: `pause` sends nothing more to candidates; what waits stays so for an hour.
        reason: why; needed to pause.
    """

    action: Literal["pause", "resume"]
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class ShadowReport(ShadowView, frozen=True, kw_only=True):
    """A shadow with what was found out.

    Attributes:
        report: the run's. `dataset/answer` are the answers that clients got, which candidates are
            compared with, in quality and cost alike; None before anything was sent.
        judges: what is known of the judges.
    """

    report: Report | None = None
    judges: list[JudgeReport] = []


class _Active(NamedTuple):
    """What the hot path needs of a route's shadow."""

    run: str
    shadow: Shadow
    sample: TrafficSample
    state: ShadowState
    is_over_budget: bool
    excluded: frozenset[str]
    takes_all: bool
    counts: Counter[str]

    def wants(self, route: Route, record_id: str, *, key_id: str, stored: bool) -> bool:
        """Return whether a request is to be passed to `Shadows.after`; count it where it is not.

        See `router.gateway.hooks.RouteWatch`.
        """
        if route.shadow is None:
            return False
        if self.takes_all and stored and not self.sample.has(record_id):
            # As most requests do, so it is looked at first.
            self.counts["not_sampled"] += 1
            return False
        if self.state == "paused":
            reason = "paused"
        elif not stored or key_id in self.excluded:
            reason = "excluded"
        elif not self.sample.has(record_id):
            reason = "not_sampled"
        elif self.is_over_budget:
            reason = "over_budget"
        else:
            return True
        self.counts[reason] += 1
        return False


class _Waiting(NamedTuple):
    """A request on its way into the store."""

    record: Record
    active: _Active
    size: int


class _Checked(NamedTuple):
    """The settings of a shadow of which a run can be made, and the routes that they name."""

    shadow: Shadow
    table: Table


class _Take(NamedTuple):
    """What all samples of a shadow's next step have in common; see `ShadowStore.take_pairs`."""

    run: str
    stale_after: float
    cost_usd: float
    since: float


class Shadows:
    """The shadows of all routes.

    Args:
        store: has them.
        runs: all runs of the store.
        jobs: executes runs.
        requester: sends requests of runs.
        routes: the routes as they are.
        allowed: what runs of a server may open.
        owner: a name for this part of the process, which no other has.
        outdated: yields which requests are too old to be stored at all.
        unlisted: returns why the providers' lists have no such target, "" where one may have.
        is_busy: says whether live requests wait for a place at one of some targets.
        clock: seconds since the epoch.

    Attributes:
        watched: what the hot path needs of the routes that have a shadow.
    """

    def __init__(
        self,
        store: Store,
        runs: Runs,
        jobs: Jobs,
        *,
        requester: EvalRequester,
        routes: Routes,
        allowed: Evaluation,
        owner: str,
        outdated: Callable[[], Iterable[TrafficFilter]],
        unlisted: Callable[[str], str] = lambda _: "",
        is_busy: Callable[[Collection[Target]], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._runs = runs
        self._jobs = jobs
        self._requester = requester
        self._routes = routes
        self._allowed = allowed
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        self._outdated = outdated
        self._unlisted = unlisted
        self._is_busy = is_busy
        self._clock = clock
        self.watched: Mapping[str, _Active] = {}
        # By run and reason, what became of requests and is not in the store.
        self._counts: dict[str, Counter[str]] = {}
        self._buffer: deque[_Waiting] = deque()
        self._buffer_bytes = 0
        self._news = asyncio.Event()
        self._rounds = [
            Rounds(action, every=TICK_S, name=name, failing="shadows")
            for action, name in (
                (self._collect, "evalrouter-shadow-pairs"),
                (self._tend, "evalrouter-shadows"),
            )
        ]
        self._is_open = False
        # By run: what this process does for it, and when it may begin the next time.
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._next_at: dict[str, float] = {}
        self._pruned_at = float("-inf")
        self._is_draining = False
        self._log = ErrorLog()
        # By route, what a run of its shadow could be made of when that was last tried.
        self._checked: dict[str, _Checked] = {}
        # Of the shadows that this process tends, for metrics.
        self._funnels: dict[str, ShadowFunnel] = {}

    async def open(self) -> None:
        """Begin: collect pairs, and tend the runs where no other process does."""
        await self._follow()
        for rounds in self._rounds:
            rounds.open()
        self._is_open = True

    async def run_once(self) -> None:
        """Do what is done about once a second in the background, and wait until it is done.

        Raises:
            StoreError: the database does not work.
        """
        await self._collect()
        await self._tend()
        await asyncio.gather(*self._steps.values())

    def drain(self) -> None:
        """Begin nothing more: the process is about to end."""
        self._is_draining = True

    async def close(self) -> None:
        """Store the pairs that have come, and stop; the next process goes on with the runs."""
        self.drain()
        for rounds in self._rounds:
            await rounds.close()
        steps = [*self._steps.values()]
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        if self._is_open:
            with suppress(StoreError):
                await self._flush()
                await self._lease.release()
        self._is_open = False

    # the hot path

    def after(self, record: Record) -> None:
        """Take a request that was wanted and that has ended; never blocks."""
        active = self.watched.get(record.route)
        if active is None:
            return
        size = len(record.request or b"") + len(record.response or b"")
        if len(self._buffer) >= BUFFERED or self._buffer_bytes + size > BUFFERED_BYTES:
            self._count(active.run, "shed")
            return
        self._buffer.append(_Waiting(record, active, size))
        self._buffer_bytes += size

    def _count(self, run_id: str, reason: str) -> None:
        self._counts.setdefault(run_id, Counter())[reason] += 1

    # collecting, in every process

    async def _collect(self) -> None:
        await self._flush()
        await self._follow()

    async def _flush(self) -> None:
        """Store the pairs that have come, and what was counted."""
        by_run: dict[str, list[ShadowPair]] = {}
        limits: dict[str, int] = {}
        while self._buffer:
            record, active, size = self._buffer.popleft()
            self._buffer_bytes -= size
            try:
                pair = await off_loop(size, _pair_of, record, active)
            except IncomparableError as error:
                self._count(active.run, f"unjudgeable:{error}")
                continue
            except Exception:
                log.exception("the request %s could not be read for a shadow", record.id)
                self._count(active.run, "unjudgeable:unreadable")
                continue
            by_run.setdefault(active.run, []).append(pair)
            limits[active.run] = active.shadow.limits.waiting
        for run_id, pairs in by_run.items():
            await self._store.add_pairs(run_id, pairs, max_waiting=limits[run_id])
        followed = {active.run for active in self.watched.values()}
        for run_id, counts in [*self._counts.items()]:
            if counted := +counts:
                counts.clear()
                counts["not_sampled"] = 0
                await self._store.count_shadow(run_id, counted)
            elif run_id not in followed:
                del self._counts[run_id]

    async def _follow(self) -> None:
        """Learn which shadows there are, and which of them take requests."""
        shadowed = self._shadowed()
        if not shadowed:
            self.watched = {}
            return
        rows = {row.route: row for row in await self._store.shadows()}
        ids = await self._key_ids(shadowed)
        self.watched = {
            name: _Active(
                row.run,
                shadow,
                TrafficSample(shadow.sample, name),
                row.state,
                row.blocked == _OVER_BUDGET and row.day == self._day(),
                frozenset(ids[key] for key in shadow.exclude_keys if key in ids),
                row.state != "paused" and not shadow.exclude_keys,
                self._counts.setdefault(row.run, Counter()),
            )
            for name, shadow in shadowed.items()
            if (row := rows.get(name)) is not None and not _unknown(shadow, ids)
        }

    def _shadowed(self) -> dict[str, Shadow]:
        return {
            name: route.shadow
            for name, route in self._routes.table.routes.items()
            if route.shadow is not None
        }

    async def _key_ids(self, shadowed: Mapping[str, Shadow]) -> dict[str, str]:
        """Return name to id of the keys that are excluded."""
        if not any(shadow.exclude_keys for shadow in shadowed.values()):
            return {}
        table = await self._store.keys()
        return {row.name: row.id for row in table.by_hash.values()}

    def _day(self) -> float:
        return self._clock() // DAY_S * DAY_S

    # tending, in one process

    async def _tend(self) -> None:
        """Begin, end and execute the runs, where no other process does."""
        if self._is_draining:
            return
        shadowed = self._shadowed()
        if not shadowed and not await self._store.shadows():
            return
        if not await self._lease.claim():
            self._funnels = {}
            for step in self._steps.values():
                step.cancel()
            return
        await self._agree(shadowed)
        for row in await self._store.shadows():
            if row.run not in self._steps:
                task = asyncio.create_task(self._step(row), name=f"shadow {row.route}")
                self._steps[row.run] = task
                task.add_done_callback(partial(self._stepped, row.run))
        await self._prune()

    def _stepped(self, run_id: str, _: asyncio.Task[None]) -> None:
        del self._steps[run_id]

    async def _agree(self, shadowed: Mapping[str, Shadow]) -> None:
        """Begin and end shadows as the routes say."""
        rows = {row.route: row for row in await self._store.shadows()}
        for name, row in rows.items():
            if name not in shadowed or await self._store.run(row.run) is None:
                await self._store.end_shadow(row.run, self._clock())
        for name, shadow in shadowed.items():
            known = rows.get(name)
            if known is not None and known.config == _config_of(shadow):
                continue
            try:
                await self._begin(name, shadow)
                await self._follow()
            except EvalrouterError as error:
                self._log.error(
                    name, f"the shadow of the route {name} cannot begin: {error.message}"
                )

    async def _begin(self, name: str, shadow: Shadow) -> None:
        """Begin a shadow with an empty run.

        Raises:
            EvalrouterError: the shadow cannot be.
        """
        self._check_listed(name, shadow)
        document = await self._document(name, shadow)
        run = Run(
            id=new_id(self._clock()),
            name=f"shadow of {name}",
            state="completed",
            document=msgspec.to_builtins(document),
            dataset=document.dataset,
            # No other run has these samples.
            dataset_hash=uuid.uuid4().hex,
            dataset_rows=0,
            metrics={metric.name: metric.signature for metric in build_metrics(document)},
            created_at=self._clock(),
            runner="server",
            tags=document.tags,
        )
        await self._store.add_run(run, [])
        now = self._clock()
        await self._store.add_shadow(
            ShadowRow(
                run=run.id, route=name, config=_config_of(shadow), changed_at=now, created_at=now
            )
        )

    async def _document(self, name: str, shadow: Shadow) -> RunDocument:
        """Return the document of a shadow's run.

        Raises:
            EvalrouterError: a server may not execute such a run, or something in it is wrong.
        """
        document = RunDocument(
            dataset=f"{SHADOW_DATASET}{name}",
            routes=(PRECOMPUTED, *shadow.targets),
            metrics=shadow.all_metrics(),
            name=f"shadow of {name}",
            tags=("shadow",),
            baseline=PRECOMPUTED,
            primary=None if shadow.judge is None else "win_rate",
            cache=False,
            # People look at it every day, and it grows.
            looks=1,
            limits=RunLimits(concurrency=shadow.limits.concurrency, failure_share=1.0),
        )
        document = await confine(document, self._allowed, datasets=None)
        document = resolve_metrics(document, Path.cwd())
        metrics = build_metrics(document)
        for metric in metrics:
            if metric.needs_reference:
                raise ConfigError(f"routes.{name}.shadow.metrics: {metric.name} {NO_REFERENCES}")
        check_document(self._requester.for_run(document), document, metrics)
        return document

    async def _step(self, row: ShadowRow) -> None:
        """Do what there is to do for one shadow now."""
        try:
            await self._advance(row)
            self._funnels[row.route] = ShadowFunnel.of(await self._store.shadow_funnel(row.run))
            self._log.forget(row.run)
        except (ConflictError, NotFoundError) as error:
            # Another process was quicker, or the run was stopped or deleted meanwhile.
            log.info("shadow of %s: %s", row.route, error)
        except EvalrouterError as error:
            self._log.error(row.run, f"shadow of {row.route}: {error.message}")
        except Exception:
            log.exception("shadow of %s", row.route)

    async def _advance(self, row: ShadowRow) -> None:
        route = self._routes.table.routes.get(row.route)
        if route is None or route.shadow is None:
            return
        now = self._clock()
        await self._store.drop_waiting(row.run, "error", before=now - MAX_WAIT_S)
        run = await self._store.run(row.run)
        if run is None:
            return
        blocked = await self._blocked(row.route, route, run)
        if row.state == "paused" or blocked:
            await self._block(row, blocked)
            return
        if now < max(row.retry_at, self._next_at.get(row.run, 0.0)):
            return
        if self._is_busy([Target.parse(target) for target in route.shadow.targets]):
            return
        if run.state in {"queued", "running"}:
            # It was interrupted: first what is in it.
            if not await self._jobs.is_free(run):
                return
        else:
            # Another part of the server may have executed it since.
            row = await self._settle(row)
            if now < row.retry_at or not await self._take(row, route.shadow, run):
                return
        await self._jobs.execute(row.run)
        await self._settle(row)

    async def _blocked(self, name: str, route: Route, run: Run) -> str:
        """Return why a shadow that is not paused may send nothing; "" where it may."""
        shadow = route.shadow
        assert shadow is not None, "the caller has seen it"
        if run.state in {"paused", "cancelled"} and not run.stopped:
            return f"its run is {run.state}; resume it with: evalrouter eval resume {run.id}"
        missing = _unknown(shadow, await self._key_ids({name: shadow}))
        if missing:
            return f"exclude_keys: no key is named {missing!r}"
        # To build its metrics takes milliseconds, and is done again where something has changed.
        table = self._routes.table
        checked = self._checked.get(name)
        if checked is None or checked.shadow is not shadow or checked.table is not table:
            self._checked.pop(name, None)
            try:
                await self._document(name, shadow)
            except EvalrouterError as error:
                return error.message
            self._checked[name] = _Checked(shadow, table)
        for message in unshared(route, table.routes):
            return f"share_bodies_with: {message}"
        return ""

    async def _block(self, row: ShadowRow, blocked: str) -> None:
        if blocked != row.blocked:
            await self._store.change_shadow(row.run, blocked=blocked)

    async def _take(self, row: ShadowRow, shadow: Shadow, run: Run) -> bool:
        """Queue the run with the next samples; return whether something is to be done."""
        if row.day != self._day():
            # What embeddings took is not stored by time: from here on it is today's.
            before = await embeddings_cost_of(self._store, row.run)
            await self._store.change_shadow(row.run, day=self._day(), day_embeddings_usd=before)
        left = shadow.limits.usd_per_day - await self._spent_today(row)
        if left <= 0:
            await self._store.drop_waiting(row.run, "over_budget")
            await self._block(row, _OVER_BUDGET)
            return False
        await self._block(row, _FAILING if row.failures else "")
        size = 1 if row.failures else max(1, min(BATCH, int(shadow.limits.rps * BATCH_S)))
        before = await cost_of(self._store, run.id)
        take = _Take(row.run, stale_after(run.owner), before + left, self._clock() - MAX_WAIT_S)
        taken = await self._take_pairs(take, new=0 if row.failures else size, again=size)
        if row.failures and not taken.open:
            # Nothing that failed may be tried again: the next pair finds out.
            taken = await self._take_pairs(take, new=1, again=0)
        self._next_at[row.run] = self._clock() + (taken.new + taken.again) / shadow.limits.rps
        return taken.open > 0

    async def _take_pairs(self, take: _Take, *, new: int, again: int) -> TakenPairs:
        return await self._store.take_pairs(
            take.run,
            take.stale_after,
            new=new,
            again=again,
            max_tries=MAX_TRIES,
            since=take.since,
            cost_usd=take.cost_usd,
        )

    async def _settle(self, row: ShadowRow) -> ShadowRow:
        """Note what became of the samples, and return the shadow with when to try again."""
        settled = await self._store.settle_pairs(
            row.run, max_tries=MAX_TRIES, since=self._clock() - MAX_WAIT_S
        )
        changes: dict[str, Any] = {}
        if settled.error and not settled.scored + settled.unjudgeable:
            wait = min(RETRY_MAX_S, RETRY_S * 2.0 ** min(row.failures, 20))
            changes = {
                "failures": row.failures + 1,
                "retry_at": self._clock() + wait,
                "blocked": _FAILING,
            }
        elif row.failures and settled.scored + settled.unjudgeable:
            changes = {"failures": 0, "retry_at": 0.0, "blocked": ""}
        if changes:
            await self._store.change_shadow(row.run, **changes)
        return msgspec.structs.replace(row, **changes)

    async def _spent_today(self, row: ShadowRow) -> float:
        """Return what a shadow has cost today."""
        spent = await self._store.shadow_spending(row.route, self._day())
        if row.day == self._day():
            # A person may have deleted the run meanwhile.
            with suppress(NotFoundError):
                spent += await embeddings_cost_of(self._store, row.run) - row.day_embeddings_usd
        return spent

    async def _prune(self) -> None:
        """Delete the texts of requests that are too old to be stored at all."""
        now = asyncio.get_running_loop().time()
        if now < self._pruned_at + PRUNE_EVERY_S:
            return
        self._pruned_at = now
        for old in self._outdated():
            await self.delete(old)

    # for people

    def counts(self) -> Iterable[tuple[tuple[str, str], float]]:
        """Yield route and reason with the number of requests, of the shadows tended here."""
        for route, funnel in self._funnels.items():
            for reason, number in msgspec.structs.asdict(funnel).items():
                if reason not in {"requests", "why_unjudgeable"}:
                    yield (route, reason), number

    async def delete(self, matching: TrafficFilter, *, at_most: int | None = None) -> Deletion:
        """Delete the texts of requests; see `router.sealing.deletion.DeletionStep`.

        They are counted where their records are.
        """
        forget = partial(self._store.forget_shadowed, matching)
        done = await delete_rows(forget, at_most=at_most, at_once=FORGET_AT_ONCE)
        return Deletion(complete=done.complete)

    async def check(self, name: str, route: Route) -> None:
        """Refuse a route whose shadow cannot be, with what only a server knows.

        Raises:
            EvalrouterError: why it cannot.
        """
        if route.shadow is None:
            return
        # First, because it refuses what may not be opened.
        await self._document(name, route.shadow)
        for message in unshared(route, {**self._routes.table.routes, name: route}):
            raise ConfigError(f"routes.{name}.share_bodies_with: {message}")
        missing = _unknown(route.shadow, await self._key_ids({name: route.shadow}))
        if missing:
            raise ConfigError(f"routes.{name}.shadow.exclude_keys: no key is named {missing!r}")

    async def change(self, name: str, change: ShadowChange, key_id: str) -> ShadowView:
        """Pause or resume a shadow, and note why and whose key that was.

        Raises:
            NotFoundError: the route has no shadow.
            RequestError: a pause without a reason.
        """
        if change.action == "pause" and not change.reason.strip():
            raise RequestError("reason: say why, for whoever looks at it later", param="reason")
        row = await self._row(name)
        if row is None:
            raise _no_shadow(name)
        state: ShadowState = "paused" if change.action == "pause" else "running"
        await self._store.change_shadow(
            row.run, state=state, reason=change.reason, changed_by=key_id, changed_at=self._clock()
        )
        await self._follow()
        return await self.view(name)

    async def views(self) -> list[ShadowView]:
        """Return the shadows of all routes."""
        names = {*self._shadowed(), *(row.route for row in await self._store.shadows())}
        return [await self.view(name) for name in sorted(names)]

    async def view(self, name: str) -> ShadowView:
        """Return a route's shadow without its report.

        Raises:
            NotFoundError: the route has no shadow, and had none.
        """
        row, route = await self._row(name), self._routes.table.routes.get(name)
        shadow = None if route is None else route.shadow
        if row is None:
            if route is None or shadow is None:
                raise _no_shadow(name)
            blocked = await self._why_not_begun(name, shadow)
            state: Condition = "blocked" if blocked else "running"
            funnel = ShadowFunnel.of({})
            return ShadowView(
                route=name, state=state, blocked=blocked, shadow=shadow, funnel=funnel
            )
        blocked = row.blocked if shadow is not None else "the route has no shadow any more"
        state = "blocked" if row.state == "running" and blocked else row.state
        is_changed = bool(row.reason or row.changed_by or row.state == "paused")
        return ShadowView(
            route=name,
            state=state,
            reason=row.reason,
            changed_by=row.changed_by,
            changed_at=row.changed_at if is_changed else None,
            blocked=blocked,
            run=row.run,
            shadow=shadow,
            spent_today_usd=await self._spent_today(row),
            funnel=ShadowFunnel.of(await self._store.shadow_funnel(row.run)),
        )

    async def report(self, name: str) -> ShadowReport:
        """Return a route's shadow with its report.

        Raises:
            NotFoundError: the route has no shadow, and had none.
        """
        view = await self.view(name)
        fields = msgspec.structs.asdict(view)
        if view.run:
            outcome = await self._runs.outcome(view.run)
            if outcome.run.dataset_rows:
                fields |= {"report": outcome.report, "judges": outcome.judges}
        return ShadowReport(**fields)

    async def _row(self, name: str) -> ShadowRow | None:
        return next((row for row in await self._store.shadows() if row.route == name), None)

    def _check_listed(self, name: str, shadow: Shadow) -> None:
        for n, target in enumerate(shadow.targets):
            if problem := self._unlisted(target):
                raise ConfigError(f"routes.{name}.shadow.targets[{n}]: {problem}")

    async def _why_not_begun(self, name: str, shadow: Shadow) -> str:
        try:
            self._check_listed(name, shadow)
            await self._document(name, shadow)
        except EvalrouterError as error:
            return error.message
        return ""


def _pair_of(record: Record, active: _Active) -> ShadowPair:
    """Return a request as a pair. Raises IncomparableError."""
    return pair_of(
        record,
        candidates=active.shadow.targets,
        keep_texts=record.keep == "full",
        salt=active.run,
    )


def _config_of(shadow: Shadow) -> dict[str, Any]:
    """Return what a run was made for; with other limits or another share it goes on."""
    made_for = {"targets": shadow.targets, "metrics": shadow.all_metrics()}
    # As the store gives it back.
    config: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made_for))
    return config


def _unknown(shadow: Shadow, ids: Mapping[str, str]) -> str:
    """Return a name among the excluded keys that no key has; "" where all of them exist."""
    return next((name for name in shadow.exclude_keys if name not in ids), "")


def _no_shadow(name: str) -> NotFoundError:
    return NotFoundError(f"The route {name!r} has no shadow.")
