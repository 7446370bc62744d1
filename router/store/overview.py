"""What goes on and what waits for people, of the whole store in one reading."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from router.store.alerts import Alert
from router.store.rollouts import Rollout
from router.store.runs import Run


class Overview(NamedTuple):
    """What goes on, all of one state of the store.

    Attributes:
        active: runs that are executed, then those that wait for it, the newest first of each.
        newest: the newest runs in whatever state.
        alerts: those that are open; empty where they were not requested, as are the next two.
        reviews: how many rows wait in the review queue.
        rollouts: those that go on, the newest first.
    """

    active: list[Run]
    newest: list[Run]
    alerts: list[Alert]
    reviews: int
    rollouts: list[Rollout]


class OverviewStore(Protocol):
    """Reads what the first page shows, which is more than once a second while browsers show it."""

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
        """Return what goes on.

        Args:
            key_id: selects runs of one key; None selects all.
            active: how many runs at most, of each of the two states.
            newest: how many runs at most.
            alerts: whether to read the alerts.
            reviews: whether to count the rows to review.
            rollouts: whether to read the rollouts.
        """
        ...
