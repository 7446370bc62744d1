"""Which side of a rollout a request is on: the same in every process, and steady for its user.

    assignments = Assignments(store, routes, providers)
    await assignments.follow()                     # what other processes have decided
    assignments.choose("summarizer", route, key)   # Assignment(arm="candidate", ...), or None

A user's position is a hash of the rollout and of what names the user, from 0 to 1; positions below
the candidate's share are the candidate's. So shares are nested: a user who has come to the
candidate stays there while the share grows, one who has not stays with the control, and each
rollout draws anew. A request whose user is not known has a position of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping

from router.config.routes import Route
from router.gateway.hooks import Assignment
from router.gateway.route_table import Routes
from router.gateway.routing import position_of
from router.loop.rollout_routes import is_unchanged, sticky_of
from router.records import Target
from router.store.changes import follow_changes
from router.store.rollouts import Rollout, RolloutStore

log = logging.getLogger("evalrouter")

POLL_S = 1.0
MAX_ACTIVE = 1000


def unit_of(rollout_id: str, key: str) -> str:
    """Return what stands for a user in a rollout, 16 hexadecimal digits.

    It does not tell who the user is, and is another one in every rollout.
    """
    return hashlib.blake2b(
        key.encode("utf-8", "surrogatepass"), digest_size=8, key=rollout_id.encode()
    ).hexdigest()


class Assignments:
    """Follows the rollouts of the store, and assigns requests.

    Args:
        store: has the rollouts.
        routes: the routes as they stand.
        providers: the names of the configured providers.

    Attributes:
        active: each route's rollout that has not ended.
    """

    def __init__(self, store: RolloutStore, routes: Routes, providers: Collection[str]) -> None:
        self._store = store
        self._routes = routes
        self._providers = providers
        self._version = (0, -1)
        self.active: Mapping[str, Rollout] = {}
        self._sides: dict[str, _Side] = {}

    async def follow(self) -> None:
        """Take over what any process has decided."""
        version = self._store.generation, await self._store.rollout_version()
        if version == self._version:
            return
        rollouts = await self._store.rollouts(active=True, limit=MAX_ACTIVE)
        # First, so that a rollout which has ended leaves the route that it has set.
        await self._routes.follow()
        self._version = version
        self.active = {rollout.route: rollout for rollout in rollouts}
        # A candidate whose provider this process does not have could only fail.
        self._sides = {
            name: _Side(rollout)
            for name, rollout in self.active.items()
            if Target.parse(rollout.candidate).provider in self._providers
        }

    async def watch(self) -> None:
        """Follow the other processes, until cancelled."""
        await follow_changes(
            self._store,
            "rollouts",
            self.follow,
            within=POLL_S,
            failing="cannot look for changed rollouts",
        )

    def sticky_of(self, route_name: str) -> str | None:
        """Return what keeps a user in one arm; None for a route without a rollout."""
        side = self._sides.get(route_name)
        return None if side is None else side.sticky

    def choose(self, route_name: str, route: Route, key: str) -> Assignment | None:
        """Return the side of a request; None where its route has no rollout now.

        Args:
            route_name: the route's name.
            route: its definition in this process. Where it is not what the rollout compares with,
                it is in effect for all requests.
            key: what names the request's user, or else the request.
        """
        side = self._sides.get(route_name)
        return None if side is None else side.choose(route, key)


class _Side:
    """A rollout made ready to assign requests.

    Attributes:
        sticky: what keeps a user in one arm; "" for the user, or else the conversation.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self.sticky = sticky_of(rollout)
        self._target = Target.parse(rollout.candidate)
        # The route that was last compared with the control, and the result.
        self._compared: Route | None = None
        self._is_control = False

    def choose(self, route: Route, key: str) -> Assignment | None:
        rollout = self._rollout
        if route is not self._compared:
            self._is_control = is_unchanged(rollout, route)
            self._compared = route
        if not self._is_control:
            return None
        unit = unit_of(rollout.id, key)
        is_candidate = position_of(unit) < rollout.weight
        return Assignment(
            rollout.id,
            "candidate" if is_candidate else "control",
            unit,
            rollout.step,
            self._target if is_candidate else None,
            self._target,
            rollout.weight,
        )
