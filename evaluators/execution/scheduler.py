"""Works through several lanes side by side, each at its own pace, within one bound.

    await work_through(lanes, do, places=16)

A lane is a stream of items in order and a gate. A lane whose gate is shut, or whose items take
long, holds up nobody else: places are shared out equally between the lanes that have items left,
and what a gate leaves unused goes to the others (max-min fairness: D. Bertsekas and R. Gallager,
Data Networks, 1992, section 6.5.2). Each lane reads its own stream, one item ahead, so that a fast
lane may be far ahead of a slow one without anything being kept for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

_Item = TypeVar("_Item")

# One item is prepared ahead for so many places, and one more; with fewer places, none is.
AHEAD = 8


class LaneGate(Protocol):
    """Says when a lane may do one more."""

    async def enter(self) -> None:
        """Wait until one more may be done; it is counted when this returns."""
        ...

    def leave(self) -> None:
        """One that entered is done."""
        ...

    def most(self) -> int:
        """How many it lets through at a time, as things are now."""
        ...


class OpenGate:
    """A gate that is always open."""

    async def enter(self) -> None:
        """At once."""

    def leave(self) -> None:
        """Nothing is counted."""

    def most(self) -> int:
        """Any number."""
        return sys.maxsize


class LanePlace(Protocol):
    """An item's place among those under way."""

    async def take(self) -> None:
        """Wait for it: within the lane's share, and through its gate."""
        ...

    def leave(self) -> None:
        """Give it back, where it was taken and not given back yet."""
        ...


Do = Callable[[_Item, LanePlace], Awaitable[bool]]


class Lane(NamedTuple, Generic[_Item]):
    """Items to do in order.

    Attributes:
        items: read only as fast as they are done.
        gate: see LaneGate.
    """

    items: AsyncIterable[_Item]
    gate: LaneGate = OpenGate()


class _NoPlace:
    """For an item that needs none."""

    async def take(self) -> None:
        """Nothing is counted."""

    def leave(self) -> None:
        """Nothing is counted."""


