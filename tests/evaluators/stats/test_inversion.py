"""Tests of differences: they and the intervals that invert them never contradict each other."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from evaluators.stats.differences import paired_difference, paired_tests
from evaluators.stats.exponential_sums import chance_below_zero
from evaluators.stats.inversion import (
    BoundedTest,
    DichotomousTest,
    NoTest,
    StudentTest,
    equivalence_p,
    mean_test,
    p_value,
    sign_flips,
)


@pytest.mark.parametrize("n", range(1, 41))
def test_no_table_has_a_p_value_that_its_interval_contradicts(n):
    """Every table of wins and losses: p is below 0.05 exactly where the interval leaves out 0."""
    for wins in range(n + 1):
        for losses in range(n - wins + 1):
            test = DichotomousTest(wins=wins, losses=losses, n=n)
            low, high = test.interval(0.95)
            estimate = (wins - losses) / n
            assert -1 <= low <= estimate <= high <= 1
            assert low < high
            assert (p_value(test) <= 0.05) is not (low <= 0 <= high)
            # The other end of the table is the same with the signs turned.
            other = DichotomousTest(wins=losses, losses=wins, n=n)
            assert other.interval(0.95) == pytest.approx((-high, -low))
            assert p_value(other) == p_value(test)


@pytest.mark.parametrize("n", [50, 100, 200])
def test_the_end_that_gates_go_by_is_seldom_short_of_the_truth(n):
    """Exactly, whatever share is lost; Bonett and Price's interval misses in up to 7%."""
    lost = np.arange(n + 1)
    ends = np.array([DichotomousTest(wins=0, losses=k, n=n).interval(0.95)[0] for k in lost])
    for share in np.arange(0.002, 0.5, 0.002):
        assert stats.binom.pmf(lost[ends > -share], n, share).sum() < 0.035


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99, 0.999])
def test_other_levels_are_as_consistent(level):
    for n in (4, 9, 13, 26):
        for wins in range(n + 1):
            for losses in range(n - wins + 1):
                test = DichotomousTest(wins=wins, losses=losses, n=n)
                low, high = test.interval(level)
                assert (p_value(test) <= 1 - level) is not (low <= 0 <= high)


def restricted_score(wins: int, losses: int, n: int, value: float) -> float:
    """Tango's statistic from its definition: the likelihood is maximised numerically."""

    def against(share: float) -> float:
        cells = (share + value, share, 1 - 2 * share - value)
        counts = (wins, losses, n - wins - losses)
        return -sum(c * math.log(max(p, 1e-300)) for c, p in zip(counts, cells, strict=True) if c)

    least, most = max(0.0, -value), (1 - value) / 2
    share = optimize.minimize_scalar(
        against, bounds=(least, most), method="bounded", options={"xatol": 1e-12}
    ).x
    return (wins - losses - n * value) / math.sqrt(n * (2 * share + value * (1 - value)))


@pytest.mark.parametrize(
    ("wins", "losses", "n"), [(7, 1, 40), (3, 9, 200), (12, 11, 30), (1, 0, 44), (0, 5, 18)]
)
def test_the_score_interval_is_where_the_restricted_statistic_reaches_the_quantile(wins, losses, n):
    low, high = DichotomousTest(wins=wins, losses=losses, n=n).interval(0.95)
    for end, sign in ((low, 1), (high, -1)):
        if abs(end) > 1e-6:  # zero is mid-p's
            z = restricted_score(wins, losses, n, end)
            assert z == pytest.approx(sign * 1.959964, abs=2e-3)


def test_all_ties_are_no_certainty():
    """Tango's interval without a win or a loss: z squared over n plus z squared."""
    low, high = DichotomousTest(wins=0, losses=0, n=20).interval(0.95)
    assert (low, high) == pytest.approx((-3.841459 / 23.841459, 3.841459 / 23.841459))


VALUES = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.floats(0, 1, allow_subnormal=False).map(lambda value: round(value, 6)),
)
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40)


