"""Watches: the same requests again and again, to see whether a target still answers as it did.

    watches = Watches(store, datasets, requester, routes, config.watches, owner=this_owner())
    await watches.open()
    await watches.probe("nightly")        # now
    await watches.report("nightly")

Each probe is an occurrence of the watch's cron line, which one process of all claims; one that dies
is taken over when its lease has passed, and its requests are sent again. Probes are stored with
their distance from the reference and the evidence that they add up to (`evaluators.stats.drift`).
Live signals are read from the hours that `AnswerCounts` adds up; one process does so for all.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec

from providers.errors import (
    ConflictError,
    EvalrouterError,
    NotFoundError,
    RequestError,
    StoreError,
    closest,
)
from router.config.watches import (
    LIVE_SIGNALS,
    VERSION_NAMES,
    LiveSignal,
    LiveWatch,
    VersionName,
    WatchSettings,
    watched_route_problem,
)
from router.datasets.registry import DatasetRegistry
from router.evals.requests import EvalRequester
from router.gateway.route_table import Routes
from router.loop.timetable import dues_of
from router.loop.watch_comparison import (
    ReferenceComparison,
    anchors_of,
    threshold_of,
    usual_language,
)
from router.loop.watch_probes import Drawn, ProbeSender, WatchRequests, requests_of
from router.rounds import ErrorLog, Rounds
from router.store.leases import Lease
from router.store.occurrences import Cause
from router.store.protocol import Store
from router.store.watches import (
    HOUR_S,
    OTHERS,
    PROBE,
    LiveHour,
    ModelVersion,
    SignalCount,
    WatchProbe,
    WatchReference,
)

log = logging.getLogger("evalrouter")

TICK_S = 2.0
LEASE = "watches"
LEASE_S = 60.0
LIVE_EVERY_S = 30.0
DAY_S = 86400.0
# Counts of a period's last requests are written by then.
GRACE_S = 60.0
# Periods that have passed unseen and are still looked at; hours are deleted after 40 days.
_MAX_PERIODS = 50
_CLAIM_S = 30.0
_RENEW_S = 10.0
_AT_ONCE = 4
_MAX_OCCURRENCES = 500
# Among so many, the last one that took place is looked for; others were missed.
_LAST = 20
# Of why a probe is missing, or has failed, so many characters are stored.
_MAX_WHY = 1000
# A host that names more new versions than this since the reference names a new one all the time.
_MAX_CHANGES = 20

WatchState = Literal["learning", "quiet", "drift", "no_data"]


class VersionChange(msgspec.Struct, frozen=True, kw_only=True):
    """A name that a host has not claimed before the reference was complete.

    Attributes:
        what: `model` or `system_fingerprint`.
        name: what the host claims now.
        first_at: when it was first seen, seconds since the epoch.
        requests: how many answers had it.
    """

    what: VersionName
    name: str
    first_at: float
    requests: int


class SignalView(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch knows of one signal.

    Attributes:
        signal: `probe` or a live signal.
        of_reference: how many values the reference has by now, of how many it needs.
        needed: see above.
        values: how many came after that.
        e_value: the evidence of a change; None before the first value that is compared.
        last_at: when the last value was taken; None without one.
    """

    signal: str
    of_reference: int
    needed: int
    values: int
    e_value: float | None = None
    last_at: float | None = None


class WatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A watch as it stands.

    Attributes:
        name: the watch's name.
        watch: its settings.
        target: the `provider/model` that is watched; "" where that cannot be said.
        state: `learning` until the reference is complete, `drift` once something was found to have
            changed, until a person pins another reference; `no_data` where the last probe is not
            complete, which says nothing; else `quiet`.
        why: what is missing, or what was found; of a quiet watch, that the host names another
            model.
        threshold: the e-value from which on a change is reported: so that the chance of ever doing
            so while nothing changes is at most `alpha` over all signals and references.
        reference: the present one, without its answers; None before the first probe.
        signals: what is known of each.
        changes: names that the host has claimed since the reference was complete.
        unstable: whether it names so many that they say nothing.
        next_at: when the next probe is due, seconds since the epoch.
        spent_today_usd: what probes have cost today (UTC).
    """

    name: str
    watch: WatchSettings
    target: str
    state: WatchState
    why: str = ""
    threshold: float
    reference: WatchReference | None = None
    signals: list[SignalView] = []
    changes: list[VersionChange] = []
    unstable: bool = False
    next_at: float | None = None
    spent_today_usd: float = 0.0


class WatchReport(WatchView, frozen=True, kw_only=True):
    """A watch with its history.

    Attributes:
        references: all of them, newest first.
        probes: the newest ones, newest first.
        versions: what the target claimed to be.
    """

    references: list[WatchReference] = []
    probes: list[WatchProbe] = []
    versions: list[ModelVersion] = []


class WatchPin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new reference.

    Attributes:
        reason: why, for whoever looks at it later.
    """

    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class Watches:
    """The watches of the config.

    Args:
        store: has references, probes and counts.
        datasets: registered datasets.
        requester: sends requests of evaluations.
        routes: the routes as they are.
        configured: the watches by name.
        owner: a name for this part of the process, which no other has.

    Attributes:
        languages: the targets of which a watch wants the languages of live answers.
    """

    def __init__(
        self,
        store: Store,
        datasets: DatasetRegistry,
        requester: EvalRequester,
        routes: Routes,
        configured: Mapping[str, WatchSettings],
        *,
        owner: str,
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._requester = requester
        self._routes = routes
        self._configured = configured
        self._owner = owner
        self._lines = {name: watch.line for name, watch in configured.items()}
        self._rounds = Rounds(
            self.run_once, every=TICK_S, name="evalrouter-watches", failing="watches wait"
        )
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._check_at: dict[str, float] = {}
        self._live_at = 0.0
        self._shown: list[WatchView] | None = None
        self._log = ErrorLog()
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        self.languages: frozenset[str] = frozenset()

    async def open(self) -> None:
        """Begin."""
        if self._configured:
            self.languages = self._with_languages()
            self._rounds.open()

    async def close(self) -> None:
        """Stop; a probe that is under way is sent again by the next process."""
        await self._rounds.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(StoreError):
            await self._lease.release()

    async def run_once(self) -> None:
        """Begin the probes that are due, and look at live signals once in a while.

        Raises:
            StoreError: the database does not work.
        """
        self._tasks = {name: task for name, task in self._tasks.items() if not task.done()}
        now = await self._store.now()
        for name, watch in self._configured.items():
            if name not in self._tasks and now >= self._check_at.get(name, 0.0):
                await self._begin_due(name, watch, now)
        if self._shown is None or not 0 <= now - self._live_at < LIVE_EVERY_S:
            self._live_at = now
            self.languages = self._with_languages()
            if await self._lease.claim():
                for name, watch in self._configured.items():
                    await self._read_live(name, watch, now)
            self._shown = await self.views()

    async def idle(self) -> None:
        """Wait until the probes that have begun are done."""
        await asyncio.gather(*self._tasks.values())

    # timing

    async def _begin_due(self, name: str, watch: WatchSettings, now: float) -> None:
        """Begin the probe that is due, or one that a dead process has left."""
        line = self._lines[name]
        for running in await self._store.occurrences("watch", name, running=True, limit=1):
            self._check_at[name] = now + _RENEW_S
            if await self._claim(name, running.due, running.cause):
                self._begin(name, watch, running.due)
            return
        dues = await dues_of(self._store, "watch", name, line, now=now, catch_up=True)
        if dues.missed:
            await self._store.note_occurrences("watch", name, dues.missed, state="missed")
        self._check_at[name] = min(line.next_after(now), now + 60.0)
        if dues.run is not None:
            if await self._claim(name, dues.run, "catch_up" if dues.late else "due"):
                self._begin(name, watch, dues.run)
            else:
                self._check_at[name] = now + TICK_S

    async def _claim(self, name: str, due: float, cause: Cause) -> bool:
        return await self._store.claim_occurrence(
            "watch", name, due, self._owner, _CLAIM_S, cause=cause
        )

    def _begin(self, name: str, watch: WatchSettings, due: float) -> None:
        task = asyncio.create_task(self._scheduled(name, watch, due), name="evalrouter-watch")
        self._tasks[name] = task

    async def _scheduled(self, name: str, watch: WatchSettings, due: float) -> None:
        try:
            async with self._slots:
                await self._occur(name, watch, due)
            self._log.forget(name)
        except EvalrouterError as error:
            self._log.error(name, f"the watch {name} could not be probed: {error.message}")
        except Exception:
            log.exception("the watch %s could not be probed", name)

    async def _occur(self, name: str, watch: WatchSettings, due: float) -> WatchProbe:
        """Probe as a claimed occurrence, and finish it. Raises as `_probe`."""
        renewing = asyncio.create_task(self._renew(name, due))
        try:
            probe = await self._probe(name, watch)
        except Exception as error:
            # One that is not finished would be sent again and again, and paid for each time.
            why = error.message if isinstance(error, EvalrouterError) else f"a fault: {error!r}"
            await self._finish(name, due, "failed", {"why": why[:_MAX_WHY]})
            raise
        finally:
            renewing.cancel()
        state: Literal["completed", "failed"] = "failed" if probe.kind == "missing" else "completed"
        await self._finish(name, due, state, {"why": probe.why} if probe.why else {})
        await self._store.delete_occurrences("watch", name, _MAX_OCCURRENCES)
        return probe

    async def _finish(
        self, name: str, due: float, state: Literal["completed", "failed"], detail: dict[str, Any]
    ) -> None:
        await self._store.finish_occurrence(
            "watch", name, due, self._owner, state=state, detail=detail
        )

    async def _renew(self, name: str, due: float) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            with suppress(StoreError):
                await self._store.extend_occurrence("watch", name, due, self._owner, _CLAIM_S)

    # probing

    async def probe(self, name: str) -> WatchProbe:
        """Send a probe now, and return what came of it.

        Raises:
            NotFoundError: no such watch.
            ConflictError: it is being probed.
            EvalrouterError: its target or dataset does not exist.
        """
        watch = self._watch(name)
        now = await self._store.now()
        for running in await self._store.occurrences("watch", name, running=True, limit=1):
            if not await self._claim(name, running.due, running.cause):
                raise ConflictError(f"{name} is being probed right now")
            return await self._occur(name, watch, running.due)
        if not await self._claim(name, now, "person"):
            raise ConflictError(f"{name} is being probed right now")
        return await self._occur(name, watch, now)

    async def _probe(self, name: str, watch: WatchSettings) -> WatchProbe:
        began = await self._store.now()
        try:
            target = self._target(watch)
            sent = await requests_of(watch, self._datasets)
        except EvalrouterError as error:
            await self._add_missing(name, began, error.message)
            raise
        reference = await self._reference(name, watch, target, sent)
        spent = await self._store.watch_spending(name, began // DAY_S * DAY_S)
        if spent >= watch.limits.usd_per_day:
            why = "its money for today is spent (limits.usd_per_day)"
            drawn = Drawn(why=why)
        else:
            drawn = await ProbeSender(watch, sent, target, self._requester).send()
        missing = WatchProbe(
            watch=name,
            reference=reference.number,
            kind="missing",
            at=began,
            requests=drawn.requests,
            answered=drawn.answered,
            cost_usd=drawn.cost_usd,
            model=drawn.model[:200],
            system_fingerprint=drawn.system_fingerprint[:200],
            why=drawn.why[:_MAX_WHY],
        )
        history = await self._store.watch_values(name, reference.number, PROBE)
        probe = missing
        changes: dict[str, Any] = {}
        if not drawn.why:
            comparison = ReferenceComparison(watch, reference, history)
            try:
                probe, changes = await asyncio.to_thread(
                    comparison.of_probe, probe, sent, drawn.values
                )
            except Exception as error:
                # The probe is stored all the same, because it has cost something.
                log.exception("%s: the answers cannot be compared", name)
                probe = msgspec.structs.replace(
                    missing, why=f"the answers cannot be compared: {error}"[:_MAX_WHY]
                )
        try:
            await self._store.add_watch_probe(
                probe, counted=len(history), changes=changes, registered=sent.registered
            )
        except ConflictError as error:
            if error.code != "requests_deleted":
                raise
            probe, changes = msgspec.structs.replace(missing, why=error.message), {}
            await self._store.add_watch_probe(probe, counted=len(history))
        if "drift_at" in changes:
            log.warning("%s has changed: found by the watch %s", target, name)
        return probe

    async def _add_missing(self, name: str, at: float, why: str) -> None:
        """Note, where there is a reference, that a probe could not be sent."""
        reference = await self._store.watch_reference(name)
        if reference is None:
            return
        probe = WatchProbe(
            watch=name, reference=reference.number, kind="missing", at=at, why=why[:_MAX_WHY]
        )
        history = await self._store.watch_values(name, reference.number, PROBE)
        await self._store.add_watch_probe(probe, counted=len(history))

    async def _reference(
        self, name: str, watch: WatchSettings, target: str, sent: WatchRequests
    ) -> WatchReference:
        """Return the present reference, or begin one where none fits."""
        made_for = sent.made_for(watch, target)
        present = await self._store.watch_reference(name)
        why = ""
        if present is not None:
            if present.made_for == made_for and (
                present.anchor or not await self._has_anchor(name)
            ):
                return present
            why = "the watch, its target or its dataset was changed"
            if not present.anchor and present.made_for == made_for:
                why = "what the reference had of requests was deleted"
        begun = WatchReference(
            watch=name,
            number=1 if present is None else present.number + 1,
            target=target,
            made_for=made_for,
            dataset=sent.dataset,
            dataset_hash=sent.dataset_hash,
            created_at=await self._store.now(),
            reason=why,
        )
        await self._store.begin_reference(begun)
        return begun

    async def _has_anchor(self, name: str) -> bool:
        return PROBE in await self._store.watch_signals(name)

    async def pin(self, name: str, pin: WatchPin, actor: str) -> WatchView:
        """Begin a new reference: the next probes say what answers should look like.

        Raises:
            NotFoundError: no such watch.
            RequestError: no reason.
            ConflictError: somebody else did so at the same time.
            EvalrouterError: its target or dataset does not exist.
        """
        watch = self._watch(name)
        if not pin.reason.strip():
            raise RequestError("reason: say why, for whoever looks at it later", param="reason")
        target = self._target(watch)
        sent = await requests_of(watch, self._datasets)
        present = await self._store.watch_reference(name)
        await self._store.begin_reference(
            WatchReference(
                watch=name,
                number=1 if present is None else present.number + 1,
                target=target,
                made_for=sent.made_for(watch, target),
                dataset=sent.dataset,
                dataset_hash=sent.dataset_hash,
                created_at=await self._store.now(),
                created_by=actor,
                reason=pin.reason,
            )
        )
        return await self.view(name)

    def _watch(self, name: str) -> WatchSettings:
        watch = self._configured.get(name)
        if watch is None:
            raise NotFoundError(f"There is no watch {name!r}.{closest(name, self._configured)}")
        return watch

    def _target(self, watch: WatchSettings) -> str:
        """Return the `provider/model` that is watched. Raises RequestError where none can be."""
        table = self._routes.table
        route = table.routes.get(watch.target)
        if route is not None and (why := watched_route_problem(watch.target, route)):
            raise RequestError(why)
        self._requester.check_route(watch.target)
        return str(table.plan(watch.target, 0.0).targets[0])

    def _with_languages(self) -> frozenset[str]:
        targets = set()
        for watch in self._configured.values():
            if watch.live is not None and "language" in watch.live.signals:
                with suppress(EvalrouterError):
                    targets.add(self._target(watch))
        return frozenset(targets)

    # live signals

    async def _read_live(self, name: str, watch: WatchSettings, now: float) -> None:
        """Compare the periods that have ended since the last time."""
        reference = await self._store.watch_reference(name)
        if watch.live is None or reference is None:
            return
        for signal in watch.live.signals:
            try:
                await self._read_signal(reference, watch, watch.live, signal, now)
            except ConflictError as error:
                log.info("%s: %s", name, error.message)

    async def _read_signal(
        self,
        reference: WatchReference,
        watch: WatchSettings,
        live: LiveWatch,
        signal: LiveSignal,
        now: float,
    ) -> None:
        length = live.hours * HOUR_S
        begin = math.ceil(reference.created_at / HOUR_S) * HOUR_S
        for last in await self._store.watch_probes(reference.watch, signal=signal, limit=1):
            if last.reference == reference.number:
                begin = last.at + length
        behind = int((now - GRACE_S - begin) // length)
        if behind > _MAX_PERIODS:
            begin += (behind - _MAX_PERIODS) * length
        while begin + length + GRACE_S <= now:
            await self._read_period(reference, watch, live, signal, begin)
            begin += length

    async def _read_period(
        self,
        reference: WatchReference,
        watch: WatchSettings,
        live: LiveWatch,
        signal: LiveSignal,
        begin: float,
    ) -> None:
        history = await self._store.watch_values(reference.watch, reference.number, signal)
        until = begin + live.hours * HOUR_S
        detail = {}
        if signal == "language":
            languages = await self._store.live_languages(reference.target, begin, until)
            usual = usual_language(history)
            usual = usual or max(languages, key=languages.__getitem__, default="")
            total, part = sum(languages.values()), float(languages.get(usual, 0))
            detail = {"language": usual}
        else:
            hours = await self._store.live_hours(reference.target, begin, until)
            total, part = _total_of(signal, hours)
        probe = WatchProbe(
            watch=reference.watch,
            reference=reference.number,
            signal=signal,
            kind="missing",
            at=begin,
            requests=total,
            answered=total,
        )
        changes: dict[str, Any] = {}
        if total < live.min_requests:
            why = f"{total} of the {live.min_requests} answers that a period needs"
            probe = msgspec.structs.replace(probe, why=why)
        else:
            probe = msgspec.structs.replace(probe, value=part / total, detail=detail)
            comparison = ReferenceComparison(watch, reference, history)
            probe, changes = await asyncio.to_thread(comparison.of_period, probe, live)
        await self._store.add_watch_probe(probe, counted=len(history), changes=changes)

    # reading

    async def latest(self) -> list[WatchView]:
        """Return all watches as they were at most half a minute ago, in a process that watches."""
        if self._shown is None:
            self._shown = await self.views()
        return self._shown

    async def views(self) -> list[WatchView]:
        """Return all watches, by name."""
        return [await self.view(name) for name in sorted(self._configured)]

    async def view(self, name: str) -> WatchView:
        """Return a watch as it stands.

        Raises:
            NotFoundError: no such watch.
        """
        view, _ = await self._view(name)
        return view

    async def _view(self, name: str) -> tuple[WatchView, list[ModelVersion]]:
        """Return a watch as it stands, and what its target claimed to be."""
        watch = self._watch(name)
        now = await self._store.now()
        target, problem = "", ""
        try:
            target = self._target(watch)
        except EvalrouterError as error:
            problem = error.message
        reference = await self._store.watch_reference(name)
        number = 1 if reference is None else reference.number
        threshold = threshold_of(watch, number)
        counts = {} if reference is None else await self._store.watch_signals(name)
        signals = [_signal(PROBE, watch.reference_probes, counts)]
        if watch.live is not None:
            needed = anchors_of(watch.live.periods) + watch.live.periods
            signals += [_signal(signal, needed, counts) for signal in watch.live.signals]
        state, why = _state(reference, signals[0], await self._missing(name, reference), problem)
        versions = await self._store.model_versions(target) if target else []
        changes: list[VersionChange] = []
        if reference is not None and reference.pinned_at is not None:
            changes = _changes(reference.pinned_at, versions)
        # A target has that many when the store counts no further ones apart.
        is_unstable = len(changes) > _MAX_CHANGES or any(v.model == OTHERS for v in versions)
        if state == "quiet" and not is_unstable and any(each.what == "model" for each in changes):
            why = "but the host names another model"
        if reference is not None:
            reference = msgspec.structs.replace(reference, anchor={})
        view = WatchView(
            name=name,
            watch=watch,
            target=target,
            state=state,
            why=why,
            threshold=threshold,
            reference=reference,
            signals=signals,
            changes=[] if is_unstable else changes,
            unstable=is_unstable,
            next_at=self._lines[name].next_after(now),
            spent_today_usd=await self._store.watch_spending(name, now // DAY_S * DAY_S),
        )
        return view, versions

    async def report(
        self,
        name: str,
        *,
        signal: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> WatchReport:
        """Return a watch with its newest probes, or those with numbers below `before`.

        Raises:
            NotFoundError: no such watch.
            RequestError: no such signal.
        """
        view, versions = await self._view(name)
        if signal is not None and signal not in (PROBE, *LIVE_SIGNALS):
            near = closest(signal, (PROBE, *LIVE_SIGNALS))
            raise RequestError(f"signal: no signal {signal!r}.{near}", param="signal")
        probes = await self._store.watch_probes(name, signal=signal, before=before, limit=limit)
        return WatchReport(
            **msgspec.structs.asdict(view),
            references=await self._store.watch_references(name),
            probes=probes,
            versions=versions,
        )

    async def _missing(self, name: str, reference: WatchReference | None) -> str:
        """Return what the last probe lacks, or why none could be sent; "" where it was complete."""
        since = 0.0
        if reference is not None:
            since = reference.created_at
            for last in await self._store.watch_probes(name, signal=PROBE, limit=1):
                if last.reference == reference.number:
                    if last.kind == "missing":
                        return last.why
                    since = max(since, last.at)
        # Without a reference there are no probes, and a fault leaves none.
        for ended in await self._store.occurrences("watch", name, running=False, limit=_LAST):
            if ended.state in ("completed", "failed"):
                is_new = ended.started_at is not None and ended.started_at >= since
                failed = ended.state == "failed" and is_new
                return str(ended.detail.get("why", "")) if failed else ""
        return ""

    # for metrics

    def e_values(self) -> list[tuple[tuple[str, ...], float]]:
        """Return the last e-values, by watch and signal."""
        return [
            ((view.name, signal.signal), signal.e_value)
            for view in self._shown or ()
            for signal in view.signals
            if signal.e_value is not None
        ]

    def states(self) -> list[tuple[tuple[str, ...], float]]:
        """Return 1 for the state of each watch."""
        return [((view.name, view.state), 1.0) for view in self._shown or ()]

    def probe_times(self) -> list[tuple[tuple[str, ...], float]]:
        """Return when each watch had its last complete probe, seconds since the epoch."""
        return [
            ((view.name,), view.signals[0].last_at)
            for view in self._shown or ()
            if view.signals[0].last_at is not None
        ]


def _signal(signal: str, needed: int, counts: Mapping[str, SignalCount]) -> SignalView:
    count = counts.get(signal)
    values = 0 if count is None else count.values
    return SignalView(
        signal=signal,
        of_reference=min(needed, values),
        needed=needed,
        values=max(0, values - needed),
        e_value=None if count is None else count.e_value,
        last_at=None if count is None else count.last_at,
    )


def _total_of(signal: LiveSignal, hours: Sequence[LiveHour]) -> tuple[int, float]:
    """Return how many live answers count for a signal, and the sum of their values."""
    if signal == "refusals":
        return sum(hour.requests for hour in hours), float(sum(hour.refusals for hour in hours))
    if signal == "length":
        return sum(hour.counted for hour in hours), float(sum(hour.tokens for hour in hours))
    return sum(hour.priced for hour in hours), math.fsum(hour.cost_usd for hour in hours)


def _state(
    reference: WatchReference | None, probes: SignalView, missing: str, problem: str
) -> tuple[WatchState, str]:
    if reference is not None and reference.drift_at is not None:
        return "drift", f"found by {_WORDS[reference.drift_signal]}"
    if problem or missing:
        return "no_data", problem or missing
    if reference is None or probes.of_reference < probes.needed:
        return "learning", f"{probes.of_reference} of {probes.needed} probes of the reference"
    return "quiet", ""


_WORDS = {
    PROBE: "its probes",
    "refusals": "the share of live answers that are refusals",
    "length": "the length of live answers",
    "language": "the language of live answers",
    "cost": "what live requests cost",
}


def _changes(until: float, versions: Sequence[ModelVersion]) -> list[VersionChange]:
    """Return the names that were first seen after a moment, where there were others before."""
    changes: list[VersionChange] = []
    for what in VERSION_NAMES:
        known = {getattr(each, what) for each in versions if each.first_at <= until}
        new: dict[str, list[ModelVersion]] = {}
        for version in versions:
            name = getattr(version, what)
            if name and known and name not in known:
                new.setdefault(name, []).append(version)
        changes += [
            VersionChange(
                what=what,
                name=name,
                first_at=min(version.first_at for version in same),
                requests=sum(version.requests for version in same),
            )
            for name, same in new.items()
        ]
    return changes
