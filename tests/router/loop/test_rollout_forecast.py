"""How many requests and days a rollout is said to need."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from router.loop.rollout_forecast import (
    Detection,
    Expectation,
    TrafficLevel,
    rollout_forecast,
    units_to_detect,
    units_to_show,
)
from router.loop.rollout_rules import DAY, RolloutPlan, Signal

ERRORS = Signal(name="error_rate")
GOAL = Signal(name="errors", role="goal", margin=0.01)
JUDGE = Signal(name="judge", kind="score", role="goal", margin=0.05)
EXPECTED = {
    "error_rate": Expectation(mean=0.02),
    "errors": Expectation(mean=0.02),
    "judge": Expectation(mean=0.8, sd=0.25, share=0.1),
}


def traffic(per_day, *, units=1.0, week=7.0):
    """A route of so many requests, with so many units for each, of which so many are new."""
    return TrafficLevel(
        requests_per_day=per_day,
        units_per_day=per_day * units,
        units_per_week=per_day * units * week,
    )


def plan(*signals, **rules):
    """Rules for units that are requests."""
    return RolloutPlan(signals=signals, **{"sticky": False, "steps": (0.1, 0.5, 1.0)} | rules)


def test_the_minimum_time_is_the_forecast_of_a_route_with_much_traffic():
    forecast = rollout_forecast(plan(ERRORS, GOAL, JUDGE), traffic(10_000_000), EXPECTED)
    assert forecast.possible
    assert (forecast.days, forecast.requests) == (2.0, 20_000_000)
    assert [step.signal for step in forecast.steps] == ["", ""]
    assert "after 2.0 days, about 20,000,000 requests, in at least 80%" in forecast.reason


def test_a_goal_makes_a_step_longer():
    forecast = rollout_forecast(plan(ERRORS, JUDGE), traffic(50_000), EXPECTED)
    first, second = forecast.steps
    assert (first.weight, first.signal) == (0.1, "judge")
    assert first.days == pytest.approx(first.units / 0.1 / 50_000, rel=1e-3)
    assert first.requests == pytest.approx(first.days * 50_000, abs=1)
    assert second.days == 1.0
    assert forecast.days == first.days + 1
    # The growth of the log of the capital is about margin^2 p (1 - p) / (2 sd^2) at its best.
    least = math.log(20) / (0.05**2 * 0.09 / (2 * 0.25**2))
    assert 1.4 * least < first.units < 4 * least


def test_what_the_traffic_cannot_show_is_said_with_what_could():
    forecast = rollout_forecast(plan(GOAL, steps=(0.01, 0.25, 1.0)), traffic(5_000), EXPECTED)
    assert not forecast.possible
    assert forecast.days > 90
    assert "errors cannot be shown with the traffic: at 1% of the users it needs" in (
        forecast.reason
    )
    assert "at 5,000 requests a day, the limit is 90." in forecast.reason
    assert "With a first step of 25% it takes" in forecast.reason
    nothing = rollout_forecast(plan(GOAL), traffic(50), EXPECTED)
    assert "A wider margin or more traffic is needed." in nothing.reason


def test_a_route_without_traffic_shows_nothing():
    forecast = rollout_forecast(plan(ERRORS), traffic(0), EXPECTED)
    assert (forecast.possible, forecast.days, forecast.requests) == (False, None, None)
    assert "error_rate cannot be shown with the traffic, more than the route ever has." in (
        forecast.reason
    )


def test_the_same_users_every_day_are_never_more():
    always_same = traffic(100_000, units=0.01, week=1.0)
    rules = plan(JUDGE, sticky=True)
    forecast = rollout_forecast(rules, always_same, EXPECTED)
    assert (forecast.possible, forecast.days) == (False, None)
    assert "more than the route ever has" in forecast.reason


def test_the_time_limit_of_the_plan_counts():
    needs = rollout_forecast(plan(JUDGE), traffic(20_000), EXPECTED).days
    assert needs > 2
    short = plan(JUDGE, max_s=(needs - 0.1) * DAY)
    assert not rollout_forecast(short, traffic(20_000), EXPECTED).possible
    long = plan(JUDGE, max_s=(needs + 0.1) * DAY)
    assert rollout_forecast(long, traffic(20_000), EXPECTED).possible


def test_an_exposure_budget_below_the_need_is_said():
    # Two steps of a day at 10% and 50% of 10,000 requests.
    enough = plan(ERRORS, max_candidate_requests=6000)
    assert rollout_forecast(enough, traffic(10_000), EXPECTED).possible
    forecast = rollout_forecast(
        plan(ERRORS, max_candidate_requests=5999), traffic(10_000), EXPECTED
    )
    assert not forecast.possible
    assert "About 6,000 requests" in forecast.reason
    assert "budget is 5,999" in forecast.reason


def test_values_that_few_requests_have_take_longer():
    rules = plan(Signal(name="feedback", min_values=50))
    forecast = rollout_forecast(rules, traffic(1000), {"feedback": Expectation(share=0.1)})
    assert forecast.steps[0].days == pytest.approx(50 / (0.1 * 0.1 * 1000))
    assert forecast.steps[1].days == pytest.approx(1.0)
    never = rollout_forecast(rules, traffic(1000), {"feedback": Expectation(share=0.0)})
    assert never.days is None


@pytest.mark.parametrize(("units", "days"), [(0, 0), (500, 0.5), (1000, 1), (3000, 7), (9000, 49)])
def test_units_grow_as_a_power_of_the_days(units, days):
    level = TrafficLevel(requests_per_day=5000, units_per_day=1000, units_per_week=3000)
    assert level.days(units) == pytest.approx(days)


def test_counts_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="from 0 to requests_per_day"):
        TrafficLevel(requests_per_day=1, units_per_day=2, units_per_week=2)
    for week in (0.5, 7.5):
        with pytest.raises(ValueError, match="7 times as many"):
            TrafficLevel(requests_per_day=1, units_per_day=1, units_per_week=week)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"share": 1.1}, "share is from 0 to 1"),
        ({"sd": 0.0}, "sd is above 0"),
        ({"mean": math.nan}, "finite"),
        ({"difference": math.inf}, "finite"),
    ],
)
def test_expectations_that_no_signal_has_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Expectation(**options)


def test_harm_is_found_sooner_the_larger_it_is():
    found = [
        units_to_detect(ERRORS, Expectation(mean=0.02, difference=harm), 0.1, limit=100, chance=0.9)
        for harm in (0.01, 0.02, 0.18)
    ]
    assert found[0] > 2 * found[1] > 20 * found[2]
    none = Expectation(mean=0.02)
    assert units_to_detect(ERRORS, none, 0.1, limit=100, chance=0.9) == math.inf


def test_a_goal_that_is_missed_is_never_shown():
    missed = Expectation(mean=0.02, difference=0.01)
    assert units_to_show(GOAL, missed, 0.1, alpha=0.05, chance=0.9) == math.inf
    better = Expectation(mean=0.02, difference=-0.01)
    same = units_to_show(GOAL, Expectation(mean=0.02), 0.1, alpha=0.05, chance=0.9)
    assert units_to_show(GOAL, better, 0.1, alpha=0.05, chance=0.9) < same / 2


def test_a_goal_to_be_better_needs_a_difference():
    better = Signal(name="judge", kind="score", role="goal", margin=0.0)
    equal = rollout_forecast(plan(better), traffic(10**6), EXPECTED)
    assert equal.days is None
    gain = {"judge": Expectation(mean=0.7, sd=0.25, difference=0.05)}
    assert rollout_forecast(plan(better), traffic(10**6), gain).possible


def test_scores_of_five_points_are_those_of_one():
    wide = Signal(name="judge", kind="score", role="goal", margin=0.2, low=1.0, high=5.0)
    expected = Expectation(mean=4.2, sd=1.0)
    narrow = Expectation(mean=0.8, sd=0.25)
    assert units_to_show(wide, expected, 0.1, alpha=0.05, chance=0.9) == pytest.approx(
        units_to_show(JUDGE, narrow, 0.1, alpha=0.05, chance=0.9)
    )
    low_is_good = Signal(
        name="judge", kind="score", role="goal", margin=0.05, higher_is_better=False
    )
    assert units_to_show(
        low_is_good, Expectation(mean=0.2, sd=0.25), 0.1, alpha=0.05, chance=0.9
    ) == pytest.approx(units_to_show(JUDGE, narrow, 0.1, alpha=0.05, chance=0.9))


def test_pairs_need_far_fewer():
    pairs = Signal(name="judge", kind="paired_score", role="goal", margin=0.05)
    paired = units_to_show(pairs, Expectation(sd=0.25), 0.1, alpha=0.05, chance=0.9)
    arms = units_to_show(JUDGE, Expectation(mean=0.8, sd=0.25), 0.1, alpha=0.05, chance=0.9)
    assert 5 * paired < arms


def test_pairs_of_a_wider_range_are_those_of_one():
    one = Signal(name="judge", kind="paired_score", role="goal", margin=0.05)
    two = Signal(name="judge", kind="paired_score", role="goal", margin=0.1, high=2.0)
    assert units_to_show(two, Expectation(sd=0.5), 0.1, alpha=0.05, chance=0.9) == pytest.approx(
        units_to_show(one, Expectation(sd=0.25), 0.1, alpha=0.05, chance=0.9)
    )


def test_one_scored_request_is_enough_for_a_user():
    rules = plan(JUDGE, sticky=True)
    # Ten requests of each user, a tenth of them scored: 1 - .9^10 of the users have a score.
    some = rollout_forecast(rules, traffic(10_000, units=0.1), EXPECTED).steps[0]
    every = EXPECTED | {"judge": Expectation(mean=0.8, sd=0.25)}
    all_users = rollout_forecast(rules, traffic(10_000, units=0.1), every).steps[0]
    assert some.days == pytest.approx(all_users.days / (1 - 0.9**10))


def test_each_signal_says_what_harm_it_finds():
    forecast = rollout_forecast(
        plan(ERRORS, JUDGE, Signal(name="latency", kind="above_p95")), traffic(50_000), EXPECTED
    )
    assert [found.harm for found in forecast.detections] == [
        "twice as many",
        "0.1 worse",
        "twice as many",
    ]
    errors, judge, latency = (found.requests for found in forecast.detections)
    assert latency < errors < judge < 400_000


def needed(values, chances, bets, *, capital, chance):
    """Units until the best of the bets has the capital, by hand."""
    best = math.inf
    for bet in bets:
        logs = np.log1p(bet * np.array(values))
        growth = logs @ np.array(chances)
        spread = math.sqrt(logs**2 @ np.array(chances) - growth**2)
        if growth > 0:
            quantile = NormalDist().inv_cdf(chance) * spread
            best = min(
                best,
                (quantile + math.sqrt(quantile**2 + 4 * growth * math.log(capital))) ** 2
                / (2 * growth) ** 2,
            )
    return best


MULTIPLES = np.array([1 / 3, 2 / 3, 4 / 3, 8 / 3, 10, 50])


def test_units_by_hand_of_events():
    # 0.1 of the units, 2% errors: D of goodness is weighed by 10 and by -1/0.9, about 0.98.
    values = [0.2, -9.8, -0.02 / 0.9, 0.98 / 0.9]
    chances = [0.098, 0.002, 0.882, 0.018]
    aims = MULTIPLES * 0.01 / (0.02 * 0.98 / 0.09)
    up = np.minimum(aims, 0.9 / (9.8 - 0.01))
    by_hand = needed(np.array(values) + 0.01, chances, up, capital=120, chance=0.9)
    units = units_to_show(GOAL, EXPECTED["errors"], 0.1, alpha=0.05, chance=0.9)
    assert units == pytest.approx(by_hand)
    # Two points worse: 0.1 * 0.96 and 0.1 * 0.04.
    chances = [0.096, 0.004, 0.882, 0.018]
    down = -np.minimum(aims, 0.9 / (0.98 / 0.9 + 0.01))
    by_hand = needed(np.array(values) + 0.01, chances, down, capital=6 * 100, chance=0.9)
    worse = Expectation(mean=0.02, difference=0.02)
    assert units_to_detect(GOAL, worse, 0.1, limit=100, chance=0.9) == pytest.approx(by_hand)


def test_units_by_hand_of_scores_near_the_end_of_their_range():
    # A mean of .1 with a deviation of .2 is 0 four times out of five, and else .5.
    values = np.array([-1.0, 4.0, 0.1 / 0.9, -0.4 / 0.9])
    chances = [0.08, 0.02, 0.72, 0.18]
    up = np.minimum(MULTIPLES * 0.05 / (0.04 / 0.09), 0.9 / (1.0 - 0.05))
    by_hand = needed(values + 0.05, chances, up, capital=120, chance=0.9)
    expected = Expectation(mean=0.1, sd=0.2)
    assert units_to_show(JUDGE, expected, 0.1, alpha=0.05, chance=0.9) == pytest.approx(by_hand)
    # No score from 0 to 1 with a mean of .2 deviates by more than .4.
    assert units_to_show(
        JUDGE, Expectation(mean=0.2, sd=0.5), 0.1, alpha=0.05, chance=0.9
    ) == pytest.approx(units_to_show(JUDGE, Expectation(mean=0.2), 0.1, alpha=0.05, chance=0.9))


def test_units_by_hand_of_pairs():
    pairs = Signal(name="judge", kind="paired_score", role="goal", margin=0.05)
    expected = Expectation(sd=0.25, difference=-0.1)
    down = -np.minimum(MULTIPLES * 0.05 / 0.0625, 0.9 / 1.05)
    by_hand = needed([0.15 + 0.05, -0.35 + 0.05], [0.5, 0.5], down, capital=600, chance=0.9)
    assert units_to_detect(pairs, expected, 0.1, limit=100, chance=0.9) == pytest.approx(by_hand)


def test_units_by_hand_of_first_events():
    ratios = np.array([1.2, 1.5, 2, 3, 5, 10])
    expected = Expectation(mean=0.02, difference=0.02)
    units = []
    for ratio in ratios:
        factors = [ratio / (0.9 + 0.1 * ratio) - 1, 1 / (0.9 + 0.1 * ratio) - 1, 0]
        chances = [0.1 * 0.04, 0.9 * 0.02, 1 - 0.022]
        units.append(needed(factors, chances, [1.0], capital=600, chance=0.9))
    assert units_to_detect(ERRORS, expected, 0.1, limit=100, chance=0.9) == pytest.approx(
        min(units)
    )


def test_what_may_take_longer_is_left_to_the_slowest_step():
    forecast = rollout_forecast(plan(JUDGE, ERRORS), traffic(500), EXPECTED)
    chances = (1 - 0.15 * 2 / 3, 1 - 0.15 / 3)
    assert [step.units for step in forecast.steps] == [
        math.ceil(units_to_show(JUDGE, EXPECTED["judge"], weight, alpha=0.05, chance=chance))
        for weight, chance in zip((0.1, 0.5), chances, strict=True)
    ]


def test_a_forecast_is_not_changed():
    detection = Detection(signal="errors", harm="twice as many", requests=1)
    for item in (detection, traffic(1.0), Expectation()):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(item, item.__struct_fields__[0], 2.0)
