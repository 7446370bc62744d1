"""Shares and differences of a judge of 0 and 1, corrected by its errors elsewhere."""

import numpy as np
import pytest

from evaluators.stats.intervals import Interval, mean_interval, wilson
from evaluators.stats.judge_errors import JudgeErrors, effective_counts, judge_errors


def errors(good=(90, 100), bad=(70, 100)):
    return JudgeErrors(sensitivity=wilson(*good), specificity=wilson(*bad))


def test_errors_are_those_of_good_and_of_bad_answers():
    measured = judge_errors([1, 1, 0, 0, 0.5, 1], [1, 1, 1, 0, 0, 0.5])
    assert (measured.sensitivity.estimate, measured.sensitivity.n) == (0.75, 4)
    assert (measured.specificity.estimate, measured.specificity.n) == (0.75, 2)


@pytest.mark.parametrize("counts", [(54, 100), (0, 20), (20, 20), (1, 2000)])
def test_counts_are_read_back_from_an_interval(counts):
    assert effective_counts(wilson(*counts)) == pytest.approx(counts)


def test_the_wider_side_of_an_interval_counts():
    lopsided = Interval(estimate=0.5, low=0.4, high=0.8, n=100)
    even = Interval(estimate=0.5, low=0.2, high=0.8, n=100)
    assert effective_counts(lopsided) == pytest.approx(effective_counts(even))
    assert effective_counts(Interval(estimate=0.5, low=None, high=None, n=1)) is None


def test_a_share_is_that_of_rogan_and_gladen():
    share = errors().share(wilson(1080, 2000))
    assert share.estimate == pytest.approx(0.4)
    # By hand: the standard error is 0.054, most of it of the 100 bad answers.
    assert share.low == pytest.approx(0.40 - 0.106, abs=0.01)
    assert share.high == pytest.approx(0.40 + 0.106, abs=0.01)
    assert share.n == 2000


def test_clusters_widen_the_interval():
    alone = errors().share(mean_interval([1, 0] * 200, low=0, high=1))
    clusters = [n // 10 for n in range(400)]
    values = [int(cluster % 2) for cluster in clusters]
    together = errors().share(mean_interval(values, clusters=clusters, low=0, high=1))
    assert together.estimate == pytest.approx(alone.estimate)
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_the_interval_of_a_share_holds_with_clusters():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        # Ten answers to each of 40 questions; some questions are easy.
        easy = random.beta(2, 3, size=40)
        good = random.random((40, 10)) < easy[:, None]
        verdicts = np.where(good, random.random((40, 10)) < 0.9, random.random((40, 10)) < 0.3)
        clusters = np.repeat(np.arange(40), 10).tolist()
        judged = mean_interval(verdicts.ravel().astype(float), clusters=clusters, low=0, high=1)
        people = [1.0] * 80 + [0.0] * 80
        judge = [*(random.random(80) < 0.9), *(random.random(80) < 0.3)]
        share = judge_errors(list(map(float, judge)), people).share(judged)
        held += share is None or share.low <= 0.4 <= share.high
    assert held / 400 >= 0.93


def test_a_difference_is_one_where_the_judges_is_one():
    of = errors()
    for low, estimate, high in ((0.01, 0.1, 0.2), (-0.01, 0.1, 0.2), (-0.2, -0.1, -0.01)):
        corrected, lower, upper = of.difference(estimate, low, high)
        assert corrected == pytest.approx(estimate / 0.6)
        assert lower < corrected < upper
        assert (lower > 0, upper < 0) == (low > 0, high < 0)
    assert of.difference(0.0, 0.0, 0.0) == (0, 0, 0)
    assert of.difference(0.9, 0.8, 1.0)[::2] == (1, 1)


def test_the_interval_of_a_difference_holds():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        p, q, n = 0.54, 0.42, 500
        first, second = random.binomial(n, p) / n, random.binomial(n, q) / n
        half = 1.96 * ((first * (1 - first) + second * (1 - second)) / n) ** 0.5
        of = errors((random.binomial(100, 0.9), 100), (random.binomial(100, 0.7), 100))
        ends = of.difference(first - second, first - second - half, first - second + half)
        held += ends is None or ends[1] <= 0.2 <= ends[2]
    assert held / 1000 >= 0.935


def test_nothing_is_corrected_by_a_judge_that_is_no_better_than_chance():
    for of in (errors((6, 10), (5, 10)), errors((30, 100), (30, 100)), judge_errors([1.0], [1.0])):
        assert of.youden is None
        assert of.share(wilson(50, 100)) is None
        assert of.difference(0.1, 0.0, 0.2) is None
    unknown = Interval(estimate=None, low=None, high=None, n=0)
    assert errors().share(unknown) is None
