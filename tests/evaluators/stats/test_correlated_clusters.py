"""Degrees of freedom over clusters of different sizes, against whole matrices and simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evaluators.stats.correlated_clusters import correlated_freedom
from evaluators.stats.intervals import clustered_error, clustered_t

SIZES = np.array([30, 20, 10, 5, 5, 4, 3, 3, 2, 2, 2, 1])


def clustered(sizes, share, seed=0):
    """Draw normal values whose intraclass correlation is `share`, and the cluster of each."""
    draw = np.random.Generator(np.random.PCG64(seed))
    index = np.repeat(np.arange(len(sizes)), sizes)
    effects = draw.normal(0, share**0.5, len(sizes))[index]
    return effects + draw.normal(0, (1 - share) ** 0.5, len(index)), index


def correlation(values, index):
    """Return the intraclass correlation by the table of the analysis of variance."""
    groups = [values[index == cluster] for cluster in np.unique(index)]
    sizes = np.array([len(group) for group in groups])
    n, k = len(values), len(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (n - k)
    between = sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups) / (k - 1)
    shared = max(0, (between - within) / ((n - (sizes**2).sum() / n) / (k - 1)))
    return shared / (shared + within)


def misses(sizes, share, quantile, draws=200_000):
    """Return how often a mean is further from zero than the quantile, in standard errors."""
    draw = np.random.Generator(np.random.PCG64(1))
    sums = draw.normal(size=(draws, len(sizes))) * np.sqrt(sizes * (1 - share + share * sizes))
    total, shares = sums.sum(axis=1), sizes / sizes.sum()
    variances = ((sums - np.outer(total, shares)) ** 2 / (1 - shares)).sum(axis=1)
    return float((total**2 > quantile**2 * variances).mean())


@pytest.mark.parametrize("seed", [0, 2])
def test_the_tail_at_the_quantile_is_that_of_correlated_samples(seed):
    values, index = clustered(SIZES, 0.3, seed)
    _, plain = clustered_error(values, index.tolist())
    freedom = correlated_freedom(values, index, plain)
    quantile = scipy_stats.t.ppf(0.975, plain)
    expected = misses(SIZES, correlation(values, index), quantile)
    assert 1 < freedom < plain
    assert 2 * scipy_stats.t.sf(quantile, freedom) == pytest.approx(expected, abs=0.002)


def test_clusters_of_one_size_have_one_fewer():
    values, index = clustered([4] * 9, 0.5)
    assert clustered_t(values, index.tolist())[1] == pytest.approx(8)


def test_there_are_never_more_than_without_a_correlation():
    # As unlike within each cluster as can be: the correlation counts as zero.
    index = np.repeat(np.arange(8), [2, 2, 4, 4, 6, 6, 8, 8])
    values = np.tile([1.0, -1.0], len(index) // 2)
    _, plain = clustered_error(values, index.tolist())
    assert plain - 1 < correlated_freedom(values, index, plain) <= plain


def test_the_unit_does_not_matter():
    values, index = clustered(SIZES, 0.3)
    assert correlated_freedom(values * 1e-200, index, 5.0) == pytest.approx(
        correlated_freedom(values, index, 5.0)
    )


def test_constant_values_have_no_correlation():
    index = np.repeat(np.arange(3), [1, 2, 3])
    _, plain = clustered_error(np.zeros(6), index.tolist())
    assert 0 < correlated_freedom(np.zeros(6), index, plain) <= plain


def test_hundreds_of_sizes_are_rounded():
    sizes = np.unique(np.geomspace(1, 20_000, 400).astype(int))
    assert len(sizes) > 200
    values, index = clustered(sizes, 0.2)
    _, plain = clustered_error(values, index.tolist())
    quantile = scipy_stats.t.ppf(0.975, plain)
    freedom = correlated_freedom(values, index, plain)
    expected = misses(sizes, correlation(values, index), quantile, draws=20_000)
    assert 2 * scipy_stats.t.sf(quantile, freedom) == pytest.approx(expected, abs=0.006)
