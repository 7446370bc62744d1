"""The lanes of a run: one for each target of each route, with its limits and its own end.

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
from router.evals.validation import asked_routes
from router.gateway.routing import Table
from router.records import Target

# Fewer answers say too little about a target.
_ENOUGH = 20


class TargetLane:
    """The cells of a route that one target answers; the gate that they pass.

    Args:
        route, target: whose.
        pacing: has the target's window.
        limits: the run's.
        room: requests that the route's config lets the target have in flight; None for any.
        places: shared by the run's lanes to the target; None where the run sets no limit.
        share: of the run's concurrency: where the target's window begins.

    Attributes:
        stopped: why nothing more is asked, "" while something is.
    """

    def __init__(
        self,
        route: str,
        target: Target,
        *,
        pacing: Pacing,
        limits: RunLimits,
        room: int | None,
        places: asyncio.Semaphore | None,
        share: int,
    ) -> None:
        self.route = route
        self.target = target
        self.stopped = ""
        self._window = pacing.window(target)
        self._failure_share = limits.failure_share
        self._most = min(limits.per_target.get(str(target), sys.maxsize), room or sys.maxsize)
        self._places = places
        self._ended = self._failed = 0
        self._window.expect(min(share, self._most))

    # the gate

    async def enter(self) -> None:
        """Wait until the target takes one more."""
        if self._places is not None:
            await self._places.acquire()
        try:
            await self._window.enter()
        except BaseException:
            if self._places is not None:
                self._places.release()
            raise

    def leave(self) -> None:
        """One is done."""
        self._window.leave()
        if self._places is not None:
            self._places.release()

    def limit(self) -> int:
        """Return the number of requests that the target takes at a time, as of now."""
        return min(self._most, int(self._window.size))

    # the end

    def ended(self, answer: Answer) -> None:
        """A cell was asked, and has this answer or error."""
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
    """The lanes of a run, in the order of its routes."""
    limits = document.limits
    places = {name: asyncio.Semaphore(most) for name, most in limits.per_target.items()}
    asked = [
        (route, target) for route in asked_routes(document) for target in table.first_targets(route)
    ]
    return [
        TargetLane(
            route,
            target,
            pacing=pacing,
            limits=limits,
            room=table.room(route, target),
            places=places.get(str(target)),
            share=limits.concurrency // len(asked),
        )
        for route, target in asked
    ]
