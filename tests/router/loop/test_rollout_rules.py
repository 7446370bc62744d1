"""What a rollout's rules decide, from observations that are written by hand or drawn."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
import numpy as np
import pytest

from evaluators.stats.recent_quantile import MIN_WEIGHT
from router.loop.rollout_rules import (
    DAY,
    ArmValues,
    Batch,
    Observation,
    RolloutPlan,
    RolloutRules,
    RolloutState,
    RolloutStateError,
    Signal,
    UnitSet,
)
from router.loop.rollout_sample import RolloutSample

ERRORS = Signal(name="error_rate", min_values=1)
QUALITY = Signal(name="quality", kind="score", role="goal", margin=0.1, min_values=1)


def plan(*signals, **rules):
    """Rules of one signal with two steps below 1, of requests that stand alone."""
    defaults = {"steps": (0.1, 0.5, 1.0), "sticky": False}
    return RolloutPlan(signals=signals or (ERRORS,), **defaults | rules)


def observed(rules, items, *, hours=24.0):
    """Hand in a batch that ends so many hours after the last one."""
    began = 1_700_000_000 + rules.state().total_s
    rules.observe(Batch(began=began, until=began + 3600 * hours, observations=items))


def in_state(rules, status):
    """What rules remember, in a state that a person or an effect has set."""
    return msgspec.structs.replace(rules.state(), status=status)


def requests(number, *, candidate, step=0, prefix="", **values):
    """Requests that are alike, each a unit of its own."""
    return [
        Observation(
            unit=f"{prefix}{candidate}{step}-{place}",
            candidate=candidate,
            step=step,
            position=0.05 if candidate else 0.95,
            values=values,
        )
        for place in range(number)
    ]


def both(candidate, control, *, step=0, **values):
    """Requests of both arms that are alike."""
    return [
        *requests(candidate, candidate=True, step=step, **values),
        *requests(control, candidate=False, step=step, **values),
    ]


def test_a_step_is_taken_after_a_full_cycle_with_data():
    rules = RolloutRules(plan(cycle_s=DAY))
    observed(rules, both(100, 900, error_rate=0), hours=23)
    waiting = rules.decide()
    assert (waiting.action, waiting.rule, waiting.status) == ("hold", "min_time", "running")
    assert (waiting.from_weight, waiting.to_weight) == (0.1, 0.1)
    assert (waiting.step, waiting.next_step) == (0, 0)
    assert "3.6e+03 s" in waiting.reason
    observed(rules, [], hours=1)
    decision = rules.decide()
    assert (decision.action, decision.rule, decision.status) == ("step_up", "passed", "running")
    assert (decision.step, decision.next_step) == (0, 1)
    assert (decision.from_weight, decision.to_weight) == (0.1, 0.5)
    rules.apply(decision)
    assert (rules.weight, rules.state().step, rules.state().elapsed_s) == (0.5, 1, 0)


def test_the_last_step_below_one_is_followed_by_the_promotion():
    rules = RolloutRules(plan())
    for step, (candidate, control) in enumerate(((100, 900), (500, 500))):
        observed(rules, both(candidate, control, step=step, error_rate=0))
        decision = rules.decide()
        rules.apply(decision)
    assert (decision.action, decision.next_step, decision.to_weight) == ("promote", 2, 1.0)
    assert (rules.status, rules.weight) == ("promoting", 1.0)
    rules = RolloutRules(plan(), in_state(rules, "promoted"))
    assert (rules.status, rules.weight) == ("promoted", 1.0)
    decision = rules.decide()
    assert (decision.action, decision.rule, decision.status) == ("hold", "status", "promoted")
    assert decision.reason == "The rollout is promoted."
    assert (decision.from_weight, decision.to_weight) == (1.0, 1.0)


@pytest.mark.parametrize(("candidate", "control"), [(0, 0), (100, 0), (0, 100), (49, 900)])
def test_no_data_is_never_a_pass(candidate, control):
    signal = Signal(name="error_rate", min_values=50)
    rules = RolloutRules(plan(signal, imbalance_alpha=1e-300))
    observed(rules, both(candidate, control, error_rate=0), hours=100)
    decision = rules.decide()
    assert (decision.action, decision.rule, decision.status) == ("hold", "no_data", "holding")
    missing = 50 - min(candidate, control)
    assert f"error_rate ({missing} more)" in decision.reason
    assert decision.readings[0].missing == missing


def test_requests_without_the_signal_are_no_data():
    rules = RolloutRules(plan(ERRORS, Signal(name="refusal_rate", min_values=1)))
    observed(rules, both(100, 900, error_rate=0, refusal_rate=None))
    decision = rules.decide()
    assert (decision.rule, decision.signals) == ("no_data", ("refusal_rate",))


def test_more_errors_of_the_candidate_roll_back_at_once():
    rules = RolloutRules(plan(cycle_s=DAY))
    items = [
        *both(90, 880, error_rate=0),
        *requests(10, candidate=True, prefix="bad", error_rate=1),
        *requests(20, candidate=False, prefix="bad", error_rate=1),
    ]
    observed(rules, items, hours=0.1)
    decision = rules.decide()
    assert (decision.action, decision.rule, decision.status) == (
        "roll_back",
        "guardrails",
        "rolling_back",
    )
    assert decision.to_weight == 0
    assert decision.signals == ("error_rate",)
    assert "is 0.1 in 100 requests of the candidate and 0.02222 in 900" in decision.reason
    [reading] = decision.readings
    # The mean over ratios of r^10 / (0.9 + 0.1 r)^30, by hand.
    ratios = np.array([1.2, 1.5, 2, 3, 5, 10])
    expected = (ratios**10 / (0.9 + 0.1 * ratios) ** 30).mean()
    assert reading.harm == pytest.approx(expected) == decision.e_value
    assert reading.scale == "ratio"
    assert reading.estimate == pytest.approx(10 / 20 * 9)
    assert 1 < reading.low < reading.estimate < reading.high
    rules.apply(decision)
    assert (rules.status, rules.weight) == ("rolling_back", 0)
    rules = RolloutRules(plan(), in_state(rules, "rolled_back"))
    assert (rules.status, rules.weight) == ("rolled_back", 0)


def test_fewer_errors_of_the_candidate_do_not():
    rules = RolloutRules(plan())
    items = [
        *both(100, 700, error_rate=0),
        *requests(200, candidate=False, prefix="bad", error_rate=1),
    ]
    observed(rules, items)
    assert rules.decide().action == "step_up"
    assert rules.readings()[0].harm < 1


def test_a_user_with_many_errors_counts_once():
    rules = RolloutRules(plan(sticky=True))
    one = Observation(unit="u", candidate=True, step=0, position=0.01, values={"error_rate": 1})
    observed(rules, [one] * 500)
    reading = rules.readings()[0]
    ratios = np.array([1.2, 1.5, 2, 3, 5, 10])
    assert reading.harm == pytest.approx((ratios / (0.9 + 0.1 * ratios)).mean())
    assert reading.candidate.requests == 500  # the reader sees all of them
    assert rules.state().assigned == (1, 0)


def test_users_of_an_earlier_step_are_not_compared_again():
    rules = RolloutRules(plan(sticky=True, steps=(0.1, 0.5, 1.0)))
    observed(rules, both(100, 900, error_rate=0))
    rules.apply(rules.decide())
    before = rules.readings()[0].harm
    moved_before = [
        Observation(
            unit=f"u{place}",
            candidate=True,
            step=1,
            position=place / 1000,
            values={"error_rate": 1},
        )
        for place in range(100)
    ]
    observed(rules, moved_before, hours=0.1)
    assert rules.readings()[0].harm == before
    assert rules.state().assigned == (0, 0)
    assert rules.state().candidate_requests == 200
    moved_now = Observation(
        unit="v", candidate=True, step=1, position=0.1, values={"error_rate": 1}
    )
    logs = np.array(rules.state().signals["error_rate"].ratio.logs)
    observed(rules, [moved_now], hours=0.1)
    share = (0.5 - 0.1) / 0.9
    ratios = np.array([1.2, 1.5, 2, 3, 5, 10])
    assert rules.state().assigned == (1, 0)
    assert rules.readings()[0].harm == pytest.approx(
        (np.exp(logs) * ratios / (1 - share + share * ratios)).mean()
    )


def test_observations_of_an_earlier_step_come_too_late():
    rules = RolloutRules(plan())
    observed(rules, both(100, 900, error_rate=0))
    rules.apply(rules.decide())
    observed(rules, both(5, 5, step=0, error_rate=1), hours=0.1)
    assert rules.state().late == 10
    assert rules.readings()[0].candidate.requests == 0


def score(number, *, candidate, value, prefix="", step=0):
    """Scores of requests that stand alone."""
    return requests(number, candidate=candidate, step=step, prefix=prefix, quality=value)


def drawn_scores(number, *, prefix):
    """Scores of requests of which a tenth are the candidate's, which is as good as the control."""
    random = np.random.default_rng(1)
    return [
        item
        for place, (arm, value) in enumerate(
            zip(random.random(number) < 0.1, random.choice([0.6, 0.8], number), strict=True)
        )
        for item in score(1, candidate=bool(arm), value=value, prefix=f"{prefix}{place}-")
    ]


