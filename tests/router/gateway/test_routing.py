"""Plans: which targets, in which order."""

import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import Timeout
from providers.errors import ModelNotFoundError, RequestError
from router.config.loading import parse
from router.config.routes import Breaker, Hedge, Retries, Route, RouteTarget, Supports
from router.gateway.routing import (
    FIRST_BYTE_S,
    ConcurrencyLimit,
    Needs,
    Plan,
    Policy,
    Table,
    TargetLoad,
    TimeLimits,
    limits_of,
    share,
)
from router.records import Target as Named


def table(weights=(90, 10), fallback=("c/z",)):
    targets = tuple(RouteTarget(model=f"a/m{n}", weight=w) for n, w in enumerate(weights))
    return Table({"r": Route(targets=targets, fallback=fallback)}, ["a", "c"])


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
    many, routes = 20_000, table()
    plans = (routes.plan("r", share(f"user-{n}", "r")) for n in range(many))
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
  slow: {kind: ollama, timeout: {connect: 9, total: 1800}}
  usual: {kind: ollama}
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
    targets = tuple(RouteTarget(model=f"a/m{n}", weight=weight) for n, weight in enumerate(weights))
    route = Route(targets=targets, strategy=name, fallback=("c/z",), **fields)
    return Table({"r": route}, ["a", "c"], lambda target: PRICES[str(target)])


def order(table, draw, loads=None):
    """The numbers of the targets in the order to try them; the fallback comes last."""
    loads = {} if loads is None else loads
    plan = table.plan("r", draw, load_of=lambda one: loads.get(int(one.model[1:]), TargetLoad()))
    *targets, last = plan.targets
    assert str(last) == "c/z"
    return [int(target.model[1:]) for target in targets]


NONE_BUSY = {}
FIRST_BUSY = {0: TargetLoad(running=3), 1: TargetLoad(running=1), 3: TargetLoad(running=1)}
ALL_KNOWN = {
    0: TargetLoad(latency=0.9),
    1: TargetLoad(latency=0.5),
    2: TargetLoad(latency=0.1),
    3: TargetLoad(latency=0.2),
}
ONE_NEW = {0: TargetLoad(latency=0.9), 1: TargetLoad(latency=0.5), 2: TargetLoad(latency=0.1)}


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
        ("cheapest", 0.5, {2: TargetLoad(running=9, latency=9.0)}, [2, 3, 0, 1]),
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


def test_a_draw_that_rounds_up_to_the_whole_weight_chooses_the_last():
    assert order(strategy("weighted", weights=(0, 5e-324, 0, 0)), 0.9) == [1]


def test_a_repeated_target_keeps_its_chances_and_is_tried_once():
    targets = tuple(RouteTarget(model=f"a/{name}") for name in ("m0", "m1", "m0"))
    table = Table({"r": Route(targets=targets, strategy="least_busy")}, ["a"])
    busy = {"m0": TargetLoad(running=1)}
    for draw in (0.0, 0.4, 0.7):
        plan = table.plan("r", draw, load_of=lambda one: busy.get(one.model, TargetLoad()))
        assert [one.model for one in plan.targets] == ["m1", "m0"]
    assert table.first_targets("r") == (("a", "m0"), ("a", "m1"))


@pytest.mark.parametrize(
    ("name", "turns"), [("round_robin", 4), ("weighted", 0), ("least_busy", 0), ("cheapest", 0)]
)
def test_only_round_robin_takes_turns(name, turns):
    assert strategy(name).traits("r").turns == turns
    assert strategy(name).traits("a/m0").turns == 0


@pytest.mark.parametrize("sticky", [None, "user", "conversation", "header:X-Team"])
def test_what_a_route_sticks_to(sticky):
    table = strategy("weighted", sticky=sticky)
    assert table.traits("r").sticky == sticky
    assert table.traits("a/m0").sticky is None


# What targets support, and what requests need.

SUPPORTS = {
    "plain": Supports(vision=False, tools=False, json_schema=False, context=100),
    "eyes": Supports(tools=False, json_schema=False),
    "hands": Supports(vision=False, json_schema=False),
    "forms": Supports(vision=False, tools=False),
    "wide": Supports(vision=False, tools=False, json_schema=False, context=1000),
}


