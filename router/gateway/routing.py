"""Decides which targets answer a request, in which order. No clock, no IO, no state of its own.

`Table.plan` looks a model name up and returns a Plan; `dispatch.py` executes it.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from providers.base import Timeout
from providers.errors import ModelNotFoundError, RequestError, closest
from router.config.routes import Breaker, Hedge, Retries, Route, RouteTarget, Supports
from router.config.section import IN_PLACE
from router.records import Odds, Target

# Clients name the models of a provider as they like: no more targets than this are remembered, and
# no family of metrics has more series.
MAX_TARGETS = 2000
# The odds that a route has ready; more kinds of requests and of load than that are worked out anew.
_MAX_ODDS = 256


class ConcurrencyLimit(NamedTuple):
    """The numbers of requests that a target may have in flight, and waiting."""

    running: int
    waiting: int


class TimeLimits(NamedTuple):
    """The seconds that a target may take, as the config has them; see Timeout.

    Attributes:
        first_byte: None for FIRST_BYTE_S of a stream, and `total` of a whole answer.
    """

    connect: float = 5.0
    first_byte: float | None = None
    between_chunks: float = 60.0
    total: float = 600.0


FIRST_BYTE_S = 120.0


class Policy(NamedTuple):
    """How requests are sent to a plan's targets; one object for every request of a route.

    Attributes:
        retries, breaker, hedge, fallback_on: the route's settings, see Route.
        timeout: the limits of the plan, and of targets that `timeouts` does not name.
        concurrency: the limits of targets that have one.
        timeouts: the limits of targets whose providers have time-outs of their own.
        section: where the config has these time-outs, `routes.NAME` or `providers.NAME`; "" for
            the defaults.
        reasoning: the `reasoning` of targets that have one; see the config's Target.
    """

    retries: Retries = Retries()
    timeout: TimeLimits = TimeLimits()
    breaker: Breaker = Breaker()
    hedge: Hedge | None = None
    concurrency: Mapping[Target, ConcurrencyLimit] = {}
    timeouts: Mapping[Target, TimeLimits] = {}
    section: str = ""
    fallback_on: frozenset[str | int] = frozenset()
    reasoning: Mapping[Target, bool] = {}


# For workers of a run: no client waits for an answer, what fails would fail again, and no other
# host could answer meanwhile. Only a worker that hangs must not hold a run for ever.
_RUN_WORKERS = Policy(
    Retries(attempts=1), TimeLimits(first_byte=3600.0, total=3600.0), Breaker(failures=sys.maxsize)
)


class Plan(NamedTuple):
    """Targets to try in order, each as the policy says.

    Attributes:
        route: the model name in the client's request.
        targets: never empty, no target twice.
        policy: how requests are sent to them.
        odds: with which probability each target comes first in plans for such requests at such a
            load; None for `provider/model`.
    """

    route: str
    targets: tuple[Target, ...]
    policy: Policy
    odds: Odds | None = None

    def beginning_with(self, target: Target) -> Plan:
        """Return the plan with this target before its others."""
        others = (other for other in self.targets if other != target)
        return self._replace(targets=(target, *others))

    def first_only(self) -> Plan:
        """Return the plan with its first target only, for an evaluation of that target."""
        return self._replace(targets=self.targets[:1])


class Needs(NamedTuple):
    """What a request needs of a target, as far as it was read.

    Attributes:
        vision, tools, json_schema: whether it has images, tools, a JSON schema.
        tokens: the estimated tokens of prompt and answer together.
    """

    vision: bool = False
    tools: bool = False
    json_schema: bool = False
    tokens: int = 0


class TargetLoad(NamedTuple):
    """The load of a target at this moment.

    Attributes:
        running: the number of requests in flight or waiting.
        latency: smoothed seconds to the first byte; None before the first answer.
    """

    running: int = 0
    latency: float | None = None


LoadOf = Callable[[Target], TargetLoad]
# Of each position among a route's targets, the share of the draws by which it is chosen.
_Shares = tuple[float, ...]
PriceOf = Callable[[Target], float | None]


def _idle(_: Target) -> TargetLoad:
    return TargetLoad()


def limits_of(*timeouts: Timeout) -> TimeLimits:
    """Return the time limits of several settings, each from the first that has it."""
    given = {
        name: value
        for timeout in reversed(timeouts)
        for name in TimeLimits._fields
        if (value := getattr(timeout, name)) is not None
    }
    return TimeLimits(**given)


def _policy(
    name: str,
    route: Route,
    entries: Iterable[tuple[Target, RouteTarget]],
    provider_timeouts: Mapping[str, Timeout],
) -> Policy:
    fallback = (Target.parse(model) for model in route.fallback)
    targets = [*(target for target, _ in entries), *fallback]
    timeouts = {
        target: limits_of(route.timeout, provider_timeouts[target.provider])
        for target in targets
        if provider_timeouts.get(target.provider, Timeout()) != Timeout()
    }
    timeout = limits_of(route.timeout)
    if timeouts and route.timeout.total is None:
        # A provider that may take longer has the time for it.
        longest = max(timeouts.get(target, timeout).total for target in targets)
        timeout = timeout._replace(total=longest)
    return Policy(
        route.retries,
        timeout,
        route.breaker,
        route.hedge,
        _concurrency(entries),
        timeouts,
        f"routes.{name}",
        frozenset(route.fallback_on),
        # Those without a share of the requests as well: `fallback` may name them.
        {
            Target.parse(entry.model): entry.reasoning
            for entry in route.targets
            if entry.reasoning is not None
        },
    )


class RouteTraits(NamedTuple):
    """What of a request the plan of a route depends on.

    Attributes:
        turns: the number of targets that take turns; 0 where they do not.
        sticky: what keeps a client on one target, as in the config; None for nothing.
        explore: the share of requests for which any of the targets is tried.
        watches_needs: whether what a request needs of a target makes a difference.
    """

    turns: int = 0
    sticky: str | None = None
    explore: float = 0.0
    watches_needs: bool = False


NO_TRAITS = RouteTraits()


class _PreparedRoute:
    """A route made ready to plan: cumulative weights, and the order that follows each choice.

    A strategy chooses a position among the targets, each with a certain share of the draws. What
    follows the first target is an order for each position.
    """

    def __init__(
        self,
        name: str,
        route: Route,
        price_of: PriceOf,
        provider_timeouts: Mapping[str, Timeout],
    ) -> None:
        entries = [(Target.parse(entry.model), entry) for entry in route.targets if entry.weight]
        if route.plain_strategy == "cheapest":
            entries.sort(key=lambda pair: _cheapest_first(price_of(pair[0])))
        self._name = name
        self.strategy = route.plain_strategy
        self.explore = route.explore
        self.targets = [target for target, _ in entries]
        self._distinct = tuple(dict.fromkeys(self.targets))
        self.fallback = tuple(Target.parse(model) for model in route.fallback)
        self.bounds = list(itertools.accumulate(entry.weight for _, entry in entries))
        count = len(entries)
        self.orders = [self._order([*range(n, count), *range(n)]) for n in range(count)]
        self.policy = _policy(name, route, entries, provider_timeouts)
        self.limited = {
            target: entry.supports for target, entry in entries if entry.supports != Supports()
        }
        self.traits = RouteTraits(
            turns=count if self.strategy == "round_robin" else 0,
            sticky=route.sticky,
            explore=route.explore,
            watches_needs=bool(self.limited),
        )
        self._odds: dict[tuple[_Shares, frozenset[Target] | None], Odds] = {}
        # Of each position, what a strategy chooses by that looks at no load.
        total = self.bounds[-1] if self.bounds else 0.0
        weights = tuple(entry.weight / total for _, entry in entries)
        self._certain = [tuple(float(n == m) for m in range(count)) for n in range(count)]
        self._shares = [weights] * count if self.strategy == "weighted" else self._certain
        self._plans = [
            Plan(name, order, self.policy, self._odds_of(shares))
            for order, shares in zip(self.orders, self._shares, strict=True)
        ]
        # A route of one target has one plan, whatever is drawn.
        self.only = self._plans[0] if count == 1 and not self.limited else None

    def _order(self, positions: Sequence[int]) -> tuple[Target, ...]:
        # dict.fromkeys keeps the first of each, so that no target is tried twice.
        return tuple(dict.fromkeys([*(self.targets[n] for n in positions), *self.fallback]))

    def plan(self, draw: float, load_of: LoadOf, needs: Needs | None) -> Plan:
        """Return the plan of the strategy, without exploring."""
        limited = needs is not None and bool(self.limited)
        if self.strategy == "least_busy":
            order, shares = self._least_busy(draw, load_of, needs if limited else None)
        elif self.strategy == "lowest_latency":
            position, shares = self._quicker_of_two(draw, load_of)
            order = self.orders[position]
        else:
            position = self._position(draw)
            if not limited:
                return self._plans[position]
            order, shares = self.orders[position], self._shares[position]
        if not limited:
            return Plan(self._name, order, self.policy, self._odds_of(shares))
        assert needs is not None, "a limited plan has needs"
        able = _able(self._name, order, self.limited, needs)
        return Plan(self._name, able, self.policy, self._odds_of(shares, frozenset(able)))

    def explored(self, plan: Plan, draw: float) -> Plan:
        """Return a plan with one of the route's own targets first, each as likely as the others.

        Only those that can serve what the request needs are in the plan, and taken.
        """
        candidates = self._candidates(plan.targets)
        if not candidates:
            return plan
        return plan.beginning_with(candidates[int(draw * len(candidates)) % len(candidates)])

    def explored_odds(self, plan: Plan, target: Target) -> Odds:
        """Return the odds where a target comes first, except where the route explores."""
        return Odds(self._with_exploring(self._candidates(plan.targets), [(target, 1.0)]))

    def _position(self, draw: float) -> int:
        if self.strategy == "weighted":
            chosen = bisect.bisect_right(self.bounds, draw * self.bounds[-1])
            # draw < 1, but the product may still round up to the last bound.
            return min(chosen, len(self.orders) - 1)
        if self.strategy == "round_robin":
            return int(draw * len(self.orders)) % len(self.orders)
        return 0

    def _least_busy(
        self, draw: float, load_of: LoadOf, needs: Needs | None
    ) -> tuple[tuple[Target, ...], _Shares]:
        """Return the order by load, and the share of the draws that each position has.

        It is rotated by the draw, so that ties do not all fall to the first: of those that tie,
        each has the rotations from behind the one before it.
        """
        count = len(self.targets)
        loads = {target: load_of(target).running for target in self._distinct}
        order = self.orders[int(draw * count) % count]
        by_load = sorted((target for target in order if target in loads), key=loads.__getitem__)
        candidates = [
            n
            for n, target in enumerate(self.targets)
            if needs is None or target not in self.limited or _can(self.limited[target], needs)
        ]
        least = min((loads[self.targets[n]] for n in candidates), default=0)
        tied = [n for n in candidates if loads[self.targets[n]] == least]
        shares = [0.0] * count
        for before, n in zip([*tied[-1:], *tied[:-1]], tied, strict=True):
            shares[n] = ((n - before - 1) % count + 1) / count
        return (*by_load, *(target for target in order if target not in loads)), tuple(shares)

    def _quicker_of_two(self, draw: float, load_of: LoadOf) -> tuple[int, _Shares]:
        """Choose the quicker of two (Mitzenmacher 2001), so that not all herd on the best.

        Returns its position, and the share of all pairs in which each position is the quicker.
        """
        count = len(self.targets)
        if count == 1:
            return 0, self._certain[0]
        # A target without an answer has no latency yet: it is tried first.
        latencies = [load_of(target).latency or 0.0 for target in self.targets]
        pair = int(draw * count * (count - 1))
        first = pair // (count - 1)
        second = pair % (count - 1)
        second += second >= first
        shares = [0.0] * count
        for n, other in itertools.permutations(range(count), 2):
            shares[n if latencies[n] <= latencies[other] else other] += 1
        pairs = count * (count - 1)
        chosen = first if latencies[first] <= latencies[second] else second
        return chosen, tuple(share / pairs for share in shares)

    def _odds_of(self, shares: _Shares, able: frozenset[Target] | None = None) -> Odds:
        """Return the odds of the first target where each position has a share of the draws.

        Args:
            shares: of the positions.
            able: the targets that can serve the request; None for all.
        """
        odds = self._odds.get((shares, able))
        if odds is None:
            odds = Odds(self._probabilities(shares, able))
            if len(self._odds) < _MAX_ODDS:
                self._odds[shares, able] = odds
        return odds

    def _probabilities(
        self, shares: _Shares, able: frozenset[Target] | None
    ) -> dict[Target, float]:
        candidates = self._candidates(able)
        # Where none can, the fallback comes first whatever is drawn.
        shares = shares if candidates else self._certain[0]
        firsts = (
            next(target for target in order if able is None or target in able)
            for order in self.orders
        )
        return self._with_exploring(candidates, zip(firsts, shares, strict=True))

    def _candidates(self, able: Collection[Target] | None) -> list[Target]:
        """Return the route's own targets, the fallback not among them, that are in `able`."""
        return [target for target in self._distinct if able is None or target in able]

    def _with_exploring(
        self, candidates: Sequence[Target], chosen: Iterable[tuple[Target, float]]
    ) -> dict[Target, float]:
        """Return the probabilities of the first target where the route explores among candidates.

        Args:
            candidates: those that are explored; none for a route that does not explore now.
            chosen: targets with the shares of requests by which the strategy chooses them.
        """
        explored = self.explore if candidates else 0.0
        probabilities = {other: explored / len(candidates) for other in candidates if explored}
        for target, share in chosen:
            if share:
                probabilities[target] = probabilities.get(target, 0.0) + (1 - explored) * share
        return probabilities