def test_a_goal_has_to_be_shown_before_a_step():
    rules = RolloutRules(plan(QUALITY))
    observed(rules, drawn_scores(60, prefix="few"))
    waiting = rules.decide()
    assert (waiting.action, waiting.rule, waiting.status) == ("hold", "goals", "holding")
    assert waiting.signals == ("quality",)
    assert waiting.e_value == waiting.readings[0].shown < 20
    assert "needs 20" in waiting.reason
    rules.apply(waiting)
    assert rules.status == "holding"
    observed(rules, drawn_scores(6000, prefix="many"), hours=1)
    decision = rules.decide()
    assert (decision.action, decision.signals) == ("step_up", ("quality",))
    assert decision.e_value >= 20
    assert decision.readings[0].low < 0 < decision.readings[0].high
    assert decision.readings[0].scale == "difference"
    assert decision.reason == (
        "No guardrail speaks against it after 25 hours, and the goals are shown: quality."
    )
    rules.apply(decision)
    # What was shown has to be shown again, with the users of the next step.
    observed(rules, score(2, candidate=True, value=1.0, step=1), hours=25)
    [reading] = rules.readings()
    assert (reading.passed, reading.shown < 20) == (False, True)


def test_a_step_lasts_to_its_last_second():
    rules = RolloutRules(plan(cycle_s=DAY))
    observed(rules, both(100, 900, error_rate=0), hours=24 - 0.5 / 3600)
    decision = rules.decide()
    assert decision.rule == "min_time"
    assert decision.reason == "The step lasts 0.5 s more, until a full cycle of traffic is seen."


