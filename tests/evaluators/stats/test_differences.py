"""Numbers of the comparisons, kept as they are: `test_stats.py` shows that they are right."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy import stats as scipy_stats

from evaluators.stats.differences import (
    WinCounts,
    corpus_tests,
    holm,
    mcnemar,
    outcomes,
    paired_corpus_difference,
    paired_difference,
    paired_t,
    smallest_p_value,
    unpaired_difference,
    wilcoxon,
)
from evaluators.stats.resampling import RESAMPLING_LIMIT

A = [0.9, 0.8, 0.4, 0.7, 0.6, 0.65]
B = [0.5, 0.9, 0.1, 0.6, 0.6, 0.1]
LONG_A = [((7 * k) % 11) / 10 + 0.3 * (k % 3) for k in range(30)]
LONG_B = [((5 * k) % 13) / 12 for k in range(30)]
ROWS = [[1, 2], [3, 4], [5, 5], [2, 9]]
OTHER = [[1, 3], [1, 4], [5, 6], [3, 9]]
MANY = [[(3 * k) % 7, k % 4 + 5] for k in range(18)]
MORE = [[(2 * k) % 7, k % 4 + 6] for k in range(18)]


def ratio(sums):
    return sums[0] / sums[1]


def near(found, numbers):
    """Whether the fields are these numbers, up to rounding; None is only None."""
    fields = tuple(getattr(found, name) for name in found.__struct_fields__)
    return fields == tuple(
        pytest.approx(one, rel=1e-6, abs=1e-12) if isinstance(one, float) else one
        for one in numbers
    )


@pytest.mark.parametrize(
    ("compare", "expected"),
    # Difference, interval, p-value, n; wins, ties, losses; effect size, detectable difference;
    # method, p-value of equivalence.
    [
        (
            lambda: paired_difference(A, B),
            (
                0.208333333,
                -0.0538506124,
                0.470517279,
                0.096548007,
                6,
                4,
                1,
                1,
                0.833889445,
                0.355971902,
                "t",
                None,
            ),
        ),
        (
            lambda: paired_difference(B, A),
            (
                -0.208333333,
                -0.470517279,
                0.0538506124,
                0.096548007,
                6,
                1,
                1,
                4,
                -0.833889445,
                0.355971902,
                "t",
                None,
            ),
        ),
        (
            lambda: paired_difference(A, B, level=0.8),
            (
                0.208333333,
                0.0578020031,
                0.358864664,
                0.096548007,
                6,
                4,
                1,
                1,
                0.833889445,
                0.355971902,
                "t",
                None,
            ),
        ),
        (
            lambda: paired_difference(A, B, low=0.0, high=1.0, margin=0.5),
            (
                0.208333333,
                -0.0538506124,
                0.470517279,
                0.096548007,
                6,
                4,
                1,
                1,
                0.833889445,
                0.355971902,
                "t",
                0.1670025448,
            ),
        ),
        (
            lambda: paired_difference(A, B, clusters=list("aabbcc")),
            (0.208333333, None, None, 1.0, 6, 4, 1, 1, 0.833889445, None, "none", None),
        ),
        (
            lambda: paired_difference(A, B, clusters=list("abcdef")),
            (
                0.208333333,
                -0.0538506124,
                0.470517279,
                0.096548007,
                6,
                4,
                1,
                1,
                0.833889445,
                0.355971902,
                "clustered t",
                None,
            ),
        ),
        (
            lambda: paired_difference(A, B, clusters=list("aabcde"), margin=1.0),
            (0.208333333, None, None, 1.0, 6, 4, 1, 1, 0.833889445, None, "none", 1.0),
        ),
        (
            lambda: paired_difference(LONG_A, LONG_B),
            (
                0.326111111,
                0.162319104,
                0.489903118,
                0.000328846292,
                30,
                23,
                1,
                6,
                0.74345441,
                0.232199885,
                "t",
                None,
            ),
        ),
        (
            lambda: paired_difference(LONG_A, LONG_B, clusters=[k // 3 for k in range(30)]),
            (
                0.326111111,
                0.192778655,
                0.459443568,
                0.000364370059,
                30,
                23,
                1,
                6,
                0.74345441,
                0.185400637,
                "clustered t",
                None,
            ),
        ),
        (
            lambda: paired_difference(
                LONG_A, LONG_B, clusters=[k // 9 + k // 12 for k in range(30)]
            ),
            (
                0.326111111,
                0.138561223,
                0.513661,
                0.00834944522,
                30,
                23,
                1,
                6,
                0.74345441,
                0.236990466,
                "clustered t",
                None,
            ),
        ),
        (
            lambda: paired_difference(LONG_A[:14], LONG_B[:14]),
            (
                0.278571429,
                0.0879166792,
                0.469226178,
                0.00757506435,
                14,
                11,
                1,
                2,
                0.843631511,
                0.267446515,
                "t",
                None,
            ),
        ),
        (
            lambda: paired_difference([1.5, 1.25, 1.0, 1.0, 2.0, 1.1, 1.7], [1.0] * 7),
            (
                0.364285714,
                0.0,
                0.820603041,
                0.0625,
                7,
                5,
                2,
                0,
                0.949285689,
                0.4862727,
                "hall",
                None,
            ),
        ),
        (
            lambda: paired_difference([1.0, 1.5], [0.5, 1.0]),
            (0.5, None, None, 0.5, 2, 2, 0, 0, None, None, "none", None),
        ),
        (
            lambda: paired_difference([1.0, 1.0], [0.5, 0.5], low=0.0, high=1.0, margin=0.9),
            (0.5, -0.762829175, 0.920943058, 0.5, 2, 2, 0, 0, None, None, "bounded", 0.08),
        ),
        (
            lambda: paired_difference([0.5] * 9, [0.25] * 9, low=0.0, high=1.0),
            (0.25, 1e-9, 0.502200338, 2**-8, 9, 9, 0, 0, None, None, "bounded", None),
        ),
        (
            lambda: paired_difference(
                [0.5] * 12, [0.25] * 12, clusters=list("aabbccddeeff"), low=0.0, high=1.0
            ),
            (0.25, 1e-9, 0.594443595, 2**-5, 12, 12, 0, 0, None, None, "bounded", None),
        ),
        (
            lambda: paired_difference([0.5] * 12, [0.25] * 12, clusters=list("aabbccddeeff")),
            (0.25, None, None, 0.03125, 12, 12, 0, 0, None, None, "none", None),
        ),
        (
            lambda: paired_difference([1.0], [0.5]),
            (0.5, None, None, 1.0, 1, 1, 0, 0, None, None, "none", None),
        ),
        (
            lambda: paired_difference([1.0, 0.0], [0.0, 1.0]),
            (0.0, -0.810937589, 0.810937589, 1.0, 2, 1, 0, 1, 0.0, 14.0825867, "score", None),
        ),
        (
            lambda: paired_difference(
                [1.0] * 9 + [0.0] * 4, [0.0] * 7 + [1.0] * 2 + [0.0] * 3 + [1.0], margin=0.9
            ),
            (
                0.461538462,
                0.0394532769,
                0.732831097,
                0.0390625,
                13,
                7,
                5,
                1,
                0.699062074,
                0.558756735,
                "score",
                1.43916479e-06,
            ),
        ),
        (
            lambda: paired_difference([2.0, 0.0], [0.0, 1.0]),
            (
                0.5,
                -18.5593071,
                19.5593071,
                0.795167235,
                2,
                1,
                0,
                1,
                0.23570226,
                21.12388,
                "t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio),
            (
                0.0954545455,
                -0.394125366,
                0.585034457,
                0.578882404,
                4,
                None,
                None,
                None,
                None,
                0.640105746,
                "bootstrap t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(OTHER, ROWS, ratio),
            (
                -0.0954545455,
                -0.585034457,
                0.394125366,
                0.578882404,
                4,
                None,
                None,
                None,
                None,
                0.640105746,
                "bootstrap t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, level=0.8, width=1.0, margin=0.9),
            (
                0.0954545455,
                -0.15649212,
                0.347401211,
                0.578882404,
                4,
                None,
                None,
                None,
                None,
                0.640105746,
                "bootstrap t",
                0.0158926698,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, resamples=100),
            (
                0.0954545455,
                -0.385000385,
                0.575909476,
                0.572107514,
                4,
                None,
                None,
                None,
                None,
                0.628175207,
                "bootstrap t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, seed=1),
            (
                0.0954545455,
                -0.403657359,
                0.59456645,
                0.585754222,
                4,
                None,
                None,
                None,
                None,
                0.652568439,
                "bootstrap t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, clusters=list("aabc")),
            (0.0954545455, None, None, 1.0, 4, None, None, None, None, None, "none", None),
        ),
        (
            lambda: paired_corpus_difference(MANY, MORE, ratio),
            (
                0.0548545276,
                -0.135290548,
                0.244999603,
                0.550799601,
                18,
                None,
                None,
                None,
                None,
                0.267947256,
                "bootstrap t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(
                MANY, MORE, ratio, clusters=[k // 3 for k in range(18)]
            ),
            (
                0.0548545276,
                -0.0661469088,
                0.175855964,
                0.296446024,
                18,
                None,
                None,
                None,
                None,
                0.164285846,
                "bootstrap t",
                None,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS[:1], OTHER[:1], ratio),
            (0.166666667, None, None, 1.0, 1, None, None, None, None, None, "none", None),
        ),
    ],
)
def test_paired(compare, expected):
    assert near(compare(), expected)


@pytest.mark.parametrize(
    ("compare", "expected"),
    # Difference, interval; Welch's p-value, Mann and Whitney's, Cliff's delta; n of each.
    [
        (
            lambda: unpaired_difference(A, B),
            (
                0.208333333,
                -0.130821821,
                0.547488487,
                0.193358379,
                0.193358379,
                0.195431419,
                0.472222222,
                6,
                6,
                "welch",
                None,
            ),
        ),
        (
            lambda: unpaired_difference(A, B[:2]),
            (
                -0.025,
                -1.70476458,
                1.65476458,
                0.922106511,
                0.922106511,
                1.0,
                -0.0833333333,
                6,
                2,
                "welch",
                None,
            ),
        ),
        (
            lambda: unpaired_difference(A, B, level=0.8),
            (
                0.208333333,
                0.0034250432,
                0.413241623,
                0.193358379,
                0.193358379,
                0.195431419,
                0.472222222,
                6,
                6,
                "welch",
                None,
            ),
        ),
        (
            lambda: unpaired_difference([1.0], B),
            (0.533333333, None, None, 1.0, None, 0.203040152, 1.0, 1, 6, "none", None),
        ),
        (
            lambda: unpaired_difference(A, [1.0]),
            (-0.325, None, None, 1.0, None, 0.285714286, -1.0, 6, 1, "none", None),
        ),
        (
            lambda: unpaired_difference([1.0, 1.0], [2.0, 2.0]),
            (-1.0, None, None, 1.0, None, 0.193930852, -1.0, 2, 2, "none", None),
        ),
        (
            lambda: unpaired_difference([1.0, 1.0], [2.0, 3.0]),
            (-1.5, None, None, 1.0, 0.204832765, 0.220671362, -1.0, 2, 2, "none", None),
        ),
        (
            lambda: unpaired_difference([5.0, 6.0], [1.0, 2.0]),
            (
                4.0,
                0.957565078,
                7.04243492,
                0.0298574999,
                0.0298574999,
                0.333333333,
                1.0,
                2,
                2,
                "welch",
                None,
            ),
        ),
    ],
)
def test_unpaired(compare, expected):
    assert near(compare(), expected)


def test_the_usual_options():
    usual = paired_difference(LONG_A, LONG_B)
    assert usual == paired_difference(LONG_A, LONG_B, level=0.95, low=None, high=None, margin=None)
    usual = paired_corpus_difference(MANY, MORE, ratio)
    assert usual == paired_corpus_difference(MANY, MORE, ratio, level=0.95, resamples=1000, seed=0)
    assert unpaired_difference(A, B) == unpaired_difference(A, B, level=0.95)


@pytest.mark.parametrize(
    ("n", "method", "smallest"),
    [(1, "t", 1.0), (2, "t", 0.5), (5, "hall", 1 / 16), (6, "t", 0.0), (6, "score", 1 / 64)],
)
def test_the_smallest_p_value(n, method, smallest):
    assert smallest_p_value(n, method) == smallest
    scores = [1.0] * n if method == "score" else [1.0 + k / 7e9 for k in range(n)]
    assert paired_difference(scores, [0.0] * n).p_value == pytest.approx(smallest, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "counted"),
    [
        ([], [], (0, 0, 0)),
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], (1, 1, 1)),
        ([2.0, 3.0, 4.0], [1.0, 1.0, 4.0], (2, 1, 0)),
        ([0.1 + 0.2], [0.3], (0, 1, 0)),
        ([1.0 + 2e-9], [1.0], (1, 0, 0)),
        ([1.0 + 0.5e-9], [1.0], (0, 1, 0)),
        ([2e-12], [0.0], (1, 0, 0)),
        ([0.5e-12], [0.0], (0, 1, 0)),
    ],
)
def test_outcomes(a, b, counted):
    assert outcomes(a, b) == WinCounts(*counted)
    wins, ties, losses = counted
    assert outcomes(b, a) == (losses, ties, wins)
    paired = paired_difference(a, b)
    if paired is not None:
        assert (paired.wins, paired.ties, paired.losses) == counted
        assert (paired.difference == 0.0) is (wins + losses == 0 or wins == losses)


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ([], 1.0),
        ([0.5], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.5, 0.5], 0.0),
        ([0.5, 1.5], 0.295167235),
        ([-0.5, -1.5], 0.295167235),
        ([0.5, 1.5, 0.0], 0.2697032),
        ([1.0, -1.0], 1.0),
    ],
)
def test_paired_t(differences, p_value):
    assert paired_t(differences) == pytest.approx(p_value, rel=1e-6)


@pytest.mark.parametrize("differences", [[1.0], [1.0, 2.0, -3.0, 4.5], [-1.0, -2.0, 2.5, 7.0, 9.0]])
def test_wilcoxon(differences):
    expected = scipy_stats.wilcoxon(differences).pvalue
    assert wilcoxon(differences) == pytest.approx(expected)
    assert wilcoxon([0.0, *differences, 0.0]) == pytest.approx(expected)
    assert wilcoxon([0.0]) == wilcoxon([]) == 1.0


@pytest.mark.parametrize(
    ("wins", "losses", "exact", "mid_p"),
    [
        (0, 0, 1.0, 1.0),
        (1, 0, 1.0, 0.5),
        (0, 1, 1.0, 0.5),
        (2, 0, 0.5, 0.25),
        (1, 1, 1.0, 1.0),
        (3, 1, 0.625, 0.375),
        (9, 1, 0.021484375, 0.01171875),
        (1, 9, 0.021484375, 0.01171875),
        (4, 3, 1.0, 0.7265625),
    ],
)
def test_mcnemar(wins, losses, exact, mid_p):
    assert mcnemar(wins, losses) == pytest.approx((exact, mid_p))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.5, 0.9, 0.6], [1.0, 1.0, 1.0]),
        ([0.01, 0.011, 0.9], [0.03, 0.03, 0.9]),
    ],
)
def test_holm(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: paired_difference([0.1], [0.1, 0.2]),
            ValueError,
            "sequences of 1 and 2 values cannot be paired",
        ),
        (
            lambda: paired_difference({"a": 0.1}, [0.1]),
            TypeError,
            "pair two mappings or two sequences",
        ),
        (
            lambda: paired_difference([0.1], {"a": 0.1}),
            TypeError,
            "pair two mappings or two sequences",
        ),
        (
            lambda: paired_corpus_difference([[1.0]], [[1.0, 2.0]], ratio),
            ValueError,
            "statistics of shapes (1, 1) and (1, 2) cannot be paired",
        ),
    ],
)
def test_what_cannot_be_paired(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_samples_are_paired_by_name_and_repeats_averaged():
    a = {"x": [1.0, 0.0], "y": 0.75, "z": 1.0}
    b = {"y": [0.25, 0.25, 0.25], "x": 0.25, "w": 0.0}
    found = paired_difference(a, b)
    assert found == paired_difference([0.5, 0.75], [0.25, 0.25])
    assert paired_difference({}, {}) is None
    assert paired_difference({"x": 1.0}, {"y": 1.0}) is None
    assert paired_difference([], []) is None
    assert paired_corpus_difference([], [], ratio) is None
    assert unpaired_difference([], [1.0]) is None
    assert unpaired_difference([1.0], []) is None


@pytest.mark.parametrize(
    ("clusters", "tested"),
    [("aaabbb", False), ("aabbcd", False), ("abcdef", True)],
)
def test_fewer_than_five_effective_clusters_show_nothing(clusters, tested):
    found = paired_difference(A, B, clusters=list(clusters))
    assert ((found.low, found.high, found.p_value) == (None, None, 1.0)) is not tested
    rows, other = [[one, 1.0] for one in A], [[one, 1.0] for one in B]
    found = paired_corpus_difference(rows, other, ratio, clusters=list(clusters))
    assert ((found.low, found.high, found.p_value) == (None, None, 1.0)) is not tested


def test_blocks_of_many_samples_are_drawn_with_the_seed():
    draw = np.random.Generator(np.random.PCG64(1))
    rows = np.stack(
        [draw.normal(1, 1, RESAMPLING_LIMIT + 9), np.ones(RESAMPLING_LIMIT + 9)], axis=1
    )
    first, second = (
        paired_corpus_difference(rows, rows[::-1] + 0.01, ratio, resamples=9, seed=seed)
        for seed in (3, 3)
    )
    assert first == second


def test_equal_differences_have_no_effect_size():
    found = paired_difference([0.1, 0.1, 0.1], [0.0, 0.0, 0.0])
    assert (found.effect_size, found.detectable) == (None, None)


def test_differences_are_made_by_name_and_do_not_change():
    paired, unpaired = paired_difference(A, B), unpaired_difference(A, B)
    for found in (paired, unpaired):
        with pytest.raises(AttributeError):
            found.difference = 0.0
        with pytest.raises(TypeError):
            type(found)(*(getattr(found, name) for name in found.__struct_fields__))


def test_equal_values_have_no_direction():
    found = unpaired_difference([0.5, 0.5], [0.5])
    assert (found.difference, found.low, found.high, found.p_welch) == (0.0, None, None, None)
    assert (found.p_mann_whitney, found.cliffs_delta) == (1.0, 0.0)


def test_equal_corpora_are_not_different():
    found = paired_corpus_difference(ROWS, ROWS, ratio)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, None, None, 1.0)
    found = paired_corpus_difference(MANY, MANY, ratio)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_without_repeats_or_spread_there_is_no_effect_size():
    found = paired_difference([0.5] * 6, [0.25] * 6, clusters="abcdef")
    assert (found.effect_size, found.detectable, found.low) == (None, None, None)


def test_what_varies_by_rounding_only_is_constant_at_any_size():
    large = [1e6 + k * 1e-9 for k in range(8)]
    found = paired_difference(large, [0.5] * 8)
    assert (found.method, found.low) == ("none", None)
    rows = [[1e6 + k * 1e-9, 1.0] for k in range(30)]
    found = paired_corpus_difference(rows, [[0.0, 1.0]] * 30, ratio)
    assert (found.method, found.low) == ("none", None)


def test_five_samples_that_differ_show_nothing_of_corpora_either():
    rows = [[1.0 + (k < 5) * 0.5, 1.0] for k in range(30)]
    found = paired_corpus_difference(rows, [[1.0, 1.0]] * 30, ratio)
    assert found.p_value >= 1 / 16
    assert found.low <= 0
    rows = [[1.0 + (k < 15) * 0.5, 1.0] for k in range(30)]
    assert paired_corpus_difference(rows, [[1.0, 1.0]] * 30, ratio).p_value < 0.001


def test_numbers_that_hold_whenever_one_looks():
    """By betting where there is a range, which scores of 0 and 1 have without saying so."""
    zeros = [0.0] * 120
    for values, scale, method in (
        ([float(k % 3 == 0) for k in range(120)], {}, "betting"),
        ([k / 120 for k in range(120)], {"low": 0.0, "high": 1.0}, "betting"),
        ([k / 120 for k in range(120)], {}, "asymptotic"),
        ([k / 120 for k in range(99)], {}, "none"),
    ):
        found = paired_difference(values, zeros[: len(values)], always_valid=True, **scale)
        assert found.method == method
        assert (found.low is None) is (method == "none")


def test_scores_beyond_their_range_widen_it():
    found = paired_difference([3.0, 0.0], [0.0, 0.5], low=0.0, high=1.0)
    assert (found.low, found.high) == (-3.0, 3.0)
    found = paired_difference([1.0, 0.0], [0.0, 0.5], low=0.0, high=2.0)
    assert (found.low, found.high) == (-2.0, 2.0)


def test_two_clusters_have_a_spread_and_no_test():
    found = paired_difference(A, B, clusters=list("aaabbb"))
    assert (found.p_value, found.detectable) == (1.0, None)
    assert paired_corpus_difference(ROWS[:1], OTHER[:1], ratio).detectable is None


HITS = [[float(k % 3 == 0), 1.0] for k in range(100)]
OTHER_HITS = [[float(k % 7 == 0), 1.0] for k in range(100)]


@pytest.mark.parametrize(("n", "method"), [(99, "none"), (100, "asymptotic")])
def test_corpus_scores_that_were_looked_at_have_numbers_from_100_samples_on(n, method):
    found = paired_corpus_difference(HITS[:n], OTHER_HITS[:n], ratio, always_valid=True)
    assert found.method == method


def test_clusters_count_where_one_looks():
    values = [k / 240 for k in range(240)]
    for size, method in ((2, "asymptotic"), (3, "none")):
        clusters = [k // size for k in range(240)]
        found = paired_difference(values, [0.0] * 240, clusters=clusters, always_valid=True)
        assert found.method == method


def test_a_corpus_has_a_thousand_resamples_unless_told_otherwise():
    usual = corpus_tests(MANY, MORE, ratio)
    assert usual.spread == corpus_tests(MANY, MORE, ratio, resamples=1000, seed=0).spread
    assert usual.spread != corpus_tests(MANY, MORE, ratio, resamples=1001, seed=0).spread


def test_two_samples_of_a_corpus_have_a_spread():
    found = paired_corpus_difference(ROWS[:2], OTHER[:2], ratio)
    assert (found.method, found.low) == ("bootstrap t", pytest.approx(-1.6997145))


@pytest.mark.parametrize(
    ("n", "one_way", "shown"),
    [(49, False, False), (50, False, True), (99, True, False), (100, True, True)],
)
@pytest.mark.parametrize("clustered", [False, True])
def test_margins_without_a_range_need_samples_and_more_in_one_direction(
    n, one_way, shown, clustered
):
    values = [-float(k % 3) + (0.0 if one_way else 0.5) for k in range(n)]
    clusters = list(range(n)) if clustered else None
    found = paired_difference(values, [0.0] * n, clusters=clusters, margin=5.0)
    assert (found.p_equivalence < 0.05) is shown


def test_a_range_bounds_clusters_that_are_alike():
    """By their sizes, and scores of 0 and 1 have a range of 1 without saying so."""
    found = paired_difference([0.5] * 7, [0.25] * 7, clusters=list("aabcdef"), low=0.0, high=1.0)
    assert (found.method, found.high) == ("bounded", pytest.approx(0.6164357))
    found = paired_difference([0.0] * 10, [1.0] * 10, clusters=list("aabbccddee"))
    assert (found.low, found.high) == (-1.0, pytest.approx(0.0436475))


def test_means_of_clusters_that_differ_by_rounding_only_are_alike_at_any_size():
    one, two, three = 70000.1, 230000.7, 370000.3
    values = [one, two, three, two, three, one, three, one, two] * 2
    clusters = [k // 3 for k in range(18)]
    found = paired_difference(values, [0.0] * 18, clusters=clusters, low=0.0, high=1e6)
    assert (found.method, found.p_value) == ("bounded", 2**-5)


def test_a_range_bounds_corpus_scores_that_are_alike():
    rows, other = [[1.0, 2.0]] * 30, [[1.0, 4.0]] * 30
    found = paired_corpus_difference(rows, other, ratio, width=1.0)
    assert (found.low, found.high) == pytest.approx((0.1057375, 0.3365575))
    found = paired_corpus_difference([[0.5 + 3e-14, 1.0]] * 30, [[0.5, 1.0]] * 30, ratio, width=1.0)
    assert found.difference == 0.0


def test_a_range_says_what_two_sides_may_differ_by():
    beyond = [1.5, *A[1:]]
    found = [
        unpaired_difference(first, B, low=0.0, high=high, margin=0.9).p_equivalence
        for first, high in ((A, 1.0), (A, 2.0), (beyond, 1.0), (beyond, 1.5))
    ]
    assert found[:2] == pytest.approx([0.0059916, 0.1404608], rel=1e-4)
    assert found[2] == found[3]
    assert unpaired_difference(A, B, margin=0.9).p_equivalence == 1.0


@pytest.mark.parametrize("compare", [paired_difference, unpaired_difference])
def test_a_difference_that_names_no_method_has_none(compare):
    """As those of older files."""
    fields = msgspec.to_builtins(compare(A, B))
    del fields["method"], fields["p_equivalence"]
    found = msgspec.convert(fields, type(compare(A, B)))
    assert (found.method, found.p_equivalence) == ("none", None)
