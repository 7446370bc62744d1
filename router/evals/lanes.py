"""Gives a run a lane for each target of each route, with limits and an end of its own.

A target that fails too often ends its own lanes; the rest of the run goes on. See
`evaluators/execution/scheduler.py` for how lanes share a run's concurrency, and `concurrency.py`
for rate limits.
"""

from __future__ import annotations

import asyncio
import sys

from evaluators.base import Answer
from evaluators.document import RunDocument, RunLimits
from router.evals.concurrency import Pacing
from router.evals.validation import requested_routes
from router.gateway.routing import Table
from router.records import Target

# Fewer answers say too little about a target.
_ENOUGH = 20


class TargetLane:
    """The cells of a route that one target answers, and the gate that they pass.

    Args:
        route, target: the route, and the target of it.
        pacing: has the target's window.
        limits: the run's.
        max_in_flight: requests in flight that the route lets the target have; None for any number.
        slots: the run's limit for the target, shared by its lanes; None where it sets none.
        share: of the run's concurrency: where the target's window begins.

    Attributes:
        stopped: why the lane sends no more requests, "" while it does.
    """

    def __init__(
        self,
        route: str,
        target: Target,
        *,
        pacing: Pacing,
        limits: RunLimits,
        max_in_flight: int | None,
        slots: asyncio.Semaphore | None,
        share: int,
    ) -> None:
        self.route = route
        self.target = target
        self.stopped = ""
        self._window = pacing.window(target)
        self._failure_share = limits.failure_share
        self._max_in_flight = min(
            limits.per_target.get(str(target), sys.maxsize), max_in_flight or sys.maxsize
        )
        self._slots = slots
        self._ended = self._failed = 0
        self._window.expect(min(share, self._max_in_flight))

    # the gate

    async def enter(self) -> None:
        """Wait until the target takes one more."""
        if self._slots is not None:
            await self._slots.acquire()
        try:
            await self._window.enter()
        except BaseException:
            if self._slots is not None:
                self._slots.release()
            raise

    def leave(self) -> None:
        """Give the place of a request back."""
        self._window.leave()
        if self._slots is not None:
            self._slots.release()

    def limit(self) -> int:
        """Return the number of requests that the target takes at a time, as of now."""
        return min(self._max_in_flight, int(self._window.size))

    # the end

    def ended(self, answer: Answer) -> None:
        """Count the answer or error that a request ended with."""
        self._ended += 1
        self._failed += answer.text is None
        share = self._failed / self._ended
        if self._ended >= _ENOUGH and share > self._failure_share and not self.stopped:
            why = (answer.error or "").rstrip(".")
            named = self.route if self.route == str(self.target) else f"{self.route}: {self.target}"
            self.stopped = (
                f"{named} failed {self._failed} of {self._ended} requests"
                f"{f' (the last: {why[:200]})' if why else ''}, more than limits.failure_share, "
                f"{self._failure_share:g}; its other cells were not sent"
            )


def lanes_of(document: RunDocument, table: Table, pacing: Pacing) -> list[TargetLane]:
    """Return the lanes of a run, in the order of its routes."""
    limits = document.limits
    slots = {name: asyncio.Semaphore(limit) for name, limit in limits.per_target.items()}
    targets = [
        (route, target)
        for route in requested_routes(document)
        for target in table.first_targets(route)
    ]
    return [
        TargetLane(
            route,
            target,
            pacing=pacing,
            limits=limits,
            max_in_flight=table.max_in_flight(route, target),
            slots=slots.get(str(target)),
            share=limits.concurrency // len(targets),
        )
        for route, target in targets
    ]
