"""Time limits by the thousand, for the price of one timer.

    with Deadline(alarms, when):       # raises TimeoutError here once the time has come
        ...

A timer of the event loop costs microseconds to make and to cancel, and nearly every request is
done long before its limits: they are kept in slots of 10 ms that one timer walks through, a hashed
timing wheel (Varghese and Lauck, SOSP 1987). An alarm rings never early, and up to a slot late.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

SLOT_S = 0.01
_PER_S = 1 / SLOT_S
_NEVER = float("inf")


class Alarms:
    """The alarms of one event loop, the one that is running when it is first used."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Deadline]] = {}
        self._walked = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop. To look up the running one is a system call before Python 3.12."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def put(self, alarm: Deadline, when: float) -> None:
        """Have it ring at `when`, seconds of the loop's clock. It must not be set already."""
        if not self._ticking:
            self._begin()
        # The first slot whose walk begins after `when`, and one that is still to come.
        slot = max(int(when * _PER_S), self._walked) + 1
        alarm.slot = slot
        alarms = self._slots.get(slot)
        if alarms is None:
            self._slots[slot] = {alarm}
        else:
            alarms.add(alarm)

    def drop(self, alarm: Deadline) -> None:
        """Have it not ring; nothing if it is not set."""
        alarms = self._slots.get(alarm.slot)
        if alarms is not None:
            alarms.discard(alarm)
            if not alarms:
                del self._slots[alarm.slot]
        alarm.slot = 0

    def _begin(self) -> None:
        self._ticking = True
        loop = self.loop
        self._walked = int(loop.time() * _PER_S)
        loop.call_later(SLOT_S, self._tick)

    def _tick(self) -> None:
        loop = self.loop
        now = loop.time()
        due = int(now * _PER_S)
        # After a long block of the loop there are fewer slots in use than slots passed.
        passed = range(self._walked + 1, due + 1)
        slots = passed if len(passed) < len(self._slots) else [n for n in self._slots if n <= due]
        self._walked = due
        for slot in slots:
            for alarm in self._slots.pop(slot, ()):
                alarm.slot = 0
                alarm.ring(now)
        if self._slots:
            loop.call_later(SLOT_S, self._tick)
        else:
            self._ticking = False


class Deadline:
    """`asyncio.timeout_at`, kept by Alarms: cancels the task it is entered in, and explains it.

    Args:
        alarms: of this loop.
        when: seconds of the loop's clock; None for no limit until `reschedule`.

    Attributes:
        slot: where Alarms keeps it, 0 while it is not set.
    """

    __slots__ = ("_alarms", "_cancelling", "_expired", "_task", "_when", "slot")

    def __init__(self, alarms: Alarms, when: float | None) -> None:
        self.slot = 0
        self._alarms = alarms
        self._when = _NEVER if when is None else when
        self._expired = False

    def reschedule(self, when: float | None) -> None:
        """Another time, None for never. Hardly costs anything when it is a later one."""
        # The slot it is in already comes before a later time, and finds out then.
        earlier = when is not None and when < self._when
        self._when = _NEVER if when is None else when
        if when is not None and (earlier or not self.slot):
            if self.slot:
                self._alarms.drop(self)
            self._alarms.put(self, when)

    def ring(self, now: float) -> None:
        """Cancel the task, unless the time was put off."""
        if self._when > now:
            if self._when != _NEVER:
                self._alarms.put(self, self._when)
            return
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task(self._alarms.loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._when != _NEVER:
            self._alarms.put(self, self._when)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.slot:
            self._alarms.drop(self)
        # As asyncio.timeout does: a cancellation by somebody else is not ours to explain.
        ours = self._expired and self._task.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error
