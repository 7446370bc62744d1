"""Routing policies that were never run: which target they would choose, by what is known before.

    policy = prepare_policy(RoutingPolicy(weights={"openai/gpt-4o": 1}), route, prices.per_million)
    policy.rules[0].weights                  # {"openai/gpt-4o": 1.0}

A policy has weights for targets, or rules with a condition each, of which the first that holds
counts. What a condition may name is what the router knows before it chooses: nothing of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import msgspec

from providers.errors import RequestError, closest
from providers.names import check_name
from router.config.routes import Route
from router.loop.conditions import Condition, parse_condition
from router.records import Target

MAX_RULES = 32
MAX_TARGETS = 64
# How far a sum of weights may be from 1, or 100.
_ROUNDING = 1e-6
_MAX_WEIGHT = 100.0

# Fields of conditions that do not depend on which target was chosen.
KNOWN_BEFORE = (
    "at",
    "key",
    "user",
    "conversation",
    "path",
    "stream",
    "request_bytes",
    "prompt",
    "turns",
    "length",
    "language",
)
# Strategies whose choice can be told from the config alone.
STRATEGIES = ("weighted", "round_robin", "cheapest")

Weights = Annotated[dict[str, float], msgspec.Meta(max_length=MAX_TARGETS)]


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which targets some requests would go to.

    Attributes:
        when: the condition that such requests meet; "" in the last rule, for all others.
        weights: `provider/model` to its share; they add up to 1, or to 100.
        strategy: in the place of weights, one of the route: `weighted` for its own weights,
            `round_robin` for equal shares, `cheapest` for the lowest known price.
    """

    when: str = ""
    weights: Weights = {}
    strategy: str = ""


class RoutingPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A routing policy: `weights`, a `strategy`, or `rules`.

    Attributes:
        route: the route whose requests it is for; "" where that is said elsewhere.
        value: what is to be high: `feedback:NAME`, or `shadow:OUTPUT` of the route's shadow; "" for
            errors, cost and time alone.
        weights, strategy: for all requests; see PolicyRule.
        rules: of which the first whose condition holds counts; the last has none.
    """

    route: str = ""
    value: str = ""
    weights: Weights = {}
    strategy: str = ""
    rules: Annotated[tuple[PolicyRule, ...], msgspec.Meta(max_length=MAX_RULES)] = ()


class PreparedRule(NamedTuple):
    """A rule that can be applied.

    Attributes:
        condition: None for all requests.
        weights: each target that it takes, with its probability; they add up to 1.
    """

    condition: Condition | None
    weights: Mapping[str, float]


class PreparedPolicy(NamedTuple):
    """A policy that can be applied; its last rule is for all requests."""

    rules: tuple[PreparedRule, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the targets that it may take, in its order."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.weights))

    @property
    def reads_text(self) -> bool:
        """Whether a condition has to be evaluated with the text of the bodies."""
        return any(rule.condition is not None and rule.condition.reads_text for rule in self.rules)

    @property
    def reads_language(self) -> bool:
        """Whether a condition names the language."""
        return any(
            rule.condition is not None and "language" in rule.condition.fields
            for rule in self.rules
        )


def prepare_policy(
    policy: RoutingPolicy, route: Route, price_of: Callable[[Target], float | None]
) -> PreparedPolicy:
    """Check a policy, and make it ready to be applied to requests of a route.

    Args:
        policy: as it was written.
        route: the route.
        price_of: returns the price of a target, None where it is unknown.

    Raises:
        RequestError: something in it is wrong, with its place.
    """
    given = [bool(policy.weights), bool(policy.strategy), bool(policy.rules)]
    if sum(given) != 1:
        raise RequestError(
            "The policy needs one of weights, strategy and rules"
            + (", and not several." if sum(given) else "."),
            param="policy",
        )
    rules = policy.rules or (PolicyRule(weights=policy.weights, strategy=policy.strategy),)
    prepared = []
    for n, rule in enumerate(rules):
        place = f"rules[{n}]" if policy.rules else "the policy"
        last = n == len(rules) - 1
        if last is bool(rule.when.strip()):
            raise RequestError(
                f"{place}: the last rule is for all other requests and has no `when`."
                if last
                else f"{place}: only the last rule is without `when`; no later one would count.",
                param="policy",
            )
        if bool(rule.weights) is bool(rule.strategy):
            raise RequestError(f"{place} needs weights or a strategy.", param="policy")
        weights = (
            _checked(rule.weights, place)
            if rule.weights
            else _of_strategy(rule.strategy, route, price_of, place)
        )
        prepared.append(PreparedRule(None if last else _condition(rule.when, place), weights))
    return PreparedPolicy(tuple(prepared))


def _checked(weights: Mapping[str, float], place: str) -> dict[str, float]:
    """Return weights that add up to 1, without those that are 0."""
    for name, weight in weights.items():
        check_name(name, "policy")
        provider, slash, model = name.partition("/")
        if not (provider and slash and model):
            raise RequestError(
                f"{place}: {name!r} is not of the form provider/model.", param="policy"
            )
        if not 0 <= weight <= _MAX_WEIGHT:
            raise RequestError(
                f"{place}: the weight of {name} is {weight:g}; a weight is a number from 0 "
                f"to {_MAX_WEIGHT:g}.",
                param="policy",
            )
    total = math.fsum(weights.values())
    whole = 100.0 if abs(total - 100) <= 100 * _ROUNDING else 1.0
    if abs(total - whole) > whole * _ROUNDING:
        raise RequestError(
            f"{place}: the weights add up to {total:g}, and have to add up to 1 (or 100).",
            param="policy",
        )
    return {name: weight / total for name, weight in weights.items() if weight}


def _of_strategy(
    strategy: str, route: Route, price_of: Callable[[Target], float | None], place: str
) -> dict[str, float]:
    targets = [target for target in route.targets if target.weight]
    total = sum(target.weight for target in targets)
    weights: dict[str, float] = {}
    if strategy == "weighted":
        for target in targets:
            weights[target.model] = weights.get(target.model, 0.0) + target.weight / total
        return weights
    if strategy == "round_robin":
        for target in targets:
            weights[target.model] = weights.get(target.model, 0.0) + 1 / len(targets)
        return weights
    if strategy == "cheapest":
        priced = {
            target.model: price
            for target in targets
            if (price := price_of(Target.parse(target.model))) is not None
        }
        if not priced:
            raise RequestError(
                f"{place}: no target of the route has a known price.", param="policy"
            )
        return {min(priced, key=priced.__getitem__): 1.0}
    if strategy in ("least_busy", "lowest_latency", "learned"):
        raise RequestError(
            f"{place}: what {strategy} would have chosen depends on what was not recorded; write "
            f"weights, or one of {', '.join(STRATEGIES)}.",
            param="policy",
        )
    raise RequestError(
        f"{place}: there is no strategy {strategy!r}.{closest(strategy, STRATEGIES)}",
        param="policy",
    )


def _condition(when: str, place: str) -> Condition:
    try:
        condition = parse_condition(when)
    except RequestError as error:
        raise RequestError(
            f"{place}.when{error.message.removeprefix('where')}", param="policy"
        ) from None
    late = sorted(name for name in condition.fields if name not in KNOWN_BEFORE)
    if condition.feedback:
        late.append("feedback")
    if late:
        raise RequestError(
            f"{place}.when: {', '.join(late)} is not known before a target is chosen; a condition "
            f"of a policy names {', '.join(KNOWN_BEFORE)}.",
            param="policy",
        )
    return condition
