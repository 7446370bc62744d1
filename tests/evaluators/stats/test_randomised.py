"""E-values of two arms: by hand, and by simulation where the hypothesis is true."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from evaluators.stats.randomised import (
    IMBALANCES,
    MULTIPLES,
    RATIOS,
    BalanceTest,
    Differences,
    MeanTest,
    RatioTest,
    bets,
    bounds,
    differences,
    mean_of_logs,
    ratio_interval,
    ratio_logs,
    rejected,
)
from evaluators.stats.recent_quantile import HALF_LIFE, MIN_WEIGHT, RecentQuantile, class_of


def test_the_alternatives_are_those_of_the_simulations():
    assert RATIOS == (1.2, 1.5, 2, 3, 5, 10)
    assert pytest.approx((1 / 3, 2 / 3, 4 / 3, 8 / 3, 10, 50)) == MULTIPLES
    assert pytest.approx((0.25, 0.5, 0.8, 10 / 11, 1.1, 1.25, 2, 4)) == IMBALANCES


def test_events_multiply_by_the_ratios_that_they_are_likelier_by():
    test = RatioTest()
    assert test.e_value() == 1
    test.add(candidate=2, control=1, probability=0.1)
    expected = [r**2 / (1 + 0.1 * (r - 1)) ** 3 for r in RATIOS]
    assert test.e_value() == pytest.approx(sum(expected) / len(RATIOS))
    test.add(candidate=0, control=4, probability=0.5)
    expected = [value / (0.5 + r / 2) ** 4 for value, r in zip(expected, RATIOS, strict=True)]
    assert test.e_value() == pytest.approx(sum(expected) / len(RATIOS))


@pytest.mark.parametrize("ratios", [RATIOS, IMBALANCES])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_planned_share_gains_nothing_on_average(ratios, share):
    its, others = ratio_logs(ratios, share)
    assert share * np.exp(its) + (1 - share) * np.exp(others) == pytest.approx(1)


def test_logs_of_many_shares_are_those_of_each():
    shares = np.array([[0.1, 0.2], [0.3, 0.4]])
    its, others = ratio_logs(RATIOS, shares)
    assert its.shape == others.shape == (2, 2, len(RATIOS))
    for place, share in np.ndenumerate(shares):
        alone = ratio_logs(RATIOS, float(share))
        assert its[place] == pytest.approx(alone[0])
        assert others[place] == pytest.approx(alone[1])


def test_the_balance_is_tested_in_both_directions():
    counts = [(100, 900), (200, 800), (20, 980)]
    values = []
    for candidate, control in counts:
        test = BalanceTest()
        test.add(candidate=candidate, control=control, probability=0.1)
        values.append(test.e_value())
    assert values[0] < 1
    assert min(values[1:]) > 1e6


def test_the_difference_is_unbiased_whatever_the_center():
    values = np.array([0.9, 0.9, 0.2, 0.2])
    arms = np.array([True, False, True, False])
    for center in (0.0, 0.4, 1.0):
        drawn = differences(values, arms, probability=0.25, center=center, variance=0.09)
        # Units of 0.9 with the candidate and of 0.2 with the control, at their chances.
        assert 0.25 * drawn.values[0] + 0.75 * drawn.values[3] == pytest.approx(0.7)
        assert drawn.low <= drawn.values.min()
        assert drawn.high >= drawn.values.max()
        assert drawn.variance == pytest.approx(0.09 / (0.25 * 0.75))


@pytest.mark.parametrize("probability", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("center", [0.0, 0.1, 0.97, 1.0])
def test_bounds_are_reached(probability, center):
    ends = differences(
        np.array([0.0, 1.0, 0.0, 1.0]),
        np.array([True, True, False, False]),
        probability=probability,
        center=center,
        variance=0.25,
    ).values
    low, high = bounds(probability, center)
    assert (float(low), float(high)) == pytest.approx((ends.min(), ends.max()))


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.02, 0.9])
@pytest.mark.parametrize("variance", [0.0, 0.01, 30.0])
def test_no_bet_loses_everything(margin, variance):
    drawn = Differences(np.array([-4.0, 3.0]), -4.0, 3.0, variance)
    up, down = bets(drawn, margin)
    assert (up > 0).all()
    assert (down > 0).all()
    assert (1 + up * (-4.0 + margin)).min() >= 0.1 - 1e-12
    assert (1 - down * (3.0 + margin)).min() >= 0.1 - 1e-12
    if variance == 30:
        gap = abs(margin) or 0.02
        aims = np.array(MULTIPLES) * gap / 30
        assert up == pytest.approx(np.minimum(aims, 0.9 / (4 - margin)))
        assert down == pytest.approx(np.minimum(aims, 0.9 / (3 + margin)))


def test_capital_by_hand():
    drawn = Differences(np.array([0.5, -0.25]), -1.0, 1.0, 0.5)
    test = MeanTest(margin=0.1)
    test.add(drawn)
    up, down = bets(drawn, 0.1)
    assert test.shown() == pytest.approx(((1 + up * 0.6) * (1 - up * 0.15)).mean())
    assert test.worse() == pytest.approx(((1 - down * 0.6) * (1 + down * 0.15)).mean())
    assert test.estimate() == 0.125
    assert test.interval() is None
    worse = test.worse()
    test.restart()
    assert (test.shown(), test.estimate(), test.worse()) == (1, None, worse)
    test.add(Differences(np.array([]), -1.0, 1.0, 0.5))
    assert (test.units, test.worse()) == (0, worse)


def test_the_interval_of_a_mean_needs_a_hundred_units_that_differ():
    values = np.tile([0.5, -0.1], 50)
    test = MeanTest(margin=0.1)
    test.add(Differences(values[:99], -1.0, 1.0, 0.1))
    assert test.interval() is None
    test.add(Differences(values[99:], -1.0, 1.0, 0.1))
    low, high = test.interval()
    assert (low + high) / 2 == pytest.approx(0.2)
    # A standard error of .03015, and a factor that holds at every moment.
    assert 2.9 < (high - low) / 2 / 0.03015 < 3.4
    narrow = test.interval(0.5)
    assert narrow[0] > low
    alike = MeanTest(margin=0.1)
    alike.add(Differences(np.full(200, 0.25), -1.0, 1.0, 0.1))
    assert alike.interval() is None


def test_the_state_of_tests_is_json():
    test = MeanTest(margin=0.1)
    test.add(Differences(np.array([0.5, -0.25]), -1.0, 1.0, 0.5))
    again = msgspec.json.decode(msgspec.json.encode(test), type=MeanTest)
    assert again == test


@pytest.mark.parametrize(
    ("e_values", "places"),
    [
        ([], []),
        ([19.9], []),
        ([20.0], [0]),
        ([59.0, 1.0, 1.0], []),
        ([1.0, 60.0, 2.0], [1]),
        ([31.0, 1.0, 30.0], [0, 2]),  # neither would be by a split of alpha
        ([20.0, 21.0, 22.0], [2, 1, 0]),
        ([20.0, 19.0, 22.0], []),
        ([100.0, 19.0, 30.0], [0, 2]),
    ],
)
def test_e_bh(e_values, places):
    assert rejected(e_values, 0.05) == places


def test_large_e_values_stay_finite():
    assert mean_of_logs([5000.0, 0.0]) == pytest.approx(1e300)
    assert mean_of_logs([math.log(4), math.log(2)]) == pytest.approx(3)


def test_the_interval_of_a_ratio():
    low, high = ratio_interval(20, 200, 0.1)
    assert low < 20 / 200 * 9 < high
    assert 0.35 < low < 0.55
    assert 1.5 < high < 2.2
    inner = ratio_interval(20, 200, 0.1, level=0.5)
    assert low < inner[0] < inner[1] < high
    many = ratio_interval(2000, 18000, 0.1)
    assert 0.9 < many[0] < 1 < many[1] < 1.1
    none = ratio_interval(0, 200, 0.1)
    assert none[0] == pytest.approx(1e-3)
    assert none[1] < 1
    only = ratio_interval(50, 0, 0.1)
    assert only[0] > 1
    assert only[1] == pytest.approx(1e3)


def _ever(e_values, limit):
    """Return the share of rows whose e-value reaches the limit at any moment."""
    return float((e_values >= limit).any(axis=1).mean())


def test_no_more_events_raise_a_false_alarm_too_often_at_any_moment():
    random = np.random.default_rng(5)
    shares = np.where(np.arange(400) < 200, 0.05, 0.3)  # a step in between
    arms = random.random((1000, 400)) < shares
    its, others = ratio_logs(RATIOS, shares)
    logs = np.where(arms[:, :, None], its, others).cumsum(axis=1)
    assert _ever(np.exp(logs).mean(axis=2), 20) <= 0.06


def test_a_mean_that_is_worse_by_the_margin_is_shown_in_few_of_all_moments():
    random = np.random.default_rng(6)
    shown = worse = 0
    for _ in range(120):
        up, down = MeanTest(margin=0.1), MeanTest(margin=0.1)
        high_up = high_down = 0.0
        for _ in range(20):
            arms = random.random(40) < 0.3
            rates = np.where(arms, 0.6, 0.7)
            values = (random.random(40) < rates).astype(float)
            drawn = differences(values, arms, probability=0.3, center=0.7, variance=0.21)
            up.add(drawn)
            down.add(drawn)
            high_up, high_down = max(high_up, up.shown()), max(high_down, down.worse())
        shown += high_up >= 20
        worse += high_down >= 20
    assert shown <= 0.09 * 120
    assert worse <= 0.09 * 120


def test_recent_values_have_a_quantile_once_there_are_a_hundred():
    recent = RecentQuantile()
    recent.add(np.linspace(0.01, 0.99, 99).tolist(), at=0.0)
    assert recent.quantile(0.95) is None
    recent.add([1.0], at=0.0)
    assert recent.quantile(0.95) == class_of(0.95)
    assert recent.quantile(0.5) == class_of(0.5)
    assert MIN_WEIGHT == 100


def test_old_values_fade():
    recent = RecentQuantile()
    recent.add([1.0] * 400, at=1000.0)
    assert recent.quantile(0.95) == class_of(1.0)
    recent.add([], at=1000.0 + HALF_LIFE)
    assert sum(recent.counts.values()) == pytest.approx(200)
    recent.add([8.0] * 20, at=1000.0 + 2 * HALF_LIFE)
    assert sum(recent.counts.values()) == pytest.approx(120)
    assert recent.quantile(0.8) == class_of(1.0)
    assert recent.quantile(0.9) == class_of(8.0)
    recent.add([], at=1000.0)  # a clock that goes back changes nothing
    assert sum(recent.counts.values()) == pytest.approx(120)
    assert recent.at == 1000.0 + 2 * HALF_LIFE == 8200.0
    recent.add([], at=1000.0 + 40 * HALF_LIFE)
    assert recent.counts == {}
    assert recent.quantile(0.95) is None


def test_a_value_counts_until_it_is_a_thousandth():
    recent = RecentQuantile()
    assert (recent.counts, recent.at) == ({}, 0.0)
    recent.add([1.0], at=0.0)
    recent.add([], at=9.9 * HALF_LIFE)
    assert recent.counts == {0: pytest.approx(0.5**9.9)}
    recent.add([], at=10 * HALF_LIFE)
    assert recent.counts == {}
    with pytest.raises(TypeError):
        RecentQuantile({0: 1.0})


def test_classes_are_two_percent_wide_and_in_order():
    assert class_of(1.0) == 0
    assert class_of(1.019) == 0
    assert class_of(1.021) == 1
    assert class_of(0.99) == -1
    assert class_of(0.0) == class_of(1e-12) < class_of(1e-6)
