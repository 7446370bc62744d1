"""Numbers of the intervals, kept as they are: `test_stats.py` shows that they are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from evaluators.stats import intervals
from evaluators.stats.resampling import RESAMPLING_LIMIT

SKEWED = [1.0, 2.0, 2.5, 9.0]
CLUSTERS = ["a", "a", "b", "c"]
LONG = [0.1, 0.4, 0.4, 0.45, 0.5, 0.7, 0.75, 1.3, 2.2, 4.0, 4.1, 9.5]
ZEROS_AND_ONES = [0, 0, 1, 1, 1, 0, 1, 1, 1, 1.0]
ROWS = [[1, 2], [3, 4], [5, 5], [2, 9]]


def ratio(sums):
    return sums[0] / sums[1]


def near(numbers):
    """The same numbers, up to rounding; None stays None."""
    return tuple(
        pytest.approx(one, rel=1e-6, abs=1e-12) if isinstance(one, float) else one
        for one in numbers
    )


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (
            lambda: intervals.mean_interval(SKEWED, low=0, high=10),
            (3.625, 1.02988426, 8.03991439, 4, "hall"),
        ),
        (lambda: intervals.mean_interval(LONG[:9]), (0.755555556, None, None, 9, "none")),
        (
            lambda: intervals.mean_interval(SKEWED, clusters=CLUSTERS),
            (3.625, None, None, 3, "none"),
        ),
        (lambda: intervals.mean_interval(LONG), (2.03333333, 0.300575907, 7.2316056, 12, "hall")),
        (
            lambda: intervals.mean_interval([-one for one in LONG]),
            (-2.03333333, -7.2316056, -0.300575907, 12, "hall"),
        ),
        (
            lambda: intervals.mean_interval(LONG, level=0.8),
            (2.03333333, 0.959953079, 5.25347409, 12, "hall"),
        ),
        (
            lambda: intervals.skewed_interval(LONG, longest=99),
            (2.03333333, 0.300575907, 7.92582767, 12, "hall"),
        ),
        (
            lambda: intervals.skewed_interval(LONG, longest=99, power=0),
            (2.03333333, 0.300575907, 9.08742831, 12, "hall"),
        ),
        (lambda: intervals.skewed_interval([1, 3]), (2.0, -10.7062047, 14.7062047, 2, "hall")),
        (lambda: intervals.bca_interval(LONG), (2.03333333, 1.0020642, 4.1437195, 12, "bca")),
        (
            lambda: intervals.bca_interval(LONG, level=0.8),
            (2.03333333, 1.27916667, 3.39583333, 12, "bca"),
        ),
        (
            lambda: intervals.bca_interval(LONG, resamples=100),
            (2.03333333, 1.19443897, 4.85649998, 12, "bca"),
        ),
        (
            lambda: intervals.bca_interval(LONG, seed=1),
            (2.03333333, 0.971547755, 4.3842941, 12, "bca"),
        ),
        (lambda: intervals.bca_interval(ZEROS_AND_ONES), (0.7, 0.4, 0.9, 10, "bca")),
        (lambda: intervals.bca_interval([0, 1]), (0.5, 0.0, 1.0, 2, "bca")),
        (lambda: intervals.bca_interval([-5, 3, 4]), (0.666666667, -5.0, 3.66666667, 3, "bca")),
        (lambda: intervals.t_interval(SKEWED), (3.625, -2.16258434, 9.41258434, 4, "t")),
        (lambda: intervals.t_interval(SKEWED, level=0.8), (3.625, 0.646604554, 6.60339545, 4, "t")),
        (
            lambda: intervals.t_interval(LONG, clusters="aaabbbcdeeff"),
            (2.03333333, -1.06872191, 5.13538858, 6, "clustered t"),
        ),
        (lambda: intervals.t_interval([0, 1]), (0.5, -5.85310237, 6.85310237, 2, "t")),
        (
            lambda: intervals.corpus_interval(ROWS, ratio),
            (0.55, -0.146137126, 1.94227425, 4, "bootstrap t"),
        ),
        (
            lambda: intervals.corpus_interval(ROWS, ratio, level=0.8),
            (0.55, 0.191755261, 1.09340211, 4, "bootstrap t"),
        ),
        (
            lambda: intervals.corpus_interval(ROWS, ratio, resamples=100),
            (0.55, -0.0928701204, 1.83574024, 4, "bootstrap t"),
        ),
        (
            lambda: intervals.corpus_interval(ROWS, ratio, seed=1),
            (0.55, -0.14773276, 1.94546552, 4, "bootstrap t"),
        ),
        (
            lambda: intervals.corpus_interval(ROWS, ratio, clusters=CLUSTERS),
            (0.55, None, None, 3, "none"),
        ),
        (
            lambda: intervals.corpus_interval(ROWS * 2, ratio, clusters="aabcdefg"),
            (0.55, 0.187494103, 1.27501179, 7, "bootstrap t"),
        ),
        (
            lambda: intervals.corpus_interval([[0, 9]] * 7 + [[9, 9], [8, 9]], ratio),
            (0.209876543, -0.099623757, 0.730282471, 9, "bootstrap t"),
        ),
        (
            lambda: intervals.corpus_interval(ROWS[:2], ratio),
            (0.666666667, -0.914596563, 2.23556998, 2, "bootstrap t"),
        ),
        (lambda: intervals.wilson(17, 20), (0.85, 0.639581135, 0.947631254, 20, "wilson")),
        (
            lambda: intervals.wilson(17, 20, level=0.8),
            (0.85, 0.721552134, 0.92532698, 20, "wilson"),
        ),
        (lambda: intervals.wilson(0, 20), (0.0, 0.0, 0.161125158, 20, "wilson")),
        (lambda: intervals.wilson(20, 20), (1.0, 0.838874842, 1.0, 20, "wilson")),
        (lambda: intervals.wilson(1, 1), (1.0, 0.206549314, 1.0, 1, "wilson")),
        (lambda: intervals.wilson(1, 3), (0.333333333, 0.0614919447, 0.792340399, 3, "wilson")),
    ],
)
def test_intervals(interval, expected):
    found = interval()
    assert (found.estimate, found.low, found.high, found.n, found.method) == near(expected)


@pytest.mark.parametrize(
    "interval", [intervals.mean_interval, intervals.bca_interval, intervals.t_interval]
)
def test_the_usual_level_and_how_it_is_drawn(interval):
    assert interval(LONG) == interval(LONG, level=0.95)
    assert intervals.bca_interval(LONG) == intervals.bca_interval(LONG, resamples=2000, seed=0)
    usual = intervals.corpus_interval(ROWS, ratio)
    assert usual == intervals.corpus_interval(ROWS, ratio, level=0.95, resamples=1000, seed=0)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (lambda: intervals.mean_interval([]), (None, None, None, 0, "none")),
        (lambda: intervals.mean_interval([0.3]), (0.3, None, None, 1, "none")),
        (lambda: intervals.mean_interval([0.1] * 3), (0.1, None, None, 3, "constant")),
        (lambda: intervals.mean_interval([0.1 + 0.2, 0.3]), (0.1 + 0.2, None, None, 2, "constant")),
        (lambda: intervals.bca_interval([]), (None, None, None, 0, "none")),
        (lambda: intervals.bca_interval([0.3]), (0.3, None, None, 1, "none")),
        (lambda: intervals.bca_interval([0.1] * 3), (0.1, None, None, 3, "constant")),
        (lambda: intervals.t_interval([]), (None, None, None, 0, "none")),
        (lambda: intervals.t_interval([], clusters=[]), (None, None, None, 0, "none")),
        (lambda: intervals.t_interval([0.3]), (0.3, None, None, 1, "none")),
        (lambda: intervals.t_interval([0.1] * 3), (0.1, None, None, 3, "constant")),
        (
            lambda: intervals.t_interval([0.1] * 6, clusters="abcdef"),
            (0.1, None, None, 6, "constant"),
        ),
        (lambda: intervals.t_interval(SKEWED, clusters="abcd"), (3.625, None, None, 4, "none")),
        (lambda: intervals.t_interval([0.1] * 3, clusters="aaa"), (0.1, None, None, 1, "none")),
        (lambda: intervals.t_interval([0.25, 0.75], clusters="aa"), (0.5, None, None, 1, "none")),
        (lambda: intervals.wilson(0, 0), (None, None, None, 0, "none")),
        (lambda: intervals.corpus_interval([], ratio), (None, None, None, 0, "none")),
        (lambda: intervals.corpus_interval(ROWS[:1], ratio), (0.5, None, None, 1, "none")),
        (
            lambda: intervals.corpus_interval(ROWS[:2], ratio, clusters="aa"),
            (4 / 6, None, None, 1, "none"),
        ),
    ],
)
def test_intervals_of_next_to_nothing(interval, expected):
    found = interval()
    assert (found.estimate, found.low, found.high, found.n, found.method) == expected


@pytest.mark.parametrize("seed", range(6))
def test_one_resample_is_on_one_side_of_the_mean(seed):
    found = intervals.bca_interval(LONG, resamples=1, seed=seed)
    assert found.low == found.high
    assert found.estimate != found.low


@pytest.mark.parametrize(
    ("seed", "low", "high"), [(9, 2.86312967, 3.05491884), (2, 1.58465391, 1.58749993)]
)
def test_two_resamples_on_one_side_of_the_mean(seed, low, high):
    found = intervals.bca_interval(LONG, resamples=2, seed=seed)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_no_share_is_below_0_or_above_1():
    for n in range(1, 99):
        assert intervals.wilson(0, n).low == 0.0
        assert intervals.wilson(n, n).high == 1.0


def test_the_level_with_clusters():
    found = intervals.mean_interval([*SKEWED, 2.0], clusters="abcde", level=0.8)
    student = intervals.t_interval([*SKEWED, 2.0], clusters="abcde", level=0.8)
    wider = intervals.mean_interval([*SKEWED, 2.0], clusters="abcde")
    assert wider.low < found.low <= student.low < student.high <= found.high < wider.high


def test_an_interval_is_made_by_name_and_does_not_change():
    with pytest.raises(TypeError):
        intervals.Interval(None, None, None, 0)
    with pytest.raises(AttributeError):
        intervals.mean_interval(SKEWED).n = 3


def test_blocks_of_many_samples_are_drawn_with_the_seed():
    draw = np.random.Generator(np.random.PCG64(1))
    rows = np.stack(
        [draw.normal(1, 1, RESAMPLING_LIMIT + 9), np.ones(RESAMPLING_LIMIT + 9)], axis=1
    )
    first, second = (intervals.corpus_interval(rows, ratio, resamples=9, seed=3) for _ in range(2))
    assert first == second


def test_what_an_interval_is_without_a_method():
    assert intervals.Interval(estimate=None, low=None, high=None, n=0).method == "none"


@pytest.mark.parametrize(("n", "method"), [(RESAMPLING_LIMIT, "bca"), (RESAMPLING_LIMIT + 1, "t")])
def test_many_samples_are_not_resampled(n, method):
    values = np.arange(n) % 7
    interval = intervals.bca_interval(values, resamples=20, level=0.8)
    assert interval.method == method
    if method == "t":
        assert interval == intervals.t_interval(values, level=0.8)


@pytest.mark.parametrize(
    ("values", "clusters", "error"),
    [
        ([0.0, 1.0], None, 0.5),
        (SKEWED, None, 1.818596070),
        (SKEWED, ["a", "a", "b", "c"], 2.184223737),
        (SKEWED, ["a", "b", "a", "b"], 1.875),
        (SKEWED, [1, 2, 3, 4], 1.818596070),
        ([3.0, 3.0, 3.0], ["a", "b", "b"], 0.0),
    ],
)
def test_standard_errors(values, clusters, error):
    assert intervals.standard_error(values, clusters=clusters) == pytest.approx(error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.standard_error([1.0]), "a standard error needs at least two samples"),
        (lambda: intervals.standard_error([]), "a standard error needs at least two samples"),
        (
            lambda: intervals.standard_error([1.0, 2.0], clusters="aa"),
            "a clustered standard error needs at least two clusters",
        ),
        (lambda: intervals.wilson(3, 2), "3 successes of 2 are impossible"),
        (lambda: intervals.wilson(-1, 2), "-1 successes of 2 are impossible"),
        (lambda: intervals.finite([[1.0]]), "expected one number per sample, got shape (1, 1)"),
        (lambda: intervals.finite(1.0), "expected one number per sample, got shape ()"),
        (lambda: intervals.finite([1.0, float("inf")]), "values must be finite numbers"),
        (
            lambda: intervals.matrix([1.0]),
            "expected one row of statistics per sample, got shape (1,)",
        ),
        (lambda: intervals.matrix([[1.0, float("nan")]]), "statistics must be finite numbers"),
        (lambda: intervals.cluster_index("aa", 3), "3 values but 2 clusters"),
        (
            lambda: intervals.corpus_score(lambda _: float("inf"), np.ones(1)),
            "a corpus score must be a finite number",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is below
        call()
    assert str(caught.value) == message


def test_clusters_are_numbered_and_added_up():
    index, count = intervals.cluster_index(["b", "a", "b", "c"], 4)
    assert (index.tolist(), count) == ([0, 1, 0, 2], 3)
    assert index.dtype == np.intp
    none, count = intervals.cluster_index([], 0)
    assert (none.dtype, len(none), count) == (np.intp, 0, 0)
    rows = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    assert intervals.cluster_sums(rows, ["x", "y", "x"]).tolist() == [[5.0, 50.0], [2.0, 20.0]]
    assert intervals.cluster_sums(np.empty((3, 0)), ["x", "y", "x"]).shape == (2, 0)


@pytest.mark.parametrize(
    ("statistics", "shape"),
    [([], (0, 0)), ([[]], (0, 0)), (np.empty((0, 3)), (0, 3)), ([[1, 2]], (1, 2))],
)
def test_statistics_have_rows_and_columns(statistics, shape):
    found = intervals.matrix(statistics)
    assert (found.shape, found.dtype) == (shape, np.float64)
    assert intervals.finite([1, 2]).dtype == np.float64


@pytest.mark.parametrize("share", [0.025, 0.5, 0.975, 0.999])
@pytest.mark.parametrize("freedom", [1, 2.5, 30])
def test_quantiles_of_students_distribution(share, freedom):
    expected = scipy_stats.t.ppf(share, freedom)
    assert intervals.t_quantile(share, freedom) == pytest.approx(expected, abs=1e-12)


def test_the_corpus_score_gets_plain_numbers():
    seen = []
    intervals.corpus_score(lambda sums: seen.append(sums) or 1, np.array([1.0, 2.0]))
    assert seen == [[1.0, 2.0]]
    assert isinstance(seen[0], list)
    assert isinstance(intervals.corpus_score(lambda _: 1, np.ones(1)), float)


def test_no_end_is_beyond_the_range():
    values = [0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95]
    free = intervals.mean_interval(values, low=0.0, high=1.0)
    cut = intervals.within(free, free.low + 0.01, free.high - 0.01)
    assert (cut.low, cut.high) == pytest.approx((free.low + 0.01, free.high - 0.01))
    assert intervals.within(free, None, None) == free
    # Values beyond the range widen it.
    widened = intervals.mean_interval(values, low=0.5, high=0.6)
    assert widened == intervals.mean_interval(values, low=0.1, high=0.95)


@pytest.mark.parametrize(
    ("values", "start", "end", "low", "high"),
    [
        ([5.0] * 10, 1.0, 5.0, 5 - 4 * (1 - 0.025**0.1), 5.0),
        # Clopper and Pearson's of 1 in 10, to the accuracy of the drawn weights.
        ([0.5] * 9 + [1.0], 0.5, 1.0, 0.5 + 0.5 * 0.002529, 0.5 + 0.5 * 0.445016),
    ],
)
def test_nearly_equal_scores_are_bounded_by_their_range(values, start, end, low, high):
    found = intervals.mean_interval(values, low=start, high=end)
    assert (found.low, found.high, found.method) == (
        pytest.approx(low, abs=0.005),
        pytest.approx(high, abs=0.005),
        "bounded",
    )


@pytest.mark.parametrize("n", [10, 20, 50, 100])
def test_a_judge_that_gives_98_percent_fives_is_covered(n):
    """16% at n = 10 when equal scores had an interval of no width."""
    draw = np.random.Generator(np.random.PCG64(n))
    shares = [0.005, 0.005, 0.005, 0.005, 0.98]
    covered = 0
    for _ in range(600):
        values = draw.choice([1.0, 2.0, 3.0, 4.0, 5.0], n, p=shares)
        found = intervals.mean_interval(values, low=1.0, high=5.0)
        covered += found.low <= 4.95 <= found.high
    assert covered / 600 > 0.93


def test_no_end_of_a_mean_over_clusters_is_beyond_the_range():
    values = [0.02, 0.03, 0.9, 0.01, 0.14, 0.33, 0.12, 0.85]
    clusters = list("aabcdefg")
    free = intervals.mean_interval(values, clusters=clusters)
    assert free.low < 0
    cut = intervals.mean_interval(values, clusters=clusters, low=0.0, high=1.0)
    assert cut.low == 0.0
    assert cut.high < 1.0
    down = intervals.mean_interval([1 - v for v in values], clusters=clusters, low=0.0, high=1.0)
    assert (down.low, down.high) == (pytest.approx(1 - cut.high), 1.0)


def test_no_end_of_a_mean_is_beyond_the_range():
    values = [n % 2 * 0.9 + n / 500 for n in range(40)]
    free = intervals.skewed_interval(values, level=1 - 1e-9)
    assert free.low < 0
    assert free.high > 1
    cut = intervals.mean_interval(values, level=1 - 1e-9, low=0.0, high=1.0)
    assert (cut.low, cut.high) == (0.0, 1.0)


@pytest.mark.parametrize(("clusters", "given"), [("abcde", True), ("abcdd", False)])
def test_five_clusters_are_enough_for_a_share(clusters, given):
    found = intervals.mean_interval([1, 1, 0, 1, 0], clusters=clusters, low=0.0, high=1.0)
    assert (found.low is not None) is given
    found = intervals.mean_interval([1, 2, 3, 4, 6], clusters=clusters)
    assert (found.low is not None) is given


def test_a_share_over_clusters_by_hand():
    """Six clusters of two, alike within: Wilson's interval of six, with Student's quantile."""
    values = [1.0, 1.0] * 4 + [0.0, 0.0] * 2
    clusters = [k // 2 for k in range(12)]
    found = intervals.mean_interval(values, clusters=clusters, low=0.0, high=1.0)
    share = 2 / 3
    # The clustered variance is that of five, as a standard error of six means has it.
    n, t = 5, scipy_stats.t.ppf(0.975, 5)
    centre = (share + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (share * (1 - share) / n + t * t / (4 * n * n)) ** 0.5
    tail = scipy_stats.norm.cdf(-t)
    reaching = [found.low, found.high]
    assert centre - half > found.low
    assert reaching == pytest.approx([mid_p_end(10 / 3, 5, tail), 1 - mid_p_end(5 / 3, 5, tail)])
    assert (found.n, found.method) == (6, "wilson")
    # All right: the clusters count, not the samples.
    found = intervals.mean_interval([1.0] * 12, clusters=clusters, low=0.0, high=1.0)
    assert 6 / (6 + t * t) > found.low == pytest.approx(mid_p_end(6, 6, tail))
    assert found.high == 1.0
    found = intervals.mean_interval([0.0] * 12, clusters=clusters, low=0.0, high=1.0)
    assert (found.low, found.high) == (0.0, pytest.approx(1 - mid_p_end(6, 6, tail)))


def test_rare_values_in_few_of_many_clusters_count_by_cluster():
    """Four wrong answers of one cluster among 20: as much as one cluster, near enough."""
    values = [1.0] * 196 + [0.0] * 4
    clusters = [k // 10 for k in range(200)]
    found = intervals.mean_interval(values, clusters=clusters, low=0.0, high=1.0)
    error, freedom = intervals.clustered_error(values, clusters)
    plain = 0.98 * 0.02 / error**2
    size = plain ** (1 / 6) * min(plain, 20) ** (5 / 6)
    t = scipy_stats.t.ppf(0.975, freedom)
    tail = scipy_stats.norm.cdf(-t)
    assert found.high == pytest.approx(1 - mid_p_end(0.02 * size, size, tail))
    few = intervals.mean_interval(values[50:], clusters=clusters[50:], low=0.0, high=1.0)
    assert few.n == 15


def test_a_range_of_one_end_is_no_range():
    assert intervals.mean_interval([0.5] * 5, low=0.0).method == "constant"
    assert intervals.mean_interval([0.5] * 5, high=1.0).method == "constant"
    assert intervals.t_interval([0.5] * 5, low=0.0).method == "constant"
    assert intervals.t_interval([0.5] * 5, high=1.0).method == "constant"
    assert intervals.mean_interval(LONG, low=0.5) == intervals.within(
        intervals.mean_interval(LONG), 0.5, None
    )
    values = [0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95]
    assert intervals.mean_interval(values, low=0.0).low is None
    assert intervals.mean_interval(values, low=0.0, high=1.0).method == "hall"


def test_no_interval_of_few_samples_is_wider_than_what_the_range_bounds():
    values = [0.0, 0.02, 0.05, 0.3, 0.9]
    student = intervals.t_interval(values)
    bound = intervals.bounded_interval(values, low=0.0, high=1.0)
    found = intervals.mean_interval(values, low=0.0, high=1.0)
    assert (found.method, found.low) == ("hall", bound.low)
    assert student.low < bound.low
    assert student.high > found.high == bound.high
    # Of 31 samples, the ends are those of the skewed interval.
    many = [n / 100 for n in range(31)]
    free = intervals.skewed_interval(many, longest=intervals.LONGEST_BOUNDED_END, power=1.0)
    assert intervals.mean_interval(many, low=0.0, high=1.0) == free
    few = intervals.mean_interval(many[:30], low=0.0, high=0.3)
    bound = intervals.bounded_interval(many[:30], low=0.0, high=0.3)
    assert bound.low <= few.low <= few.high <= bound.high


@pytest.mark.parametrize(
    ("values", "noise", "method"),
    [
        # All but a third, and all but five, have to be alike.
        ([0.5, 0.5, 0.5, 0.5, 0.9], 0.0, "bounded"),
        ([0.5, 0.5, 0.5, 0.7, 0.9], 0.0, "hall"),
        ([0.5] * 15 + [0.1, 0.2, 0.3, 0.8, 0.9], 0.0, "bounded"),
        ([0.5] * 15 + [0.1, 0.2, 0.3, 0.7, 0.8, 0.9], 0.0, "hall"),
        # The deviation of three values, one of which is away by d, is d over the root of three.
        ([0.50, 0.50, 0.521], 0.0, "bounded"),
        ([0.1, 0.50, 0.50, 0.521], 0.0, "bounded"),
        ([0.1, 0.50, 0.50, 0.523], 0.0, "hall"),
        # Noise explains as much, up to a quarter more, while it is small beside the range.
        ([0.1, 0.50, 0.50, 0.55], 0.024, "bounded"),
        ([0.1, 0.50, 0.50, 0.55], 0.022, "hall"),
        ([0.1, 0.50, 0.50, 0.61], 0.1, "hall"),
        ([0.1, 0.50, 0.50, 0.60], 0.1, "bounded"),
    ],
)
def test_scores_that_are_nearly_alike_are_bounded(values, noise, method):
    found = intervals.mean_interval(values, low=0.0, high=1.0, noise=noise)
    assert found.method == method
    # The scale makes no difference.
    scaled = intervals.mean_interval(
        [100 * one for one in values], low=0.0, high=100.0, noise=100 * noise
    )
    assert scaled.method == method
    assert scaled.high == pytest.approx(100 * found.high)


def test_many_different_scores_are_bounded_in_groups():
    values = 0.9 + np.linspace(0, 0.02, 3000)
    found = intervals.bounded_interval(values, low=0.0, high=1.0)
    assert found.low == pytest.approx(0.91 - 0.91 * (1 - 0.025 ** (1 / 3000)), abs=2e-4)
    assert found.high == pytest.approx(0.91 + 0.09 * (1 - 0.025 ** (1 / 3000)), abs=2e-4)


def test_a_mean_over_clusters_leans_away_from_the_end_of_its_range():
    """A score interval at the number of zeros and ones with the same error; t where it is wider."""
    values = [5.0, 4, 5, 4, 3, 5, 4, 4, 5, 3, 5, 4, 5, 5, 4, 5, 3, 5, 4, 5]
    clusters = [place // 2 for place in range(20)]
    student = intervals.t_interval(values, clusters=clusters)
    found = intervals.mean_interval(values, clusters=clusters, low=1.0, high=5.0)
    error, freedom = intervals.clustered_error(np.array(values), clusters)
    share, t = (np.mean(values) - 1) / 4, scipy_stats.t.ppf(0.975, freedom)
    n = share * (1 - share) / (error / 4) ** 2
    centre = (share + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (share * (1 - share) / n + t * t / (4 * n * n)) ** 0.5
    assert found.low == pytest.approx(1 + 4 * (centre - half))
    assert found.low < student.low
    # The sums of clusters have their tail on the other side.
    free = intervals.mean_interval(values, clusters=clusters)
    assert (free.low, free.high) == (student.low, found.high)
    assert found.high > student.high > 1 + 4 * (centre + half)
    assert found.method == "clustered t"
    # Of a score without room on one side, the mirror image leans the other way.
    mirrored = intervals.mean_interval(
        [6 - one for one in values], clusters=clusters, low=1.0, high=5.0
    )
    assert (mirrored.low, mirrored.high) == pytest.approx((6 - found.high, 6 - found.low))
    alike = intervals.mean_interval([5.0] * 20, clusters=clusters, low=1.0, high=5.0)
    assert (alike.low, alike.high) == pytest.approx((5 - 4 * (1 - 0.025 ** (1 / 10)), 5.0))
    # Without a range there is nothing to lean away from.
    assert intervals.mean_interval(values, clusters=clusters, low=1.0).low == student.low


def test_a_tail_over_clusters_is_reached_as_far_as_hall_does():
    """By hand: six clusters of two whose sums are off by -1, -1, -1, -1, -1 and 5."""
    clusters = [place // 2 for place in range(12)]
    values = [1.0, 2.0] * 5 + [4.0, 5.0]
    found = intervals.mean_interval(values, clusters=clusters)
    student = intervals.t_interval(values, clusters=clusters)
    skew = (-5 + 125) / 30**1.5 * np.sqrt(30) / 4
    t = scipy_stats.t.ppf(0.025, 5)
    above = 3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1)
    error = (30 / (5 / 6)) ** 0.5 / 12
    assert (found.low, found.high) == pytest.approx((student.low, 2 + error * min(-above, -2 * t)))


def test_rare_clusters_far_from_many_that_are_alike_are_allowed_for():
    """Twelve texts of two questions, 0.9 or nearly so: 5% of texts that score 0 would not show."""
    random = np.random.Generator(np.random.PCG64(3))
    values = 0.9 + random.normal(0, 0.003, 24)
    clusters = [place // 2 for place in range(24)]
    found = intervals.mean_interval(values, clusters=clusters, low=0.0, high=1.0)
    assert found.method == "bounded"
    assert found.low == pytest.approx(0.9 * 0.025 ** (1 / 12), abs=0.02)
    lost = values.copy()
    lost[:2] = 0.0
    assert intervals.mean_interval(lost, clusters=clusters, low=0.0, high=1.0).low < 0.6
    # Clusters of different sizes are as many as weigh as much.
    uneven = [0] * 7 + clusters[7:]
    fewer = intervals.mean_interval(values, clusters=uneven, low=0.0, high=1.0)
    assert fewer.low < found.low
    # With repeats, clusters that differ no more than repeats explain are alike.
    wide = 0.9 + random.normal(0, 0.04, 24).clip(-0.1, 0.1)
    assert intervals.mean_interval(wide, clusters=clusters, low=0.0, high=1.0).method != "bounded"
    alike = intervals.mean_interval(wide, clusters=clusters, low=0.0, high=1.0, noise=0.06)
    assert alike.method == "bounded"


def test_shares_of_large_clusters_reach_towards_the_tail():
    values = [0.0 if n % 20 == 0 or n > 185 else 1.0 for n in range(200)]
    large = [place // 20 for place in range(200)]
    small = [place // 10 for place in range(200)]
    found, plain = (
        intervals.mean_interval(values, clusters=index, low=0.0, high=1.0)
        for index in (large, small)
    )
    assert found.method == plain.method == "wilson"
    score = intervals.clustered_wilson(np.array(values), large)
    assert (found.low < score.low, found.high) == (True, score.high)
    assert plain == intervals.clustered_wilson(np.array(values), small)
    mirrored = intervals.mean_interval(
        [1 - one for one in values], clusters=large, low=0.0, high=1.0
    )
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_a_share_of_too_few_clusters_is_given_without_its_interval():
    found = intervals.mean_interval([1, 0, 1, 1], clusters="aabb", low=0.0, high=1.0)
    assert (found.estimate, found.low, found.high, found.n) == (0.75, None, None, 2)


def test_two_values_within_a_range_are_not_its_ends():
    """Grades of 4 and 5 vary less than as many of 1 and 5, and weigh as more samples."""
    values = np.array([4.0, 5.0, 5.0, 5.0] * 7 + [5.0, 4.0, 4.0, 5.0])
    clusters = [place // 4 for place in range(32)]
    ends = intervals.clustered_wilson(values, clusters, low=1.0, high=5.0)
    capped = intervals.clustered_wilson(values, clusters, low=4.0, high=5.0)
    assert ends.high - ends.low < capped.high - capped.low


def test_clusters_that_differ_by_next_to_nothing_have_an_interval():
    values = np.array([4.0, 5.0, 5.0, 5.0] * 8)
    values[0] += 1e-9
    found = intervals.mean_interval(
        values, clusters=[place // 4 for place in range(32)], low=1.0, high=5.0
    )
    assert found.low < 4.75 < found.high


def test_a_range_may_end_at_zero():
    values = [0.9, 0.1, 0.0, 0.05, 0.8, 0.01]
    found = intervals.mean_interval([-one for one in values], low=-1.0, high=0.0)
    mirrored = intervals.mean_interval(values, low=0.0, high=1.0)
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=0.01)
    assert intervals.mean_interval(LONG, high=0.5) == intervals.within(
        intervals.mean_interval(LONG), None, 0.5
    )


def test_nearly_equal_scores_reach_towards_both_ends():
    """A tenth of the room to each end, and more: 0.3085 is 1 - 0.025 ** (1 / 10)."""
    found = intervals.bounded_interval([0.2] * 9 + [0.21], low=0.0, high=1.0)
    assert found.low == pytest.approx(0.2 - 0.2 * 0.3085, abs=0.01)
    assert found.high == pytest.approx(0.2 + 0.8 * 0.3085, abs=0.015)
    assert intervals.bounded_interval([0.2], low=0.0, high=1.0).low is None
    same = intervals.bounded_interval([0.2] * 10, low=0.0, high=1.0)
    assert (same.low, same.high) == pytest.approx((0.2 - 0.2 * 0.3085, 0.2 + 0.8 * 0.3085), 1e-3)


def test_equal_scores_in_clusters_are_bounded_by_their_range():
    found = intervals.mean_interval([0.5] * 12, clusters=list("aabbccddeeff"), low=0.0, high=1.0)
    share = 1 - 0.025 ** (1 / 6)
    assert (found.low, found.high) == pytest.approx((0.5 - share / 2, 0.5 + share / 2))
    assert (found.n, found.method) == (6, "bounded")


def mid_p_end(successes, n, tail):
    """Return the share at which the chance of more, and half of that of as many, is `tail`."""

    def gap(share):
        more = scipy_stats.beta.cdf(share, successes + 1, n - successes) if successes < n else 0
        return (more + scipy_stats.beta.cdf(share, successes, n - successes + 1)) / 2 - tail

    return optimize.brentq(gap, 1e-12, 1.0)


@pytest.mark.parametrize("n", [2, 4, 10, 50, 400])
def test_shares_are_covered_wherever_they_are(n):
    """Exactly, by the chances of all counts; Wilson's interval covers 82% to 84% of the worst."""
    found = [intervals.share_interval(count, n) for count in range(n + 1)]
    shares = np.concatenate([np.geomspace(0.01 / n, 0.5, 300), [0.18 / n]])
    chances = scipy_stats.binom.pmf(np.arange(n + 1), n, shares[:, None])
    low, high = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
    held = (low <= shares[:, None]) & (shares[:, None] <= high)
    assert (chances * held).sum(axis=1).min() > 0.924


