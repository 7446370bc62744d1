"""What requests took in the last five minutes, by route: added up as they are stored.

    requests = await recent.requests(key_id=None)
    requests.totals[0].cost_usd, requests.costs["summarizer"], requests.times["summarizer"].median_s

A page that shows this reads it more than once a second, and five minutes may have very many
requests. Of a stretch of ten seconds that goes on, only what was stored since is added; once it is
over it is read as a whole. It is read again when a request of it is stored later, because a request
is stored at its end under the moment at which it came, but not before it is twice as old as the
last time; and all is read again when requests were deleted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from litestar.di import NamedDependency

from router.sealing.traffic import RecordedTraffic
from router.store.traffic import (
    AddedTotal,
    AddedTraffic,
    TrafficFilter,
    TrafficStore,
    TrafficTotal,
)

RECENT_S = 300.0
STRETCH_S = 10.0
# After its end; requests are stored within about a second of their answers.
SETTLED_S = 3.0
# Stretches that are not over: the last one, and one for clocks that are ahead.
GOING_ON = 2
MAX_ROUTES = 1000
# Of requests whose times are looked at, the newest; and after how many seconds again.
TIMED = 300
TIMED_EVERY_S = 5.0
# What is stored is counted for good this much later.
_SEEN_AGAIN_S = 0.4
# Each is what one key sees.
_MAX_VIEWS = 100


class AnswerTimes(NamedTuple):
    """Seconds to the last byte of a route's newest answers: their number, median and 95% quantile.

    Failures say nothing of how fast a model is, nor do answers from the cache.
    """

    n: int
    median_s: float
    p95_s: float


class RequestsByRoute(NamedTuple):
    """The requests of the last five minutes.

    Attributes:
        totals: what they took, by route, the most used first.
        costs: route to US dollars by stretch, the oldest first; "" for all routes together.
        times: route to the times of its newest answers.
    """

    totals: list[TrafficTotal]
    costs: Mapping[str, Sequence[float]]
    times: Mapping[str, AnswerTimes]


_ByRoute = dict[str, TrafficTotal]


class _Stretch(NamedTuple):
    """What was read of a stretch that is over, and when."""

    read_at: float
    totals: list[TrafficTotal]


class _View:
    """What was read of the requests of one key, or of all.

    Attributes:
        deletions: how often requests had been deleted.
        stretches: those that are over, by their numbers.
        late: stretches of which a request was stored after they were read.
        counted: requests of stretches that go on, up to the number `after`.
        after: where the next reading begins.
        seen: the number up to which it counts requests for good. Those that follow are read twice,
            because a process may store one with a number below those of another.
        seen_at: when that was the newest number.
        timed_at: when the times of answers were read.
    """

    def __init__(self, deletions: int) -> None:
        self.deletions = deletions
        self.stretches: dict[int, _Stretch] = {}
        self.late: set[int] = set()
        self.counted: dict[int, _ByRoute] = {}
        self.after = 0
        self.seen = 0
        self.seen_at = -math.inf
        self.timed_at = -math.inf
        self.times: Mapping[str, AnswerTimes] = {}


class RecentTotals:
    """Adds up the requests of the last five minutes.

    Args:
        recorded: the requests.
        store: tells what was added, and when some were deleted.
        now: tells the seconds since the epoch.
    """

    def __init__(
        self,
        recorded: RecordedTraffic,
        store: TrafficStore,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._recorded = recorded
        self._store = store
        self._now = now
        self._views: OrderedDict[str | None, _View] = OrderedDict()
        self._reading = asyncio.Lock()

    async def requests(self, key_id: str | None) -> RequestsByRoute:
        """Return the requests of a key; None for all."""
        async with self._reading:
            now = self._now()
            view = self._views.pop(key_id, None)
            if view is None or now - view.seen_at > RECENT_S:
                view = _View(deletions=-1)
            added = await self._added(key_id, view, now)
            if view.deletions != added.deletions:
                view = _View(added.deletions)
                added = await self._added(key_id, view, now)
            self._views[key_id] = view
            if len(self._views) > _MAX_VIEWS:
                self._views.popitem(last=False)
            going_on = _counted(view, added, now)
            first = _stretch_of(now - RECENT_S)
            numbers = range(first, _stretch_of(now) + GOING_ON)
            settled = [n for n in numbers if now - _end_of(n) >= SETTLED_S]
            view.late.intersection_update(settled)
            view.stretches = {n: await self._read(view, n, key_id, now) for n in settled}
            if now - view.timed_at >= TIMED_EVERY_S:
                view.timed_at, view.times = now, await self._times(key_id, now)
            stretches = [
                view.stretches[n].totals
                if n in view.stretches
                else list(going_on.get(n, {}).values())
                for n in numbers
            ]
            return RequestsByRoute(_sums(stretches), _costs(stretches), view.times)

    async def _added(self, key_id: str | None, view: _View, now: float) -> AddedTraffic:
        # The first time, stretches that are over are read as they are.
        begin = RECENT_S if view.after else STRETCH_S + SETTLED_S
        since = _stretch_of(now - begin) * STRETCH_S
        return await self._store.added_traffic(
            key_id, after=view.after, seen=view.seen, since=since, stretch_s=STRETCH_S
        )

    async def _read(self, view: _View, number: int, key_id: str | None, now: float) -> _Stretch:
        """Return a stretch as it was read, or as it is now where it has changed since."""
        stretch, end = view.stretches.get(number), _end_of(number)
        if stretch is not None and (
            number not in view.late or now - end < 2 * (stretch.read_at - end)
        ):
            return stretch
        view.late.discard(number)
        matching = TrafficFilter(key_id=key_id, since=end - STRETCH_S, until=end)
        return _Stretch(now, await self._recorded.totals(matching, ("route",), limit=MAX_ROUTES))

    async def _times(self, key_id: str | None, now: float) -> Mapping[str, AnswerTimes]:
        seconds: dict[str, list[float]] = {}
        times = await self._store.answer_times(key_id, since=now - RECENT_S, limit=TIMED)
        for route, total_s in times:
            seconds.setdefault(route, []).append(total_s)
        return {
            route: AnswerTimes(len(some), *np.quantile(some, [0.5, 0.95]).tolist())
            for route, some in seconds.items()
        }


def _stretch_of(at: float) -> int:
    return math.floor(at / STRETCH_S)


def _end_of(number: int) -> float:
    return (number + 1) * STRETCH_S


def _counted(view: _View, added: AddedTraffic, now: float) -> dict[int, _ByRoute]:
    """Return what requests took of stretches that go on, and count those that are not new."""
    new = [total for total in added.totals if total.is_new]
    counted = _plus(view.counted, [total for total in added.totals if not total.is_new])
    going_on = _plus(counted, new)
    view.late.update(total.stretch for total in new if total.stretch in view.stretches)
    if now - view.seen_at >= _SEEN_AGAIN_S:
        view.counted = {n: by for n, by in counted.items() if now - _end_of(n) < SETTLED_S}
        view.after, view.seen, view.seen_at = view.seen, max(view.seen, added.last), now
    return going_on


def _plus(counted: Mapping[int, _ByRoute], added: Iterable[AddedTotal]) -> dict[int, _ByRoute]:
    sums = {number: dict(by_route) for number, by_route in counted.items()}
    for stretch, _, total in added:
        by_route = sums.setdefault(stretch, {})
        route = str(total.group["route"])
        former = by_route.get(route)
        by_route[route] = total if former is None else former.plus(total)
    return sums


def _costs(stretches: Sequence[Sequence[TrafficTotal]]) -> Mapping[str, Sequence[float]]:
    costs = {"": [0.0] * len(stretches)}
    for n, stretch in enumerate(stretches):
        for total in stretch:
            for name in ("", str(total.group["route"])):
                costs.setdefault(name, [0.0] * len(stretches))[n] += total.cost_usd
    return costs


def _sums(stretches: Iterable[Sequence[TrafficTotal]]) -> list[TrafficTotal]:
    sums: dict[str | int, TrafficTotal] = {}
    for stretch in stretches:
        for total in stretch:
            route = total.group["route"]
            former = sums.get(route)
            sums[route] = total if former is None else former.plus(total)
    ordered = sorted(sums.values(), key=lambda total: (-total.requests, str(total.group["route"])))
    return ordered[:MAX_ROUTES]


InjectedRecentTotals = NamedDependency[RecentTotals]
