"""What another routing policy would have brought: `evalrouter what-if`, `POST /what-if`.

    report = await what_if.estimate(WhatIfRequest(policy=RoutingPolicy(weights={...}), since="30d"))
    report.measures[0].value.doubly_robust         # Interval(estimate=0.81, low=0.78, ...)

The policy need not have run. What is needed is that its targets had a chance, and that the chance
is on record (`propensity`): so weighted routes, rollouts and routes that `explore` can be asked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.base import PRECOMPUTED
from evaluators.stats.off_policy import FEWEST_EFFECTIVE, OffPolicyValue
from providers.errors import NotFoundError, RateLimitError, RequestError, closest
from providers.names import check_name
from router.config.routes import Route
from router.gateway.prices import PriceBook
from router.gateway.route_table import Routes
from router.loop.checks.languages import require_language_detector
from router.loop.feedback_signal import read_signal
from router.loop.moments import period
from router.loop.policies import PreparedPolicy, RoutingPolicy, prepare_policy
from router.loop.recorded_choices import (
    MAX_REQUESTS,
    MEASURES,
    NO_VALUES,
    REASONS,
    ExcludedRecords,
    RecordedChoices,
    RequestValues,
    read_choices,
)
from router.sealing.traffic import RecordedTraffic
from router.store.protocol import Store
from router.store.traffic import TrafficFilter

_Result = TypeVar("_Result")

DAY_S = 86400.0
# Old requests are deleted now and then, so those of the last hour may be there or not.
_PRUNED_S = 3600.0
# Estimates that a process makes at a time: each takes a thread and some ten megabytes.
_AT_ONCE = 2
# Scores of a shadow's live answers that are remembered at a time.
_MAX_SCORES = 1_000_000
# Values are known of so much larger a share of one target's requests than of another's that whom
# they are known of may differ, too.
_UNEVEN = 1.25

DESCRIPTIONS: Mapping[str, str] = {
    "errors": "share of requests that failed",
    "cost_usd": "US dollars per request",
    "total_s": "seconds to the last byte",
    "first_byte_s": "seconds to the first byte",
}


class WhatIfRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which policy is to be judged, and by which requests.

    Attributes:
        policy: the policy.
        route: the route whose requests are read; "" for the policy's own `route`.
        value: in the place of the policy's.
        since, until: seconds since the epoch, ISO 8601, or how long ago (`30d`); since what is
            stored, and until now.
    """

    policy: RoutingPolicy
    route: str = ""
    value: str = ""
    since: str | float | None = None
    until: str | float | None = None


class WhatIfTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target under the policy.

    Attributes:
        target: `provider/model`.
        served: the share of the requests that tried it first.
        policy: the share that would.
        requests: how many did.
        configured: whether the route has it now; others are named, because they may be gone.
    """

    target: str
    served: float
    policy: float
    requests: int
    configured: bool


class WhatIfMeasure(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy would have brought in one respect.

    Attributes:
        name: `value`, `errors`, `cost_usd`, `total_s` or `first_byte_s`.
        description: what it is.
        unknown: requests that could be used but of which it is not known.
        value: the estimate.
    """

    name: str
    description: str
    unknown: int
    value: OffPolicyValue


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have brought.

    Attributes:
        route: the route.
        value: what `value` is; "" without one.
        since, until: the time of the requests, seconds since the epoch; `since` is None for all.
        records: how many requests were read.
        requests: how many of them the estimates rest on.
        sampled: the share of users whose requests were taken, where there were too many; else 1.
        excluded: how many were left out, by the reason.
        targets: the policy's targets, and others that were tried.
        measures: what would have come of it.
        refused: why there is no estimate at all; "" where there are some.
        warnings: what to bear in mind.
    """

    route: str
    value: str
    since: float | None
    until: float
    records: int
    requests: int
    sampled: float
    excluded: tuple[ExcludedRecords, ...]
    targets: tuple[WhatIfTarget, ...]
    measures: tuple[WhatIfMeasure, ...]
    refused: str = ""
    warnings: tuple[str, ...] = ()


class WhatIfs:
    """Estimates what policies would have brought.

    Args:
        store: has feedback and the scores of shadows.
        recorded: reads the requests.
        routes: the routes as they stand.
        prices: for the strategy `cheapest`.
        days: for how many days requests are stored, of routes that do not say; 0 for ever.
        now: tells the seconds since the epoch.

    Attributes:
        recorded: reads the requests.
    """

    def __init__(
        self,
        store: Store,
        recorded: RecordedTraffic,
        routes: Routes,
        prices: PriceBook,
        *,
        days: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self.recorded = recorded
        self._routes = routes
        self._prices = prices
        self._days = days
        self._now = now
        self._under_way = 0

    async def alone(self, action: Callable[[], Awaitable[_Result]]) -> _Result:
        """Do something that reads all requests of a time.

        Raises:
            RateLimitError: others are being read.
        """
        if self._under_way >= _AT_ONCE:
            raise RateLimitError(
                f"{_AT_ONCE} estimates are being made of requests already.", retry_after=10.0
            )
        self._under_way += 1
        try:
            return await action()
        finally:
            self._under_way -= 1

    async def estimate(self, request: WhatIfRequest, *, newest: int | None = None) -> WhatIf:
        """Estimate what a policy would have brought.

        Args:
            request: which policy, and by which requests.
            newest: of these, so many are read, the newest; None for all.

        Raises:
            RequestError: something in the request is wrong.
            NotFoundError: no such route.
            RateLimitError: others are being made.
            MissingExtraError: a condition needs the language, and its detector is not installed.
        """
        if request.route and request.policy.route and request.route != request.policy.route:
            raise RequestError(
                f"The policy is for the route {request.policy.route!r}, not {request.route!r}.",
                param="route",
            )
        name = request.route or request.policy.route
        if not name:
            raise RequestError(
                "Say which route's requests are to be read: route, here or in the policy.",
                param="route",
            )
        check_name(name, "route")
        route = self.route(name)
        policy = prepare_policy(request.policy, route, self._prices.per_million)
        if policy.reads_language:
            require_language_detector("The language of requests")
        matching = self.matching(name, request.since, request.until)
        value = request.value or request.policy.value
        check_name(value or "none", "value")

        async def report() -> WhatIf:
            outcomes = await self.outcomes(value, matching)
            choices = await read_choices(
                self.recorded, matching, policy, outcomes.values, newest=newest
            )
            _check_known(policy, choices, route)
            read = matching
            if newest is not None and choices.records >= newest:
                read = msgspec.structs.replace(matching, since=choices.earliest)
            return await asyncio.to_thread(self._report, value, read, policy, outcomes, choices)

        return await self.alone(report)

    def route(self, name: str) -> Route:
        """Return a route. Raises NotFoundError."""
        routes = self._routes.table.routes
        if name not in routes:
            raise NotFoundError(f"There is no route {name!r}.{closest(name, routes)}")
        return routes[name]

    def matching(
        self, name: str, since: str | float | None, until: str | float | None
    ) -> TrafficFilter:
        """Return what selects a route's requests. Raises RequestError."""
        now = self._now()
        first, last = period(since, until, now)
        last = now if last is None else last
        if first is not None and first >= last:
            raise RequestError("since is not before until.", param="since")
        return TrafficFilter(route=name, traffic_class="live", since=first, until=last)

    async def outcomes(self, value: str, matching: TrafficFilter) -> RequestValues:
        """Return the value of a route's requests; none for "".

        Raises:
            RequestError: there is no such value.
        """
        if not value:
            return NO_VALUES
        route = matching.route or ""
        kind, _, name = value.partition(":")
        if kind == "feedback" and name:
            signal = await read_signal(self._store, name, route=route, since=matching.since)
            means = await asyncio.to_thread(signal.means)
            return RequestValues(means, signal.low, signal.high, signal.warnings(name))
        if kind == "shadow" and name:
            return await self._shadow_scores(route, name)
        raise RequestError(
            f"{value!r} is no value: write feedback:NAME, or shadow:OUTPUT for a score that the "
            "route's shadow gives to live answers.",
            param="value",
        )

    async def shadow_run(self, route: str, *, param: str) -> str:
        """Return the id of the run of a route's shadow.

        Raises:
            RequestError: it has no shadow; the error is about `param`.
        """
        run = next((row.run for row in await self._store.shadows() if row.route == route), None)
        if run is None:
            raise RequestError(f"The route {route!r} has no shadow.", param=param)
        return run

    async def _shadow_scores(self, route: str, output: str) -> RequestValues:
        run = await self.shadow_run(route, param="value")
        scores: dict[str, float] = {}
        known: set[str] = set()
        async with aclosing(self._store.results(run, route=PRECOMPUTED)) as rows:
            async for row in rows:
                known.update(score.output for score in row.scores)
                for score in row.scores:
                    if score.output == output and score.value is not None:
                        scores[row.cell.sample_id] = score.value
                if len(scores) >= _MAX_SCORES:
                    break
        if output not in known:
            raise RequestError(
                f"The route's shadow gives live answers no score {output!r}."
                f"{closest(output, known)}",
                param="value",
            )
        shares = all(value in (0.0, 1.0) for value in scores.values())
        return RequestValues(scores, *((0.0, 1.0) if shares else (None, None)))

    def retention_warnings(
        self, name: str, matching: TrafficFilter, earliest: float | None
    ) -> list[str]:
        """Return a warning where requests of the time are no longer stored."""
        days = self._routes.traffic_days().get(name, self._days)
        since = matching.since
        if not days or since is None or since >= self._now() - days * DAY_S - _PRUNED_S:
            return []
        text = f"requests of {name} are stored for {days:g} days, so older ones are not in this"
        if earliest is not None:
            text += f"; the oldest is {(self._now() - earliest) / DAY_S:.1f} days old"
        return [text]

    def _report(
        self,
        value: str,
        matching: TrafficFilter,
        policy: PreparedPolicy,
        outcomes: RequestValues,
        choices: RecordedChoices,
    ) -> WhatIf:
        name = matching.route or ""
        weights = [rule.weights for rule in policy.rules]
        possible = choices.possible(weights)
        excluded = Counter(choices.excluded)
        excluded["unsupported"] += int((~possible).sum())
        used = int(possible.sum())
        warnings = self.retention_warnings(name, matching, choices.earliest)
        warnings += outcomes.warnings
        measures = []
        for measure in MEASURES if value else MEASURES[1:]:
            chosen = possible & choices.known(measure)
            low, high = outcomes.range_of(measure)
            measures.append(
                WhatIfMeasure(
                    name=measure,
                    description=value if measure == "value" else DESCRIPTIONS[measure],
                    unknown=used - int(chosen.sum()),
                    value=choices.estimate(weights, measure, chosen, low=low, high=high),
                )
            )
        if value:
            warnings += _coverage_warnings(choices, possible)
        if choices.share < 1:
            warnings.append(
                f"there were over {MAX_REQUESTS:,} requests: those of {choices.share:.3g} of the "
                "users were taken, who are drawn by a hash"
            )
        return WhatIf(
            route=name,
            value=value,
            since=matching.since,
            until=matching.until or self._now(),
            records=choices.records,
            requests=used,
            sampled=choices.share,
            excluded=tuple(
                ExcludedRecords(reason=reason, count=excluded[reason], description=REASONS[reason])
                for reason in REASONS
                if excluded[reason]
            ),
            targets=self._targets(name, policy, choices, possible),
            measures=tuple(measures),
            refused="" if used else _why_none(policy, choices, excluded),
            warnings=tuple(warnings),
        )

    def _targets(
        self,
        name: str,
        policy: PreparedPolicy,
        choices: RecordedChoices,
        possible: NDArray[np.bool_],
    ) -> tuple[WhatIfTarget, ...]:
        tried = np.bincount(choices.actions[possible], minlength=len(choices.targets))
        rules = np.bincount(
            np.array(choices.rules, dtype=np.intp)[choices.contexts[possible]],
            minlength=len(policy.rules),
        )
        used = max(1, int(tried.sum()))
        served = dict(zip(choices.targets, tried.tolist(), strict=True))
        configured = {target.model for target in self.route(name).targets}
        return tuple(
            WhatIfTarget(
                target=target,
                served=served.get(target, 0) / used,
                policy=float(
                    sum(
                        count * rule.weights.get(target, 0.0)
                        for count, rule in zip(rules, policy.rules, strict=True)
                    )
                    / used
                ),
                requests=served.get(target, 0),
                configured=target in configured,
            )
            for target in dict.fromkeys([*policy.targets, *choices.targets])
        )


