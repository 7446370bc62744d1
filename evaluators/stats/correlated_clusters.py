"""Degrees of freedom of a mean over clusters whose samples are alike and whose sizes differ.

    freedom = correlated_freedom(values, index, plain)     -> plain, or fewer

Bell and McCaffrey's degrees of freedom, `clustered_error`'s, are those of independent samples.
Where the samples of a cluster are alike, a large cluster's sum varies more than its size says, and
it moves the mean and the standard error together: Student's t is beyond its quantile too often.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.exponential_sums import chance_below_zero
from evaluators.stats.inversion import crossing
from evaluators.stats.resampling import Floats

# The chance that the quantile should have, on both sides together.
_LEVEL = 0.05
_ROUNDING = 1e-9
# More sizes than this are rounded to steps of 5%: their matrix would take seconds.
_SIZES = 200
_STEP = 1.05


def correlated_freedom(values: Floats, index: NDArray[np.intp], freedom: float) -> float:
    """Return the degrees of freedom with which Student's t has the tails of a clustered mean.

    For normal samples with the intraclass correlation that the values have, the chance of a mean
    beyond the quantile of Student's t is that of a quadratic form, and exact; the degrees of
    freedom are those that give Student's t the same chance there. They are never more than what
    they were, and the same for clusters of one size.

    Args:
        values: shape (n,).
        index: the cluster of each value, from 0 to k - 1, shape (n,).
        freedom: of `clustered_error`.
    """
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415  (a third of a second to import)

    members = np.bincount(index).astype(np.float64)
    if members.min() == members.max():
        return freedom
    correlation = _correlation(values, index, members)
    quantile = float(stdtrit(freedom, 1 - _LEVEL / 2))
    chance = _chance_beyond(quantile, members, correlation)
    if chance <= _LEVEL + _ROUNDING:
        return freedom
    return crossing(lambda fewer: chance - 2 * float(stdtr(fewer, -quantile)), 1.0, freedom)


def _correlation(values: Floats, index: NDArray[np.intp], members: Floats) -> float:
    """Return the intraclass correlation by the analysis of variance, 0 or more."""
    n, k = len(values), len(members)
    deviations = values - values.mean()
    deviations /= float(np.abs(deviations).max()) or 1.0
    means = np.bincount(index, weights=deviations) / members
    within = float(((deviations - means[index]) ** 2).sum()) / (n - k)
    between = float((members * means**2).sum()) / (k - 1)
    size = (n - float((members**2).sum()) / n) / (k - 1)
    shared = max(0.0, (between - within) / size)
    return shared / (shared + within) if shared else 0.0


def _chance_beyond(quantile: float, members: Floats, correlation: float) -> float:
    """Return the chance that |mean| exceeds the quantile times its CR2 standard error.

    With sums Y of variances v, shares p and d = 1 / (1 - p), that is the chance that
    sum(Y)^2 - quantile^2 * sum(d * (Y - p * sum(Y))^2) is above zero. Its matrix is diagonal but
    for two vectors, so clusters of one size share all eigenvalues but one.
    """
    sizes, counts = _sizes(members)
    shares = sizes / members.sum()
    roots = np.sqrt(sizes * (1 - correlation + correlation * sizes))
    inflated = 1 / (1 - shares)
    square = quantile**2
    diagonal = -square * roots**2 * inflated
    first = roots * np.sqrt(counts)
    second = first * inflated * shares
    center = float((counts * inflated * shares**2).sum())
    matrix = np.diag(diagonal) + (1 - square * center) * np.outer(first, first)
    matrix += square * (np.outer(first, second) + np.outer(second, first))
    eigenvalues = np.concatenate([np.linalg.eigvalsh(matrix), diagonal])
    shapes = np.concatenate([np.full(len(sizes), 0.5), (counts - 1) / 2])
    return 1 - chance_below_zero(eigenvalues, shapes)


def _sizes(members: Floats) -> tuple[Floats, Floats]:
    """Return the different sizes of clusters, and how many clusters have each."""
    sizes, counts = np.unique(members, return_counts=True)
    if len(sizes) > _SIZES:
        rounded = _STEP ** np.round(np.log(members) / math.log(_STEP))
        sizes, counts = np.unique(rounded, return_counts=True)
        sizes *= members.sum() / float(sizes @ counts)
    return sizes, counts.astype(np.float64)