def test_a_goal_of_which_one_arm_has_no_values():
    rules = RolloutRules(plan(ERRORS, QUALITY))
    observed(rules, [*both(20, 180, error_rate=0), *score(9, candidate=True, value=0.5)], hours=24)
    assert rules.decide().reason == (
        "Too few requests of one arm have the signal: quality (1 more). No data is no pass."
    )
    pairs = Signal(name="win", kind="paired_score", role="goal", min_values=1)
    rules = RolloutRules(plan(pairs, imbalance_alpha=1e-300))
    observed(rules, requests(9, candidate=True, win=0.0), hours=24)
    assert rules.decide().reason == (
        "Not shown yet: win has no values of one arm in this step (e-value 1, needs 20)."
    )


def test_bets_on_scores_by_hand():
    rules = RolloutRules(plan(QUALITY))
    first = [*score(1, candidate=True, value=0.5), *score(9, candidate=False, value=0.9)]
    second = [
        *score(2, candidate=True, value=0.8, prefix="b"),
        *score(18, candidate=False, value=0.7, prefix="b"),
    ]
    observed(rules, first, hours=1)
    observed(rules, second, hours=1)
    gains, losses = np.ones(6), np.ones(6)
    multiples = np.array([1 / 3, 2 / 3, 4 / 3, 8 / 3, 10, 50])
    # The center and variance of no values, and of one .5 and nine .9 with a weight of 1 for .5.
    center = (0.5 + 9 * 0.9 + 0.5) / 11
    around = 0.25 + 9 * 0.81 - 10 * center**2
    for values, c, variance in (
        ([(0.5, 1, 0), (0.9, 0, 9)], 0.5, 0.25),
        ([(0.8, 2, 0), (0.7, 0, 18)], center, (around + 0.25) / 11),
    ):
        aims = multiples * 0.1 / (variance / 0.09)
        up = np.minimum(aims, 0.9 / (max(c / 0.1, (1 - c) / 0.9) - 0.1))
        down = np.minimum(aims, 0.9 / (max((1 - c) / 0.1, c / 0.9) + 0.1))
        for value, candidates, controls in values:
            for weight, number in ((10, candidates), (-1 / 0.9, controls)):
                gains *= (1 + up * (weight * (value - c) + 0.1)) ** number
                losses *= (1 - down * (weight * (value - c) + 0.1)) ** number
    [reading] = rules.readings()
    assert reading.shown == pytest.approx(gains.mean())
    assert reading.harm == pytest.approx(losses.mean())


