"""Reliability against published examples, and correlations of simulated scores below a ceiling."""

import numpy as np
import pytest

from evaluators.stats.reliability import ceiling, icc, spearman_brown

# Six targets and four judges: Shrout and Fleiss 1979, table 2.
SHROUT_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]


def test_the_example_of_shrout_and_fleiss():
    found = icc(SHROUT_FLEISS)
    assert found.k == 4
    # Their table 4; the intervals are those of the R package psych for these data.
    assert round(found.single.estimate, 2) == 0.17
    assert round(found.mean.estimate, 2) == 0.44
    assert (round(found.single.low, 2), round(found.single.high, 2)) == (-0.13, 0.72)
    assert (round(found.mean.low, 2), round(found.mean.high, 2)) == (-0.88, 0.91)
    assert found.single.n == found.mean.n == 6


def test_the_mean_is_as_reliable_as_spearman_and_brown_say():
    found = icc(SHROUT_FLEISS)
    assert spearman_brown(found.single.estimate, 4) == pytest.approx(found.mean.estimate)
    assert spearman_brown(0.5, 3) == pytest.approx(0.75)
    assert spearman_brown(0.5, 1) == 0.5
    assert spearman_brown(-0.2, 3) == 0


def test_items_with_different_numbers_of_scores():
    random = np.random.default_rng(0)
    items = [list(random.normal() + random.normal(size=2 + n % 3) * 0.5) for n in range(4000)]
    found = icc([*items, [3.0], []])
    assert found.single.estimate == pytest.approx(1 / 1.25, abs=0.02)
    assert found.single.low < 0.8 < found.single.high
    assert 2 < found.k < 4
    assert found.single.n == 4000


@pytest.mark.parametrize("scores", [[], [[1, 2]], [[1], [2], [3]], [[2, 2], [2, 2]]])
def test_scores_without_repeats_or_variation_have_no_reliability(scores):
    assert icc(scores) is None


def test_scores_that_always_agree_leave_the_interval_open():
    found = icc([[1, 1], [2, 2], [5, 5]])
    assert (found.single.estimate, found.single.low, found.mean.low) == (1, None, None)


def test_scores_that_disagree_within_items_only():
    found = icc([[1, 5], [5, 1], [1, 5]])
    assert found.single.estimate == pytest.approx(-1)
    assert (found.mean.estimate, found.mean.low) == (None, None)


def test_no_correlation_beats_the_ceiling_and_noisy_scores_reach_it():
    random = np.random.default_rng(1)
    truth = random.normal(size=100_000)
    noise = {"judge": 1.0, "people": 0.5}
    judge, people = (
        truth[:, None] + random.normal(size=(len(truth), 3)) * noise[who] for who in noise
    )
    single = icc(judge[:4000].tolist()).single.estimate, icc(people[:4000].tolist()).single.estimate
    assert single == (pytest.approx(0.5, abs=0.03), pytest.approx(0.8, abs=0.03))
    assert np.corrcoef(judge[:, 0], people[:, 0])[0, 1] == pytest.approx(
        ceiling(0.5, 0.8), abs=0.01
    )
    means = ceiling(spearman_brown(0.5, 3), spearman_brown(0.8, 3))
    assert np.corrcoef(judge.mean(1), people.mean(1))[0, 1] == pytest.approx(means, abs=0.01)
    # A judge that hardly agrees with itself agrees better with the truth.
    assert np.corrcoef(judge[:, 0], truth)[0, 1] > 0.7 > np.corrcoef(judge[:, 0], judge[:, 1])[0, 1]
    assert ceiling(-0.1, 0.8) == 0
