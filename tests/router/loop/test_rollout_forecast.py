"""How many requests and days a rollout is said to need."""

from __future__ import annotations

import math

import pytest

from router.loop.rollout_forecast import (
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
    assert "errors cannot be shown with the traffic: at 0.01 of the units it needs" in (
        forecast.reason
    )
    assert "at 5,000 requests a day, the limit is 90." in forecast.reason
    assert "With a first step of 0.25 it takes" in forecast.reason
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