def test_a_goal_that_is_missed_rolls_back():
    rules = RolloutRules(plan(QUALITY))
    draw = np.random.default_rng(2)
    arms = draw.random(5000) < 0.1
    items = [
        item
        for place, arm in enumerate(arms)
        for item in score(1, candidate=bool(arm), value=0.5 if arm else 0.9, prefix=f"{place}-")
    ]
    observed(rules, items[:2500], hours=1)
    observed(rules, items[2500:], hours=1)
    decision = rules.decide()
    assert (decision.action, decision.signals) == ("roll_back", ("quality",))
    assert decision.readings[0].estimate == pytest.approx(-0.4, abs=0.05)
    assert decision.readings[0].high < 0


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_direction_of_a_score(higher_is_better):
    signal = Signal(
        name="quality",
        kind="score",
        role="goal",
        margin=0.5,
        low=1.0,
        high=5.0,
        higher_is_better=higher_is_better,
        min_values=1,
    )
    rules = RolloutRules(plan(signal))
    draw = np.random.default_rng(3)
    arms = draw.random(4000) < 0.1
    items = [
        item
        for place, arm in enumerate(arms)
        for item in score(1, candidate=bool(arm), value=4.5 if arm else 2.5, prefix=f"{place}-")
    ]
    observed(rules, items[:100], hours=1)
    observed(rules, items[100:], hours=24)
    decision = rules.decide()
    assert decision.action == ("step_up" if higher_is_better else "roll_back")
    assert decision.readings[0].estimate == pytest.approx(2.0, abs=0.4)
    assert 1 < decision.readings[0].low < decision.readings[0].high < 3


def test_pairs_need_no_arms():
    signal = Signal(name="win", kind="paired_score", role="goal", margin=0.1, min_values=20)
    rules = RolloutRules(plan(signal, imbalance_alpha=1e-300))
    observed(rules, requests(19, candidate=True, win=0.5), hours=24)
    assert rules.decide().rule == "no_data"
    observed(rules, requests(30, candidate=True, prefix="more", win=0.5), hours=1)
    decision = rules.decide()
    # 19 pairs of 0.5 and then 30, margin 0.1: bets on 0.6, of at most 0.9 of 1 / (1 - 0.1).
    multiples = np.array([1 / 3, 2 / 3, 4 / 3, 8 / 3, 10, 50])
    first = np.minimum(multiples * 0.1 / 1, 1.0)
    second = np.minimum(multiples * 0.1 / ((19 * 0.25 + 1) / 20), 1.0)
    expected = ((1 + first * 0.6) ** 19 * (1 + second * 0.6) ** 30).mean()
    assert decision.readings[0].shown == pytest.approx(expected)
    down = (
        np.minimum(multiples * 0.1 / 1, 0.9 / 1.1),
        np.minimum(multiples * 0.1 / ((19 * 0.25 + 1) / 20), 0.9 / 1.1),
    )
    harm = ((1 - down[0] * 0.6) ** 19 * (1 - down[1] * 0.6) ** 30).mean()
    assert decision.readings[0].harm == pytest.approx(harm)
    assert decision.action == "step_up"


def test_pairs_of_users_who_came_to_the_candidate_before_count():
    signal = Signal(name="win", kind="paired_score", min_values=1)
    rules = RolloutRules(plan(signal, sticky=True, unit_window_s=0, imbalance_alpha=1e-300))
    observed(rules, requests(5, candidate=True, win=0.0))
    rules.apply(rules.decide())
    assert rules.state().step == 1
    observed(rules, requests(5, candidate=True, step=1, win=0.0), hours=1)
    assert rules.state().signals["win"].mean.units == 5


@pytest.mark.parametrize(("higher_is_better", "harmful"), [(False, True), (True, False)])
def test_pairs_have_the_unit_and_the_direction_of_their_scores(higher_is_better, harmful):
    signal = Signal(
        name="win",
        kind="paired_score",
        low=1.0,
        high=5.0,
        higher_is_better=higher_is_better,
        min_values=1,
    )
    rules = RolloutRules(plan(signal, imbalance_alpha=1e-300))
    observed(rules, requests(50, candidate=True, win=2.0), hours=1)
    [reading] = rules.readings()
    assert reading.estimate == pytest.approx(2.0)
    assert (rules.decide().action == "roll_back") == harmful


def test_a_goal_without_a_margin_has_to_be_better():
    signal = Signal(name="win", kind="paired_score", role="goal", min_values=1)
    rules = RolloutRules(plan(signal, imbalance_alpha=1e-300))
    observed(rules, requests(500, candidate=True, win=0.0), hours=24)
    decision = rules.decide()
    assert (decision.rule, decision.readings[0].shown) == ("goals", 1.0)


