"""Plans: which targets, in which order."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import ModelNotFoundError
from router.config import Route, Target, parse
from router.routing import Table, TimeLimits, share
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
