"""Odds: the probability with which each target comes first is how often it does."""

import json
import math
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.errors import RequestError
from router.config.routes import Route, RouteTarget, Supports
from router.gateway.routing import Needs, Table, TargetLoad
from router.records import MAX_CHOICES, Odds, Target

STRATEGIES = ("weighted", "round_robin", "least_busy", "lowest_latency", "cheapest")
# Whole numbers of draws explore, and fall to each of one to four targets.
EXPLORE_DRAWS = 60
A, B, C = (Target("p", name) for name in "abc")


def routed(targets, **options):
    return Table({"r": Route(targets=tuple(targets), **options)}, ["p"])


def near(one, other):
    return one.keys() == other.keys() and all(math.isclose(one[key], other[key]) for key in one)


TARGETS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 4), st.booleans()), min_size=1, max_size=4
).filter(lambda targets: any(weight for _, weight, _ in targets))


@given(
    strategy=st.sampled_from(STRATEGIES),
    targets=TARGETS,
    loads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    explore=st.sampled_from([0.0, 0.2, 1.0]),
    tools=st.booleans(),
)
@example("least_busy", [("a", 1, True), ("b", 1, True), ("c", 1, True)], [0, 1, 0, 0], 0.0, False)
@example("lowest_latency", [("a", 1, True), ("b", 1, True)], [1, 1, 0, 0], 0.2, False)
@example("weighted", [("a", 3, False), ("b", 1, True), ("a", 2, False)], [0] * 4, 0.2, True)
@example("weighted", [("a", 3, False)], [0] * 4, 0.2, True)
def test_the_odds_are_how_often_each_target_is_first(strategy, targets, loads, explore, tools):
    supports = {}
    table = routed(
        [
            RouteTarget(
                model=f"p/{name}",
                weight=weight,
                supports=Supports(tools=supports.setdefault(name, can)),
            )
            for name, weight, can in targets
        ],
        strategy=strategy,
        explore=explore,
        fallback=("p/z",),
    )
    by_name = dict(zip("abcd", loads, strict=True))
    needs = Needs(tools=True) if tools else None
    weights = [weight for _, weight, _ in targets if weight]
    count = len(weights)
    draws = sum(weights) if strategy == "weighted" else count * max(1, count - 1)
    plans = [
        table.plan(
            "r",
            (n + 0.5) / draws,
            load_of=lambda target: TargetLoad(by_name[target.model], by_name[target.model] or None),
            needs=needs,
            explore_draw=(m + 0.5) / EXPLORE_DRAWS,
        )
        for n in range(draws)
        for m in range(EXPLORE_DRAWS)
    ]
    # Taking turns is certain, once it is known whose turn it is.
    for odds in {plan.odds for plan in plans}:
        firsts = Counter(plan.targets[0] for plan in plans if plan.odds is odds)
        shares = {target: times / firsts.total() for target, times in firsts.items()}
        assert near(shares, odds.probabilities)
        assert math.isclose(sum(odds.probabilities.values()), 1)


def test_taking_turns_and_the_cheapest_leave_nothing_to_chance():
    for strategy in ("round_robin", "cheapest"):
        table = routed([RouteTarget(model="p/a"), RouteTarget(model="p/b")], strategy=strategy)
        plan = table.plan("r", 0.6)
        assert plan.odds.probabilities == {plan.targets[0]: 1.0}


def test_a_client_that_names_the_target_has_no_odds():
    assert routed([RouteTarget(model="p/a")]).plan("p/a", 0.5).odds is None


def test_a_target_that_cannot_is_not_explored():
    able = RouteTarget(model="p/a")
    other = RouteTarget(model="p/b", supports=Supports(vision=False))
    table = routed([able, other], explore=1.0)
    plan = table.plan("r", 0.9, needs=Needs(vision=True), explore_draw=0.9)
    assert plan.targets == (A,)
    assert plan.odds.probabilities == {A: 1.0}
    with pytest.raises(RequestError):
        routed([other], explore=1.0).plan("r", 0.9, needs=Needs(vision=True), explore_draw=0.9)


def test_the_odds_of_a_route_are_worked_out_once():
    table = routed([RouteTarget(model="p/a"), RouteTarget(model="p/b", weight=3)])
    assert table.plan("r", 0.1) is table.plan("r", 0.2)
    assert table.plan("r", 0.1).odds is table.plan("r", 0.9).odds


def test_a_rollout_takes_its_share_of_the_odds():
    odds = Odds({A: 0.75, B: 0.25})
    assert near(odds.mixed(0.2, C).probabilities, {A: 0.6, B: 0.2, C: 0.2})
    assert near(odds.mixed(0.2, B).probabilities, {A: 0.6, B: 0.4})
    assert odds.mixed(0.0, C).probabilities == odds.probabilities
    assert odds.mixed(1.0, C).probabilities == {C: 1.0}
    assert odds.mixed(0.3, C) is odds.mixed(0.3, C)
    assert json.loads(bytes(odds.choices)) == {"p/a": 0.75, "p/b": 0.25}


@pytest.mark.parametrize(
    ("targets", "named"), [(1, 0), (2, 2), (MAX_CHOICES, MAX_CHOICES), (65, 0)]
)
def test_a_record_names_the_choices_where_there_are_some_and_not_too_many(targets, named):
    odds = Odds({Target("p", f"m{n}"): 1 / targets for n in range(targets)})
    assert len(json.loads(bytes(odds.choices))) == named
