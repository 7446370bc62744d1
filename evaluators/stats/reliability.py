"""Computes how reliable scores are, and how high that lets them correlate with others.

    icc([[4, 5], [2, 2], [5, 4]])       -> Icc(single=..., mean=..., k=2.0)
    spearman_brown(0.5, 3)              -> 0.75: the reliability of the mean of three scores
    ceiling(0.5, 0.8)                   -> 0.63: the highest correlation of the two

Reliability is the share of the variance of a score that would come back in another score of the
same item. A correlation of two scores is at most the root of the product of their reliabilities
(Spearman 1904, Am. J. Psychol. 15:72-101), so that two noisy scores may each correlate better with
the truth than with each other. The mean of k scores is more reliable (Spearman 1910 and Brown 1910,
Br. J. Psychol. 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from evaluators.stats.intervals import Interval


class Icc(msgspec.Struct, frozen=True, kw_only=True):
    """Intraclass correlations of several scores of each item, in the one-way model.

    Attributes:
        single: ICC(1,1), the reliability of one score.
        mean: ICC(1,k), the reliability of the mean of an item's scores.
        k: how many scores an item has, on average.
    """

    single: Interval
    mean: Interval
    k: float


def icc(scores: Sequence[Sequence[float]], *, level: float = 0.95) -> Icc | None:
    """Compute ICC(1,1) and ICC(1,k) (Shrout and Fleiss 1979, Psychol. Bull. 86:420-428).

    Items may have different numbers of scores; k is then that of Searle, Casella and McCulloch
    (1992, Variance Components, section 3.6), and the intervals are approximate. None with fewer
    than two items with two scores, or where no score differs from another one.

    Args:
        scores: for each item all its scores; an item with fewer than two is left out.
        level: the level of the intervals, those of Shrout and Fleiss.
    """
    from scipy.special import fdtri  # noqa: PLC0415  (scipy takes a third of a second to import)

    several = [np.asarray(given, dtype=np.float64) for given in scores if len(given) > 1]
    items, total = len(several), sum(map(len, several))
    if items < 2:
        return None
    counts = np.array([len(given) for given in several], dtype=np.float64)
    means = np.array([given.mean() for given in several])
    overall = float(np.concatenate(several).mean())
    within = sum(float(((given - given.mean()) ** 2).sum()) for given in several) / (total - items)
    between = float((counts * (means - overall) ** 2).sum()) / (items - 1)
    k = (total - float((counts**2).sum()) / total) / (items - 1)
    if between + within <= 1e-12 * max(1.0, overall**2):
        return None
    if within <= 1e-12 * between:
        # Scores that agree every time: F is infinite, and says nothing about the next item.
        return Icc(single=_without(1.0, items), mean=_without(1.0, items), k=k)
    ratio = between / within
    freedom = (items - 1, total - items)
    low, high = (fdtri(*freedom, share) for share in ((1 - level) / 2, (1 + level) / 2))
    ratios = (ratio, ratio / float(high), ratio / float(low))
    single = [(f - 1) / (f + k - 1) for f in ratios]
    mean = [1 - 1 / f if f > 0 else -math.inf for f in ratios]
    return Icc(single=_interval(single, items), mean=_interval(mean, items), k=k)


def spearman_brown(reliability: float, k: float) -> float:
    """Return the reliability of the mean of k scores, from that of one; below 0 counts as 0."""
    reliability = max(0.0, reliability)
    return k * reliability / (1 + (k - 1) * reliability)


def ceiling(first: float, second: float) -> float:
    """Return the highest correlation of two scores with these reliabilities."""
    return math.sqrt(max(0.0, first) * max(0.0, second))


def _interval(values: Sequence[float], n: int) -> Interval:
    estimate, low, high = values
    if not math.isfinite(estimate):
        return _without(None, n)
    if not math.isfinite(low) or not math.isfinite(high):
        return _without(estimate, n)
    return Interval(estimate=estimate, low=low, high=high, n=n, method="F")


def _without(estimate: float | None, n: int) -> Interval:
    return Interval(estimate=estimate, low=None, high=None, n=n)
