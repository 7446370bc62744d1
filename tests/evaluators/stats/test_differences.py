"""Numbers of the comparisons, kept as they are: `test_stats.py` shows that they are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evaluators.stats.differences import (
    EXACT_LIMIT,
    PERMUTATIONS,
    WinCounts,
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
    # Difference, interval, p-value, n; wins, ties, losses; effect size, detectable difference.
    [
        (
            lambda: paired_difference(A, B),
            (0.208333333, -0.0433595948, 0.482518688, 0.1875, 6, 4, 1, 1, 0.833889445, 0.355971902),
        ),
        (
            lambda: paired_difference(B, A),
            (
                -0.208333333,
                -0.482518688,
                0.0433595948,
                0.1875,
                6,
                1,
                1,
                4,
                -0.833889445,
                0.355971902,
            ),
        ),
        (
            lambda: paired_difference(A, B, level=0.8),
            (0.208333333, 0.0618581782, 0.363253528, 0.1875, 6, 4, 1, 1, 0.833889445, 0.355971902),
        ),
        (
            lambda: paired_difference(A, B, clusters=list("aabbcc")),
            (0.208333333, 0.0520430963, 0.36462357, 0.25, 6, 4, 1, 1, 0.833889445, 0.194817825),
        ),
        (
            lambda: paired_difference(A, B, clusters=list("aaaaaa")),
            (0.208333333, None, None, 1.0, 6, 4, 1, 1, 0.833889445, None),
        ),
        (
            lambda: paired_difference(A, B, clusters=list("abcdef")),
            (0.208333333, -0.0538506124, 0.470517279, 0.1875, 6, 4, 1, 1, 0.833889445, 0.355971902),
        ),
        (
            lambda: paired_difference(LONG_A, LONG_B),
            (0.326111111, 0.166951326, 0.494971404, 0.0002, 30, 23, 1, 6, 0.74345441, 0.232199885),
        ),
        (
            lambda: paired_difference(LONG_A, LONG_B, permutations=99),
            (0.326111111, 0.166951326, 0.494971404, 0.01, 30, 23, 1, 6, 0.74345441, 0.232199885),
        ),
        (
            lambda: paired_difference(LONG_A, LONG_B, seed=1),
            (0.326111111, 0.166951326, 0.494971404, 0.0003, 30, 23, 1, 6, 0.74345441, 0.232199885),
        ),
        (
            lambda: paired_difference(LONG_A, LONG_B, clusters=[k // 3 for k in range(30)]),
            (
                0.326111111,
                0.192778655,
                0.459443568,
                0.001953125,
                30,
                23,
                1,
                6,
                0.74345441,
                0.185400637,
            ),
        ),
        (
            lambda: paired_difference(LONG_A[:14], LONG_B[:14]),
            (
                0.278571429,
                0.0884854373,
                0.469800192,
                0.0102539062,
                14,
                11,
                1,
                2,
                0.843631511,
                0.267446515,
            ),
        ),
        (
            lambda: paired_difference(LONG_A[:15], LONG_B[:15]),
            (0.338888889, 0.136920834, 0.579203034, 0.0049, 15, 12, 1, 2, 0.858510443, 0.307073542),
        ),
        (
            lambda: paired_difference([1.0, 1.0], [0.5, 0.5]),
            (0.5, 0.5, 0.5, 0.5, 2, 2, 0, 0, None, None),
        ),
        (
            lambda: paired_difference([1.0, 2.0], [0.5, 1.5]),
            (0.5, 0.5, 0.5, 0.5, 2, 2, 0, 0, None, None),
        ),
        (lambda: paired_difference([1.0], [0.5]), (0.5, None, None, 1.0, 1, 1, 0, 0, None, None)),
        (
            lambda: paired_difference([1.0, 0.0], [0.0, 1.0]),
            (0.0, -12.7062047, 12.7062047, 1.0, 2, 1, 0, 1, 0.0, 14.0825867),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio),
            (
                0.0954545455,
                -0.0804924242,
                0.380952381,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.554347838,
            ),
        ),
        (
            lambda: paired_corpus_difference(OTHER, ROWS, ratio),
            (
                -0.0954545455,
                -0.380952381,
                0.0804924242,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.554347838,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, level=0.8),
            (
                0.0954545455,
                -0.0444444444,
                0.329411765,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.554347838,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, resamples=100),
            (
                0.0954545455,
                -0.0865097636,
                0.415952381,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.544015687,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, seed=1),
            (
                0.0954545455,
                -0.0804924242,
                0.380952381,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.565140846,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, clusters=list("aabc")),
            (0.0954545455, -0.111111111, 0.380952381, 0.75, 4, None, None, None, None, 0.697217902),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, permutations=7),
            (
                0.0954545455,
                -0.0804924242,
                0.380952381,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.554347838,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS, OTHER, ratio, permutations=8),
            (
                0.0954545455,
                -0.0804924242,
                0.380952381,
                0.625,
                4,
                None,
                None,
                None,
                None,
                0.554347838,
            ),
        ),
        (
            lambda: paired_corpus_difference(MANY, MORE, ratio),
            (
                0.0548545276,
                -0.120923343,
                0.220899471,
                0.5234,
                18,
                None,
                None,
                None,
                None,
                0.260397927,
            ),
        ),
        (
            lambda: paired_corpus_difference(MANY, MORE, ratio, permutations=99, seed=2),
            (
                0.0548545276,
                -0.110209219,
                0.215903242,
                0.41,
                18,
                None,
                None,
                None,
                None,
                0.250300648,
            ),
        ),
        (
            lambda: paired_corpus_difference(ROWS[:1], OTHER[:1], ratio),
            (0.166666667, None, None, 1.0, 1, None, None, None, None, None),
        ),
        (
            lambda: paired_corpus_difference(ROWS[:2], OTHER[:2], ratio),
            (0.380952381, 0.166666667, 0.5, 0.5, 2, None, None, None, None, 1.63062517),
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
            (0.208333333, -0.130821821, 0.547488487, 0.193358379, 0.195431419, 0.472222222, 6, 6),
        ),
        (
            lambda: unpaired_difference(A, B[:2]),
            (-0.025, -1.70476458, 1.65476458, 0.922106511, 1.0, -0.0833333333, 6, 2),
        ),
        (
            lambda: unpaired_difference(A, B, level=0.8),
            (0.208333333, 0.0034250432, 0.413241623, 0.193358379, 0.195431419, 0.472222222, 6, 6),
        ),
        (
            lambda: unpaired_difference([1.0], B),
            (0.533333333, None, None, None, 0.203040152, 1.0, 1, 6),
        ),
        (
            lambda: unpaired_difference(A, [1.0]),
            (-0.325, None, None, None, 0.285714286, -1.0, 6, 1),
        ),
        (
            lambda: unpaired_difference([1.0, 1.0], [2.0, 2.0]),
            (-1.0, None, None, None, 0.193930852, -1.0, 2, 2),
        ),
        (
            lambda: unpaired_difference([1.0, 1.0], [2.0, 3.0]),
            (-1.5, -7.85310237, 4.85310237, 0.204832765, 0.220671362, -1.0, 2, 2),
        ),
        (
            lambda: unpaired_difference([5.0, 6.0], [1.0, 2.0]),
            (4.0, 0.957565078, 7.04243492, 0.0298574999, 0.333333333, 1.0, 2, 2),
        ),
    ],
)
def test_unpaired(compare, expected):
    assert near(compare(), expected)


def test_the_usual_options():
    usual = paired_difference(LONG_A, LONG_B)
    assert usual == paired_difference(LONG_A, LONG_B, level=0.95, permutations=9999, seed=0)
    usual = paired_corpus_difference(MANY, MORE, ratio)
    assert usual == paired_corpus_difference(
        MANY, MORE, ratio, level=0.95, resamples=1000, permutations=9999, seed=0
    )
    assert unpaired_difference(A, B) == unpaired_difference(A, B, level=0.95)
    assert (EXACT_LIMIT, PERMUTATIONS) == (14, 9999)


@pytest.mark.parametrize(
    ("n", "permutations", "smallest"),
    [
        (1, 9999, 1.0),
        (2, 9999, 0.5),
        (6, 9999, 1 / 32),
        (14, 9999, 2**-13),
        (15, 9999, 1 / 10_000),
        (15, 99, 1 / 100),
        (RESAMPLING_LIMIT, 9999, 1 / 10_000),
        (RESAMPLING_LIMIT + 1, 9999, 0.0),
    ],
)
def test_the_smallest_p_value(n, permutations, smallest):
    assert smallest_p_value(n, permutations=permutations) == smallest
    assert smallest_p_value(15) == 1 / 10_000
    if n < 100:
        ones, zeros = [1.0 + k / 7 for k in range(n)], [0.0] * n
        assert paired_difference(ones, zeros, permutations=permutations).p_value == smallest


@pytest.mark.parametrize("n", [RESAMPLING_LIMIT, RESAMPLING_LIMIT + 1])
def test_many_pairs_are_not_flipped(n):
    draw = np.random.Generator(np.random.PCG64(n))
    differences = draw.normal(0.015, 1, n)
    found = paired_difference(differences, np.zeros(n), permutations=49)
    assert (found.p_value == paired_t(differences)) is (n > RESAMPLING_LIMIT)


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


def test_two_clusters_have_a_spread():
    found = paired_difference(A, B, clusters=list("aaabbb"))
    assert near(
        found,
        (
            0.20833333333333334,
            0.10244829386521101,
            0.3142183728014557,
            0.5,
            6,
            4,
            1,
            1,
            0.8338894450624493,
            0.1173548888053821,
        ),
    )


def test_blocks_of_many_samples_are_drawn_with_the_seed():
    draw = np.random.Generator(np.random.PCG64(1))
    rows = np.stack(
        [draw.normal(1, 1, RESAMPLING_LIMIT + 9), np.ones(RESAMPLING_LIMIT + 9)], axis=1
    )
    first, second = (
        paired_corpus_difference(
            rows, rows[::-1] + 0.01, ratio, resamples=9, permutations=9, seed=seed
        )
        for seed in (3, 3)
    )
    assert first == second


def test_exchanges_are_drawn_where_they_are_too_many():
    found = paired_corpus_difference(ROWS, OTHER, ratio, permutations=5)
    assert found.p_value == pytest.approx(0.5)
    assert found.p_value != paired_corpus_difference(ROWS, OTHER, ratio, permutations=8).p_value


@pytest.mark.parametrize("scale", [0.1, 0.3e-3, 1e8 / 3, 1e12 / 7])
@pytest.mark.parametrize("whole", [[3, -1, -2, 1], [1, 2, 3, -4], [7, 1, 2, -3, -3]])
def test_sums_that_are_equal_but_for_rounding_are_equal(whole, scale):
    zeros = [0.0] * len(whole)
    expected = paired_difference([float(n) for n in whole], zeros).p_value
    assert paired_difference([n * scale for n in whole], zeros).p_value == expected


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
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    found = paired_corpus_difference(MANY, MANY, ratio, permutations=99)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_without_repeats_or_spread_there_is_no_effect_size():
    found = paired_difference([0.5, 0.5, 0.5], [0.25, 0.25, 0.25], clusters="aab")
    assert (found.effect_size, found.detectable, found.low) == (None, None, 0.25)