def test_latency_is_compared_with_the_controls_earlier_p95():
    signal = Signal(name="first_byte", kind="above_p95", min_values=1)
    rules = RolloutRules(plan(signal))
    observed(rules, requests(int(MIN_WEIGHT) + 9, candidate=False, first_byte=1.0), hours=0.01)
    reading = rules.readings()[0]
    assert reading.control.requests == 0  # there was no p95 before them
    slow = requests(30, candidate=True, prefix="slow", first_byte=2.0)
    equal = requests(270, candidate=False, prefix="equal", first_byte=1.0)
    observed(rules, [*slow, *equal], hours=0.01)
    decision = rules.decide()
    assert decision.action == "roll_back"
    assert decision.readings[0].candidate.mean == 1
    assert decision.readings[0].control.mean == 0


def test_units_that_are_not_assigned_as_planned_pause_the_rollout():
    rules = RolloutRules(plan())
    observed(rules, both(100, 400, error_rate=0))
    decision = rules.decide()
    assert (decision.action, decision.rule, decision.status) == ("pause", "imbalance", "paused")
    assert "100 of 500 units" in decision.reason
    assert "where 10.00% were planned" in decision.reason
    assert "limit 1e+03)" in decision.reason
    assert decision.imbalance == decision.e_value >= 1000
    rules.apply(decision)
    observed(rules, both(100, 900, error_rate=1))
    assert rules.state().candidate_requests == 100  # nothing counts in a pause
    assert rules.decide().rule == "status"


def decided_at(factor, *, alpha, items):
    """Return the rule where the e-value that these items reach is so many times its limit."""
    rules = RolloutRules(plan())
    observed(rules, items, hours=1)
    reached = rules.decide().imbalance if alpha == "imbalance_alpha" else rules.readings()[0].harm
    rules = RolloutRules(plan(**{"imbalance_alpha": 1e-300, alpha: factor / reached}))
    observed(rules, items, hours=1)
    return rules.decide().rule


def test_the_limits_of_e_values():
    lost = both(80, 400, error_rate=0)
    assert decided_at(1.01, alpha="imbalance_alpha", items=lost) == "imbalance"
    assert decided_at(0.99, alpha="imbalance_alpha", items=lost) == "min_time"
    errors = [*both(90, 880, error_rate=0), *requests(9, candidate=True, error_rate=1)]
    assert decided_at(1.01, alpha="alpha", items=errors) == "guardrails"
    assert decided_at(0.99, alpha="alpha", items=errors) == "min_time"


def test_the_exposure_budget_ends_a_rollout():
    rules = RolloutRules(plan(max_candidate_requests=100))
    observed(rules, both(99, 900, error_rate=0), hours=1)
    assert rules.decide().action == "hold"
    observed(rules, requests(1, candidate=True, prefix="last", error_rate=0), hours=1)
    decision = rules.decide()
    assert (decision.action, decision.rule) == ("abort", "exposure_budget")
    assert (decision.status, decision.to_weight) == ("aborted", 0)
    assert decision.reason == (
        "100 requests went to the candidate, the budget is 100, and it has not been promoted."
    )
    rules.apply(decision)
    assert rules.weight == 0


def test_the_exposure_budget_counts_what_is_not_observed():
    rules = RolloutRules(plan(max_candidate_requests=100))
    for requests_so_far, action in ((99, "hold"), (99, "hold"), (100, "abort")):
        batch = Batch(
            began=0.0,
            until=60.0,
            observations=both(9, 81, error_rate=0),
            candidate_requests=requests_so_far,
        )
        rules.observe(batch)
        assert rules.state().candidate_requests == requests_so_far
        assert rules.decide().action == action
    # What is deleted has gone to the candidate all the same.
    rules.observe(Batch(began=60.0, until=60.0, candidate_requests=3))
    assert rules.state().candidate_requests == 100


def test_arms_are_compared_by_their_shares_of_the_sample():
    sample = RolloutSample(candidate=0.5, control=0.125)
    fewer = msgspec.structs.replace(RolloutRules(plan()).state(), sample=sample)
    rules = RolloutRules(plan(steps=(0.2, 0.6, 1.0), sticky=True), fewer)
    # As many of each arm as are sampled of two in ten.
    observed(rules, both(100, 100, error_rate=1))
    state = rules.state()
    assert state.balance.e_value() < 1
    [reading] = rules.readings()
    assert reading.estimate == pytest.approx(1.0)
    rules.apply(rules.decide())
    # Of eight in ten that stay, two step up: 0.4 of 0.8 times 0.5, beside 0.4 times 0.125.
    moved = [
        msgspec.structs.replace(item, position=0.5 if item.candidate else 0.9)
        for item in both(400, 100, step=1, error_rate=1)
    ]
    observed(rules, moved)
    [reading] = rules.readings()
    assert reading.estimate == pytest.approx(1.0)
    assert rules.state().balance.e_value() < 1


