"""Where other parts of the program take part in a request; `services.py` plugs them in.

The gateway knows these protocols and nothing of who implements them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import msgspec

from router.config.routes import Route
from router.records import AssignedArm, LearnedChoice, Odds, Record, Target

# What a choice sticks to: a user, a header's value, a conversation's text, or a request alone.
UnitKey = bytes | msgspec.Raw

# The bits of `Record.hooks`: for the hook of all requests, and for that of rollouts' samples.
ANY_REQUEST, SAMPLED_REQUEST = 1, 2


class Assignment(NamedTuple):
    """Which side of a rollout a request is on.

    Attributes:
        assigned: the rollout, its step and the arm.
        sampled: whether the request is in the sample of which the rollout's evidence is made.
        target: the target to try before those of the plan; None for the plan as it is.
    """

    assigned: AssignedArm
    sampled: bool
    target: Target | None

    def note(self, record: Record) -> None:
        """Note in a request's record where the request has been put."""
        record.assigned = self.assigned
        if self.sampled:
            record.rollout, record.step, record.arm = self.assigned


class TargetChooser(Protocol):
    """Has some requests of a route answered by another target than the route's own."""

    @property
    def by_route(self) -> Mapping[str, RouteChooser]:
        """What chooses for each route that has a choice. Every request looks its route up."""
        ...


class RouteChooser(Protocol):
    """Chooses for the requests of one route.

    Attributes:
        sticky: what the choice sticks to, as in the config's `sticky`; "" for the request's user,
            or else its conversation.
        by_whole_message: whether a conversation is known by its first message that is not a system
            message, as JSON; otherwise by the text of its user's first message.
        odds, mixed_odds: the odds of a plan that `mix` was last called with, and those with the
            choice taken into account.
    """

    sticky: str
    by_whole_message: bool
    odds: Odds | None
    mixed_odds: Odds | None

    def mix(self, odds: Odds | None) -> None:
        """Set `odds`, and `mixed_odds` accordingly. Most requests of a route have the same."""
        ...

    def choose(self, route: Route, key: UnitKey) -> tuple[Assignment | None, str]:
        """Return the choice for a request, None where the route has none now; and its unit.

        The unit is a hash of whom the choice sticks to.

        Args:
            route: the route's definition.
            key: what the choice sticks to; another one for each request without it.
        """
        ...


class TargetPredictor(Protocol):
    """Predicts for requests of learned routes which target is the cheapest that is good enough."""

    async def predict(
        self,
        route_name: str,
        route: Route,
        envelope: Mapping[str, msgspec.Raw],
        *,
        conversation: str,
        candidates: Collection[Target],
    ) -> LearnedChoice:
        """Return the choice for a request, within a time that is bounded; it never fails.

        Args:
            route_name: the route's name.
            route: its definition, with the strategy `learned`.
            envelope: the fields of the request.
            conversation: what its conversation is known by; "" where it is not known.
            candidates: the targets that can serve it.
        """
        ...


class RouteWatch(Protocol):
    """Chooses which requests of one route a hook gets."""

    def wants(self, route: Route, record_id: str, *, key_id: str, stored: bool) -> bool:
        """Return whether `after` is to get a request: cheap, and on the path of the request.

        Args:
            route: the request's route.
            record_id: the id of its record.
            key_id: the id of its key, "" without one.
            stored: whether the client lets it be stored.
        """
        ...


class AnswerHook(Protocol):
    """Gets requests with their answers, once clients have theirs."""

    @property
    def watched(self) -> Mapping[str, RouteWatch]:
        """The routes of which it may want requests, by name."""
        ...

    def after(self, record: Record) -> None:
        """Take a request that has ended, settled, with the whole bodies of both sides.

        A body of an answer that is too long to be recorded is cut short. It never blocks.
        """
        ...