def _cheapest_first(price: float | None) -> tuple[bool, float]:
    """Return a sort key that puts an unknown price last, as it need not be low."""
    return price is None, price or 0.0


def _concurrency(
    entries: Iterable[tuple[Target, RouteTarget]],
) -> dict[Target, ConcurrencyLimit]:
    return {
        target: ConcurrencyLimit(entry.max_concurrency, entry.max_queue)
        for target, entry in entries
        if entry.max_concurrency is not None
    }


class Table:
    """The routes of one config, ready to plan. Immutable: a change makes a new Table.

    Args:
        routes: each route by its name.
        providers: the names of the configured providers.
        price_of: returns a target's dollars per million tokens, input and output together; None
            when they are unknown. For the strategy `cheapest`.
        timeouts: the time-outs of providers that have some of their own.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        providers: Iterable[str],
        price_of: PriceOf = lambda _: None,
        timeouts: Mapping[str, Timeout] | None = None,
    ) -> None:
        provider_timeouts = timeouts or {}
        self.routes = dict(routes)
        self._prepared = {
            name: _PreparedRoute(name, route, price_of, provider_timeouts)
            for name, route in routes.items()
        }
        self._providers = frozenset(providers)
        self._policies = {
            name: Policy(
                timeout=limits_of(provider_timeouts.get(name, Timeout())),
                section=f"providers.{name}",
            )
            for name in self._providers
        }
        self._in_place: Collection[str] | None = None

    def in_place(self, models: Collection[str]) -> Table:
        """Return a table of the same routes that knows models which a run loads itself.

        Args:
            models: the models' names; requests call them `models/<name>`.
        """
        table = copy.copy(self)
        table._in_place = models  # noqa: SLF001  # a copy of this very table
        return table

    @property
    def names(self) -> list[str]:
        """Return the routes' names, in the order of the config."""
        return list(self._prepared)

    def traits(self, model: str) -> RouteTraits:
        """Return what a plan for a model depends on; the same for all names that are no route's."""
        prepared = self._prepared.get(model)
        return prepared.traits if prepared else NO_TRAITS

    def first_targets(self, model: str) -> tuple[Target, ...]:
        """Return every target that a plan for the model may begin with.

        Raises:
            ModelNotFoundError: with the closest names.
        """
        prepared = self._prepared.get(model)
        if prepared is None:
            return (self._direct(model),)
        return tuple(dict.fromkeys(prepared.targets))

    def max_in_flight(self, model: str, target: Target) -> int | None:
        """Return how many requests the route lets a target have in flight; None for any."""
        prepared = self._prepared.get(model)
        limit = prepared.policy.concurrency.get(target) if prepared else None
        return limit.running if limit else None

    def explored_odds(self, plan: Plan, target: Target) -> Odds:
        """Return the odds of a plan's route where a target comes first unless it explores."""
        return self._prepared[plan.route].explored_odds(plan, target)

    def plan(
        self,
        model: str,
        draw: float,
        *,
        load_of: LoadOf = _idle,
        needs: Needs | None = None,
        explore_draw: float = 1.0,
    ) -> Plan:
        """Return the plan for a request.

        Args:
            model: a route's name, or `provider/model`.
            draw: the chance in the choice, in [0, 1). Random for a fresh choice, `share(key)` for
                one that sticks to a key, `(turn + 0.5) / turns` for taking turns.
            load_of: returns the load of a target now.
            needs: what the request needs of a target; None when it was not read.
            explore_draw: the chance in whether the route tries another target than the strategy's,
                and in which; in [0, 1), as `draw`. 1 never does.

        Raises:
            ModelNotFoundError: with the closest names.
            RequestError: no target of the route can serve what the request needs.
        """
        prepared = self._prepared.get(model)
        if prepared is None:
            target = self._direct(model)
            policy = self._policies.get(target.provider, _RUN_WORKERS)
            return Plan(model, (target,), policy)
        plan = prepared.only or prepared.plan(draw, load_of, needs)
        if explore_draw < prepared.explore:
            return prepared.explored(plan, explore_draw / prepared.explore)
        return plan

    def _direct(self, model: str) -> Target:
        provider, slash, rest = model.partition("/")
        if slash and rest and provider in self._providers:
            return Target(provider, rest)
        if slash and provider == IN_PLACE:
            return self._direct_in_place(model, rest)
        if slash:
            message = f"no provider {provider!r}.{closest(provider, self._providers)}"
        else:
            known = [*self._prepared, *(f"{name}/…" for name in self._providers)]
            message = f"no such route.{closest(model, known)}"
        raise ModelNotFoundError(f"The model {model!r} does not exist: {message}", param="model")

    def _direct_in_place(self, model: str, name: str) -> Target:
        if self._in_place is None:
            raise ModelNotFoundError(
                f"{model} is loaded within runs only: write execution: ray in the run document, or "
                "host it with 'evalrouter models serve' and ask that host's provider",
                param="model",
            )
        if name not in self._in_place:
            raise ModelNotFoundError(
                f"{model}: the config's models: has no {name!r}.{closest(name, self._in_place)}",
                param="model",
            )
        return Target(IN_PLACE, name)


