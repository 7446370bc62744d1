"""What a score is worth: means and shares with their intervals, and standard errors.

    mean_interval([0.2, 0.4, 0.9])               -> Interval(estimate=0.5, low=..., high=..., n=3)
    wilson(17, 20)                               -> Interval(estimate=0.85, low=0.64, ...)

Differences between routes are in `differences.py`, sample sizes in `power.py`, what repeats add in
`variance.py`.

What is drawn by chance here is which *samples* a dataset has. Average the repeats of a sample
first, so that every sample weighs the same. Samples that belong together (questions on one text)
are not independent: give their `clusters`, and each cluster counts as one observation. Everything
is deterministic and bounded in memory. Numbers are finite or None, never NaN; NaN or infinity as
input is a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.stats.resampling import RESAMPLING_LIMIT, Floats, in_blocks, multiplicities
from evaluators.stats.resampling import resamples as index_resamples

Corpus: TypeAlias = Callable[[Sequence[float]], float]
Method = Literal["none", "hall", "bca", "t", "clustered t", "wilson", "percentile"]

_NORMAL = NormalDist()


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its confidence interval.

    Attributes:
        estimate: None when n is 0.
        low, high: None when n is below 2: one sample says nothing about the spread.
        n: samples (clusters), not single values.
        method: how the interval was computed; `none` without an interval.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: Method = "none"


def mean_interval(
    values: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Interval:
    """The mean and the interval that reports show: Student's t, corrected for skew.

    With few samples of a skewed score, the t interval misses on the side of the tail. Hall (1992,
    JRSS B 54:221-228) turns the t statistic into one that is not skewed, by a cubic function that
    can be inverted. Its nominal 95% hold for fewer samples than those of `bca_interval` and
    `t_interval`: docs/explanation/statistics.md has the numbers.

    Args:
        values: numbers, shape (m,).
        clusters: which cluster each value belongs to, length m; None when each stands alone. With
            clusters, the interval is `t_interval`.
        level: confidence level.

    Equal values give an interval of width zero at that value.
    """
    array = finite(values)
    n = len(array)
    if clusters is not None or n < 2 or array.min() == array.max():
        return t_interval(array, clusters=clusters, level=level)
    estimate = float(array.mean())
    deviations, scale = _scaled(array - estimate)
    spread = float(np.sqrt((deviations**2).mean()))
    skew = float((deviations**3).mean()) / spread**3 / n**0.5
    error = scale * spread / (n - 1) ** 0.5
    quantile = t_quantile(0.5 + level / 2, n - 1)
    return Interval(
        estimate=estimate,
        low=estimate - error * _unskewed(quantile, skew),
        high=estimate - error * _unskewed(-quantile, skew),
        n=n,
        method="hall",
    )


def bca_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean and its bootstrap BCa interval (Efron 1987, JASA 82:171-185).

    Args:
        values: numbers, shape (n,).
        level: confidence level.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Equal values give an interval of width zero at that value. Above `RESAMPLING_LIMIT` samples
    this is `t_interval`, which by then agrees to the digits that reports show.
    """
    array = finite(values)
    n = len(array)
    if n < 2 or array.min() == array.max():
        return _degenerate(array, n, method="bca")
    if n > RESAMPLING_LIMIT:
        return t_interval(array, level=level)

    estimate = float(array.mean())
    deviations, scale = _scaled(array - estimate)
    drawn = np.empty(resamples)
    for rows, picks in index_resamples(n, resamples, seed):
        drawn[rows] = deviations[picks].mean(axis=1)
    low, high = _bca(drawn, deviations, level)
    return Interval(
        estimate=estimate,
        low=estimate + scale * low,
        high=estimate + scale * high,
        n=n,
        method="bca",
    )


def t_interval(
    values: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Interval:
    """The mean and its Student t interval; arguments as for `mean_interval`.

    With clusters, the standard error is cluster-robust, the degrees of freedom are one less than
    there are clusters, and every value weighs the same.
    """
    array = finite(values)
    n = len(array) if clusters is None else cluster_index(clusters, len(array))[1]
    if n < 2 or array.min() == array.max():
        return _degenerate(array, n, method="t")
    estimate = float(array.mean())
    half = t_quantile(0.5 + level / 2, n - 1) * standard_error(array, clusters=clusters)
    return Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        n=n,
        method="t" if clusters is None else "clustered t",
    )


