"""Intervals and p-values that hold whenever one looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.stats.always_valid import (
    AsymptoticTest,
    BettingTest,
    always_valid_interval,
    always_valid_test,
    widened,
)
from evaluators.stats.differences import paired_corpus_difference, paired_difference
from evaluators.stats.intervals import Interval, corpus_interval
from evaluators.stats.inversion import NoTest, p_value

LOOKS = range(30, 301, 30)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def zeros_and_ones(draw: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return (draw.random(n) < 0.7).astype(float), (draw.random(n) < 0.7).astype(float)


def judge_scores(draw: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    shares = [0.05, 0.1, 0.2, 0.4, 0.25]
    return tuple(draw.choice([0.0, 0.25, 0.5, 0.75, 1.0], n, p=shares) for _ in range(2))


@pytest.mark.parametrize("scores", [zeros_and_ones, judge_scores])
def test_ten_looks_at_equal_routes_show_a_difference_no_more_often_than_one(scores):
    draw = rng(1)
    shown = fixed = covered = 0
    for _ in range(200):
        a, b = scores(draw, 300)
        looks = [
            paired_difference(a[:n], b[:n], low=0.0, high=1.0, always_valid=True) for n in LOOKS
        ]
        plain = [paired_difference(a[:n], b[:n], low=0.0, high=1.0) for n in LOOKS]
        shown += any(one.p_value < 0.05 for one in looks)
        fixed += any(one.p_value < 0.05 for one in plain)
        covered += all(one.low <= 0 <= one.high for one in looks)
        assert {one.method for one in looks} == {"betting"}
    assert shown / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert covered / 200 >= 0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5
    assert fixed / 200 > 0.12  # what the numbers for a planned run would claim


def test_values_without_a_range_are_looked_at_ten_times_too():
    draw = rng(2)
    shown = 0
    for _ in range(300):
        values = draw.normal(0, 1, 1000)
        looks = [
            paired_difference(values[:n], np.zeros(n), always_valid=True)
            for n in range(100, 1001, 100)
        ]
        shown += any(one.p_value < 0.05 for one in looks)
        assert {one.method for one in looks} == {"asymptotic"}
    assert shown / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_a_mean_at_the_stop_is_covered():
    """A run that ends when its mean looks high: for a true .25 it was .407 at the stop."""
    draw = rng(3)
    covered = fixed = 0
    for _ in range(300):
        values = (draw.random(200) < 0.25).astype(float)
        means = np.cumsum(values) / np.arange(1, 201)
        high = np.flatnonzero(means[19:] > 0.38)
        n = 20 + int(high[0]) if len(high) else 200
        found = always_valid_interval(values[:n], low=0.0, high=1.0)
        covered += found.low <= 0.25 <= found.high
        error = (means[n - 1] * (1 - means[n - 1]) / n) ** 0.5
        fixed += means[n - 1] - 1.96 * error <= 0.25
    assert covered / 300 >= 0.95 - 3 * (0.05 * 0.95 / 300) ** 0.5
    assert fixed < covered


def test_the_price_is_a_wider_interval_and_not_a_much_wider_one():
    draw = rng(4)
    a = draw.beta(2, 6, 400)
    b = np.clip(a + draw.normal(0, 0.2, 400), 0, 1)
    looked = paired_difference(a, b, low=0.0, high=1.0, always_valid=True)
    plain = paired_difference(a, b, low=0.0, high=1.0)
    assert looked.difference == plain.difference
    assert 1 < (looked.high - looked.low) / (plain.high - plain.low) < 2.2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=60),
    st.floats(0.01, 1),
)
def test_the_interval_is_what_the_test_does_not_reject(values, margin):
    paired = paired_difference(
        values, values[::-1], low=0.0, high=1.0, margin=margin, always_valid=True
    )
    assert -1 <= paired.low <= paired.difference <= paired.high <= 1
    if abs(paired.p_value - 0.05) > 1e-6:
        assert (paired.p_value < 0.05) is not (paired.low <= 0 <= paired.high)
    if abs(paired.p_equivalence - 0.05) > 1e-6:
        within = -margin < paired.low and paired.high < margin
        assert (paired.p_equivalence < 0.05) is within


def test_capital_by_hand():
    """Ten ones against a mean of 0.5: each bet b grows by 1 + b a sample."""
    test = BettingTest(np.ones(10), 0.0, 1.0)
    capital = np.mean([(1 + 0.9 * 0.5**k) ** 10 for k in range(7)])
    assert test.tails(0.5).above == pytest.approx(1 / capital)
    assert test.tails(0.5).below == 1.0
    low, high = test.interval(0.95)
    assert high == 1.0
    assert test.tails(low).above == pytest.approx(0.025)


def test_order_does_not_matter():
    values = rng(5).random(50)
    ends = BettingTest(values, 0.0, 1.0).interval(0.95)
    assert BettingTest(values[::-1], 0.0, 1.0).interval(0.95) == pytest.approx(ends)


def test_the_asymptotic_interval_inverts_its_p_value():
    test = AsymptoticTest(0.3, 0.05, 200)
    low, high = test.interval(0.95)
    assert p_value(test, low) == pytest.approx(0.05)
    assert p_value(test, high) == pytest.approx(0.05)
    assert p_value(test, 0.3) == 1.0
    # Between 1.5 and 2 times as wide as for a number of samples fixed beforehand.
    assert 1.5 < (high - low) / (2 * 1.96 * 0.05) < 2


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.arange(99.0), {"low": None, "high": None}),
        (np.zeros(300), {"low": None, "high": None}),
        (np.arange(1.0), {"low": 0.0, "high": 1.0}),
        (np.arange(300.0), {"low": 0.0, "high": 300.0, "clusters": [k // 4 for k in range(300)]}),
    ],
)
def test_too_few_samples_show_nothing(values, options):
    assert isinstance(always_valid_test(values, **options), NoTest)


def test_clusters_of_one_sample_are_none():
    values, limits = np.full(40, -0.5), {"low": -1.0, "high": 1.0}
    alone = always_valid_interval(values, **limits)
    assert always_valid_interval(values, clusters=range(40), **limits) == alone
    assert alone.high < 0


def test_clusters_count_once():
    effects = rng(6).normal(0, 1, 150)
    values = np.repeat(effects, 4)
    clusters = np.repeat(np.arange(150), 4).tolist()
    clustered = always_valid_interval(values, clusters=clusters)
    alone = always_valid_interval(effects)
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), rel=0.02)
    assert (clustered.n, clustered.method) == (150, "asymptotic")


def test_corpus_scores():
    rows = np.stack([rng(7).random(200), np.ones(200)], axis=1)
    other = np.stack([rng(8).random(200), np.ones(200)], axis=1)

    def ratio(sums):
        return sums[0] / sums[1]

    looked = paired_corpus_difference(rows, other, ratio, always_valid=True)
    plain = paired_corpus_difference(rows, other, ratio)
    assert looked.method == "asymptotic"
    assert looked.high - looked.low > 1.4 * (plain.high - plain.low)
    few = paired_corpus_difference(rows[:50], other[:50], ratio, always_valid=True)
    assert (few.low, few.p_value) == (None, 1.0)
    plain = corpus_interval(rows, ratio)
    wide = widened(plain)
    assert wide.high - wide.low > 1.4 * (plain.high - plain.low)
    assert widened(corpus_interval(rows[:50], ratio)).low is None
    nothing = Interval(estimate=None, low=None, high=None, n=0)
    assert widened(nothing) == nothing


def test_nothing_has_no_interval():
    found = always_valid_interval(np.array([]), low=0.0, high=1.0)
    assert (found.estimate, found.low, found.n) == (None, None, 0)


def test_gamblers_without_any_capital_show_nothing():
    tails = BettingTest(np.zeros(100_000), 0.0, 1.0).tails(0.9)
    assert (tails.above, tails.below) == (1.0, 0.0)
