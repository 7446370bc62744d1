"""The whole store in one SQLite file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from providers.errors import StoreUnavailableError
from router.store.protocol import Store
from router.store.sqlite.claims import SqliteClaims
from router.store.sqlite.database import SqliteDatabase
from router.store.sqlite.datasets import SqliteDatasets
from router.store.sqlite.experiments import SqliteExperiments
from router.store.sqlite.history import SqliteHistory
from router.store.sqlite.judgements import SqliteJudgements
from router.store.sqlite.keys import SqliteKeys
from router.store.sqlite.people_labels import SqliteLabels
from router.store.sqlite.requeue import SqliteRequeue
from router.store.sqlite.results import SqliteResults
from router.store.sqlite.routes import SqliteRoutes
from router.store.sqlite.runs import SqliteRuns
from router.store.sqlite.studies import SqliteStudies
from router.store.sqlite.traffic import SqliteTraffic
from router.store.sqlite.usage import SqliteUsage


class SqliteStore(
    SqliteRuns,
    SqliteRequeue,
    SqliteClaims,
    SqliteResults,
    SqliteHistory,
    SqliteUsage,
    SqliteExperiments,
    SqliteJudgements,
    SqliteStudies,
    SqliteLabels,
    SqliteDatasets,
    SqliteRoutes,
    SqliteKeys,
    SqliteTraffic,
    Store,
):
    """A `Store` in one file.

    Args:
        path: the file; its folder must exist.
        create: whether it is made when it is not there.
        clock: seconds since the epoch; stamps answers.
        room: how many writes may be on their way before the next one waits.

    Attributes:
        path: the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
        room: int = 1024,
    ) -> None:
        super().__init__(SqliteDatabase(path, create=create, clock=clock, room=room))
        self.path = path

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

    async def check(self) -> None:
        await self._database.check()

    def delay(self) -> StoreUnavailableError | None:
        return self._database.delay()
