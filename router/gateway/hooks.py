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
        unit: a hash of whom the choice sticks to.
        sampled: whether the request is in the sample of which the rollout's evidence is made.
        target: the target to try before those of the plan; None for the plan as it is.
        candidate, weight: the rollout's candidate, and the share of requests that try it first.
    """

    assigned: AssignedArm
    unit: str
    sampled: bool
    target: Target | None
    candidate: Target
    weight: float

    def note(self, record: Record) -> None:
        """Note in a request's record where the request has been put."""
        record.assigned, record.unit = self.assigned, self.unit
        if self.sampled:
            record.rollout, record.step, record.arm = self.assigned


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
    """Several hooks, each of which gets what it wants. A record has one bit for each.

    Args:
        hooks: may want any request.
        sample_hooks: may want those that are in the sample of a rollout, once that is known.
    """

    def __init__(
        self, hooks: Sequence[AnswerHook], sample_hooks: Sequence[AnswerHook] = ()
    ) -> None:
        self._hooks = [(1 << n, hook) for n, hook in enumerate((*hooks, *sample_hooks))]
        self._of_all = self._hooks[: len(hooks)]
        self._of_samples = self._hooks[len(hooks) :]

    def wants(
        self, route_name: str, route: Route, record_id: str, *, key_id: str, stored: bool
    ) -> int:
        """Return which hooks want a request, one bit for each; see `AnswerHook.wants`."""
        return _bits(self._of_all, route_name, route, record_id, key_id=key_id, stored=stored)

    def wants_sampled(
        self, route_name: str, route: Route, record_id: str, *, key_id: str, stored: bool
    ) -> int:
        """Return which more want a request that is in the sample of a rollout."""
        return _bits(self._of_samples, route_name, route, record_id, key_id=key_id, stored=stored)

    def after(self, record: Record) -> None:
        """Pass a request to the hooks that wanted it."""
        for bit, hook in self._hooks:
            if record.hooks & bit:
                hook.after(record)


def _bits(
    hooks: Sequence[tuple[int, AnswerHook]],
    route_name: str,
    route: Route,
    record_id: str,
    *,
    key_id: str,
    stored: bool,
) -> int:
    bits = 0
    for bit, hook in hooks:
        if hook.wants(route_name, route, record_id, key_id=key_id, stored=stored):
            bits |= bit
    return bits