def able(needs, names=tuple(SUPPORTS), **fields):
    targets = tuple(RouteTarget(model=f"a/{name}", supports=SUPPORTS[name]) for name in names)
    table = Table({"r": Route(targets=targets, **fields)}, ["a"])
    assert table.traits("r").watches_needs
    assert not table.traits("a/plain").watches_needs
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
    silent = Table({"r": Route(targets=(RouteTarget(model="a/m"),))}, ["a"])
    assert not silent.traits("r").watches_needs
    assert silent.plan("r", 0.0, needs=Needs(vision=True)).targets == (("a", "m"),)


# Plans, and models that are no routes.


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a/m", ("a", "m")),
        ("a/org/m:tag", ("a", "org/m:tag")),
        ("a", ("a", "")),
        ("a/", ("a", "")),
        ("/m", ("", "m")),
    ],
)
def test_a_target_is_a_provider_and_its_model(text, parsed):
    assert Named.parse(text) == parsed
    assert isinstance(Named.parse(text), Named)
    assert str(Named("a", "org/m")) == "a/org/m"


def test_defaults():
    assert TimeLimits() == (5.0, None, 60.0, 600.0)
    assert FIRST_BYTE_S == 120.0
    assert Needs() == (False, False, False, 0)
    assert TargetLoad() == (0, None)
    policy = Policy()
    assert (policy.retries, policy.timeout, policy.breaker) == (Retries(), TimeLimits(), Breaker())
    assert policy.hedge is None
    assert (policy.concurrency, policy.timeouts) == ({}, {})
    assert (policy.section, policy.fallback_on) == ("", frozenset())


def test_a_plan_without_the_other_targets():
    plan = table().plan("r", 0.95)
    assert plan.first_only() == Plan("r", (Named("a", "m1"),), plan.policy, plan.odds)


def test_a_policy_is_the_routes():
    route = Route(
        targets=(
            RouteTarget(model="a/m0", max_concurrency=3, max_queue=7),
            RouteTarget(model="a/m1", max_queue=9),
            RouteTarget(model="a/m2", max_concurrency=5, weight=0),
        ),
        retries=Retries(attempts=2),
        breaker=Breaker(failures=9),
        hedge=Hedge(after=0.5),
        timeout=Timeout(connect=1, first_byte=2, between_chunks=3, total=4),
        fallback_on=("content_filter", 422),
    )
    routes = Table({"r": route, "s": Route(targets=(RouteTarget(model="a/m"),))}, ["a"])
    plan = routes.plan("r", 0.0)
    assert plan.route == "r"
    assert plan.policy == Policy(
        Retries(attempts=2),
        TimeLimits(1, 2, 3, 4),
        Breaker(failures=9),
        Hedge(after=0.5),
        {Named("a", "m0"): ConcurrencyLimit(3, 7)},
        {},
        "routes.r",
        frozenset({"content_filter", 422}),
    )
    # One object for every request.
    assert routes.plan("r", 0.9).policy is plan.policy
    assert routes.max_in_flight("r", Named("a", "m0")) == 3
    assert routes.max_in_flight("r", Named("a", "m1")) is None
    assert routes.max_in_flight("s", Named("a", "m0")) is None
    assert routes.max_in_flight("a/m0", Named("a", "m0")) is None
    assert routes.names == ["r", "s"]
    assert routes.routes == {"r": route, "s": routes.routes["s"]}


@pytest.mark.parametrize(
    ("given_", "limits"),
    [
        ([], TimeLimits()),
        ([Timeout()], TimeLimits()),
        ([Timeout(total=1), Timeout(total=2, connect=3)], TimeLimits(connect=3, total=1)),
        ([Timeout(first_byte=1), Timeout(between_chunks=2)], TimeLimits(5, 1, 2, 600)),
        ([Timeout(), Timeout(first_byte=9), Timeout(first_byte=8)], TimeLimits(first_byte=9)),
    ],
)
def test_the_first_to_give_a_time_out_decides(given_, limits):
    assert limits_of(*given_) == limits