def _able(
    model: str, targets: tuple[Target, ...], limited: Mapping[Target, Supports], needs: Needs
) -> tuple[Target, ...]:
    able = tuple(
        target for target in targets if target not in limited or _can(limited[target], needs)
    )
    if not able:
        needed = [name for name in ("vision", "tools", "json_schema") if getattr(needs, name)]
        needed.append(f"about {needs.tokens} tokens of context")
        raise RequestError(
            f"No target of {model!r} supports what this request needs: {', '.join(needed)}.",
            code="no_capable_target",
        )
    return able


def _can(supports: Supports, needs: Needs) -> bool:
    return (
        (supports.vision or not needs.vision)
        and (supports.tools or not needs.tools)
        and (supports.json_schema or not needs.json_schema)
        and (supports.context is None or needs.tokens <= supports.context)
    )


def unit_of(key: str, salt: str = "") -> str:
    """Return what stands for a key, 16 hexadecimal digits: another one under each salt."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, salt=_salt(salt))
    return digest.hexdigest()


def position_of(unit: str) -> float:
    """Return the place of a unit in [0, 1): always the same, and evenly spread over units."""
    # 53 bits are what a float holds exactly, so that the result never rounds up to 1.
    return (int(unit, 16) >> 11) / 2**53


def share(key: str, salt: str = "") -> float:
    """Return a number in [0, 1): always the same for a key, and evenly spread over keys.

    `salt` (the route's name) keeps one key from falling to the same target of every route.
    """
    return position_of(unit_of(key, salt))


def _salt(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
