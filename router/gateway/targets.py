"""The state of each target, for the dispatcher: slots, breaker, retry budget and latency.

Everything here is synchronous and single-threaded; times are passed in, so tests need no clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

from router.config.routes import Breaker, Hedge, Retries
from router.gateway.routing import ConcurrencyLimit, TargetLoad
from router.records import Target, TrafficClass

BreakerState = Literal["closed", "open", "half_open"]

# Weight of the newest of the smoothed times: about the last ten requests count.
_EWMA = 0.2
# Times for the percentile that hedging waits for; fewer than _ENOUGH say too little.
_REMEMBERED, _ENOUGH = 128, 20
# A retry or hedge budget saves up at most so many, and starts with this, for low traffic.
_BURST = 10.0


class ConcurrencySlots:
    """The places at one target that has a limited number, shared by live and evaluation requests.

    A place that becomes free goes to the live request that has waited longest; to one of an
    evaluation only when no live one waits.

    Attributes:
        taken: the number of places that are taken.
        waiting: those who wait for a place, by traffic class, in the order they came.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: dict[TrafficClass, deque[tuple[asyncio.Future[None], TargetState]]] = {
            "live": deque(),
            "eval": deque(),
        }

    def may_enter(self, limit: ConcurrencyLimit, traffic_class: TrafficClass) -> bool:
        """Return whether a place is free that no waiting request gets first."""
        ahead = self.waiting["live"] or (traffic_class == "eval" and self.waiting["eval"])
        return self.taken < limit.running and not ahead

    def hand_over(self) -> TargetState | None:
        """Give a place that has become free to the first who waits, and return whose it is now."""
        for queue in self.waiting.values():
            while queue:
                waiter, state = queue.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return state
        return None


class TargetState:
    """One target, as this process sees it for one class of requests.

    Args:
        target: the provider and model.
        traffic_class: the class of the requests.
        slots: the target's places, shared by the classes; None for places of its own.

    Attributes:
        target: the provider and model.
        running: the number of requests in flight.
    """

    def __init__(
        self,
        target: Target,
        traffic_class: TrafficClass = "live",
        slots: ConcurrencySlots | None = None,
    ) -> None:
        self.target = target
        self.running = 0
        self._traffic_class: TrafficClass = traffic_class
        self._slots = slots or ConcurrencySlots()
        self._waiters = self._slots.waiting[traffic_class]
        self._latency: float | None = None
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._slow: float | None = None
        self._failures = 0
        self._cut_off = 0
        self._closed_again_at = 0.0
        self._breaker: BreakerState = "closed"
        self._retries = _BURST
        self._hedges = _BURST

    # slots

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait for a place."""
        return len(self._waiters)

    @property
    def load(self) -> TargetLoad:
        """Return the target's load, from which plans are made."""
        return TargetLoad(self.running + len(self._waiters), self._latency)

    @property
    def is_blank(self) -> bool:
        """Whether the target has neither answered nor failed, and has no request in flight."""
        idle = not self.running and not self._waiters
        return idle and self._latency is None and not self._failures and self._breaker == "closed"

    def try_enter(self, limit: ConcurrencyLimit | None) -> bool:
        """Take a place; return False when all are taken, or others already wait for one."""
        if limit is not None and not self._slots.may_enter(limit, self._traffic_class):
            return False
        self.enter()
        return True

    def enter(self) -> None:
        """Take a place, even where none is free."""
        self.running += 1
        self._slots.taken += 1

    def can_wait(self, limit: ConcurrencyLimit) -> bool:
        """Return whether the queue has a place; a run sends no more than its own concurrency."""
        return self._traffic_class == "eval" or len(self._waiters) < limit.waiting

    async def wait(self) -> None:
        """Wait for a place in order of arrival; it is taken when this returns."""
        waiter = asyncio.get_running_loop().create_future()
        entry = (waiter, self)
        self._waiters.append(entry)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                # The place was handed over just as we were cancelled: pass it on.
                self.leave()
            elif entry in self._waiters:
                self._waiters.remove(entry)
            raise

    def leave(self) -> None:
        """Give the place back, to the first who waits for one."""
        self.running -= 1
        self._slots.taken -= 1
        next_state = self._slots.hand_over()
        if next_state is not None:
            next_state.enter()

    # breaker

    def state(self, now: float) -> BreakerState:
        """Return the breaker's state; an open one whose time is over shows as half-open."""
        if self._breaker == "open" and now >= self._closed_again_at:
            return "half_open"
        return self._breaker

    def allows(self, now: float, breaker: Breaker) -> bool:
        """Return whether a request may go to the target; half-open, one may, as a probe."""
        if self._breaker == "closed":
            return True
        if now < self._closed_again_at:
            return False
        # One probe at a time; should it never end, another may go after the same time again.
        self._breaker = "half_open"
        self._closed_again_at = now + breaker.open
        return True

    def succeeded(self, seconds: float, *, whole: bool = True) -> bool:
        """Note an answer that began after `seconds`, and return whether that closed the breaker.

        Args:
            seconds: from sending to the first byte.
            whole: whether the answer is complete as well.
        """
        if whole:
            self._cut_off = 0
        before = self._latency
        self._latency = seconds if before is None else before + _EWMA * (seconds - before)
        self._times.append(seconds)
        self._slow = None
        return self._close()

    def completed(self) -> None:
        """Note that a stream came to its end."""
        self._cut_off = 0

    def cut_off(self, now: float, breaker: Breaker) -> bool:
        """Note a stream that had begun and broke off by the target's own fault.

        These count by themselves: every stream that breaks off began well. Returns whether that
        opened the breaker of a target that was well.
        """
        self._cut_off += 1
        if self._cut_off < breaker.failures:
            return False
        self._failures = breaker.failures
        return self.failed(now, breaker)

    def failed(self, now: float, breaker: Breaker) -> bool:
        """Note a failure of the target, by its own fault.

        Returns whether that opened the breaker of a target that was well.
        """
        self._failures += 1
        if self._failures < breaker.failures and self._breaker != "half_open":
            return False
        was_well = self._breaker == "closed"
        self._breaker = "open"
        self._closed_again_at = now + breaker.open
        return was_well

    def refused(self) -> bool:
        """Note that the target is well and refused a request: a mistake in it, or a rate limit.

        Returns whether that closed the breaker.
        """
        return self._close()

    def _close(self) -> bool:
        """Close the breaker; return whether it was open or half-open."""
        self._failures = 0
        was_well = self._breaker == "closed"
        self._breaker = "closed"
        return not was_well

    # budgets

    def count_request(self, retries: Retries, hedge: Hedge | None) -> None:
        """Count a first attempt, by whose share the budgets grow."""
        self._retries = min(_BURST, self._retries + retries.budget)
        if hedge is not None:
            self._hedges = min(_BURST, self._hedges + hedge.budget)

    def may_retry(self) -> bool:
        """Take a retry from the budget; return False when it is used up."""
        if self._retries < 1.0:
            return False
        self._retries -= 1.0
        return True

    def may_hedge(self) -> bool:
        """Take a second attempt from the budget; return False when it is used up."""
        if self._hedges < 1.0:
            return False
        self._hedges -= 1.0
        return True

    def hedge_after(self, hedge: Hedge) -> float | None:
        """Return after how many seconds a second attempt is worth it; None if not known."""
        if hedge.after is not None:
            return hedge.after
        if len(self._times) < _ENOUGH:
            return None
        if self._slow is None:
            ordered = sorted(self._times)
            self._slow = ordered[int(0.95 * (len(ordered) - 1))]
        return self._slow