@pytest.mark.parametrize(
    ("patient", "total"),
    [({"a": 1800}, 1800), ({"c": 900}, 900), ({"a": 1800, "c": 900}, 1800), ({"a": 10}, 600)],
)
def test_a_route_waits_for_its_most_patient_target(patient, total):
    timeouts = {name: Timeout(total=seconds) for name, seconds in patient.items()}
    targets = (RouteTarget(model="a/m"), RouteTarget(model="b/m"))
    routes = Table({"r": Route(targets=targets, fallback=("c/z",))}, "abc", timeouts=timeouts)
    policy = routes.plan("r", 0.0).policy
    assert policy.timeout.total == total
    assert {one.provider: limits.total for one, limits in policy.timeouts.items()} == patient


def test_a_provider_without_a_route():
    routes = Table({}, ["a", "b"], timeouts={"b": Timeout(total=9)})
    assert routes.plan("a/m", 0.0) == Plan("a/m", (Named("a", "m"),), Policy(section="providers.a"))
    assert routes.plan("b/m", 0.0).policy == Policy(
        timeout=TimeLimits(total=9), section="providers.b"
    )
    assert routes.first_targets("a/x/y") == (("a", "x/y"),)


NO_PROVIDER = "The model {0!r} does not exist: no provider "


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("aa/m", NO_PROVIDER + "'aa'. Did you mean 'a'?"),
        ("xyz/m", NO_PROVIDER + "'xyz'. Known: a, c."),
        ("", "The model {0!r} does not exist: no such route. Known: a/…, c/…, r."),
        ("rr", "The model {0!r} does not exist: no such route. Did you mean 'r'?"),
        (
            "models/tiny",
            "{0} is loaded within runs only: write execution: ray in the run document, or host it "
            "with 'evalrouter models serve' and ask that host's provider",
        ),
    ],
)
@pytest.mark.parametrize("ask", [Table.first_targets, lambda one, model: one.plan(model, 0.0)])
def test_what_is_said_of_an_unknown_model(ask, model, message):
    with pytest.raises(ModelNotFoundError) as caught:
        ask(table(), model)
    assert caught.value.message == message.format(model)
    assert caught.value.param == "model"


def test_models_of_a_run():
    routes = table()
    with_models = routes.in_place({"tiny", "small"})
    plan = with_models.plan("models/tiny", 0.0)
    assert plan.targets == (("models", "tiny"),)
    # Nothing is tried again, nothing gives up on a worker, and loading a model may take an hour.
    assert plan.policy.retries.attempts == 1
    assert plan.policy.timeout == TimeLimits(first_byte=3600.0, total=3600.0)
    assert plan.policy.breaker.failures == sys.maxsize
    assert with_models.plan("r", 0.95).targets == routes.plan("r", 0.95).targets
    with pytest.raises(ModelNotFoundError) as caught:
        with_models.plan("models/tine", 0.0)
    assert caught.value.message == (
        "models/tine: the config's models: has no 'tine'. Did you mean 'tiny'?"
    )
    assert caught.value.param == "model"
    with pytest.raises(ModelNotFoundError, match="within runs only"):
        routes.plan("models/tiny", 0.0)


@pytest.mark.parametrize(
    ("key", "salt", "expected"),
    # Sessions that stick to a target do so over releases.
    [
        ("user-1", "", 0.2696850216495261),
        ("user-1", "r", 0.5491803283488539),
        ("user-1", "s", 0.3921701184690617),
        ("\ud800", "\ud800", 0.11047863182313977),
    ],
)
def test_a_key_sticks_over_releases(key, salt, expected):
    assert share(key, salt) == expected


def test_no_salt_is_the_empty_one():
    assert share("user-1") == share("user-1", "")


def test_a_plan_says_which_targets_have_models_that_reason():
    targets = (
        RouteTarget(model="a/yes", reasoning=True),
        RouteTarget(model="a/open"),
        # Without a share of the requests it may still be a fallback.
        RouteTarget(model="a/no", weight=0, reasoning=False),
    )
    table = Table({"r": Route(targets=targets)}, ["a"])
    assert table.plan("r", 0.5).policy.reasoning == {
        Named("a", "yes"): True,
        Named("a", "no"): False,
    }