class _Places:
    """A number of places, shared out between the lanes that have items left."""

    def __init__(self, places: int, gates: Sequence[LaneGate]) -> None:
        self._free = self.all = places
        self._taken = [0] * len(gates)
        self._gates = dict(enumerate(gates))
        self._finishing: set[int] = set()
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    async def take(self, lane: int) -> None:
        """Wait for a place within the lane's share, first come, first served."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append(waiter)
        self._share_out()
        # Whoever is cancelled here ends everything with it.
        await waiter

    def give(self, lane: int) -> None:
        """Give a place back."""
        self._free += 1
        self._taken[lane] -= 1
        self._share_out()

    def finishing(self, lane: int) -> None:
        """The lane needs no more places than it has."""
        self._finishing.add(lane)
        self._share_out()

    def close(self, lane: int) -> None:
        """The lane has nothing left."""
        del self._gates[lane]
        self._share_out()

    def _share_out(self) -> None:
        """Give free places to the lanes that wait, the poorest first, then who waits longest."""
        if not self._free or not self._waiting:
            return
        shares = self._shares()
        for lane in sorted(self._waiting, key=self._taken.__getitem__):
            waiters = self._waiting[lane]
            while waiters and self._free and self._taken[lane] < shares[lane]:
                self._free -= 1
                self._taken[lane] += 1
                waiter = waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)
            # It goes to the end of the line of those that are as poor.
            del self._waiting[lane]
            if waiters:
                self._waiting[lane] = waiters

    def _shares(self) -> dict[int, int]:
        """Equal, except that nobody gets more than its gate lets through; at least one each."""
        shares = {}
        left, lanes = self.all, len(self._gates)
        wanted = {
            lane: self._taken[lane] + len(self._waiting.get(lane, ()))
            if lane in self._finishing
            else gate.most()
            for lane, gate in self._gates.items()
        }
        for lane, most in sorted(wanted.items(), key=itemgetter(1)):
            # Rounded up: the remainder goes to those who have to wait least for it.
            shares[lane] = max(1, min(most, -(-left // lanes)))
            left -= shares[lane]
            lanes -= 1
        return shares


async def work_through(
    lanes: Sequence[Lane[_Item]],
    do: Do[_Item],
    *,
    places: int,
    gated: Callable[[_Item], bool] = lambda _: True,
    halted: Callable[[], bool] = bool,
) -> None:
    """Do every item of every lane. Cancelling it cancels those under way.

    Args:
        lanes: each is read by one task.
        do: does an item: prepares it, takes its place, and leaves that once it is not needed any
            more. False when the item could not be done now; it comes first when the gate opens
            next. A few are prepared ahead (see AHEAD), and as many as there are places may have
            left theirs, so that neither what comes before nor what comes after costs the lane any
            of its pace.
        places: how many items may be under way at a time, over all lanes.
        gated: whether an item has to pass the gate and take a place; others are done in turn.
        halted: asked before each item; once it is true nothing more is begun.

    Raises:
        Whatever `do`, a gate or a stream raises first; everything else is cancelled.
    """
    room = _Places(places, [lane.gate for lane in lanes])
    try:
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(lanes):
                group.create_task(_Driver(number, lane, do, room, group, gated, halted).drive())
    except BaseExceptionGroup as several:
        # One failure cancels the rest; the first is the cause.
        raise several.exceptions[0] from None


class _Driver(Generic[_Item]):
    """Reads a lane's items and begins them, one after the other."""

    def __init__(  # noqa: PLR0917 - what `work_through` was given
        self,
        number: int,
        lane: Lane[_Item],
        do: Do[_Item],
        room: _Places,
        group: asyncio.TaskGroup,
        gated: Callable[[_Item], bool],
        halted: Callable[[], bool],
    ) -> None:
        self._number = number
        self._lane = lane
        self._do = do
        self._room = room
        self._group = group
        self._gated = gated
        self._halted = halted
        # What has to be done again; how many are under way, and how many of them have not taken
        # their place yet; set whenever that changes.
        self._left: deque[_Item] = deque()
        self._running = self._early = 0
        self._change = asyncio.Event()

    async def drive(self) -> None:
        """Do every item."""
        async with AsyncExitStack() as stack:
            if isinstance(self._lane.items, AsyncGenerator):
                await stack.enter_async_context(aclosing(self._lane.items))
            async for item in self._lane.items:
                while self._left and not self._halted():
                    await self._start(self._left.popleft())
                if self._halted():
                    break
                await self._start(item)
        self._room.finishing(self._number)
        # One that is under way may have to be done again.
        while self._running or (self._left and not self._halted()):
            if self._left and not self._halted():
                await self._start(self._left.popleft())
            else:
                await self._changed()
        self._room.close(self._number)

    async def _start(self, item: _Item) -> None:
        """Begin an item, once it is near to its turn."""
        if not self._gated(item):
            await self._do(item, _NoPlace())
            return
        places = self._room.all
        while self._early > places // AHEAD or self._running >= 2 * places + places // AHEAD:
            await self._changed()
        self._running += 1
        self._early += 1
        place = _Place(self)
        if places < AHEAD:
            await place.take()
        # A callback, because a task that is cancelled before its first step has no `finally`.
        task = self._group.create_task(self._execute(item, place))
        task.add_done_callback(lambda _: self._over(place))

    async def _execute(self, item: _Item, place: LanePlace) -> None:
        if not await self._do(item, place):
            self._left.append(item)

    def _over(self, place: _Place) -> None:
        place.leave()
        self._running -= 1
        self._change.set()

    async def enter(self) -> None:
        """An item takes its place."""
        await self._lane.gate.enter()
        try:
            await self._room.take(self._number)
        except BaseException:
            self._lane.gate.leave()
            raise

    def prepared(self) -> None:
        """An item that was begun ahead is not ahead any more."""
        self._early -= 1
        self._change.set()

    def leave(self) -> None:
        """An item leaves its place."""
        self._room.give(self._number)
        self._lane.gate.leave()

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()


class _Place:
    """A lane's place for one item; see LanePlace."""

    def __init__(self, lane: _Driver[Any]) -> None:
        self._lane = lane
        self._early, self._held = True, False

    async def take(self) -> None:
        """Wait for it."""
        if self._early and not self._held:
            await self._lane.enter()
            self._held = True
            self._not_early()

    def leave(self) -> None:
        """Give it back."""
        self._not_early()
        if self._held:
            self._held = False
            self._lane.leave()

    def _not_early(self) -> None:
        if self._early:
            self._early = False
            self._lane.prepared()