def _check_known(policy: PreparedPolicy, choices: RecordedChoices, route: Route) -> None:
    """Raise RequestError where the policy names a target of which neither route nor traffic know.

    Without it, a mistake in a name would read as too little traffic.
    """
    known = {target.model for target in route.targets} | set(route.fallback)
    known.update(choices.targets, *choices.chances)
    for name in policy.targets:
        if name not in known:
            raise RequestError(
                f"The policy names {name}, which is no target of the route and was none in the "
                f"requests of that time.{closest(name, known)}",
                param="policy",
            )


def _why_none(policy: PreparedPolicy, choices: RecordedChoices, excluded: Mapping[str, int]) -> str:
    if not choices.records:
        return "no request of the route is on record for that time"
    if not excluded["unsupported"]:
        reason = max(excluded, key=excluded.__getitem__)
        return (
            f"none of {choices.records:,} requests says with which probability its target was "
            f"chosen; most are {REASONS[reason]}"
        )
    chances = frozenset[str]().union(*choices.chances)
    missing = [name for name in policy.targets if name not in chances]
    if missing:
        return (
            f"{', '.join(missing)} had no chance in any request, so nothing tells what it would "
            "bring; give it a weight, start a rollout, or let the route explore (explore: 0.05)"
        )
    if all(len(chances) == 1 for chances in choices.chances):
        return (
            "the route left nothing to chance: let it explore (explore: 0.05), or give its targets "
            "weights"
        )
    return "in no request did all targets that the policy takes have a chance"


def _coverage_warnings(choices: RecordedChoices, possible: NDArray[np.bool_]) -> list[str]:
    """Return a warning where the value is known of some targets' requests more than of others'."""
    known = choices.known("value")
    shares = {}
    for number, target in enumerate(choices.targets):
        tried = possible & (choices.actions == number)
        if tried.sum() >= FEWEST_EFFECTIVE / 2:
            shares[target] = float(known[tried].mean())
    if not shares:
        return []
    highest, lowest = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    low, high = shares[lowest], shares[highest]
    error = math.sqrt(max(low * (1 - low), high * (1 - high)) * 4 / FEWEST_EFFECTIVE)
    if high > _UNEVEN * low and high - low > 2 * error:
        return [
            f"the value is known of {high:.1%} of the requests that tried {highest}, and of "
            f"{low:.1%} of those that tried {lowest}: who says something may differ, and then so "
            "do the means"
        ]
    return []