def test_a_share_reaches_as_far_as_wilson_and_mid_p():
    found, score = intervals.share_interval(1, 10), intervals.wilson(1, 10)
    assert (found.low, found.high) == (pytest.approx(mid_p_end(1, 10, 0.025)), score.high)
    assert (found.estimate, found.n, found.method) == (0.1, 10, "wilson")
    mirrored = intervals.share_interval(9, 10)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))
    at_80 = intervals.share_interval(1, 10, level=0.8)
    assert at_80.low == pytest.approx(mid_p_end(1, 10, 0.1))
    # One success of one has been seen with half of its chance.
    assert intervals.share_interval(1, 1).low == pytest.approx(0.05)
    assert intervals.share_interval(0, 0).estimate is None


def test_scores_of_0_and_1_are_a_share():
    found = intervals.mean_interval(ZEROS_AND_ONES, low=0.0, high=1.0)
    assert found == intervals.share_interval(7, 10)
    assert intervals.mean_interval(ZEROS_AND_ONES).method == "hall"
    assert intervals.mean_interval([], low=0.0, high=1.0).n == 0


def test_equal_corpora_have_no_interval():
    found = intervals.corpus_interval([[1, 2]] * 5, ratio)
    assert (found.estimate, found.low, found.high, found.n) == (0.5, None, None, 5)