def standard_error(values: ArrayLike, *, clusters: Sequence[Hashable] | None = None) -> float:
    """Standard error of the mean; cluster-robust with `clusters`.

    That is the one of Liang and Zeger (1986, Biometrika 73:13-22) with the factor k / (k - 1) for
    k clusters, which may differ in size.

    Raises:
        ValueError: with fewer than two values (or clusters).
    """
    array = finite(values)
    n = len(array)
    if clusters is None:
        if n < 2:
            raise ValueError("a standard error needs at least two samples")
        return float(array.std(ddof=1) / np.sqrt(n))
    index, k = cluster_index(clusters, n)
    if k < 2:
        raise ValueError("a clustered standard error needs at least two clusters")
    deviations, scale = _scaled(array - array.mean())
    sums = np.bincount(index, weights=deviations)
    return scale * float(np.sqrt(k / (k - 1) * (sums**2).sum())) / n


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """A proportion and its score interval (Wilson 1927, JASA 22:209-212).

    Unlike a bootstrap it is not of width zero when all n succeed or all fail.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are impossible")
    if n == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    z = _NORMAL.inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return Interval(
        estimate=share,
        low=0.0 if successes == 0 else centre - half,
        high=1.0 if successes == n else centre + half,
        n=n,
        method="wilson",
    )


def corpus_interval(
    statistics: ArrayLike,
    corpus: Corpus,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A corpus score and its percentile bootstrap interval over samples (Koehn 2004, EMNLP).

    Args:
        statistics: one row per sample, shape (n, k); `corpus` takes the k sums over the rows.
        corpus: the score of those sums.
        clusters: which cluster each row belongs to; whole clusters are drawn.
        level: confidence level.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    rows = matrix(statistics)
    if clusters is not None:
        rows = cluster_sums(rows, clusters)
    n = len(rows)
    if n == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    estimate = corpus_score(corpus, rows.sum(axis=0))
    if n == 1:
        return Interval(estimate=estimate, low=None, high=None, n=1)
    blocks = in_blocks(rows, seed)
    drawn = np.array(
        [
            corpus_score(corpus, sums)
            for counts in multiplicities(len(blocks), resamples, seed)
            for sums in counts @ blocks
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high), n=n, method="percentile")


def finite(values: ArrayLike) -> Floats:
    """Return the values as a finite array of one dimension. Raises ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one number per sample, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite numbers")
    return array


def matrix(statistics: ArrayLike) -> Floats:
    """Return the statistics as a finite array of two dimensions. Raises ValueError."""
    array = np.asarray(statistics, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, array.shape[1] if array.ndim == 2 else 0)
    if array.ndim != 2:
        raise ValueError(f"expected one row of statistics per sample, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("statistics must be finite numbers")
    return array


def cluster_index(clusters: Sequence[Hashable], n: int) -> tuple[NDArray[np.intp], int]:
    """Number the clusters from 0: the number of each value's cluster, and the count of clusters."""
    if len(clusters) != n:
        raise ValueError(f"{n} values but {len(clusters)} clusters")
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(name, len(number)) for name in clusters], dtype=np.intp)
    return index, len(number)


def cluster_sums(rows: Floats, clusters: Sequence[Hashable]) -> Floats:
    """Sum each cluster's rows, shape (clusters, k)."""
    index, count = cluster_index(clusters, len(rows))
    columns = [np.bincount(index, weights=column, minlength=count) for column in rows.T]
    return np.stack(columns, axis=1) if columns else np.empty((count, 0))


def _degenerate(values: Floats, n: int, *, method: Method) -> Interval:
    if len(values) == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    if values.min() != values.max():
        return Interval(estimate=float(values.mean()), low=None, high=None, n=n)
    value = float(values[0])  # not the mean: that of three 0.1 is 0.10000000000000002
    if n == 1:
        return Interval(estimate=value, low=None, high=None, n=1)
    return Interval(estimate=value, low=value, high=value, n=n, method=method)


def _scaled(deviations: Floats) -> tuple[Floats, float]:
    """Divide by the largest deviation, so that cubes neither vanish nor overflow."""
    scale = float(np.abs(deviations).max()) or 1.0
    return deviations / scale, scale


def _unskewed(quantile: float, skew: float) -> float:
    """The inverse of Hall's cubic function; `skew` is the skewness over the root of n."""
    if abs(skew) < 1e-9:
        return quantile
    return 3 / skew * (float(np.cbrt(1 + skew * (quantile - skew / 6))) - 1)


def _bca(drawn: Floats, deviations: Floats, level: float) -> tuple[float, float]:
    """Efron's interval for a mean of zero, whose jackknife values are known without computing."""
    # Resampled means that equal the estimate count half; rounding must not decide which side.
    tied = np.abs(drawn) < 1e-12
    below = np.count_nonzero(~tied & (drawn < 0)) + np.count_nonzero(tied) / 2
    share = min(max(below / len(drawn), 0.5 / len(drawn)), 1 - 0.5 / len(drawn))
    bias = _NORMAL.inv_cdf(share)
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    points = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + _NORMAL.inv_cdf(tail)
        points.append(_NORMAL.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(drawn, points)
    return float(low), float(high)


def corpus_score(corpus: Corpus, sums: Floats) -> float:
    """Return the score of the sums. Raises ValueError if it is not a number."""
    score = float(corpus(sums.tolist()))
    if not np.isfinite(score):
        raise ValueError("a corpus score must be a finite number")
    return score


def t_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # noqa: PLC0415  (scipy takes a third of a second to import)

    return float(stdtrit(freedom, share))
