"""Where other parts of the program take part in a request; `services.py` plugs them in.

The gateway knows these protocols and nothing of who implements them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from router.config.routes import Route
from router.records import AssignedArm, LearnedChoice, Record, Target


class Assignment(NamedTuple):
    """Which side of a rollout a request is on.

    Attributes:
        assigned: the rollout, its step and the arm.
        sampled: whether the request is in the sample of which the rollout's evidence is made.
        target: the target to try before those of the plan; None for the plan as it is.
        candidate, weight: the rollout's candidate, and the share of requests that try it first.
    """

    assigned: AssignedArm
    sampled: bool
    target: Target | None
    candidate: Target
    weight: float

    def note(self, record: Record) -> None:
        """Note in a request's record where the request has been put."""
        record.assigned = self.assigned
        if self.sampled:
            record.rollout, record.step, record.arm = self.assigned


class TargetChooser(Protocol):
    """Has some requests of a route answered by another target than the route's own."""

    def of_route(self, route_name: str) -> RouteChooser | None:
        """Return what chooses for a route; None where nothing does. Every request looks it up."""
        ...


class RouteChooser(Protocol):
    """Chooses for the requests of one route.

    Attributes:
        sticky: what the choice sticks to, as in the config's `sticky`; "" for the request's user,
            or else its conversation.
    """

    sticky: str

    def choose(self, route: Route, key: bytes) -> tuple[Assignment | None, str]:
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


class AnswerHook(Protocol):
    """Gets requests with their answers, once clients have theirs.

    Attributes:
        watched: the names of the routes of which it may want requests.
    """

    watched: Collection[str]

    def wants(
        self, route_name: str, route: Route, record_id: str, *, key_id: str, stored: bool
    ) -> bool:
        """Return whether `after` is to get a request: cheap, and on the path of the request.

        Args:
            route_name: the name of its route.
            route: the route.
            record_id: the id of its record.
            key_id: the id of its key, "" without one.
            stored: whether the client lets it be stored.
        """
        ...

    def after(self, record: Record) -> None:
        """Take a request that has ended, settled, with the whole bodies of both sides.

        A body of an answer that is too long to be recorded is cut short. It never blocks.
        """
        ...


class AnswerHooks:
    """Several hooks, each of which gets what it wants.

    Args:
        hooks: a record has one bit for each.
        first: the bit of the first one.
    """

    def __init__(self, hooks: Sequence[AnswerHook], *, first: int = 0) -> None:
        self._hooks = [(1 << n, hook) for n, hook in enumerate(hooks, first)]

    def wants(
        self, route_name: str, route: Route, record_id: str, *, key_id: str, stored: bool
    ) -> int:
        """Return which hooks want a request, one bit for each; see `AnswerHook.wants`."""
        bits = 0
        for bit, hook in self._hooks:
            if route_name in hook.watched and hook.wants(
                route_name, route, record_id, key_id=key_id, stored=stored
            ):
                bits |= bit
        return bits

    def after(self, record: Record) -> None:
        """Pass a request to the hooks that wanted it."""
        for bit, hook in self._hooks:
            if record.hooks & bit:
                hook.after(record)