def test_a_rollout_that_shows_nothing_ends_at_its_time_limit():
    rules = RolloutRules(plan(QUALITY, max_s=3 * DAY))
    observed(rules, both(100, 900, quality=0.5), hours=71)
    assert rules.decide().rule in {"goals", "passed"}
    rules = RolloutRules(plan(QUALITY, max_s=3 * DAY, imbalance_alpha=1e-300))
    observed(rules, both(3, 3, quality=0.5), hours=72)
    decision = rules.decide()
    assert (decision.action, decision.rule, decision.status) == ("abort", "time_limit", "aborted")
    assert decision.reason == (
        "The rollout has taken 3 days, the limit is 3 days, and the candidate has not been "
        "promoted."
    )


@pytest.mark.parametrize(
    ("signals", "hours", "rule"),
    [
        ((ERRORS,), (47, 1), "min_time"),
        ((Signal(name="error_rate", min_values=1000),), (48,), "no_data"),
        ((QUALITY,), (48,), "goals"),
    ],
)
def test_whatever_a_step_waits_for_the_time_limit_counts(signals, hours, rule):
    for limit in (3 * DAY, 2 * DAY):
        rules = RolloutRules(plan(*signals, max_s=limit))
        for step, part in enumerate(hours):
            counts = (100, 900) if step == 0 else (500, 500)
            observed(rules, both(*counts, step=step, error_rate=0, quality=0.5)[::9], hours=part)
            decision = rules.decide()
            rules.apply(decision)
        expected = rule if limit == 3 * DAY else "time_limit"
        assert decision.rule == expected


def test_what_is_shown_in_the_last_second_is_promoted():
    rules = RolloutRules(plan(max_s=2 * DAY))
    for step, (candidate, control) in enumerate(((100, 900), (500, 500))):
        observed(rules, both(candidate, control, step=step, error_rate=0))
        decision = rules.decide()
        rules.apply(decision)
    assert rules.state().total_s == 2 * DAY
    assert decision.action == "promote"


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (1.99, "7.16e+03 s"),
        (2, "2 hours"),
        (47.9, "47.9 hours"),
        (48, "2 days"),
        (71, "2.96 days"),
    ],
)
def test_times_are_said_in_days_hours_or_seconds(hours, words):
    rules = RolloutRules(plan(min_step_s=3600 * hours, cycle_s=0))
    assert rules.decide().reason == (
        f"The step lasts {words} more, until a full cycle of traffic is seen."
    )


def test_all_goals_that_are_not_shown_are_listed():
    other = msgspec.structs.replace(QUALITY, name="style")
    rules = RolloutRules(plan(QUALITY, other))
    observed(rules, both(10, 90, quality=0.5, style=0.5))
    decision = rules.decide()
    assert decision.signals == ("quality", "style")
    first, second = decision.reason.removeprefix("Not shown yet: ").split("; ")
    assert first.startswith("quality is 0.5 in 10 requests")
    assert second.startswith("style is 0.5 in 10 requests")


def test_a_new_step_begins_without_events():
    rules = RolloutRules(plan())
    observed(rules, [*both(100, 900, error_rate=0), *requests(2, candidate=False, error_rate=1)])
    assert rules.readings()[0].low is not None
    rules.apply(rules.decide())
    [reading] = rules.readings()
    assert (reading.estimate, reading.low, reading.high) == (None, None, None)
    assert (reading.candidate.requests, reading.candidate.mean) == (0, None)


def test_as_many_events_of_both_arms_have_an_estimate():
    rules = RolloutRules(plan())
    observed(rules, both(100, 900, error_rate=0), hours=0.1)
    events = [
        *requests(3, candidate=True, prefix="bad", error_rate=1),
        *requests(3, candidate=False, prefix="bad", error_rate=1),
    ]
    observed(rules, events, hours=0.1)
    assert rules.readings()[0].estimate == pytest.approx(9)


def test_signals_without_data_are_listed():
    rules = RolloutRules(plan(ERRORS, QUALITY, Signal(name="refusals", min_values=7)))
    observed(rules, both(10, 90, error_rate=0))
    assert "signal: quality (1 more), refusals (7 more). No data" in rules.decide().reason


def test_two_who_decide_at_once():
    rules = RolloutRules(plan())
    observed(rules, both(100, 900, error_rate=0))
    first = rules.decide()
    observed(rules, requests(30, candidate=True, prefix="failing", error_rate=1.0))
    second = rules.decide()
    assert (first.action, second.action) == ("step_up", "roll_back")
    rules.apply(second)
    with pytest.raises(RolloutStateError, match="rolling_back: it cannot step up"):
        rules.apply(first)


