"""Slopes against statsmodels, and of judges whose faults are known."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from evaluators.stats.false_discovery import benjamini_hochberg
from evaluators.stats.regression import partial_slope


def answers(n, seed, *, errors=0.0):
    """People's scores of answers of which longer ones are better, and the answers' lengths."""
    random = np.random.default_rng(seed)
    quality = random.normal(3, 1, size=n)
    words = 2 + 0.5 * quality + random.normal(0, 0.5, size=n)
    return random, quality, words, quality + random.normal(0, 1, size=n) * errors


def test_the_slope_is_that_of_least_squares_and_its_error_that_of_hc3():
    random, _, words, people = answers(80, 0)
    judge = 0.7 * people + 0.2 * words + random.normal(size=80)
    found = partial_slope(judge, words, people)
    fit = sm.OLS(judge, sm.add_constant(np.column_stack([words, people]))).fit(cov_type="HC3")
    assert found.interval.estimate == pytest.approx(fit.params[1])
    half = (found.interval.high - found.interval.low) / 2
    from scipy.stats import t

    rest = sm.OLS(words, sm.add_constant(people)).fit().resid
    freedom = (rest**2).sum() ** 2 / (rest**4).sum()
    assert half / t.ppf(0.975, freedom) == pytest.approx(fit.bse[1], rel=0.01)
    assert found.interval.n == 80


def test_two_clusters_far_from_the_others_are_hardly_more_than_one_degree_of_freedom():
    random, _, words, people = answers(80, 0)
    words[:2] = 100, -100
    judge = people + random.normal(size=80)
    found = partial_slope(judge, words, people)
    fit = sm.OLS(judge, sm.add_constant(np.column_stack([words, people]))).fit(cov_type="HC3")
    half = (found.interval.high - found.interval.low) / 2
    assert half > 3.5 * fit.bse[1]


@pytest.mark.parametrize("kind", ["noise", "agrees", "noisy"])
def test_a_judge_without_the_fault_is_rarely_accused(kind):
    accused = 0
    for seed in range(1000):
        random, _, words, people = answers(60, seed)
        judge = {
            "noise": random.normal(size=60),
            "agrees": people,
            "noisy": people + random.normal(size=60),
        }[kind]
        p_value = partial_slope(judge, words, people).p_value
        accused += p_value is not None and p_value <= 0.05
    # Three standard errors of 1,000 tests.
    assert accused <= 50 + 3 * 6.9
    assert (accused == 0) == (kind == "agrees")


def test_a_judge_with_the_fault_is_found_out():
    random, _, words, people = answers(200, 1)
    found = partial_slope(people + 0.5 * words + random.normal(size=200) * 0.5, words, people)
    assert found.p_value < 0.001
    assert found.interval.low < 0.5 < found.interval.high


def test_errors_in_peoples_scores_accuse_no_judge_once_they_are_known():
    random, quality, words, people = answers(20_000, 2, errors=1.0)
    judge = quality + random.normal(size=20_000) * 0.5
    assert partial_slope(judge, words, people).interval.estimate > 0.3
    known = partial_slope(judge, words, people, control_error=1.0)
    assert abs(known.interval.estimate) < 0.1
    assert known.interval.low < 0 < known.interval.high


def test_items_of_one_cluster_count_once():
    random, _, words, people = answers(60, 3)
    judge = people + random.normal(size=60)
    alone = partial_slope(judge, words, people)
    five = [np.repeat(values, 5) for values in (judge, words, people)]
    together = partial_slope(*five, clusters=np.repeat(np.arange(60), 5).tolist())
    assert together.interval.n == 60
    assert together.p_value == pytest.approx(alone.p_value, rel=1e-6)


def test_a_rare_group_says_little():
    random = np.random.default_rng(4)
    people = random.normal(size=40)
    judge = people + random.normal(size=40)
    group = np.zeros(40)
    group[0] = 1
    one = partial_slope(judge, group, people)
    assert one.interval.estimate is not None
    assert (one.interval.low, one.p_value) == (None, None)
    group[1] = 1
    two = partial_slope(judge, group, people)
    # One degree of freedom: 12.7 standard errors on either side.
    assert two.interval.high - two.interval.low > 4


@pytest.mark.parametrize(
    ("judge", "suspect", "people"),
    [
        ([1, 2, 3], [1, 2, 3], [3, 1, 2]),
        ([1, 2, 3, 4], [5, 5, 5, 5], [1, 2, 3, 4]),
        ([1, 2, 3, 5], [1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3, 5], [2, 4, 6, 8], [1, 2, 3, 4]),
    ],
)
def test_what_cannot_be_told_apart_has_no_slope(judge, suspect, people):
    assert partial_slope(judge, suspect, people).interval.estimate is None


def test_people_who_always_give_the_same_score():
    found = partial_slope([1, 2, 3, 5, 4], [1, 2, 3, 4, 5], [3] * 5)
    assert found.interval.estimate == pytest.approx(0.9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_false_discoveries_against_statsmodels(p_values):
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert benjamini_hochberg(p_values) == pytest.approx(list(expected))


def test_no_tests_no_discoveries():
    assert benjamini_hochberg([]) == []
