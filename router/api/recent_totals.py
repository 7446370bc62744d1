"""What requests took in the last five minutes, by route: added up a few seconds at a time.

    requests = await recent.requests(key_id=None)
    requests.totals[0].cost_usd, requests.costs["summarizer"], requests.times["summarizer"].median_s

A page that shows this reads it more than once a second, and five minutes may have very many
requests. A stretch of ten seconds is read again until it is over, then whenever it is twice as old
as the last time, because a request is stored at its end under the moment at which it came, and when
requests were deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from litestar.di import NamedDependency

from router.sealing.traffic import RecordedTraffic
from router.store.traffic import TrafficFilter, TrafficStore, TrafficTotal

RECENT_S = 300.0
STRETCH_S = 10.0
# After its end; requests are stored within about a second of their answers.
SETTLED_S = 3.0
MAX_ROUTES = 1000
# Of requests whose times are looked at, the newest; and after how many seconds again.
TIMED = 300
TIMED_EVERY_S = 5.0
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


class _Stretch(NamedTuple):
    """What was read of a stretch, and when."""

    read_at: float
    totals: list[TrafficTotal]


class _View:
    """What was read of the requests of one key, or of all: stretches by when they began."""

    def __init__(self, deletions: int) -> None:
        self.deletions = deletions
        self.stretches: dict[float, _Stretch] = {}
        self.timed_at = 0.0
        self.times: Mapping[str, AnswerTimes] = {}


class RecentTotals:
    """Adds up the requests of the last five minutes.

    Args:
        recorded: the requests.
        store: tells when some were deleted.
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
            deletions, now = await self._store.traffic_deletions(), self._now()
            view = self._views.pop(key_id, None)
            if view is None or view.deletions != deletions:
                view = _View(deletions)
            self._views[key_id] = view
            if len(self._views) > _MAX_VIEWS:
                self._views.popitem(last=False)
            first = int((now - RECENT_S) // STRETCH_S)
            # One more, because the clocks of other processes may be ahead.
            begins = [n * STRETCH_S for n in range(first, int(now // STRETCH_S) + 2)]
            view.stretches = {
                begin: await self._read(view.stretches.get(begin), begin, key_id, now)
                for begin in begins
            }
            if now - view.timed_at >= TIMED_EVERY_S:
                view.timed_at, view.times = now, await self._times(key_id, now)
            stretches = list(view.stretches.values())
            return RequestsByRoute(_sums(stretches), _costs(stretches), view.times)

    async def _read(
        self, stretch: _Stretch | None, begin: float, key_id: str | None, now: float
    ) -> _Stretch:
        """Return a stretch as it was read, or as it is now where it may have changed since."""
        end = begin + STRETCH_S
        if stretch is not None:
            age = stretch.read_at - end
            if age >= SETTLED_S and now - end < 2 * age:
                return stretch
        matching = TrafficFilter(key_id=key_id, since=begin, until=end)
        return _Stretch(now, await self._recorded.totals(matching, ("route",), limit=MAX_ROUTES))

    async def _times(self, key_id: str | None, now: float) -> Mapping[str, AnswerTimes]:
        matching = TrafficFilter(key_id=key_id, since=now - RECENT_S)
        seconds: dict[str, list[float]] = {}
        for row in await self._recorded.page(matching, limit=TIMED):
            if row.status < 400 and not row.cached:
                seconds.setdefault(row.route, []).append(row.total_s)
        return {
            route: AnswerTimes(len(some), *np.quantile(some, [0.5, 0.95]).tolist())
            for route, some in seconds.items()
        }


def _costs(stretches: Sequence[_Stretch]) -> Mapping[str, Sequence[float]]:
    costs = {"": [0.0] * len(stretches)}
    for n, stretch in enumerate(stretches):
        for total in stretch.totals:
            for name in ("", str(total.group["route"])):
                costs.setdefault(name, [0.0] * len(stretches))[n] += total.cost_usd
    return costs


def _sums(stretches: Iterable[_Stretch]) -> list[TrafficTotal]:
    sums: dict[str | int, TrafficTotal] = {}
    for stretch in stretches:
        for total in stretch.totals:
            route = total.group["route"]
            former = sums.get(route)
            sums[route] = total if former is None else former.plus(total)
    ordered = sorted(sums.values(), key=lambda total: (-total.requests, str(total.group["route"])))
    return ordered[:MAX_ROUTES]


InjectedRecentTotals = NamedDependency[RecentTotals]