def test_what_people_paused_has_the_weight_of_its_step():
    rules = RolloutRules(plan(), in_state(RolloutRules(plan()), "paused"))
    assert (rules.status, rules.weight) == ("paused", 0.1)
    with pytest.raises(RolloutStateError, match="is paused: it cannot roll back"):
        rules.apply(msgspec.structs.replace(rules.decide(), action="roll_back"))


def test_rules_go_on_where_people_have_put_the_rollout():
    rules = RolloutRules(plan())
    sample = RolloutSample(candidate=0.5, control=0.25)
    rules.place("holding", 1, sample)
    state = rules.state()
    assert (rules.status, rules.weight) == ("holding", 0.5)
    assert (state.status, state.step, state.sample) == ("holding", 1, sample)


def test_a_decision_of_another_step_is_refused():
    rules = RolloutRules(plan(steps=(0.1, 0.2, 0.5, 1.0)))
    observed(rules, both(100, 900, error_rate=0))
    decision = rules.decide()
    rules.apply(decision)
    with pytest.raises(RolloutStateError, match="another step"):
        rules.apply(decision)


def drawn(random, number):
    """Requests of users with many requests each, of all signals."""
    users = random.pareto(1.2, 200)
    for user in random.choice(200, number, p=users / users.sum()):
        position = int.from_bytes(hashlib.sha256(bytes([user])).digest()[:4], "big") / 2**32
        yield Observation(
            unit=f"user-{user}",
            candidate=position < 0.1,
            step=0,
            position=position,
            values={
                "error_rate": float(random.random() < 0.02),
                "first_byte": random.lognormal(),
                "quality": random.choice([0.0, 0.5, 1.0]) if random.random() < 0.3 else None,
            },
            mixed=bool(random.random() < 0.1),
        )


def test_a_state_read_back_goes_on_as_if_nothing_had_happened():
    signals = (ERRORS, Signal(name="first_byte", kind="above_p95", min_values=1), QUALITY)
    rules = RolloutRules(plan(*signals, sticky=True))
    random = np.random.default_rng(4)
    others = rules
    for number in range(6):
        items = list(drawn(random, 150))
        observed(rules, items, hours=0.4)
        if number:
            observed(others, items, hours=0.4)
        stored = msgspec.json.encode(rules.state())
        others = RolloutRules(rules.plan, msgspec.json.decode(stored, type=RolloutState))
        assert others.decide() == rules.decide()
    assert msgspec.json.encode(others.state()) == msgspec.json.encode(rules.state())
    assert rules.state().signals["quality"].open
    assert len(msgspec.json.encode(rules.state())) < 100_000


def test_a_unit_counts_with_its_mean_over_its_window():
    rules = RolloutRules(plan(QUALITY, sticky=True, unit_window_s=3600))
    item = requests(1, candidate=True, quality=1.0)[0]
    other = msgspec.structs.replace(item, values={"quality": 0.0})
    observed(rules, [item, other], hours=0.5)
    assert rules.state().signals["quality"].mean.units == 0
    observed(rules, [other, other], hours=0.5)
    observed(rules, [], hours=0.5)
    memory = rules.state().signals["quality"]
    assert (memory.mean.units, memory.closed_total) == (1, 0.25)
    observed(rules, [item], hours=2)
    assert rules.state().signals["quality"].mean.units == 1


def test_open_units_are_bounded():
    rules = RolloutRules(plan(QUALITY, sticky=True))
    observed(rules, requests(3000, candidate=True, quality=0.5), hours=0.1)
    memory = rules.state().signals["quality"]
    assert len(memory.open) == 2048
    assert 900 < memory.mean.units < 953


def test_later_values_count_as_no_second_request():
    rules = RolloutRules(plan(QUALITY))
    [item] = requests(1, candidate=True, quality=0.5)
    observed(rules, [msgspec.structs.replace(item, later=True)], hours=0.1)
    state = rules.state()
    assert (state.assigned, state.candidate_requests) == ((0, 0), 0)
    assert rules.readings()[0].candidate.requests == 1


