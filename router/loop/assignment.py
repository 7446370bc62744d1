"""Which side of a rollout a request is on: the same in every process, and steady for its user.

    assignments = Assignments(store, routes, providers)
    await assignments.follow()                     # what other processes have decided
    side = assignments.by_route["summarizer"]      # of routes with a rollout
    side.choose(route, key)                        # Assignment(...)

A user's position is a number from 0 to 1, drawn for the rollout and for what names the user
(`draws.py`); positions below the candidate's share are the candidate's. So shares are nested: a
user who has come to the candidate stays there while the share grows, one who has not stays with the
control, and each rollout draws anew. A request whose user is not known has a position of its own.

Other digits of the same number say whether the user is in the step's sample (`rollout_sample.py`).
Only requests of the sample are stored as evidence; all others cost this one draw.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b

from router.config.routes import Route
from router.gateway.hooks import Assignment, UnitKey
from router.gateway.route_table import Routes
from router.loop.draws import draw_by
from router.loop.rollout_routes import is_unchanged, sticky_of
from router.records import Arm, AssignedArm, Odds, Target
from router.store.changes import follow_changes
from router.store.rollouts import Rollout, RolloutStore

log = logging.getLogger("evalrouter")

POLL_S = 1.0
MAX_ACTIVE = 1000
# A process takes no more requests of a rollout into the sample, in either arm, when its traffic has
# grown so much since the step began: so many a second, and at once so many as come in a minute.
MAX_SAMPLED_PER_S = 100.0
MAX_SAMPLED_AT_ONCE = 60 * MAX_SAMPLED_PER_S
# A drawn number has 64 bits. The upper ones are the position, which a float holds exactly, so that
# it never rounds up to 1. The lower ones draw the sample; no weight is so fine that it needs them.
_POSITIONS, _REST_BITS = 1 << 53, 11
_SAMPLES = 1 << 32
_LOWER = _SAMPLES - 1


def unit_of(rollout: Rollout, key: bytes) -> str:
    """Return what stands for a user in a rollout, 16 hexadecimal digits.

    It is another one in every rollout.
    """
    return f"{_drawing(rollout)(key):016x}"


def _drawing(rollout: Rollout) -> Callable[[UnitKey], int]:
    """Return what draws the number of a key in a rollout."""
    if rollout.placement == "checksum":
        return draw_by(rollout.id)
    salt = rollout.id.encode()
    return lambda key: int.from_bytes(blake2b(key, digest_size=8, key=salt).digest())


class Assignments:
    """Follows the rollouts of the store, and assigns requests.

    Args:
        store: has the rollouts.
        routes: the routes as they stand.
        providers: the names of the configured providers.
        clock: tells seconds, for the limit on the sample.

    Attributes:
        active: each route's rollout that has not ended.
        by_route: what assigns the requests of each route with a rollout.
    """

    def __init__(
        self,
        store: RolloutStore,
        routes: Routes,
        providers: Collection[str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._store = store
        self._routes = routes
        self._providers = providers
        self._version = (0, -1)
        self.active: Mapping[str, Rollout] = {}
        self.by_route: Mapping[str, RouteAssignments] = {}

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
        self.by_route = {
            name: RouteAssignments(rollout, self._clock)
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


class RouteAssignments:
    """A rollout made ready to assign requests.

    Attributes:
        sticky: what keeps a user in one arm; "" for the user, or else the conversation.
        by_whole_message, odds, mixed_odds: see `router.gateway.hooks.RouteChooser`.
    """

    def __init__(self, rollout: Rollout, clock: Callable[[], float]) -> None:
        self._rollout = rollout
        self._clock = clock
        self.sticky = sticky_of(rollout)
        self.by_whole_message = rollout.placement == "message"
        self._draw = _drawing(rollout)
        # Numbers below are the candidate's.
        self._end = math.ceil(rollout.weight * _POSITIONS) << _REST_BITS
        self._target = Target.parse(rollout.candidate)
        self._control = _Arm(rollout, "control", rollout.sampled_control, None)
        self._candidate = _Arm(rollout, "candidate", rollout.sampled_candidate, self._target)
        self.odds: Odds | None = None
        self.mixed_odds: Odds | None = None
        # How many requests may still be sampled at once, and when that was so.
        self._left, self._left_at = MAX_SAMPLED_AT_ONCE, clock()
        # The route that is the control, and the one that was last seen not to be it.
        self._compared: Route | None = None
        self._changed: Route | None = None

    def choose(self, route: Route, key: UnitKey) -> tuple[Assignment | None, str]:
        """Return the side of a request, None where its route is not what is compared; and its unit.

        Args:
            route: the route in this process. Where it is not what the rollout compares with, it is
                in effect for all requests.
            key: what names the request's user, or else the request.
        """
        if route is not self._compared and not self._is_control(route):
            return None, ""
        number = self._draw(key)
        arm = self._candidate if number < self._end else self._control
        sampled = number & _LOWER < arm.end and self._may_sample()
        return arm.sampled if sampled else arm.unsampled, f"{number:016x}"

    def mix(self, odds: Odds | None) -> None:
        """Set `odds`, and `mixed_odds` accordingly."""
        self.odds = odds
        self.mixed_odds = None if odds is None else odds.mixed(self._rollout.weight, self._target)

    def _is_control(self, route: Route) -> bool:
        """Return whether a route is what the rollout compares with."""
        if route is self._changed:
            return False
        if is_unchanged(self._rollout, route):
            self._compared = route
            return True
        self._changed = route
        return False

    def _may_sample(self) -> bool:
        """Return whether another request may be sampled now, and count it."""
        now = self._clock()
        more = (now - self._left_at) * MAX_SAMPLED_PER_S
        self._left, self._left_at = min(MAX_SAMPLED_AT_ONCE, self._left + more), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Arm:
    """An arm made ready to be assigned.

    Attributes:
        sampled, unsampled: what its requests get that are in the sample, and the others.
        end: the lower halves of the numbers of those in the sample are below it.
    """

    __slots__ = ("end", "sampled", "unsampled")

    def __init__(self, rollout: Rollout, arm: Arm, share: float, target: Target | None) -> None:
        assigned = AssignedArm(rollout.id, rollout.step, arm)
        self.sampled, self.unsampled = (
            Assignment(assigned, sampled, target) for sampled in (True, False)
        )
        self.end = math.ceil(share * _SAMPLES)
