"""Everything a process needs to route and evaluate, made from one config.

    async with Services(config) as services:
        ...

The server holds one for its lifetime; `evalrouter eval run` makes one for a single run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import msgspec

from providers.base import Lifecycle, Provider
from providers.errors import ConfigError
from providers.http.transport import Transport
from providers.kinds import make
from providers.masking import Masks
from router.config.documents import read_text, read_yaml
from router.config.environment import ADMIN_KEY
from router.config.schema import Config
from router.config.telemetry import Telemetry
from router.datasets.registry import DatasetRegistry
from router.evals.comparisons import RunComparisons
from router.evals.experiments import Experiments
from router.evals.judges.studies import Studies
from router.evals.lease import this_owner
from router.evals.requests import EvalRequester
from router.evals.runs import Runs
from router.evals.sample_search import SampleSearch
from router.evals.tracking import Tracker
from router.evals.worker import Jobs
from router.gateway.answer_counts import AnswerCounts
from router.gateway.cache import ResponseCache
from router.gateway.cache_sync import CacheSync
from router.gateway.dispatch import Dispatcher
from router.gateway.first_key import ensure_configured_key, ensure_written_key
from router.gateway.hooks import ANY_REQUEST, SAMPLED_REQUEST
from router.gateway.key_sync import KeySync
from router.gateway.keys import Keys
from router.gateway.model_lists import ModelLists
from router.gateway.prices import PriceBook
from router.gateway.recorder import Traffic
from router.gateway.route_table import Routes
from router.gateway.spans import ProviderHosts
from router.gateway.telemetry import ProcessMetrics, open_traces
from router.loop.alert_administration import AlertAdministration
from router.loop.alert_controller import AlertController
from router.loop.alert_counts import BREAKER_WINDOW, AlertCounts
from router.loop.alert_sender import AlertSender
from router.loop.alert_sources import (
    ABOUT,
    BreakerSource,
    BudgetSource,
    MeasuredSource,
    RolloutSource,
    ShadowSource,
)
from router.loop.assignment import Assignments
from router.loop.bundles.exported import EvidenceBundles, ExportedEvidence
from router.loop.copied_rows import CopiedRowsDeletion
from router.loop.feedback import FeedbackIntake
from router.loop.feedback_review import FeedbackReview
from router.loop.frontier import Frontiers
from router.loop.learned.learned_routes import LearnedRoutes
from router.loop.learned.predictor import Predictor
from router.loop.request_search import RequestSearch
from router.loop.retirements import Retirements, RetirementSource
from router.loop.review import ReviewDeletion, ReviewQueue
from router.loop.rollout_controller import RolloutController
from router.loop.rollout_deletion import RolloutRequestsDeletion
from router.loop.rollout_judge import RolloutJudging
from router.loop.rollouts import Rollouts
from router.loop.schedule_alerts import ScheduleAlerts
from router.loop.schedule_controller import ScheduleController
from router.loop.schedule_documents import ScheduleDocuments
from router.loop.schedules import Schedules
from router.loop.shadow import Shadows
from router.loop.toxicity import ToxicityReview
from router.loop.traffic_dataset import TrafficDatasets
from router.loop.watch_alerts import DriftSource
from router.loop.watches import Watches
from router.loop.what_if import WhatIfs
from router.openai.conversations import Conversations
from router.openai.resources import Responses
from router.openai.response_ids import ResponseIds
from router.openai.response_turns import Turns
from router.openai.retention import ExpiredResponses, ResponsesDeletion
from router.records import Record, Target, TrafficClass
from router.sealing.deletion import Recordings, RequestDeletion
from router.sealing.files import SealedFiles, require_parquet
from router.sealing.job import Sealing
from router.sealing.traffic import RecordedTraffic
from router.store.protocol import Store
from router.store.readiness import Readiness
from router.store.selection import open_store, store_of

PUBLISH_EVERY_S = 1.0


class DatabaseAtStart(NamedTuple):
    """The database as a server's supervisor found it, for workers that start later.

    They create no new database if that one is gone, and they require keys if it had any.

    Attributes:
        keys: whether it had any key.
    """

    keys: bool


async def prepare_database(config: Config) -> DatabaseAtStart:
    """Open the database, or create it, and return what workers need to know of it.

    Raises:
        StoreError: it cannot be used.
    """
    return DatabaseAtStart(keys=await _has_keys(config))


class Services:
    """The parts of a process, wired together. Enter it inside the running event loop.

    Args:
        config: the config to make them from.
        source: the file that the config came from; None for the embedded default.
        share: a folder of all workers of one server; None for a single process.
        database: the database as it was when the server was started; None for as it is now.
        store: where everything is stored; None for the database that the config names.

    Attributes:
        config: the config that they were made from.
        source: the file that it came from; None for the embedded default.
        providers: name to provider.
        masks: the secrets of the config, to take out of what hosts answer.
        routes: the routes as they stand, and how to change them.
        dispatcher: sends requests to providers.
        store: where runs are stored.
        readiness: whether that store works.
        keys: the clients' keys.
        key_sync: reads them from the store; a server loads and closes it (`app.py`), and a command
            needs neither.
        datasets: registered datasets, and the artifact store.
        jobs: the runs that this process executes.
        tracker: sends runs to MLflow.
        runs: all runs of the store.
        samples: finds samples of runs.
        comparisons: compares runs.
        experiments: runs under one name.
        studies: calibrations of judges, comparisons and tournaments.
        telemetry: metrics and traces.
        traffic: takes a record of every request.
        recorded: reads those records, live and sealed.
        request_search: finds those that say something, or of which something is said.
        traffic_datasets: makes datasets of them.
        what_ifs: estimates from them what other policies would have brought.
        frontiers: compares the targets of routes.
        feedback: takes feedback about them.
        deletion: deletes requests wherever they are stored.
        review: the rows that wait to become part of a dataset; a server opens and closes it
            (`app.py`).
        feedback_review: takes feedback to that queue, likewise.
        toxicity_review: has a judge look at that queue, likewise.
        sealing: moves old records into files; a server opens and closes it (`app.py`).
        shadows: compares routes with candidates; a server opens and closes it (`app.py`).
        rollouts: starts rollouts, and does what people decide about them.
        assignments: which side of its rollout a request is on.
        rollout_controller: decides about rollouts; a server opens and closes it (`app.py`).
        schedules: runs at their times, and what people decide about them.
        schedule_controller: begins them; a server opens and closes it (`app.py`).
        rollout_judging: has their answers scored; a server opens and closes it (`app.py`).
        answer_counts: counts what targets claim to be and answer.
        watches: probe targets for changes; a server opens and closes it (`app.py`).
        predictor: predicts for requests of learned routes which target to take.
        learned_routes: learns them; a server opens and closes it (`app.py`).
        alert_counts: counts requests for the rules of alerts.
        alert_controller: decides about alerts; a server opens and closes it (`app.py`).
        alerts: shows alerts, silences them, and tests their receivers.
        turns: what requests to `/v1/responses` continue.
        responses: what those requests made, as resources.
        conversations: what they may be about.
        expired_responses: deletes responses; a server opens and closes it (`app.py`).
        model_lists: the providers' lists of models.
        retirements: which models will be shut down; a server opens and closes it (`app.py`).
        evidence: files from which others recompute numbers.
        cache: the response cache.
        cache_sync: clears it when requests are deleted.
        draining: whether the process is about to end and takes no new work.
    """

    def __init__(
        self,
        config: Config,
        source: Path | None = None,
        *,
        share: Path | None = None,
        database: DatabaseAtStart | None = None,
        store: Store | None = None,
    ) -> None:
        self.config = config
        self.source = source
        self.transport = Transport(config.http)
        self.providers: Mapping[str, Provider] = {
            name: make(name, provider, self.transport)
            for name, provider in config.providers.items()
        }
        self.store: Store = store or store_of(config.storage, create=database is None)
        self.readiness = Readiness(self.store)
        self.prices = PriceBook(config.prices, config.providers)
        self.routes = Routes(config, source, self.store, self.prices)
        self.model_lists = ModelLists(self.providers, config.providers)
        self.masks = Masks(config)
        self.dispatcher = Dispatcher(self.providers, masks=self.masks)
        self.keys = Keys(
            required=config.server.require_keys or (database is not None and database.keys)
        )
        self.key_sync = KeySync(self.keys, self.store)
        self.cache = ResponseCache(config.cache.max_bytes)
        self.cache_sync = CacheSync(self.cache, self.store)
        kinds = {name: provider.kind for name, provider in config.providers.items()}
        traces = open_traces(config.telemetry, ProviderHosts(kinds, self._address_of), self.masks)
        self.telemetry = ProcessMetrics(traces, share=share)
        self.alert_counts = AlertCounts(
            config.alerts.rules,
            self.store,
            every=config.alerts.every_seconds,
            key_name=self.keys.name_of,
            open_breakers=self._open_breakers,
        )
        self.answer_counts = AnswerCounts(self.store, languages=lambda: self.watches.languages)
        self.traffic = Traffic(
            self.store,
            self.prices,
            config,
            route_days=self.routes.traffic_days,
            count=self._count if self.alert_counts.is_needed else self.telemetry.count,
            trace=None if traces is None else traces.send,
            answers=self.answer_counts,
        )
        requester = EvalRequester(
            self.routes, self.dispatcher, self.prices, self.traffic, config.models
        )
        self.datasets = DatasetRegistry(self.store, config)
        self.tracker = Tracker(self.store, config.tracking, self.masks)
        self.jobs = Jobs(
            self.store,
            requester,
            config.evaluation,
            masks=self.masks,
            traces=traces,
            on_end=self.tracker.begin,
        )
        self.runs = Runs(self.store, requester, self.datasets, config.evaluation, self.jobs)
        self.samples = SampleSearch(self.store)
        self.comparisons = RunComparisons(self.runs, self.store)
        self.experiments = Experiments(self.store)
        self.studies = Studies(self.store, requester, self.providers, traces=traces)
        self.shadows = Shadows(
            self.store,
            self.runs,
            self.jobs,
            requester=requester,
            routes=self.routes,
            allowed=config.evaluation,
            owner=this_owner(),
            outdated=self.traffic.outdated,
            unlisted=self.model_lists.unlisted,
            is_busy=self._is_busy,
        )
        self.toxicity_review = ToxicityReview(
            self.store,
            requester,
            self.routes,
            config.review,
            owner=this_owner(),
            traces=traces,
        )
        self.evidence = EvidenceBundles(self.store, self.datasets, config, self.routes)
        self._seal(config, requester)
        documents = ScheduleDocuments(config.schedules, requester, config.evaluation)
        self.schedule_controller = ScheduleController(
            self.store, self.runs, self.jobs, documents, owner=this_owner()
        )
        self.schedules = Schedules(self.store, documents, self.schedule_controller)
        self.rollouts = Rollouts(
            self.store, self.routes, config, unlisted=self.model_lists.unlisted
        )
        self.assignments = Assignments(self.store, self.routes, config.providers)
        self.rollout_controller = RolloutController(
            self.store, self.rollouts, self.assignments, owner=this_owner()
        )
        self.rollout_judging = RolloutJudging(
            self.store,
            self.assignments,
            self.routes,
            requester,
            allowed=config.evaluation,
            traces=traces,
        )
        self.traffic.hooks = {ANY_REQUEST: self.shadows, SAMPLED_REQUEST: self.rollout_judging}
        self.watches = Watches(
            self.store,
            self.datasets,
            requester,
            self.routes,
            config.watches,
            owner=this_owner(),
        )
        self.retirements = Retirements(config, self.routes, self.model_lists, self.store)
        self._alert(config)
        self._watch_all()
        self._share = share
        self.draining = False
        self._watching: list[asyncio.Task[None]] = []
        self._publishing: asyncio.Task[None] | None = None

    def _continue_responses(self, config: Config) -> None:
        self.turns = Turns(self.store, ResponseIds(self.store), days=config.storage.responses_days)
        self.responses = Responses(self.turns, self.providers)
        self.conversations = Conversations(self.store)
        self.expired_responses = ExpiredResponses(self.store)

    def _watch_all(self) -> None:
        self._watch_drift()
        self._watch_rollouts()
        self._watch_schedules()
        self._watch_learned()
        self._watch_queues_and_cache()
        self._watch_feedback()
        self._watch_targets()

    def _address_of(self, name: str) -> str:
        """Return the address of a provider's host; "" where it has none, or has not begun yet."""
        # Those that speak to a host over HTTP have one.
        address: str = getattr(self.providers.get(name), "base_url", "")
        return address

    def _seal(self, config: Config, requester: EvalRequester) -> None:
        self._continue_responses(config)
        if config.storage.seal_after_days:
            require_parquet("storage.seal_after_days")
        self._sealed_files = SealedFiles(lambda: self.datasets.artifacts, self.store)
        self.recorded = RecordedTraffic(self.store, self._sealed_files, self.traffic.delete)
        recordings = Recordings(
            (name, Path(provider.record))
            for name, provider in config.providers.items()
            if provider.record
        )
        self.review = ReviewQueue(self.store, self.datasets, config.review)
        self.request_search = RequestSearch(self.recorded, self.store)
        self.traffic_datasets = TrafficDatasets(
            self.store, self.recorded, self.datasets, config.review, queue=self.review
        )
        self.what_ifs = WhatIfs(
            self.store,
            self.recorded,
            self.routes,
            self.prices,
            days=config.storage.traffic_days,
        )
        self.frontiers = Frontiers(self.store, self.runs, self.what_ifs)
        copied = CopiedRowsDeletion(self.store, self.datasets)
        rollouts = RolloutRequestsDeletion(self.store)
        reviewed = ReviewDeletion(self.store)
        self.feedback_review = FeedbackReview(
            self.store, self.recorded, self.review, owner=this_owner()
        )
        self.feedback = FeedbackIntake(
            self.store,
            self.recorded,
            lambda: self.routes.table,
            self.traffic.outdated,
            traces=self.telemetry.traces,
        )
        self.predictor = Predictor(
            self.store,
            self.routes,
            requester,
            artifacts=lambda: self.datasets.artifacts,
            providers=config.providers,
        )
        self.learned_routes = LearnedRoutes(
            self.store,
            self.routes,
            requester,
            self.recorded,
            self.predictor,
            artifacts=lambda: self.datasets.artifacts,
            owner=this_owner(),
            outdated=self.traffic.outdated,
        )
        self.deletion = RequestDeletion(
            [
                self.recorded,
                self.feedback,
                reviewed,
                copied,
                rollouts,
                ResponsesDeletion(self.store),
                self.shadows,
                self.learned_routes,
                ExportedEvidence(self.store),
                recordings,
            ]
        )
        self.sealing = Sealing(
            self.store,
            self._sealed_files,
            self.recorded,
            owner=this_owner(),
            days=config.storage.seal_after_days,
            outdated=self.traffic.outdated,
        )

    def _alert(self, config: Config) -> None:
        rules = config.alerts.rules
        rates, money = (
            MeasuredSource(
                rules,
                self.store,
                about=about,
                every=config.alerts.every_seconds,
                budgets=self.keys.budgets,
                traffic=self.recorded,
                key_name=self.keys.name_of,
            )
            for about in ABOUT
        )
        self._alert_sender = AlertSender(config.alerts.receivers, self.store, self.masks)
        self.alert_controller = AlertController(
            config.alerts,
            self.store,
            [
                rates,
                money,
                BudgetSource(rules, self.keys.budgets),
                BreakerSource(self.store),
                RolloutSource(self.store),
                ShadowSource(self.store),
                DriftSource(self.watches.latest),
                RetirementSource(self.retirements),
                ScheduleAlerts(self.schedules),
            ],
            self._alert_sender,
            owner=this_owner(),
            public_url=config.server.public_url,
            windows=lambda: rates.windows() | money.windows() | BREAKER_WINDOW,
        )
        self.alerts = AlertAdministration(
            config.alerts,
            self.store,
            self._alert_sender,
            public_url=config.server.public_url,
        )
        self.telemetry.watch(
            "alerts",
            self.alert_controller.counts,
            labels=("rule", "severity", "state"),
            help="Alerts that are pending or firing; of the one process that decides about them.",
        )
        self.telemetry.watch(
            "alert_conditions_left_out",
            lambda: [((), self.alert_controller.left_out)],
            help="Conditions in the last round that were too many to become alerts.",
        )
        self.telemetry.watch(
            "alert_messages",
            self._alert_sender.outcomes.items,
            labels=("receiver", "outcome"),
            help="Messages about alerts: delivered, failed for good, or to be sent again.",
            counter=True,
        )

    def _count(self, record: Record) -> None:
        self.telemetry.count(record)
        self.alert_counts.count(record)

    def _open_breakers(self) -> list[str]:
        """Return the targets of live requests whose breaker is not closed here."""
        now = asyncio.get_running_loop().time()
        states = self.dispatcher.states()
        return [str(state.target) for state in states if state.state(now) != "closed"]

    def _watch_rollouts(self) -> None:
        watch, assignments = self.telemetry.watch, self.assignments
        watch(
            "rollout_weight",
            lambda: [((name,), rollout.weight) for name, rollout in assignments.active.items()],
            labels=("route",),
            help="The share of a route's requests that its rollout's candidate gets, 0 to 1.",
        )
        watch(
            "rollout_state",
            lambda: [((name, rollout.state), 1) for name, rollout in assignments.active.items()],
            labels=("route", "state"),
            help="1 for the state of each rollout that has not ended.",
        )
        watch(
            "rollout_e_value",
            self.rollout_controller.e_values,
            labels=("route", "signal", "evidence"),
            help="Evidence of a signal that the candidate is worse, or that a goal is shown.",
        )

        watch(
            "rollout_judged",
            self.rollout_judging.totals.items,
            labels=("route", "outcome"),
            help="Requests that the judge of a rollout was to score, by what became of them.",
            counter=True,
        )

    def _watch_drift(self) -> None:
        watch, watches = self.telemetry.watch, self.watches
        watch(
            "watch_e_value",
            watches.e_values,
            labels=("watch", "signal"),
            help="Evidence that a watched model has changed since its reference, by signal.",
        )
        watch(
            "watch_state",
            watches.states,
            labels=("watch", "state"),
            help="1 for the state of each watch: learning, quiet, drift or no_data.",
        )
        watch(
            "watch_probe_timestamp_seconds",
            watches.probe_times,
            labels=("watch",),
            help="When each watch had its last complete probe.",
        )
        watch(
            "model_retirement_days",
            self.retirements.days_left,
            labels=("target",),
            help="Days until models of routes and watches are shut down; negative afterwards.",
        )

    def _watch_schedules(self) -> None:
        watch, controller = self.telemetry.watch, self.schedule_controller
        watch(
            "scheduled",
            controller.counts.items,
            labels=("schedule", "state", "gate"),
            help="Times that a schedule was due, by what this process has stored of them: state "
            "is completed, failed, missed or skipped; gate is passed, failed or none.",
            counter=True,
        )
        watch(
            "schedule_next_due_timestamp_seconds",
            lambda: [((name,), due) for name, due in controller.next_due.items()],
            labels=("schedule",),
            help="When a schedule is due next, in seconds since the epoch.",
        )

    def _watch_learned(self) -> None:
        self.telemetry.watch(
            "learned_choices",
            self.predictor.counts.items,
            labels=("route", "reason"),
            help="Requests of learned routes, by why their target was chosen; see the records.",
            counter=True,
        )
        self.telemetry.watch(
            "learned_saving",
            lambda: [
                ((name,), model.report.saving)
                for name, model in self.predictor.active.items()
                if model.report.saving is not None
            ],
            labels=("route",),
            help="What a learned route saves in its held-out test, as a share of the cost of "
            "always taking one target.",
        )

    def _watch_queues_and_cache(self) -> None:
        watch, traffic, cache = self.telemetry.watch, self.traffic, self.cache
        watch(
            "traffic_queue",
            lambda: [((stage,), number) for stage, number in traffic.queues().items()],
            labels=("stage",),
            help="Request records that wait to be completed or written.",
        )
        watch(
            "traffic_dropped",
            lambda: [((), traffic.dropped)],
            help="Request records that were never written.",
            counter=True,
        )
        watch("cache_bytes", lambda: [((), cache.size)], help="What the response cache takes.")
        watch("cache_entries", lambda: [((), len(cache))], help="Answers in the response cache.")
        watch(
            "shadow_requests",
            self.shadows.counts,
            labels=("route", "reason"),
            help="Live requests of routes with a shadow, by what became of them there; of the one "
            "process that sends them.",
        )

    def _watch_feedback(self) -> None:
        self.telemetry.watch(
            "feedback",
            self.feedback.counts.items,
            labels=("route", "name", "value"),
            help="Feedback that was given, by its value: true, false, or of which kind it is.",
            counter=True,
        )

    def _watch_targets(self) -> None:
        classes: tuple[TrafficClass, ...] = ("live", "eval")
        states = [
            (traffic_class, partial(self.dispatcher.states, traffic_class))
            for traffic_class in classes
        ]
        self.telemetry.watch(
            "breaker_open",
            lambda: [
                (
                    (traffic_class, str(state.target)),
                    state.state(asyncio.get_running_loop().time()) != "closed",
                )
                for traffic_class, targets in states
                for state in targets()
            ],
            labels=("class", "target"),
            help="1 while a target's breaker is open or half-open.",
        )
        self.telemetry.watch(
            "requests_at_target",
            lambda: [
                ((traffic_class, str(state.target), stage), number)
                for traffic_class, targets in states
                for state in targets()
                for stage, number in (("running", state.running), ("waiting", state.waiting))
            ],
            labels=("class", "target", "stage"),
            help="Requests in flight at a target, and in the queue before it.",
        )

    def _is_busy(self, targets: Collection[Target]) -> bool:
        """Return whether live requests wait for a place at one of some targets."""
        return any(state.waiting for state in self.dispatcher.states() if state.target in targets)

    async def __aenter__(self) -> Services:
        await self.store.open()
        # First, because a route that was set while a server ran says how long its records stay.
        await self.routes.follow()
        await self.assignments.follow()
        await self.predictor.follow()
        await self.cache_sync.follow()
        await self.transport.open()
        await self.answer_counts.open()
        await self.traffic.open()
        await self.alert_counts.open()
        await self._alert_sender.open()
        await self.feedback.open()
        if self._share is not None:
            self._publishing = asyncio.create_task(self._publish(), name="evalrouter-metrics")
        for provider in self.providers.values():
            if isinstance(provider, Lifecycle):
                await provider.open()
        self._watching = [
            asyncio.create_task(self.routes.watch(), name="evalrouter-routes"),
            asyncio.create_task(self.assignments.watch(), name="evalrouter-assignments"),
            asyncio.create_task(self.predictor.watch(), name="evalrouter-learned"),
            asyncio.create_task(self.cache_sync.watch(), name="evalrouter-cache"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for watching in self._watching:
            watching.cancel()
        if self._publishing is not None:
            self._publishing.cancel()
        self.predictor.close()
        await self.readiness.close()
        await self.model_lists.close()
        await self.jobs.close()
        await self.tracker.close()
        await self.feedback.close()
        await self.traffic.close()
        await self.answer_counts.close()
        await self.alert_counts.close()
        await self._alert_sender.close()
        await self.telemetry.close()
        for provider in self.providers.values():
            if isinstance(provider, Lifecycle):
                await provider.close()
        await self.transport.close()
        self._sealed_files.close()
        await self.store.close()

    async def _publish(self) -> None:
        """Let the other workers' scrapes see what this one counted."""
        while True:
            await self.telemetry.publish()
            await asyncio.sleep(PUBLISH_EVERY_S)


def check_schedules(config: Config, source: Path | None) -> None:
    """Check the run documents of the config's schedules, as far as that needs no dataset.

    Args:
        config: the config.
        source: the file that it came from; None for the embedded default.

    Raises:
        ConfigError: naming everything that is wrong.
    """
    if config.schedules:
        # Nothing is sent, so no collector of traces need be connected to.
        config = msgspec.structs.replace(config, telemetry=Telemetry())
        written = None
        if source is not None:
            text = read_text(source, error=ConfigError)
            written, _ = read_yaml(text, str(source), error=ConfigError)
        asyncio.run(Services(config, source).schedules.check(written))


def create_first_key(config: Config, address: str) -> None:
    """Create the first administrator's key where the config or `storage.folder` asks for it.

    Args:
        config: the config.
        address: where the server listens.

    Raises:
        ConfigError: the key cannot be created.
        StoreError: the database cannot be used.
    """
    key = config.server.admin_key.reveal()
    folder = config.storage.folder
    write = folder and (config.server.require_keys or _is_open_door(config, address))
    if not key and not write:
        return

    async def create() -> None:
        async with open_store(config.storage) as store:
            if key:
                await ensure_configured_key(store, key, time.time())
            else:
                await ensure_written_key(store, Path(folder), time.time())

    asyncio.run(create())


def refuse_open_door(config: Config, address: str) -> None:
    """Refuse an address where others than this machine's users could use the providers' keys.

    Raises:
        ConfigError: `address` is not this machine's own, no key exists and none is required.
        StoreError: the database cannot be used.
    """
    if _is_open_door(config, address) and not asyncio.run(_has_keys(config)):
        raise ConfigError(
            f"anybody who reaches {address} could use this server, because no key exists. Create "
            f"one with 'evalrouter key create NAME' or the variable {ADMIN_KEY}, or set "
            "server.allow_anonymous: true in the config."
        )


def _is_open_door(config: Config, address: str) -> bool:
    """Return whether others than this machine's users get in at an address if no key exists."""
    if config.server.allow_anonymous or config.server.require_keys:
        return False
    return not ip_address(address.partition("%")[0]).is_loopback


async def _has_keys(config: Config) -> bool:
    async with open_store(config.storage) as store:
        return bool((await store.keys()).by_hash)
