"""Agreement against scipy, scikit-learn and the formulas' own definitions; real ratings."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_data import vicuna_rows
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from evaluators.stats.agreement import (
    Pairs,
    alpha_of_sums,
    alpha_statistics,
    fleiss,
    fleiss_of_sums,
    fleiss_statistics,
    krippendorff,
    weighted_share,
)
from evaluators.stats.intervals import wilson


@pytest.fixture(scope="module")
def columns():
    rows = vicuna_rows()
    return [list(column) for column in zip(*(row["gpt4_score"] for row in rows), strict=True)]


@pytest.mark.parametrize(
    ("one", "other", "pearson", "spearman", "kappa", "quadratic"),
    [
        (0, 1, 0.7992, 0.6894, 0.5473, 0.7985),
        (0, 2, 0.8043, 0.7276, 0.5802, 0.8037),
        (1, 2, 0.8221, 0.7529, 0.6174, 0.8197),
    ],
)
def test_gpt4_against_itself(columns, one, other, pearson, spearman, kappa, quadratic):
    pairs = Pairs(columns[one], columns[other])
    found = [pairs.pearson(), pairs.spearman(), pairs.kappa(), pairs.kappa("quadratic")]
    assert [round(interval.estimate, 4) for interval in found] == [
        pearson,
        spearman,
        kappa,
        quadratic,
    ]
    for interval in found:
        assert interval.n == 320
        assert interval.low < interval.estimate < interval.high
        assert interval.method == "percentile"


def test_three_columns_of_gpt4(columns):
    alpha = krippendorff(columns, level="interval")
    assert alpha.estimate == pytest.approx(reference_alpha(columns, lambda a, b: (a - b) ** 2))
    assert alpha.low < alpha.estimate < alpha.high
    kappa = fleiss(columns)
    assert kappa.estimate == pytest.approx(reference_fleiss(columns))


SCORES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=3, max_size=40)


@settings(deadline=None, max_examples=60)
@given(SCORES)
def test_pairs_against_scipy_and_scikit_learn(found):
    a, b = (list(column) for column in zip(*found, strict=True))
    pairs = Pairs(a, b)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert pairs.pearson().estimate == pytest.approx(scipy_stats.pearsonr(a, b)[0], abs=1e-9)
        assert pairs.spearman().estimate == pytest.approx(scipy_stats.spearmanr(a, b)[0], abs=1e-9)
        assert pairs.kendall().estimate == pytest.approx(scipy_stats.kendalltau(a, b)[0], abs=1e-9)
    else:
        assert pairs.pearson().estimate is None
    if len({*a, *b}) > 1:
        for ours, theirs in (("none", None), ("linear", "linear"), ("quadratic", "quadratic")):
            expected = cohen_kappa_score(a, b, weights=theirs)
            if math.isfinite(expected):
                assert pairs.kappa(ours).estimate == pytest.approx(expected, abs=1e-9)
    assert pairs.within().estimate == pytest.approx(np.mean(np.equal(a, b)))
    assert pairs.within(1).estimate == pytest.approx(np.mean(np.abs(np.subtract(a, b)) <= 1))
    assert pairs.bias().estimate == pytest.approx(np.mean(np.subtract(a, b)))
    assert pairs.ordered().estimate == pytest.approx(reference_ordered(a, b), nan_ok=True)


def reference_ordered(a, b):
    credit = [
        0.5 if x == y else float((x - y) * (u - v) > 0)
        for (x, u), (y, v) in itertools.combinations(zip(a, b, strict=True), 2)
        if u != v
    ]
    return sum(credit) / len(credit) if credit else None


def reference_alpha(ratings, apart):
    """By its definition, over pairs of ratings."""
    units = [[one for one in unit if one is not None] for unit in zip(*ratings, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    n = sum(map(len, units))
    observed = sum(
        sum(apart(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1)
        for unit in units
    )
    everything = [one for unit in units for one in unit]
    by_chance = sum(apart(a, b) for a, b in itertools.permutations(everything, 2))
    return 1 - (n - 1) * observed / by_chance


def reference_fleiss(ratings):
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    table, _ = aggregate_raters(np.array(ratings).T)
    return fleiss_kappa(table)


RATINGS = st.integers(2, 5).flatmap(
    lambda items: st.lists(
        st.lists(st.none() | st.integers(1, 5), min_size=items, max_size=items),
        min_size=2,
        max_size=4,
    )
)


@settings(deadline=None, max_examples=60)
@given(RATINGS)
def test_alpha_against_its_definition(ratings):
    for level, apart in (
        ("nominal", lambda a, b: float(a != b)),
        ("interval", lambda a, b: float((a - b) ** 2)),
    ):
        found = krippendorff(ratings, level=level)
        try:
            expected = reference_alpha(ratings, apart)
        except ZeroDivisionError:
            assert found.estimate is None
        else:
            assert found.estimate == pytest.approx(expected)
            if level == "interval":
                units = [
                    [one for one in unit if one is not None] for unit in zip(*ratings, strict=True)
                ]
                sums = np.sum([alpha_statistics(unit) for unit in units], axis=0)
                assert alpha_of_sums(sums) == pytest.approx(expected)


def test_alpha_of_krippendorffs_own_example():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D.
    n = None
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]
    assert krippendorff(ratings, level="nominal").estimate == pytest.approx(0.743, abs=5e-4)
    assert krippendorff(ratings, level="ordinal").estimate == pytest.approx(0.815, abs=5e-4)
    assert krippendorff(ratings, level="interval").estimate == pytest.approx(0.849, abs=5e-4)


def test_fleiss_own_example():
    # Fleiss 1971, table 1: 30 subjects, 6 raters; kappa .430.
    table = [
        "0,0,0,6,0",
        "0,3,0,0,3",
        "0,1,4,0,1",
        "0,0,0,0,6",
        "0,3,0,3,0",
        "2,0,4,0,0",
        "0,0,4,0,2",
        "2,0,3,1,0",
        "2,0,0,4,0",
        "0,0,0,0,6",
        "1,0,0,5,0",
        "1,1,0,4,0",
        "0,3,3,0,0",
        "1,0,0,5,0",
        "0,2,0,3,1",
        "0,0,5,0,1",
        "3,0,0,1,2",
        "5,1,0,0,0",
        "0,2,0,4,0",
        "1,0,2,0,3",
        "0,0,0,0,6",
        "0,1,0,5,0",
        "0,2,0,1,3",
        "2,0,0,4,0",
        "1,0,0,4,1",
        "0,5,0,1,0",
        "4,0,0,0,2",
        "0,2,0,4,0",
        "1,0,5,0,0",
        "0,0,0,0,6",
    ]
    items = [
        [label for label, count in enumerate(map(int, row.split(","))) for _ in range(count)]
        for row in table
    ]
    found = fleiss([list(rater) for rater in zip(*items, strict=True)])
    assert found.estimate == pytest.approx(0.430, abs=5e-4)
    sums = np.sum([fleiss_statistics(item, range(5)) for item in items], axis=0)
    assert fleiss_of_sums(sums) == pytest.approx(found.estimate)
    assert fleiss_of_sums(fleiss_statistics([3, 3], range(5))) == 0


def test_clusters_widen_the_interval(columns):
    alone = Pairs(columns[0], columns[1]).bias()
    together = Pairs(columns[0], columns[1], clusters=[n // 40 for n in range(320)]).bias()
    assert alone.estimate == together.estimate
    assert alone != together


def test_intervals_cover_what_is_true():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        a = random.normal(size=60)
        b = 0.6 * a + 0.8 * random.normal(size=60)
        found = Pairs(a, b).pearson()
        covered += found.low <= 0.6 <= found.high
    assert 180 <= covered <= 199


def test_confusion_counts_every_item(columns):
    values, counts = Pairs(columns[0], columns[1]).confusion()
    assert values == [1, 2, 3, 4, 5]
    assert sum(map(sum, counts)) == 320
    assert counts[4][4] == sum(a == b == 5 for a, b in zip(columns[0], columns[1], strict=True))
    assert counts[3][4] == sum(
        a == 5 and b == 4 for a, b in zip(columns[0], columns[1], strict=True)
    )


def test_nothing_and_too_little():
    assert Pairs([], []).pearson().n == 0
    assert Pairs([], []).confusion() == ([], [])
    single = Pairs([3], [3])
    assert (single.within().estimate, single.within().low) == (1.0, wilson(1, 1).low)
    assert single.pearson().estimate is None
    assert krippendorff([[1, None], [None, 2]]).n == 0
    with pytest.raises(ValueError, match="cannot be paired"):
        Pairs([1], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        Pairs([math.nan], [1])
    with pytest.raises(ValueError, match="two or more raters"):
        fleiss([[1, 2]])


def test_many_different_scores_still_fit():
    random = np.random.default_rng(0)
    a = random.normal(size=1000)
    b = np.round(a + random.normal(size=1000))
    assert Pairs(a, b).kendall().estimate == pytest.approx(scipy_stats.kendalltau(a, b)[0])


# Raters who agree on every item seen


@pytest.mark.parametrize("clusters", [None, [n // 2 for n in range(20)]])
def test_perfect_agreement_leaves_room_for_doubt(clusters):
    scores = [1 + n % 5 for n in range(20)]
    pairs = Pairs(scores, scores, clusters=clusters)
    measures = [pairs.pearson(), pairs.spearman(), pairs.kendall(), pairs.ordered()]
    measures += [pairs.kappa(), pairs.kappa("linear"), pairs.kappa("quadratic"), pairs.within()]
    measures += [krippendorff([scores, scores]), fleiss([scores, scores])]
    for interval in measures:
        assert interval.estimate == pytest.approx(1)
        assert 0.1 < interval.low < 0.97
        assert interval.high == pytest.approx(1)
    assert pairs.bias().estimate == 0


def test_items_of_a_cluster_count_as_one_as_far_as_they_are_alike():
    random = np.random.default_rng(0)
    scores = random.integers(1, 6, size=60)
    other = np.where(random.random(60) < 0.9, scores, random.integers(1, 6, size=60))

    def width(a, b, clusters=None):
        interval = Pairs(a, b, clusters=clusters).pearson()
        return interval.high - interval.low

    alone = width(scores, other)
    copies = width(np.repeat(scores, 5), np.repeat(other, 5), np.repeat(np.arange(60), 5).tolist())
    assert copies == pytest.approx(alone, rel=0.2)
    # Clusters whose items have nothing in common.
    assert width(scores, other, (np.arange(60) % 20).tolist()) == pytest.approx(alone, rel=0.4)


def kappa_table(agree, shares, random, n):
    same = random.random(n) < agree
    first = random.choice(len(shares), p=shares, size=n)
    return first, np.where(same, first, random.choice(len(shares), p=shares, size=n))


@pytest.mark.parametrize("agree", [0.8, 0.95])
def test_the_intervals_of_kappa_hold_for_few_items_and_high_agreement(agree):
    random = np.random.default_rng(5)
    held = 0
    for seed in range(400):
        pairs = Pairs(*kappa_table(agree, [0.2] * 5, random, 20), seed=seed)
        interval = pairs.kappa("quadratic")
        held += interval.low <= agree <= interval.high
    # The share of the usual bootstrap's intervals: .82 and .51.
    assert held / 400 >= 0.93


def test_fewer_than_five_effective_clusters_have_no_interval():
    judge, people = [1.0, 2, 3, 4, 5, 3, 2, 4], [1.0, 2, 3, 5, 5, 3, 1, 4]
    for clusters, enough in (("aabcdefg", True), ("abcdefgh", True), ("aabbccdd", False)):
        found = Pairs(judge, people, clusters=clusters).pearson()
        assert (found.low is not None) is enough
        assert found.estimate == pytest.approx(scipy_stats.pearsonr(judge, people).statistic)
    assert weighted_share([(1, 2)] * 5).low is not None
    few = weighted_share([(1, 2)] * 4)
    assert (few.estimate, few.low, few.n) == (0.5, None, 4)
    giant = weighted_share([(90, 100), *[(1, 2)] * 9])
    assert (giant.estimate, giant.low) == (pytest.approx(99 / 118), None)