def test_mixed_conversations_are_left_out_of_the_per_protocol_view():
    rules = RolloutRules(plan())
    [bad] = requests(1, candidate=True, prefix="bad", error_rate=1)
    mixed = msgspec.structs.replace(bad, mixed=True)
    observed(rules, [*both(9, 90, error_rate=0), mixed], hours=0.1)
    reading = rules.readings()[0]
    assert reading.candidate.mean == 0.1
    assert reading.per_protocol == 0
    observed(rules, requests(2, candidate=True, prefix="more", error_rate=1), hours=0.1)
    assert rules.readings()[0].per_protocol == pytest.approx(2 / 11)
    observed(rules, requests(10, candidate=False, prefix="more", error_rate=1), hours=0.1)
    assert rules.readings()[0].per_protocol == pytest.approx(2 / 11 - 0.1)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"error_rate": 2.0}, "error_rate: 2.0 is not a number from 0 to 1"),
        ({"error_rate": 0.5}, "an event is 0 or 1"),
        ({"error_rate": float("nan")}, "nan is not a number"),
        ({"quality": -0.1}, "quality: -0.1"),
        ({"win": 1.5}, "win: 1.5 is not a number from -1 to 1"),
        ({"first_byte": -1.0}, "first_byte: -1.0"),
        ({"first_byte": float("inf")}, "first_byte: inf"),
    ],
)
def test_values_outside_of_their_range_are_refused(values, match):
    signals = (
        ERRORS,
        QUALITY,
        Signal(name="win", kind="paired_score"),
        Signal(name="first_byte", kind="above_p95"),
    )
    rules = RolloutRules(plan(*signals))
    with pytest.raises(ValueError, match=match):
        observed(rules, requests(1, candidate=True, **values))
    assert rules.state().total_s == 0


def test_a_batch_that_ends_before_it_began_is_refused():
    with pytest.raises(ValueError, match=r"^a batch ends before it began$"):
        RolloutRules(plan()).observe(Batch(began=2.0, until=1.0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": ""}, "needs a name"),
        ({"kind": "score", "low": 1.0, "high": 1.0}, "low must be below high"),
        ({"kind": "event", "high": 2.0}, "belong to scores"),
        ({"margin": 1.0}, "smaller than the range of its values, 1"),
        ({"margin": -0.1}, "margin of a guardrail is 0 or more"),
        ({"min_values": 0}, "no data passes"),
    ],
)
def test_signals_that_cannot_be_tested_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Signal(**{"name": "signal"} | options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"signals": ()}, "at least one signal"),
        ({"signals": (ERRORS, ERRORS)}, "same name"),
        ({"steps": (1.0,)}, "steps must rise"),
        ({"steps": (0.5, 0.1, 1.0)}, "steps must rise"),
        ({"steps": (0.0, 1.0)}, "steps must rise"),
        ({"steps": (0.1, 0.5)}, "steps must rise"),
        ({"alpha": 0.0}, r"^alpha and imbalance_alpha must be above 0 and at most 0.5$"),
        ({"imbalance_alpha": 0.6}, "alpha"),
        ({"cycle_s": -1.0}, "0 or more"),
        ({"min_step_s": -1.0}, "0 or more"),
        ({"unit_window_s": -1.0}, "0 or more"),
        ({"max_s": DAY}, "max_s is below the 172800 s"),
    ],
)
def test_plans_that_decide_nothing_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        RolloutPlan(**{"signals": (ERRORS,), "steps": (0.1, 0.5, 1.0)} | options)


def test_what_was_decided_and_seen_is_not_changed():
    rules = RolloutRules(plan(cycle_s=0, min_step_s=0))
    assert Signal(name="errors").min_values == 50
    decision = rules.decide()
    for item in (ERRORS, rules.plan, decision, decision.readings[0], decision.readings[0].control):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(item, item.__struct_fields__[0], None)


@pytest.mark.parametrize("kind", [ArmValues, Batch, Observation, Signal, RolloutPlan, RolloutState])
def test_fields_are_named(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(1.0, 2.0)


def test_the_largest_and_smallest_rules_are_taken():
    rules = RolloutPlan(
        signals=(ERRORS,), alpha=0.5, imbalance_alpha=0.5, min_step_s=0, cycle_s=0, unit_window_s=0
    )
    assert rules.steps == (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    assert rules.step_s == rules.shortest_s == 0
    with pytest.raises(ValueError, match=r"which the candidate is compared with the control$"):
        plan(steps=(1.0,))


def test_a_set_of_units_takes_each_once():
    units = UnitSet()
    assert units.add("a")
    assert not units.add("a")
    assert units.add("b")
    assert len(zlib.decompress(units.packed())) == 2**20 / 8
    # What was stored by an earlier version has to mean the same: a bit of its own for each name.
    digest = hashlib.blake2b(b"a", digest_size=8, person=b"rollout-unit").digest()
    byte, bit = divmod(int.from_bytes(digest, "big") % 2**20, 8)
    assert zlib.decompress(units.packed())[byte] >> bit & 1
    again = UnitSet(units.packed())
    assert not again.add("b")
    assert again.add("c")
