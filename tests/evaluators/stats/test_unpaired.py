"""Differences of means without samples in common: shares, sides that are mostly alike, Welch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from evaluators.stats.differences import unpaired_difference
from evaluators.stats.inversion import NoTest, p_value
from evaluators.stats.unpaired import SharesTest, unpaired_test


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 9), (30, 120)])
def test_no_two_shares_have_a_p_value_that_their_interval_contradicts(n, m):
    for right in range(min(n, 7) + 1):
        for other in range(min(m, 9) + 1):
            test = SharesTest(right=right, n=n, other_right=other, other_n=m)
            low, high = test.interval(0.95)
            assert -1 <= low < high <= 1
            assert low <= right / n - other / m <= high
            if abs(p_value(test) - 0.05) > 1e-9:
                assert (p_value(test) < 0.05) is not (low <= 0 <= high)
            for end, tail in ((low, test.tails(low).above), (high, test.tails(high).below)):
                # Zero is the exact test's.
                if 1e-6 < abs(end) < 1:
                    assert tail == pytest.approx(0.025, rel=1e-4)


@pytest.mark.parametrize("share", [0.005, 0.01, 0.03, 0.1])
def test_rare_events_of_sides_of_different_sizes_are_no_difference(share):
    """Exactly, over all tables: Welch's test was wrong in up to 22%, the score test alone in 9%."""
    wrong = 0.0
    for right in range(15):
        for other in range(31):
            chance = stats.binom.pmf(right, 30, share) * stats.binom.pmf(other, 120, share)
            if chance > 1e-8:
                test = SharesTest(right=right, n=30, other_right=other, other_n=120)
                wrong += chance * (p_value(test) < 0.05)
    assert wrong < 0.05


