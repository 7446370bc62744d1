"""Plans: which targets, in which order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import ModelNotFoundError, RequestError
from router.config import Route, Supports, Target, parse
from router.routing import Load, Needs, Table, TimeLimits, share
from router.routing import Target as Named


def table(weights=(90, 10), fallback=("c/z",)):
    arms = tuple(Target(model=f"a/m{n}", weight=w) for n, w in enumerate(weights))
    return Table({"r": Route(targets=arms, fallback=fallback)}, ["a", "c"])


def test_a_provider_and_its_model_need_no_route():
    plan = table().plan("a/org/model:tag", 0.5)
    assert plan.targets == (("a", "org/model:tag"),)


def test_the_other_arms_then_the_fallback_follow_the_chosen_one():
    assert [str(one) for one in table().plan("r", 0.95).targets] == ["a/m1", "a/m0", "c/z"]
    assert [str(one) for one in table().plan("r", 0.0).targets] == ["a/m0", "a/m1", "c/z"]


def test_a_fallback_that_is_also_an_arm_is_tried_once():
    plan = table(fallback=("a/m0", "c/z")).plan("r", 0.0)
    assert [str(one) for one in plan.targets] == ["a/m0", "a/m1", "c/z"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rr", "'r'"), ("x/y", "'x'"), ("", "Known"), ("a/", "a"), ("/m", "provider ''")],
)
def test_an_unknown_model_gets_the_closest_names(name, hint):
    with pytest.raises(ModelNotFoundError) as caught:
        table().plan(name, 0.5)
    assert hint in caught.value.message
    assert caught.value.status == 404
    assert caught.value.param == "model"


def test_the_split_is_the_weights():
    many = 20_000
    plans = (table().plan("r", share(f"user-{n}", "r")) for n in range(many))
    counts = Counter(str(plan.targets[0]) for plan in plans)
    # 90% of 20,000 has a standard deviation of 42; the keys are fixed, so this is no lottery.
    assert abs(counts["a/m0"] - 0.9 * many) < 200


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=6).filter(any),
    st.floats(0, 1, exclude_max=True),
)
def test_every_plan_is_finite_and_starts_with_an_arm_that_has_weight(weights, draw):
    plan = table(weights).plan("r", draw)
    assert 0 < len(plan.targets) <= len(weights) + 1
    assert len(set(plan.targets)) == len(plan.targets)
    assert weights[int(plan.targets[0].model[1:])] > 0


@given(st.text(), st.text())
def test_a_key_sticks(key, salt):
    assert share(key, salt) == share(key, salt)
    assert 0 <= share(key, salt) < 1


def test_a_key_does_not_fall_into_the_same_arm_of_every_route():
    keys = [f"k{n}" for n in range(200)]
    same = sum((share(key, "r1") < 0.5) == (share(key, "r2") < 0.5) for key in keys)
    assert 60 < same < 140


def test_a_routes_time_outs_come_before_its_providers_and_both_before_the_defaults():
    text = """
providers:
  slow: {kind: baseline, timeout: {connect: 9, total: 1800}}
  usual: {kind: baseline}
routes:
  says: {targets: [{model: slow/a}], fallback: [usual/b], timeout: {total: 60, first_byte: 7}}
  leaves: {targets: [{model: slow/a}], fallback: [usual/b]}
