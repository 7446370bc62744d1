"""What goes on and what waits for people, over any database."""

from __future__ import annotations

from router.store.overview import Overview, OverviewStore
from router.store.review import ReviewFilter
from router.store.runs import RunFilter, RunState
from router.store.sql.alerts import read_open_alerts
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.review import count_rows
from router.store.sql.rollouts import page_of_rollouts
from router.store.sql.runs import page_of_runs

_UNDER_WAY: tuple[RunState, ...] = ("running", "queued")


class SqlOverview(SqlPart, OverviewStore):
    """What goes on."""

    async def overview(
        self,
        key_id: str | None,
        *,
        active: int,
        newest: int,
        alerts: bool,
        reviews: bool,
        rollouts: bool,
    ) -> Overview:
        def read(db: Connection) -> Overview:
            return Overview(
                active=[
                    run
                    for state in _UNDER_WAY
                    for run in page_of_runs(db, RunFilter(state=state, key_id=key_id), active)
                ],
                newest=page_of_runs(db, RunFilter(key_id=key_id), newest),
                alerts=read_open_alerts(db) if alerts else [],
                reviews=count_rows(db, ReviewFilter(state="waiting")) if reviews else 0,
                rollouts=page_of_rollouts(db, active=True) if rollouts else [],
            )

        return await self._database.read("read what goes on", read)
