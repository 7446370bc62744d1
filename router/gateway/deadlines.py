"""Limits the time of a stream; to put the limit off with every piece costs next to nothing.

with Deadline(loop, when):  # raises TimeoutError here once the time has come
    ...
"""

from __future__ import annotations

import asyncio
from time import monotonic
from types import TracebackType

_NEVER = float("inf")


class Deadline:
    """Does what `asyncio.timeout_at` does, for less: cancels the task that it is entered in.

    It has one timer, which stays as it is when the time is put off, and looks when it rings.

    Args:
        loop: the running event loop. To look it up is a system call before Python 3.12.
        when: the time by the loop's clock, in seconds; None for no limit until `reschedule`.
    """

    __slots__ = ("_cancelling", "_expired", "_loop", "_rings_at", "_task", "_timer", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float | None) -> None:
        self._loop = loop
        self._when = _NEVER if when is None else when
        self._rings_at = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def reschedule(self, when: float | None) -> None:
        """Set another time, None for never; next to free when the timer rings before it."""
        self._when = _NEVER if when is None else when
        if self._when < self._rings_at:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._when
        # uvloop's `call_at` does the same, and takes half as long again.
        self._timer = self._loop.call_later(max(0.0, self._when - monotonic()), self._ring)

    def _ring(self) -> None:
        """Cancel the task, unless the time was put off."""
        self._timer, self._rings_at = None, _NEVER
        # uvloop's timers may ring up to half a millisecond early.
        if self._when > self._loop.time():
            if self._when != _NEVER:
                self._set_timer()
            return
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._when != _NEVER:
            self._set_timer()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # As asyncio.timeout does: a cancellation that came from elsewhere is not ours to explain.
        ours = self._expired and self._task.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error
