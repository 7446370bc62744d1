"""What alerts are told of watches: see `router.loop.alerts`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from router.config.alerts import AlertSubject
from router.config.watches import VERSION_NAMES
from router.loop.alerts import AlertCondition
from router.loop.watches import WatchView
from router.store.watches import PROBE


class DriftSource:
    """The conditions of watches, for alerts. See `router.loop.alerts.AlertSource`.

    Args:
        views: returns the watches as they stand.
    """

    subjects: Sequence[AlertSubject] = ("drift",)
    tells_all = True

    def __init__(self, views: Callable[[], Awaitable[Sequence[WatchView]]]) -> None:
        self._views = views

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return the watches that found a change, or that get no data."""
        conditions: list[AlertCondition] = []
        for view in await self._views():
            conditions += _conditions(view)
        return conditions


def _conditions(view: WatchView) -> list[AlertCondition]:
    labels = {"watch": view.name, "target": view.target}
    link = f"/watches/{view.name}"
    conditions = []
    reference = view.reference
    if view.state == "drift" and reference is not None:
        conditions.append(
            AlertCondition(
                subject="drift",
                labels=labels | {"signal": reference.drift_signal},
                summary=f"{view.target or view.watch.target} has changed: {view.why}",
                severity="critical" if reference.drift_signal == PROBE else "warning",
                link=link,
                since=reference.drift_at,
            )
        )
    elif view.state == "no_data":
        conditions.append(
            AlertCondition(
                subject="drift",
                labels=labels | {"signal": "no_data"},
                summary=f"the watch {view.name} gets no data: {view.why}",
                severity="info",
                link=link,
            )
        )
    for what in VERSION_NAMES:
        changes = [change for change in view.changes if change.what == what]
        if changes:
            names = ", ".join(change.name for change in changes[:5])
            conditions.append(
                AlertCondition(
                    subject="drift",
                    labels=labels | {"signal": what},
                    summary=f"{view.target} claims another {what.replace('_', ' ')}: {names}",
                    severity="warning" if what == "model" else "info",
                    link=link,
                    since=min(change.first_at for change in changes),
                )
            )
    return conditions
