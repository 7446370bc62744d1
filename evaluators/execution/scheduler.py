"""Works through several lanes side by side, each at its own pace, within one bound.

    await work_through(lanes, do, concurrency=16)

A lane is a stream of items in order and a gate. A lane whose gate is shut, or whose items take
long, holds up no other lane: slots are shared out equally between the lanes that have items left,
and the slots that a gate leaves unused go to the others (max-min fairness: D. Bertsekas and
R. Gallager, Data Networks, 1992, section 6.5.2). Each lane reads its own stream, one item ahead, so
that a fast lane may be far ahead of a slow one while nothing has to be stored for it.
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

# One item is prepared ahead for so many slots, and one more; with fewer slots, no item is.
AHEAD = 8


class LaneGate(Protocol):
    """Decides when a lane may begin one more item."""

    async def enter(self) -> None:
        """Wait until one more may begin; it is counted when this returns."""
        ...

    def leave(self) -> None:
        """Count one item less: it is done."""
        ...

    def limit(self) -> int:
        """Return the number of items that may be under way at a time, as of now."""
        ...


class OpenGate:
    """A gate that is always open."""

    async def enter(self) -> None:
        """Return at once."""

    def leave(self) -> None:
        """Count nothing."""

    def limit(self) -> int:
        """Return a number that no lane reaches."""
        return sys.maxsize


class LanePlace(Protocol):
    """An item's place among the items under way."""

    async def take(self) -> None:
        """Wait for the place: within the lane's share, and through its gate."""
        ...

    def leave(self) -> None:
        """Give the place back, if it was taken and not given back yet."""
        ...


Do = Callable[[_Item, LanePlace], Awaitable[bool]]


class Lane(NamedTuple, Generic[_Item]):
    """A stream of items to do in order.

    Attributes:
        items: the stream, read only as fast as its items are done.
        gate: decides when one more item may begin.
    """

    items: AsyncIterable[_Item]
    gate: LaneGate = OpenGate()


class _NoPlace:
    """The place of an item that needs no slot."""

    async def take(self) -> None:
        """Count nothing."""

    def leave(self) -> None:
        """Count nothing."""