"""
    config = parse(text, "c.yaml", {})
    timeouts = {name: one.timeout for name, one in config.providers.items()}
    table = Table(config.routes, config.providers, timeouts=timeouts)
    slow = Named("slow", "a")
    says, leaves = table.plan("says", 0.0).policy, table.plan("leaves", 0.0).policy
    assert says.timeouts == {slow: TimeLimits(connect=9, first_byte=7, total=60)}
    assert says.timeout == TimeLimits(first_byte=7, total=60)
    assert leaves.timeouts == {slow: TimeLimits(connect=9, total=1800)}
    # The request may go on for as long as its most patient target.
    assert leaves.timeout == TimeLimits(total=1800)
    assert table.plan("slow/x", 0.0).policy.timeout == TimeLimits(connect=9, total=1800)
    assert table.plan("usual/x", 0.0).policy.timeout == TimeLimits()
    assert (leaves.section, table.plan("slow/x", 0.0).policy.section) == (
        "routes.leaves",
        "providers.slow",
    )


# Five strategies on the same four targets, each against load, price and draw.

PRICES = {"a/m0": 5.0, "a/m1": None, "a/m2": 0.5, "a/m3": 0.5}


def strategy(name, *, weights=(4, 3, 2, 1), **fields):
    arms = tuple(Target(model=f"a/m{n}", weight=weight) for n, weight in enumerate(weights))
    route = Route(targets=arms, strategy=name, fallback=("c/z",), **fields)
    return Table({"r": route}, ["a", "c"], lambda target: PRICES[str(target)])


def order(table, draw, loads=None):
    """The numbers of the arms in the order to try them; the fallback comes last."""
    loads = {} if loads is None else loads
    plan = table.plan("r", draw, load_of=lambda one: loads.get(int(one.model[1:]), Load()))
    *arms, last = plan.targets
    assert str(last) == "c/z"
    return [int(arm.model[1:]) for arm in arms]


NONE_BUSY = {}
FIRST_BUSY = {0: Load(running=3), 1: Load(running=1), 3: Load(running=1)}
ALL_KNOWN = {0: Load(latency=0.9), 1: Load(latency=0.5), 2: Load(latency=0.1), 3: Load(latency=0.2)}
ONE_NEW = {0: Load(latency=0.9), 1: Load(latency=0.5), 2: Load(latency=0.1)}


@pytest.mark.parametrize(
    ("name", "draw", "loads", "tried"),
    [
        # By weight: [0, .4), [.4, .7), [.7, .9), [.9, 1); the others follow in the config's order.
        ("weighted", 0.0, NONE_BUSY, [0, 1, 2, 3]),
        ("weighted", 0.39, FIRST_BUSY, [0, 1, 2, 3]),
        ("weighted", 0.4, NONE_BUSY, [1, 2, 3, 0]),
        ("weighted", 0.69, ALL_KNOWN, [1, 2, 3, 0]),
        ("weighted", 0.7, NONE_BUSY, [2, 3, 0, 1]),
        ("weighted", 0.89, NONE_BUSY, [2, 3, 0, 1]),
        ("weighted", 0.9, NONE_BUSY, [3, 0, 1, 2]),
        ("weighted", 1 - 2**-53, NONE_BUSY, [3, 0, 1, 2]),
        # By turn: a quarter of the draws each, whatever the weights and the loads.
        ("round_robin", 0.0, FIRST_BUSY, [0, 1, 2, 3]),
        ("round_robin", 0.24, NONE_BUSY, [0, 1, 2, 3]),
        ("round_robin", 0.25, NONE_BUSY, [1, 2, 3, 0]),
        ("round_robin", 0.5, ALL_KNOWN, [2, 3, 0, 1]),
        ("round_robin", 0.75, NONE_BUSY, [3, 0, 1, 2]),
        ("round_robin", 1.0, NONE_BUSY, [0, 1, 2, 3]),
        # By requests under way; the draw decides between equals.
        ("least_busy", 0.0, NONE_BUSY, [0, 1, 2, 3]),
        ("least_busy", 0.5, NONE_BUSY, [2, 3, 0, 1]),
        ("least_busy", 0.75, ALL_KNOWN, [3, 0, 1, 2]),
        ("least_busy", 1.0, NONE_BUSY, [0, 1, 2, 3]),
        ("least_busy", 0.0, FIRST_BUSY, [2, 1, 3, 0]),
        ("least_busy", 0.99, FIRST_BUSY, [2, 3, 1, 0]),
        # The quicker of the two that the draw names, one of twelve pairs; the others follow it.
        ("lowest_latency", 0.0, ALL_KNOWN, [1, 2, 3, 0]),  # 0 and 1
        ("lowest_latency", 1 / 12, ALL_KNOWN, [2, 3, 0, 1]),  # 0 and 2
        ("lowest_latency", 2 / 12, ALL_KNOWN, [3, 0, 1, 2]),  # 0 and 3
        ("lowest_latency", 3.5 / 12, ALL_KNOWN, [1, 2, 3, 0]),  # 1 and 0
        ("lowest_latency", 4.5 / 12, ALL_KNOWN, [2, 3, 0, 1]),  # 1 and 2
        ("lowest_latency", 5.5 / 12, ALL_KNOWN, [3, 0, 1, 2]),  # 1 and 3
        ("lowest_latency", 6.5 / 12, ALL_KNOWN, [2, 3, 0, 1]),  # 2 and 0
        ("lowest_latency", 9.5 / 12, ALL_KNOWN, [3, 0, 1, 2]),  # 3 and 0
        ("lowest_latency", 11.5 / 12, ALL_KNOWN, [2, 3, 0, 1]),  # 3 and 2
        # A target without any answer yet is tried; between two of them, the one drawn first.
        ("lowest_latency", 2 / 12, ONE_NEW, [3, 0, 1, 2]),
        ("lowest_latency", 11.5 / 12, ONE_NEW, [3, 0, 1, 2]),
        ("lowest_latency", 11.5 / 12, NONE_BUSY, [3, 0, 1, 2]),
        # By price: equals in the config's order, an unknown price last.
        ("cheapest", 0.0, NONE_BUSY, [2, 3, 0, 1]),
        ("cheapest", 0.99, NONE_BUSY, [2, 3, 0, 1]),
        ("cheapest", 0.5, {2: Load(running=9, latency=9.0)}, [2, 3, 0, 1]),
    ],
)
def test_a_strategy_orders_the_targets_by_what_it_is_named_for(name, draw, loads, tried):
    assert order(strategy(name), draw, loads) == tried


@pytest.mark.parametrize(
    "name", ["weighted", "round_robin", "least_busy", "lowest_latency", "cheapest"]
)
def test_a_target_without_weight_is_never_tried(name):
    table = strategy(name, weights=(0, 1, 0, 0))
    assert order(table, 0.0) == order(table, 0.99) == [1]
    assert table.first_targets("r") == (("a", "m1"),)


def test_a_repeated_target_keeps_its_chances_and_is_tried_once():
    arms = tuple(Target(model=f"a/{name}") for name in ("m0", "m1", "m0"))
    table = Table({"r": Route(targets=arms, strategy="least_busy")}, ["a"])
    busy = {"m0": Load(running=1)}
    for draw in (0.0, 0.4, 0.7):
        plan = table.plan("r", draw, load_of=lambda one: busy.get(one.model, Load()))
        assert [one.model for one in plan.targets] == ["m1", "m0"]
    assert table.first_targets("r") == (("a", "m0"), ("a", "m1"))


@pytest.mark.parametrize(
    ("name", "turns"), [("round_robin", 4), ("weighted", 0), ("least_busy", 0), ("cheapest", 0)]
)
def test_only_round_robin_takes_turns(name, turns):
    assert strategy(name).takes_turns("r") == turns
    assert strategy(name).takes_turns("a/m0") == 0


@pytest.mark.parametrize("sticky", [None, "user", "conversation", "header:X-Team"])
def test_what_a_route_sticks_to(sticky):
    table = strategy("weighted", sticky=sticky)
    assert table.sticky("r") == sticky
    assert table.sticky("a/m0") is None


# What targets support, and what requests need.

SUPPORTS = {
    "plain": Supports(vision=False, tools=False, json_schema=False, context=100),
    "eyes": Supports(tools=False, json_schema=False),
    "hands": Supports(vision=False, json_schema=False),
    "forms": Supports(vision=False, tools=False),
    "wide": Supports(vision=False, tools=False, json_schema=False, context=1000),
}


def able(needs, names=tuple(SUPPORTS), **fields):
    arms = tuple(Target(model=f"a/{name}", supports=SUPPORTS[name]) for name in names)
    table = Table({"r": Route(targets=arms, **fields)}, ["a"])
    assert table.watches_needs("r")
    assert not table.watches_needs("a/plain")
    return [one.model for one in table.plan("r", 0.0, needs=needs).targets]


@pytest.mark.parametrize(
    ("needs", "names"),
    [
        (None, ["plain", "eyes", "hands", "forms", "wide"]),
        (Needs(), ["plain", "eyes", "hands", "forms", "wide"]),
        (Needs(vision=True), ["eyes"]),
        (Needs(tools=True), ["hands"]),
        (Needs(json_schema=True), ["forms"]),
        (Needs(tokens=100), ["plain", "eyes", "hands", "forms", "wide"]),
        (Needs(tokens=101), ["eyes", "hands", "forms", "wide"]),
        (Needs(tokens=1000), ["eyes", "hands", "forms", "wide"]),
        (Needs(tokens=1001), ["eyes", "hands", "forms"]),
        (Needs(vision=True, tokens=5000), ["eyes"]),
    ],
)
def test_a_request_goes_to_targets_that_support_what_it_needs(needs, names):
    assert able(needs) == names


@pytest.mark.parametrize(
    ("needs", "named"),
    [
        (Needs(vision=True), "vision, about 0 tokens of context"),
        (Needs(tools=True, tokens=7), "tools, about 7 tokens of context"),
        (Needs(json_schema=True), "json_schema, about 0 tokens of context"),
        (Needs(True, True, True, 9), "vision, tools, json_schema, about 9 tokens of context"),
        (Needs(tokens=101), "about 101 tokens of context"),
    ],
)
def test_what_no_target_supports_is_named(needs, named):
    with pytest.raises(RequestError) as caught:
        able(needs, ["plain"])
    assert (caught.value.code, caught.value.status) == ("no_capable_target", 400)
    assert caught.value.message == (f"No target of 'r' supports what this request needs: {named}.")


def test_a_target_that_says_nothing_and_a_fallback_support_everything():
    assert able(Needs(True, True, True, 10**9), ["plain"], fallback=("a/more",)) == ["more"]
    silent = Table({"r": Route(targets=(Target(model="a/m"),))}, ["a"])
    assert not silent.watches_needs("r")
    assert silent.plan("r", 0.0, needs=Needs(vision=True)).targets == (("a", "m"),)
