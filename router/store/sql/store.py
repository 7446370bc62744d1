"""The whole store, over any database."""

from __future__ import annotations

from providers.errors import StoreUnavailableError
from router.store.changes import Topic
from router.store.protocol import Store
from router.store.sql.alerts import SqlAlerts
from router.store.sql.claims import SqlClaims
from router.store.sql.evidence import SqlEvidence
from router.store.sql.experiments import SqlExperiments
from router.store.sql.feedback import SqlFeedback
from router.store.sql.history import SqlHistory
from router.store.sql.judgements import SqlJudgements
from router.store.sql.keys import SqlKeys
from router.store.sql.learned import SqlLearned
from router.store.sql.leases import SqlLeases
from router.store.sql.lineage import SqlLineage
from router.store.sql.occurrences import SqlOccurrences
from router.store.sql.overview import SqlOverview
from router.store.sql.people_labels import SqlLabels
from router.store.sql.requeue import SqlRequeue
from router.store.sql.responses import SqlResponses
from router.store.sql.results import SqlResults
from router.store.sql.review import SqlReview
from router.store.sql.rollouts import SqlRollouts
from router.store.sql.routes import SqlRoutes
from router.store.sql.run_logs import SqlRunLogs
from router.store.sql.runs import SqlRuns
from router.store.sql.sample_views import SqlSampleViews
from router.store.sql.schedules import SqlSchedules
from router.store.sql.sealed_traffic import SqlSealedTraffic
from router.store.sql.sessions import SqlSessions
from router.store.sql.shadows import SqlShadows
from router.store.sql.slices import SqlSlices
from router.store.sql.studies import SqlStudies
from router.store.sql.usage import SqlUsage
from router.store.sql.watches import SqlWatches


class SqlStore(
    SqlRuns,
    SqlRunLogs,
    SqlRequeue,
    SqlClaims,
    SqlResults,
    SqlSampleViews,
    SqlSlices,
    SqlHistory,
    SqlUsage,
    SqlEvidence,
    SqlExperiments,
    SqlJudgements,
    SqlStudies,
    SqlResponses,
    SqlLabels,
    SqlLineage,
    SqlLearned,
    SqlOccurrences,
    SqlOverview,
    SqlRollouts,
    SqlRoutes,
    SqlSchedules,
    SqlKeys,
    SqlSessions,
    SqlSealedTraffic,
    SqlFeedback,
    SqlShadows,
    SqlWatches,
    SqlReview,
    SqlAlerts,
    SqlLeases,
    Store,
):
    """A `Store`, made of its parts."""

    async def open(self) -> None:
        await self._database.open()
        try:
            await self.erase_abandoned_runs()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._database.close()

    def end_within(self, seconds: float) -> None:
        self._database.end_within(seconds)

    async def changed(self, topic: Topic, seen: int, within: float) -> int:
        return await self._database.changes.wait(topic, seen, within)

    async def check(self) -> None:
        await self._database.check()

    def delay(self) -> StoreUnavailableError | None:
        return self._database.delay()