class _ConcurrencySlots:
    """A number of slots, shared out between the lanes that have items left."""

    def __init__(self, slots: int, gates: Sequence[LaneGate]) -> None:
        self._free = self.all = slots
        self._taken = [0] * len(gates)
        self._gates = dict(enumerate(gates))
        self._finishing: set[int] = set()
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    async def take(self, lane: int) -> None:
        """Wait for a slot within the lane's share, first come, first served."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append(waiter)
        self._share_out()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._forget(lane, waiter)
            else:
                # The slot was given just before.
                self.give(lane)
            raise

    def give(self, lane: int) -> None:
        """Give a slot back."""
        self._free += 1
        self._taken[lane] -= 1
        self._share_out()

    def finishing(self, lane: int) -> None:
        """Note that the lane needs no more slots than it has."""
        self._finishing.add(lane)
        self._share_out()

    def close(self, lane: int) -> None:
        """Note that the lane has no items left."""
        del self._gates[lane]
        self._share_out()

    def _forget(self, lane: int, waiter: asyncio.Future[None]) -> None:
        """Take a waiter that was cancelled out of its line."""
        waiters = self._waiting.get(lane)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[lane]
        self._share_out()

    def _share_out(self) -> None:
        """Give free slots to the lanes that wait: those with the fewest first, then the longest."""
        if not self._free or not self._waiting:
            return
        shares = self._shares()
        for lane in sorted(self._waiting, key=self._taken.__getitem__):
            waiters = self._waiting[lane]
            while waiters and self._free and self._taken[lane] < shares[lane]:
                waiter = waiters.popleft()
                if not waiter.cancelled():
                    self._free -= 1
                    self._taken[lane] += 1
                    waiter.set_result(None)
            # It goes to the end of the line of those that have as few.
            del self._waiting[lane]
            if waiters:
                self._waiting[lane] = waiters

    def _shares(self) -> dict[int, int]:
        """Return equal shares, none of them above its gate's limit and each at least one."""
        shares = {}
        left, lanes = self.all, len(self._gates)
        limits = {
            lane: self._taken[lane] + len(self._waiting.get(lane, ()))
            if lane in self._finishing
            else gate.limit()
            for lane, gate in self._gates.items()
        }
        for lane, limit in sorted(limits.items(), key=itemgetter(1)):
            # Rounded up: the remainder goes to the lanes that have to wait least for it.
            shares[lane] = max(1, min(limit, -(-left // lanes)))
            left -= shares[lane]
            lanes -= 1
        return shares


async def work_through(
    lanes: Sequence[Lane[_Item]],
    do: Do[_Item],
    *,
    concurrency: int,
    gated: Callable[[_Item], bool] = lambda _: True,
    halted: Callable[[], bool] = bool,
) -> None:
    """Do every item of every lane. Cancelling it cancels those under way.

    Args:
        lanes: streams of items; each is read by one task.
        do: does an item: prepares it, takes its place, and leaves the place once the item does not
            need it any more. It returns False when the item could not be done now; the item then
            comes first when the gate opens next. A few items are prepared ahead (see AHEAD), and
            as many as `concurrency` may have left their places, so that neither the preparation
            nor the rest of an item slows the lane down.
        concurrency: the number of items that may be under way at a time, over all lanes.
        gated: whether an item has to pass the gate and take a place; others are done in turn.
        halted: called before each item; once it is true no more items begin.

    Raises:
        Whatever `do`, a gate or a stream raises first; everything else is cancelled.
    """
    slots = _ConcurrencySlots(concurrency, [lane.gate for lane in lanes])
    try:
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(lanes):
                group.create_task(_Driver(number, lane, do, slots, group, gated, halted).drive())
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
        slots: _ConcurrencySlots,
        group: asyncio.TaskGroup,
        gated: Callable[[_Item], bool],
        halted: Callable[[], bool],
    ) -> None:
        self._number = number
        self._lane = lane
        self._do = do
        self._slots = slots
        self._group = group
        self._gated = gated
        self._halted = halted
        # The items that have to be done again; the number of items under way, and of those that
        # have not taken their place yet; an event that is set whenever these numbers change.
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
        self._slots.finishing(self._number)
        # An item that is under way may have to be done again.
        while self._running or (self._left and not self._halted()):
            if self._left and not self._halted():
                await self._start(self._left.popleft())
            else:
                await self._changed()
        self._slots.close(self._number)

    async def _start(self, item: _Item) -> None:
        """Begin an item once its turn is near."""
        if not self._gated(item):
            await self._do(item, _NoPlace())
            return
        count = self._slots.all
        while self._early > count // AHEAD or self._running >= 2 * count + count // AHEAD:
            await self._changed()
        self._running += 1
        self._early += 1
        place = _Place(self)
        if count < AHEAD:
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
        """Take a slot for an item, once the gate lets it through."""
        await self._lane.gate.enter()
        try:
            await self._slots.take(self._number)
        except BaseException:
            self._lane.gate.leave()
            raise

    def prepared(self) -> None:
        """Count one item less among those that were begun ahead."""
        self._early -= 1
        self._change.set()

    def leave(self) -> None:
        """Give the slot of an item back."""
        self._slots.give(self._number)
        self._lane.gate.leave()

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()


class _Place:
    """Holds a slot of a lane for one item; see LanePlace."""

    def __init__(self, lane: _Driver[Any]) -> None:
        self._lane = lane
        self._early, self._held = True, False

    async def take(self) -> None:
        """Wait for the slot."""
        if self._early and not self._held:
            await self._lane.enter()
            self._held = True
            self._not_early()

    def leave(self) -> None:
        """Give the slot back."""
        self._not_early()
        if self._held:
            self._held = False
            self._lane.leave()

    def _not_early(self) -> None:
        if self._early:
            self._early = False
            self._lane.prepared()