@pytest.mark.parametrize(
    ("right", "n", "other", "m"), [(45, 60, 30, 70), (1, 30, 5, 120), (0, 9, 4, 7)]
)
def test_the_interval_is_where_the_restricted_statistic_reaches_the_quantile(right, n, other, m):
    """The statistic from its definition: the likelihood is maximised numerically."""

    def statistic(value: float) -> float:
        def against(share: float) -> float:
            parts = ((right, share + value), (n - right, 1 - share - value))
            parts += ((other, share), (m - other, 1 - share))
            return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

        bounds = (max(0.0, -value), min(1.0, 1 - value))
        share = optimize.minimize_scalar(
            against, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        moved = share + value
        variance = moved * (1 - moved) / n + share * (1 - share) / m
        return (right / n - other / m - value) / math.sqrt(variance * (n + m) / (n + m - 1))

    low, high = SharesTest(right=right, n=n, other_right=other, other_n=m).interval(0.95)
    # Newcombe's interval may reach further.
    assert statistic(low) > 1.959964 - 2e-3
    assert statistic(high) < -1.959964 + 2e-3
    assert min(statistic(low), -statistic(high)) < 1.97


def test_a_side_of_one_value_is_no_certainty():
    """0.5 in ten samples against 0.4 to 0.6 in others: Welch's test knows nothing of the first."""
    same, varied = np.full(10, 0.5), np.linspace(0.1, 0.5, 10)
    one = unpaired_difference(same, varied, low=0.0, high=1.0)
    assert one.method == "bounded"
    assert one.p_value > 0.05 > one.p_welch
    assert one.low < 0 < one.difference < one.high
    without = unpaired_difference(same, varied)
    assert (without.low, without.high, without.p_value, without.method) == (None, None, 1.0, "none")
    equal = unpaired_difference(same, same, low=0.0, high=1.0)
    assert equal.p_value == 1
    assert equal.low == pytest.approx(-equal.high, abs=0.02)
    assert equal.high > 0.5 * (1 - 0.025 ** (1 / 10))


def test_both_sides_of_one_value_are_as_sure_as_the_range_allows():
    far = unpaired_difference(np.full(200, 0.9), np.full(200, 0.1), low=0.0, high=1.0)
    assert far.p_value == pytest.approx(2 / 10_001)
    assert 0.75 < far.low < 0.8 < far.high < 0.85


@pytest.mark.parametrize("ends", [{}, {"low": 0.0, "high": 1.0}])
def test_others_are_compared_by_welch(ends):
    draw = np.random.Generator(np.random.PCG64(4))
    a, b = draw.beta(2, 6, 40), draw.beta(2, 5, 25)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    one = unpaired_difference(a, b, margin=0.5, **ends)
    assert (one.method, one.p_value) == ("welch", pytest.approx(theirs.pvalue))
    assert (one.low, one.high) == pytest.approx(tuple(theirs.confidence_interval()))
    # Without a range, so few do not show what is rare.
    assert (one.p_equivalence < 0.05) is bool(ends)


def test_one_value_is_not_compared():
    test = unpaired_test(np.array([0.5]), np.array([0.1, 0.2]), low=0.0, high=1.0)
    assert isinstance(test, NoTest)


@pytest.mark.parametrize(
    "sides",
    [
        (np.array([1.0] * 8 + [0.0] * 2), np.array([1.0] * 5 + [0.0] * 5)),
        (np.array([0.9] * 9 + [0.1]), np.linspace(0.1, 0.9, 10)),
    ],
)
def test_a_scaled_test_is_that_of_as_many_samples(sides):
    a, b = sides
    scaled = unpaired_test(a, b, low=0.0, high=1.0).scaled(4.0, 0.0).interval(0.95)
    tiled = unpaired_test(np.tile(a, 4), np.tile(b, 4), low=0.0, high=1.0)
    if tiled.method == "bounded":
        assert scaled == pytest.approx(tiled.interval(0.95), abs=0.02)
    lucky = unpaired_test(a, b, low=0.0, high=1.0).scaled(4.0, 1.0).interval(0.95)
    assert lucky[0] > scaled[0]


def fishers_mid_p(right, n, other, m):
    """Return both one-sided values, by scipy's distribution."""
    given = stats.hypergeom(n + m, right + other, n)
    half = given.pmf(right) / 2
    return given.sf(right) + half, given.cdf(right) - half


@pytest.mark.parametrize(("right", "n", "other", "m"), [(30, 60, 100, 190), (3, 101, 9, 101)])
def test_zero_is_tested_by_fishers_exact_test_in_its_mid_p_form(right, n, other, m):
    tails = SharesTest(right=right, n=n, other_right=other, other_n=m).tails(0.0)
    assert tails == pytest.approx(fishers_mid_p(right, n, other, m))


@pytest.mark.parametrize(("right", "n", "other", "m"), [(3, 10, 6, 9), (0, 8, 2, 30), (9, 9, 9, 9)])
def test_few_samples_have_the_chance_of_such_a_mid_p_where_that_is_larger(right, n, other, m):
    tails = SharesTest(right=right, n=n, other_right=other, other_n=m).tails(0.0)
    for side, tail in enumerate(tails):
        limit = fishers_mid_p(right, n, other, m)[side]
        tables = [
            (x, y)
            for x in range(n + 1)
            for y in range(m + 1)
            if fishers_mid_p(x, n, y, m)[side] <= limit * (1 + 1e-9)
        ]
        first, second = np.array(tables).T
        chances = [
            (stats.binom.pmf(first, n, share) * stats.binom.pmf(second, m, share)).sum()
            for share in np.linspace(0.005, 0.995, 199)
        ]
        assert tail == pytest.approx(max(limit, *chances))


@pytest.mark.parametrize(("n", "m"), [(50, 50), (100, 100), (20, 45)])
def test_equal_shares_differ_no_more_often_than_they_should(n, m):
    differs = np.array(
        [
            [
                p_value(SharesTest(right=right, n=n, other_right=other, other_n=m)) <= 0.05
                for other in range(m + 1)
            ]
            for right in range(n + 1)
        ]
    )
    for share in (0.02, 0.1, 0.3, 0.5, 0.511):
        first, second = (stats.binom.pmf(np.arange(size + 1), size, share) for size in (n, m))
        assert first @ differs @ second <= 0.05


@pytest.mark.parametrize("level", [0.2, 0.5, 0.99])
@pytest.mark.parametrize(("right", "n", "other", "m"), [(45, 60, 30, 70), (1, 30, 9, 120)])
def test_the_interval_of_any_level_is_what_the_tests_of_shares_do_not_reject(
    right, n, other, m, level
):
    test = SharesTest(right=right, n=n, other_right=other, other_n=m)
    low, high = test.interval(level)
    for end, tail in ((low, test.tails(low).above), (high, test.tails(high).below)):
        if abs(end) > 1e-6:  # Zero is the exact test's.
            assert tail == pytest.approx((1 - level) / 2, rel=1e-4)


def test_scores_of_0_and_1_are_shares_whatever_their_range_is():
    a, b = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0])
    for ends in ({}, {"low": 0.0, "high": 1.0}):
        assert unpaired_difference(a, b, **ends).method == "score"


def test_half_a_range_is_none():
    same, varied = np.full(10, 0.5), np.linspace(0.1, 0.5, 10)
    for ends in ({"low": 0.0}, {"high": 1.0}):
        assert unpaired_difference(same, varied, **ends).method == "none"


def test_sides_that_are_mostly_alike_have_the_interval_that_their_test_does_not_reject():
    same, varied = np.full(30, 0.5), np.linspace(0.1, 0.5, 30)
    test = unpaired_test(same, varied, low=0.0, high=1.0)
    low, high = test.interval(0.95)
    assert test.tails(low).above >= 0.025 > test.tails(math.nextafter(low, -1)).above
    assert test.tails(high).below >= 0.025 > test.tails(math.nextafter(high, 1)).below


def test_a_side_that_is_not_mostly_alike_counts_with_the_error_of_its_mean():
    same, varied = np.full(8, 0.5), np.linspace(0.1, 0.5, 8)
    low, high = unpaired_test(same, varied, low=0.0, high=1.0).interval(0.95)
    draw = np.random.Generator(np.random.PCG64(7))
    mean = 0.3 + varied.std(ddof=1) / 8**0.5 * draw.standard_t(7, 100_000)
    first, second = draw.beta(1, 8, (2, 100_000))
    # Of one more sample of each side, at the end of the range that is against the difference.
    lowest = 0.5 * (1 - first) - (mean * (1 - second) + second)
    highest = 0.5 * (1 - first) + first - mean * (1 - second)
    expected = (np.quantile(lowest, 0.025), np.quantile(highest, 0.975))
    assert (low, high) == pytest.approx(expected, abs=0.012)
