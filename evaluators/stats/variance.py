"""Where the spread of scores comes from: the samples, or asking the same sample again.

    split_variance([0, 0, 1, 1], [0.2, 0.3, 0.8, 0.7])  -> Variance(between_samples=..., ...)

Spread between samples is narrowed by more samples only; spread between repeats by either.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from evaluators.stats.intervals import finite


class Variance(msgspec.Struct, frozen=True, kw_only=True):
    """The variance of one answer's score, in two parts.

    Attributes:
        between_samples: of the samples' true means; never below 0.
        between_repeats: of the repeats of one sample.
        share_of_repeats: the second over the sum; None without variance.
        samples: the number of samples.
        repeats: the mean number of repeats per sample.
    """

    between_samples: float
    between_repeats: float
    share_of_repeats: float | None
    samples: int
    repeats: float

    @property
    def noise(self) -> float:
        """Return the standard deviation of a sample's mean that is due to its repeats."""
        return math.sqrt(self.between_repeats / self.repeats)


def split_variance(samples: ArrayLike, values: ArrayLike) -> Variance | None:
    """Estimate the two parts by the ANOVA estimator of the one-way random-effects model.

    For samples with different numbers of repeats as in Searle, Casella and McCulloch (1992),
    Variance Components, section 3.6. None with fewer than two samples, or without repeats.

    Args:
        samples: number of the sample each value belongs to, from 0, shape (m,).
        values: one score per answer, shape (m,).
    """
    scores = finite(values)
    _, index, counts = np.unique(
        np.asarray(samples, dtype=np.intp), return_inverse=True, return_counts=True
    )
    n, k = len(scores), len(counts)
    if k < 2 or n == k:
        return None
    means = np.bincount(index, weights=scores) / counts
    within = float(((scores - means[index]) ** 2).sum()) / (n - k)
    between = float((counts * (means - scores.mean()) ** 2).sum()) / (k - 1)
    size = (n - float((counts.astype(np.float64) ** 2).sum()) / n) / (k - 1)
    of_samples = max(0.0, (between - within) / size)
    total = of_samples + within
    return Variance(
        between_samples=of_samples,
        between_repeats=within,
        share_of_repeats=within / total if total else None,
        samples=k,
        repeats=n / k,
    )