@settings(max_examples=400, deadline=None)
@given(PAIRS, st.booleans(), st.sampled_from([None, 2, 3]), st.floats(0.01, 1.0))
def test_interval_p_value_and_equivalence_agree(pairs, bounded, size, margin):
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    clusters = None if size is None else [n // size for n in range(len(pairs))]
    scale = {"low": 0.0, "high": 1.0} if bounded else {}
    paired = paired_difference(a, b, clusters=clusters, margin=margin, **scale)
    assert 0 <= paired.p_value <= 1
    if paired.low is None:
        assert paired.p_equivalence == 1
        return
    assert paired.low <= paired.difference <= paired.high
    if bounded:
        assert paired.low >= -1
        assert paired.high <= 1
        assert paired.low < paired.high or len(set(a) | set(b)) > 1
    if abs(paired.p_value - 0.05) > 1e-6:
        assert (paired.p_value < 0.05) is not (paired.low <= 0 <= paired.high)
    if paired.p_equivalence < 0.05:
        assert -margin < paired.low
        assert paired.high < margin


@pytest.mark.parametrize("spread", [1, 1e-9])
def test_five_differences_of_one_sign_show_nothing(spread):
    differences = [1.0 + spread * k for k in range(5)] + [0.0] * 7
    paired = paired_difference(differences, [0.0] * 12)
    assert paired.p_value == pytest.approx(max(1 / 16, paired.p_value))
    assert paired.low <= 0
    six = paired_difference([1.0 + spread * k for k in range(6)], [0.0] * 6)
    assert six.p_value < 0.05 < 0.3 < six.low


def test_rounding_is_no_spread():
    """0.2 + 0.1 and the like differ from 0.3 by 1e-17, which made a p-value of 1e-228."""
    a = [0.2 + 0.01 * k + 0.1 for k in range(6)]
    b = [0.2 + 0.01 * k for k in range(6)]
    paired = paired_difference(a, b, low=0.0, high=1.0)
    assert (paired.method, paired.p_value) == ("bounded", 2**-5)
    assert paired.low == pytest.approx(0, abs=1e-8)


def test_one_sided_differences_are_corrected_for_skew():
    losses = np.array([-0.5] * 3 + [-0.2] * 5 + [0.0] * 92)
    paired = paired_difference(losses, np.zeros(100))
    t = stats.ttest_1samp(losses, 0).confidence_interval()
    assert paired.method == "hall"
    assert paired.low < t.low
    assert paired.high < t.high
    both = paired_difference(np.append(losses, 0.5), np.zeros(101))
    assert both.method == "t"


@pytest.mark.parametrize("n", [2, 10, 300, 20_000])
def test_equal_differences_leave_room_for_rare_others(n):
    test = BoundedTest(np.zeros(n), -1.0, 1.0)
    low, high = test.interval(0.95)
    # A share of others above `high` would show at least once with a chance of 97.5%.
    assert (1 - high) ** n == pytest.approx(0.025)
    assert low == pytest.approx(-high)
    assert p_value(test) == 1
    assert test.tails(low).above == pytest.approx(0.025)


def test_what_cannot_be_tested_rejects_nothing():
    assert (p_value(NoTest()), equivalence_p(NoTest(), 1.0)) == (1.0, 1.0)
    assert NoTest().interval(0.95) is None
    assert isinstance(mean_test(np.array([0.5]), low=-1.0, high=1.0), NoTest)


def test_students_test_is_students():
    values = np.random.Generator(np.random.PCG64(1)).normal(0.4, 1, 25)
    theirs = stats.ttest_1samp(values, 0.1)
    test = StudentTest(values.mean(), values.std(ddof=1) / 5, 24)
    assert p_value(test, 0.1) == pytest.approx(theirs.pvalue)
    assert test.interval(0.9) == pytest.approx(tuple(theirs.confidence_interval(0.9)))
    greater = stats.ttest_1samp(values, 0.1, alternative="greater").pvalue
    assert test.tails(0.1).above == pytest.approx(greater)


@pytest.mark.parametrize(
    ("wins", "losses", "n"), [(1, 1, 200), (5, 5, 50), (1, 3, 10), (20, 20, 100), (2, 6, 60)]
)
def test_dichotomous_intervals_and_verdicts_hold_their_level(wins, losses, n):
    """Exactly, over all tables: of `make evidence`, some cells of scores that are 0 or 1."""
    shares = (wins / n, losses / n, 1 - (wins + losses) / n)
    truth = shares[0] - shares[1]
    covered = rejected = passed = 0.0
    for a in range(n + 1):
        for b in range(n - a + 1):
            chance = stats.multinomial.pmf((a, b, n - a - b), n, shares)
            if chance < 1e-7:
                continue
            test = DichotomousTest(wins=a, losses=b, n=n)
            low, high = test.interval(0.95)
            covered += chance * (low <= truth <= high)
            rejected += chance * (p_value(test) < 0.05)
            passed += chance * (low > truth)
    assert covered > 0.93
    assert passed < 0.03  # a non-inferiority gate at its margin
    if wins == losses:
        assert rejected < 0.0505


@pytest.mark.parametrize("n", [14, 20, 50])
def test_ties_of_a_judge_do_not_make_differences(n):
    """Scores of 1 to 5 that mostly agree: 91% at n = 20 when skew was corrected for."""
    draw = np.random.Generator(np.random.PCG64(n))
    covered = 0
    seen: dict[tuple[float, ...], bool] = {}
    for _ in range(1500):
        differences = np.sort(
            draw.choice([-2.0, -1.0, 0.0, 1.0, 2.0], n, p=[0.02, 0.055, 0.85, 0.055, 0.02])
        )
        if tuple(differences) not in seen:
            paired = paired_difference(differences + 3, np.full(n, 3.0), low=1.0, high=5.0)
            seen[tuple(differences)] = paired.low <= 0 <= paired.high
            assert (paired.p_value < 0.05) is not seen[tuple(differences)]
        covered += seen[tuple(differences)]
    assert covered / 1500 > 0.93


# Chances of sums of gamma variables, and the test that is made of them.


@pytest.mark.parametrize(
    ("right", "n", "share"),
    [(1, 20, 0.01), (3, 50, 0.05), (400, 500, 0.77), (1, 5000, 5e-6), (4999, 5000, 0.999)],
)
def test_a_sum_of_two_gamma_variables_is_beta(right, n, share):
    """Clopper and Pearson's tail: how likely so many are right by chance."""
    weights = np.array([1 - share, -share])
    chance = chance_below_zero(weights, np.array([right, n - right + 1.0]))
    assert chance == pytest.approx(stats.binom.sf(right - 1, n, share), rel=1e-9)
    assert chance_below_zero(-weights, np.array([right, n - right + 1.0])) == pytest.approx(
        1 - chance
    )


def test_a_sum_of_many_gamma_variables_is_as_often_below_zero_as_drawn_ones():
    draw = np.random.Generator(np.random.PCG64(1))
    weights, shapes = draw.normal(0.3, 1, 9), np.full(9, 1.0)
    below = (draw.standard_gamma(shapes, (200_000, 9)) @ weights <= 0).mean()
    assert chance_below_zero(weights, shapes) == pytest.approx(below, abs=0.004)


@pytest.mark.parametrize(
    ("weights", "chance"), [([1.0, 2.0], 0.0), ([-1.0, -2.0], 1.0), ([0.0], 1.0), ([], 1.0)]
)
def test_a_sum_of_one_sign_is_certain(weights, chance):
    assert chance_below_zero(np.array(weights), np.ones(len(weights))) == chance


def test_many_values_are_put_on_a_grid_that_changes_nothing():
    values = np.random.Generator(np.random.PCG64(2)).normal(0.05, 0.1, 600)
    for value in (0.03, 0.05, 0.06):
        gaps = [np.append(values - value, end - value) for end in (-1.0, 1.0)]
        above, below = (
            chance_below_zero(sign * gap, np.ones(601))
            for sign, gap in zip((1, -1), gaps, strict=True)
        )
        for sizes in (None, np.ones(600)):
            test = BoundedTest(values, -1.0, 1.0, sizes=sizes)
            assert test.tails(value) == pytest.approx((above, below), rel=1e-3)


def test_many_clusters_of_different_sizes_are_grouped_with_those_of_like_means():
    draw = np.random.Generator(np.random.PCG64(3))
    values, sizes = draw.normal(0.05, 0.1, 700), draw.geometric(0.2, 700).astype(np.float64)
    unseen = float((sizes**2).sum() / sizes.sum())
    for value in (0.03, 0.05):
        weights = np.append(sizes * (values - value), unseen * (-1.0 - value))
        exact = chance_below_zero(weights, np.ones(701))
        test = BoundedTest(values, -1.0, 1.0, sizes=sizes)
        assert test.tails(value).above == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize(
    "values", [[0.5] * 8, [0.5] * 7 + [-0.25], [1.0, -2.0, 0.5, 0.5, 0.0, 0.25]]
)
def test_the_sign_flip_test_counts_all_choices_of_signs(values):
    sums = [float(np.dot(signs, values)) for signs in product((-1, 1), repeat=len(values))]
    tails = sign_flips(np.array(values))
    assert tails.above == pytest.approx(np.mean([one >= sum(values) for one in sums]))
    assert tails.below == pytest.approx(np.mean([one <= sum(values) for one in sums]))


def test_too_many_choices_of_signs_are_not_counted():
    assert sign_flips(np.linspace(1, 2, 30)) is None


@pytest.mark.parametrize("gain", [0.02, 0.9, -0.3])
@pytest.mark.parametrize("clusters", [None, [k // 2 for k in range(16)]])
def test_equal_gains_are_as_sure_as_their_signs(gain, clusters):
    """8 of 8 better by the same amount: .008 by their signs, .93 by the bound of the range."""
    n = 8 if clusters is None else 16
    paired = paired_difference(
        np.full(n, 0.5 + gain / 2), np.full(n, 0.5 - gain / 2), clusters=clusters, low=0, high=1
    )
    assert paired.p_value == pytest.approx(2 * 0.5**8)
    assert (paired.low > 0) if gain > 0 else (paired.high < 0)


def test_few_differences_leave_room_for_the_whole_range():
    """84% covered where a judge ties on 94% and 2% lose all: 50 samples often show none of them."""
    paired = paired_difference([4.0, 2.0] + [3.0] * 48, [3.0] * 50, low=1.0, high=5.0)
    assert (paired.method, paired.p_value) == ("bounded", 1.0)
    assert paired.low < -4 * (1 - 0.025 ** (1 / 50))
    assert paired_difference([4.0, 2.0] * 3 + [3.0] * 44, [3.0] * 50, low=1, high=5).method == "t"


@pytest.mark.parametrize("clusters", [None, [k // 4 for k in range(80)]])
@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_a_scaled_test_is_that_of_as_many_samples(clusters, ratio):
    draw = np.random.Generator(np.random.PCG64(5))
    a = np.clip(0.5 + draw.normal(0.05, 0.1, 80), 0, 1)
    tests = paired_tests(a, np.full(80, 0.5), clusters=clusters, low=0.0, high=1.0)
    times = int(2 * ratio)
    more = paired_tests(
        np.tile(a, times),
        np.full(80 * times, 0.5),
        clusters=None if clusters is None else [k // 4 for k in range(80 * times)],
        low=0.0,
        high=1.0,
    )
    assert tests.margin.scaled(times, 0.0).interval(0.95) == pytest.approx(
        more.margin.interval(0.95), abs=2e-3
    )
    unlucky = tests.margin.scaled(times, -2.0).interval(0.95)
    assert unlucky[0] < tests.margin.scaled(times, 0.0).interval(0.95)[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_skewed_differences_reach_further_on_the_side_of_the_tail(sign):
    """Rare losses of the whole range beside small gains: plain t covered 91% of them."""
    differences = sign * np.array([-4.0] * 4 + [-1.0] * 4 + [1.0] * 4 + [0.0] * 188)
    paired = paired_difference(differences, np.zeros(200), low=-5, high=5)
    t = stats.ttest_1samp(differences, 0).confidence_interval()
    ends = (paired.low, paired.high) if sign > 0 else (-paired.high, -paired.low)
    plain = (t.low, t.high) if sign > 0 else (-t.high, -t.low)
    assert ends[0] < plain[0] - 0.01
    assert ends[1] == pytest.approx(plain[1])
