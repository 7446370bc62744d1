"""Where other parts of the program take part in a request; `services.py` plugs them in.

The gateway knows these protocols and nothing of who implements them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from router.config.routes import Route
from router.records import Arm, Record, Target


class Assignment(NamedTuple):
    """Which side of a rollout a request is on.

    Attributes:
        rollout: the rollout's id.
        arm: the side.
        unit: a hash of whom the choice sticks to.
        step: the position in the rollout's steps.
        target: the target to try before those of the plan; None for the plan as it is.
        candidate, weight: the rollout's candidate, and the share of requests that try it first.
    """

    rollout: str
    arm: Arm
    unit: str
    step: int
    target: Target | None
    candidate: Target
    weight: float


class TargetChooser(Protocol):
    """Has some requests of a route answered by another target than the route's own."""

    def sticky_of(self, route_name: str) -> str | None:
        """Return what its choice sticks to, as in the config's `sticky`.

        "" stands for the request's user, or else its conversation. None where it chooses nothing
        for the route, which is looked up for every request.
        """
        ...

    def choose(self, route_name: str, route: Route, key: str) -> Assignment | None:
        """Return the choice for a request; None where the route has none now.

        Args:
            route_name: the route's name.
            route: its definition.
            key: what the choice sticks to; another one for each request without it.
        """
        ...


class AnswerHook(Protocol):
    """Gets requests with their answers, once clients have theirs."""

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
    """

    def __init__(self, hooks: Sequence[AnswerHook]) -> None:
        self._hooks = [(1 << n, hook) for n, hook in enumerate(hooks)]

    def wants(
        self, route_name: str, route: Route, record_id: str, *, key_id: str, stored: bool
    ) -> int:
        """Return which hooks want a request, one bit for each; see `AnswerHook.wants`."""
        bits = 0
        for bit, hook in self._hooks:
            if hook.wants(route_name, route, record_id, key_id=key_id, stored=stored):
                bits |= bit
        return bits

    def after(self, record: Record) -> None:
        """Pass a request to the hooks that wanted it."""
        for bit, hook in self._hooks:
            if record.hooks & bit:
                hook.after(record)
