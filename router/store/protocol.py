"""The whole store: everything that must survive a crash, whatever database holds it.

Each part is a protocol in a module of its own, with the rows that it stores; a class that needs one
part takes that protocol. A database implements them all: `sqlite/` has one module for each.
"""

from __future__ import annotations

from typing import Protocol

from router.store.alerts import AlertStore
from router.store.changes import ChangeStore
from router.store.claims import ClaimStore
from router.store.evidence import EvidenceStore
from router.store.experiments import ExperimentStore
from router.store.feedback import FeedbackStore
from router.store.history import HistoryStore
from router.store.judgements import JudgementStore
from router.store.keys import KeyStore
from router.store.learned import LearnedStore
from router.store.leases import LeaseStore
from router.store.lineage import LineageStore
from router.store.occurrences import OccurrenceStore
from router.store.overview import OverviewStore
from router.store.people_labels import LabelStore
from router.store.readiness import CheckedStore
from router.store.requeue import RequeueStore
from router.store.responses import ResponseStore
from router.store.results import ResultStore
from router.store.review import ReviewStore
from router.store.rollouts import RolloutStore
from router.store.routes import RouteStore
from router.store.run_logs import RunLogStore
from router.store.runs import RunStore
from router.store.sample_views import SampleViewStore
from router.store.schedules import ScheduleStore
from router.store.sealed_traffic import SealedTrafficStore
from router.store.sessions import SessionStore
from router.store.shadows import ShadowStore
from router.store.slices import SliceStore
from router.store.studies import StudyStore
from router.store.usage import UsageStore
from router.store.watches import WatchStore


class Store(
    RunStore,
    RunLogStore,
    RequeueStore,
    ClaimStore,
    ResultStore,
    SampleViewStore,
    SliceStore,
    HistoryStore,
    UsageStore,
    EvidenceStore,
    ExperimentStore,
    JudgementStore,
    StudyStore,
    ResponseStore,
    LabelStore,
    LineageStore,
    LearnedStore,
    OccurrenceStore,
    OverviewStore,
    RolloutStore,
    ScheduleStore,
    RouteStore,
    KeyStore,
    SessionStore,
    SealedTrafficStore,
    ReviewStore,
    FeedbackStore,
    ShadowStore,
    WatchStore,
    AlertStore,
    LeaseStore,
    CheckedStore,
    ChangeStore,
    Protocol,
):
    """Stores everything that must survive a crash. Every method may raise StoreError.

    It is a StoreUnavailableError where the database as a whole does not work at present.

    A write has reached the database (and outlives a kill -9 of this process) when its await ends.
    Numbers that are NaN or infinite are refused everywhere: neither JSON nor a mean can carry them.
    """

    async def open(self) -> None:
        """Connect, bring the schema up to date, and clear away what a crash left half done.

        Raises:
            StoreError: the database cannot be used, or was written by a newer evalrouter.
        """
        ...

    async def close(self) -> None:
        """Write what is queued, then disconnect. Closing twice does nothing."""
        ...

    def end_within(self, seconds: float) -> None:
        """Wait at most so long from now for other processes that keep the database locked."""
        ...
