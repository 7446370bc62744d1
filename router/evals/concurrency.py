"""Sends each target as many evaluation requests at a time as it takes without refusing.

    window = pacing.window(target)
    await window.enter()                        # waits for room, and as long as the host demands
    ...                                         # the dispatcher calls `pacing.ended`
    window.leave()

TCP's congestion control, with requests for packets and status 429 for loss:

- Additive increase, multiplicative decrease, which is what converges to a fair share between
  clients that know nothing of each other: D.-M. Chiu and R. Jain, "Analysis of the increase and
  decrease algorithms for congestion avoidance in computer networks", Computer Networks and ISDN
  Systems 17 (1989) 1-14. Until the first refusal the window doubles each round trip (slow start:
  V. Jacobson, "Congestion avoidance and control", SIGCOMM 1988).
- One decrease per episode: requests that were already on their way when the window shrank say
  nothing about the smaller one, however many of them are refused (RFC 6582, NewReno).
- It grows only while it is used to the full (RFC 7661): an idle window has proved nothing.

A window belongs to a process and a target, not to a run: the host's limit does too.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

from providers.errors import TargetBusyError, UpstreamError, UpstreamStatusError
from router.gateway.failures import is_spent, retry_after
from router.gateway.routing import MAX_TARGETS
from router.records import Target

# RFC 6928's ten would do; this is a run's concurrency where its document says nothing.
START = 16
# However high a run's concurrency is, a larger window is only reached by doubling.
MAX_START = 256
_DECREASE = 0.5
# Waits where the host does not say how long: doubled with each episode in a row, with jitter.
_PAUSE_S, _PAUSE_MAX_S = 1.0, 60.0
# A host that wants more than this has not only too many requests at the moment.
LONGEST_PAUSE_S = 600.0
# A request that was refused so often counts as failed.
TRIES = 10


class Window:
    """The requests that may be in flight at one target.

    Args:
        start: the window's first size.
        clock: seconds, monotonic.
        random: in [0, 1), for the jitter of waits.

    Attributes:
        size: how many requests may be in flight; its whole part counts.
        in_flight: how many requests are in flight.
        episodes: how often the target has refused and the window has shrunk.
        paused_until: no request leaves before this moment of the clock.
    """

    def __init__(
        self,
        *,
        start: float = START,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.size = float(start)
        self.in_flight = 0
        self.episodes = 0
        self.paused_until = 0.0
        self._clock = clock
        self._random = random
        self._doubles_to = float("inf")
        self._shrunk_at = float("-inf")
        self._failed_at = float("-inf")
        self._in_a_row = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        # Ends a pause for those who wait.
        self._timer: asyncio.TimerHandle | None = None

    # what is known of the target

    def succeeded(self, sent_at: float) -> None:
        """Count an answer to a request that was sent at `sent_at` and is still in flight."""
        if sent_at <= self._shrunk_at:
            return
        self._in_a_row = 0
        if sent_at <= self._failed_at or self.in_flight < int(self.size):
            return
        self.size += 1.0 if self.size < self._doubles_to else 1.0 / self.size
        self._wake()

    def refused(self, sent_at: float, wait: float | None) -> None:
        """Shrink the window: a request met a rate limit.

        Args:
            sent_at: when the request was sent, by the clock.
            wait: the seconds that the host says to wait; None when it says nothing.
        """
        now = self._clock()
        if wait is not None:
            self.paused_until = max(self.paused_until, now + wait)
        if sent_at <= self._shrunk_at:
            return
        self._shrunk_at = now
        self.episodes += 1
        self._in_a_row += 1
        # Of what was in flight, as RFC 5681 has it: a window that was not full is too large.
        self.size = max(1.0, min(self.size, self.in_flight) * _DECREASE)
        self._doubles_to = self.size
        if wait is None:
            longest = min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** (self._in_a_row - 1))
            self.paused_until = max(self.paused_until, now + longest * (0.5 + self._random() / 2))

    def failed(self) -> None:
        """Stop growing: the target failed. Requests sent from now on have to be answered first."""
        self._failed_at = self._clock()

    # what the runs do

    def expect(self, count: int) -> None:
        """Begin with so many, as the run's author says; not once the target has refused one."""
        if not self.episodes:
            self.size = max(self.size, float(min(count, MAX_START)))
            self._wake()

    async def enter(self) -> None:
        """Wait for room, first come, first served; it is taken when this returns."""
        if not self._waiters and self._has_room() and not self._pause():
            self.in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake()
        try:
            await waiter
            # A pause may have begun since the room was handed over.
            while pause := self._pause():  # noqa: ASYNC110 - a time that may be put off, no event
                await asyncio.sleep(pause)
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                # The room was handed over: pass it on.
                self.leave()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def leave(self) -> None:
        """Give the room back."""
        self.in_flight -= 1
        self._wake()

    def _has_room(self) -> bool:
        return self.in_flight < int(self.size)

    def _pause(self) -> float:
        """Return how many seconds the target's pause still takes; 0 when it is over."""
        return max(0.0, self.paused_until - self._clock())

    def _wake(self) -> None:
        """Hand room over to those who wait, in the order they came, or after the pause."""
        while self._waiters and self._has_room():
            if pause := self._pause():
                self._wake_after(pause)
                return
            waiter = self._waiters.popleft()
            if not waiter.done():
                # Taken here, so that no later request gets it before this one runs.
                self.in_flight += 1
                waiter.set_result(None)

    def _wake_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)


class Pacing:
    """The windows of one process. The dispatcher calls `ended` after each request.

    Args:
        now: seconds since the epoch, for `Retry-After` dates.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._windows: dict[Target, Window] = {}
        # All windows that runs hold: how a request ended must reach them.
        self._held: WeakValueDictionary[Target, Window] = WeakValueDictionary()

    def window(self, target: Target) -> Window:
        """Return the target's window."""
        window = self._windows.get(target)
        if window is None:
            # By the dispatcher's clock.
            window = self._held.get(target) or Window()
            if len(self._windows) >= MAX_TARGETS:
                del self._windows[next(iter(self._windows))]
            self._windows[target] = self._held[target] = window
        return window

    def ended(self, target: Target, error: UpstreamError | None, sent_at: float) -> None:
        """Tell the target's window how a request ended.

        Args:
            target: the target that the request was sent to.
            error: how it failed; None when it was answered.
            sent_at: when it was sent, seconds, monotonic.
        """
        window = self.window(target)
        if error is None:
            window.succeeded(sent_at)
        elif (wait := self.wait_of(error)) is not None:
            window.refused(sent_at, wait or None)
        elif not isinstance(error, UpstreamStatusError) or error.status >= 500:
            window.failed()

    def wait_of(self, error: UpstreamError) -> float | None:
        """Return the seconds to wait before the next try; 0 if the host leaves that open.

        None for never: after anything but a rate limit, retries are the route's.
        """
        if isinstance(error, TargetBusyError):
            return 0.0
        if not isinstance(error, UpstreamStatusError) or error.status != 429:
            return None
        if is_spent(error) or error.headers.get("x-should-retry", "").lower() == "false":
            return None
        seconds = retry_after(error.headers, self._now()) or 0.0
        return seconds if seconds <= LONGEST_PAUSE_S else None
