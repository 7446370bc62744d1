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

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.stats.correlated_clusters import correlated_freedom
from evaluators.stats.inversion import BoundedTest, constant_interval, crossing, skewed
from evaluators.stats.resampling import RESAMPLING_LIMIT, Floats, in_blocks, multiplicities
from evaluators.stats.resampling import resamples as index_resamples

Corpus: TypeAlias = Callable[[Sequence[float]], float]
Method = Literal[
    "none",
    "constant",
    "hall",
    "bca",
    "t",
    "bounded",
    "clustered t",
    "wilson",
    "percentile",
    "score",
    "bootstrap t",
    "betting",
    "asymptotic",
    "welch",
    "F",
]

FEW_OTHERS = 6
"""With fewer values than this that are unlike the rest, the range of a score bounds its mean."""

ALIKE = 0.0125
"""Values whose standard deviation is this share of their range, or less, count as alike."""

FEWEST_UNBOUNDED = 10
"""Without a range, fewer samples leave a long tail unseen, so no interval is given."""

LONGEST_END = 3.0
"""The end of an interval on the side of the tail, at most, in half widths of Student's t."""

LONGEST_BOUNDED_END = 2.0
"""The same for scores with a range, whose tails it limits, and over clusters."""

ROUNDING = 1e-12
"""Numbers that differ by less, as a share of the largest, differ by rounding only."""

MANY_CLUSTERS = 15
"""With more clusters, values in a handful of them need the care of `clustered_wilson`."""

LARGE_CLUSTERS = 15
"""With more samples each, clusters have shares that are skewed like other scores."""

FEWEST_CLUSTERS = 5
"""Below so many effective clusters no interval holds its level, so none is given."""

_NORMAL = NormalDist()

# Of so many samples Wilson's interval is a point.
_SIZE_LIMIT = 1e9
_FEW = 30  # with more samples the bound from the range is wider anyway

# Noise of this share of the range, or more, moves means further than rare values do.
_NOISY = 0.06
# A standard deviation may be this much larger than it should be, by chance.
_NOISE_LIMIT = 1.25


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its confidence interval.

    Attributes:
        estimate: None when n is 0.
        low, high: None when n is below 2: one sample says nothing about the spread.
        n: samples (clusters), not single values.
        method: how the interval was computed; without an interval `constant`, where values that are
            all the same have no range, or `none`.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: Method = "none"


def mean_interval(
    values: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    low: float | None = None,
    high: float | None = None,
    noise: float = 0.0,
) -> Interval:
    """Return the mean and the interval that reports show.

    - `skewed_interval`, of Student's t on one side and corrected for skew on the other.
    - `share_interval` for shares: a range of 0 to 1, and every value 0 or 1.
    - `bounded_interval` where nearly all values are alike and the score has a range.

    Args:
        values: numbers, shape (m,).
        clusters: the cluster that each value belongs to, length m; None when each stands alone.
            With clusters, the interval is `clustered_wilson` for shares (which large clusters move
            further out on the side of a tail), and `bounded_interval` of
            clusters by their sizes where those of a score with a range are nearly alike. Otherwise
            it is that of `t_interval`, further out on the side of a tail, and with a range it
            reaches as far as `clustered_wilson`.
        level: confidence level.
        low: the end of the score's range, which values beyond it widen; None without one.
        high: its other end.
        noise: the standard deviation that a value has because the same sample does not get the same
            score each time; 0 where that is unknown.

    Values that are all the same tell nothing about others without a range: no interval then. Nor is
    there one for fewer than `FEWEST_UNBOUNDED` values without a range.
    """
    array = finite(values)
    n = len(array)
    bounded = low is not None and high is not None
    if bounded and n:
        low, high = min(low or 0.0, float(array.min())), max(high or 0.0, float(array.max()))
    if (low, high) == (0.0, 1.0) and n and np.isin(array, (0.0, 1.0)).all():
        if clusters is not None:
            return _clustered_share(array, clusters, level=level)
        return share_interval(int(array.sum()), n, level=level)
    if clusters is not None:
        interval = _clustered_interval(array, clusters, noise, level=level, low=low, high=high)
        return within(interval, low, high)
    if low is None or high is None:
        if n < FEWEST_UNBOUNDED or _constant(array):
            return _without_interval(array, n)
        return within(skewed_interval(array, level=level), low, high)
    if n < 2:
        return _without_interval(array, n)
    if _nearly_alike(array, high - low, noise):
        return bounded_interval(array, level=level, low=low, high=high)
    interval = skewed_interval(array, level=level, longest=LONGEST_BOUNDED_END, power=1.0)
    if n <= _FEW:
        # Student's t knows nothing of the range, which limits how far off a few samples can be.
        ends = interval.low or 0.0, interval.high or 0.0
        below, above = BoundedTest(array, low, high).limited(*ends, level)
        return msgspec.structs.replace(interval, low=below, high=above)
    return within(interval, low, high)


def _clustered_interval(
    array: Floats,
    clusters: Sequence[Hashable],
    noise: float,
    *,
    level: float,
    low: float | None,
    high: float | None,
) -> Interval:
    """Return the mean and its interval for values in clusters that are no shares."""
    interval = t_interval(array, clusters=clusters, level=level, low=low, high=high)
    if interval.method != "clustered t" or interval.estimate is None:
        return interval
    index, _ = cluster_index(clusters, len(array))
    sizes = np.bincount(index).astype(np.float64)
    if low is not None and high is not None:
        means = np.bincount(index, weights=array) / sizes
        if _nearly_alike(means, high - low, noise / float(sizes.mean()) ** 0.5):
            below, above = BoundedTest(means, low, high, sizes=sizes).interval(level)
            return msgspec.structs.replace(interval, low=below, high=above, method="bounded")
        score = clustered_wilson(array, clusters, level=level, low=low, high=high)
        interval = _hull(interval, score)
    return _hull(interval, _clustered_skewed(array, clusters, level=level))


def _clustered_share(array: Floats, clusters: Sequence[Hashable], *, level: float) -> Interval:
    """Return a share and its interval over clusters."""
    share = clustered_wilson(array, clusters, level=level)
    large = len(array) > LARGE_CLUSTERS * share.n
    if share.low is None or not large or _constant(array):
        return share
    # The shares of large clusters are not those of a few draws, and as skewed as they are.
    reaching = within(_clustered_skewed(array, clusters, level=level), 0.0, 1.0)
    tail_below = share.estimate is not None and share.estimate > 0.5
    other = {"high": share.high} if tail_below else {"low": share.low}
    return _hull(share, msgspec.structs.replace(reaching, **other))


def _clustered_skewed(array: Floats, clusters: Sequence[Hashable], *, level: float) -> Interval:
    """Return the mean and what `skewed_interval` is, for values in clusters that are not alike."""
    estimate = float(array.mean())
    error, freedom = clustered_error(array, clusters)
    index, k = cluster_index(clusters, len(array))
    sums, _ = _scaled(np.bincount(index, weights=array - estimate).astype(np.float64))
    squares = float((sums**2).sum())
    skew = float((sums**3).sum()) / squares**1.5 if squares else 0.0
    low, high = _skewed_ends(
        estimate,
        error,
        # Where clusters differ in size, one of them alone may make up most of the skew.
        skew * _unbiased(k) * ((freedom + 1) / k) ** 2,
        t_quantile(0.5 + level / 2, freedom),
        longest=LONGEST_BOUNDED_END,
    )
    return Interval(estimate=estimate, low=low, high=high, n=k, method="clustered t")


def skewed_interval(
    values: ArrayLike, *, level: float = 0.95, longest: float = LONGEST_END, power: float = 2.5
) -> Interval:
    """Return the mean and an interval that holds for scores with a long tail, and for others.

    Student's t misses on the side of the tail. Hall (1992, JRSS B 54:221-228) turns the t statistic
    into one that is not skewed, by a cubic function that can be inverted; his interval misses more
    often on the other side, where it ends before that of t. So each end is that of the two which is
    further out. Few samples show less skew than there is: theirs is multiplied by a power of the
    factor that makes the third cumulant unbiased. docs/explanation/statistics.md says how often
    this holds.

    Args:
        values: numbers, shape (n,), not all the same.
        level: confidence level.
        longest: how far out an end is at most, in half widths of the interval of t.
        power: the power of the factor.
    """
    array = finite(values)
    n = len(array)
    if n < 2 or _constant(array):
        return _without_interval(array, n)
    estimate = float(array.mean())
    deviations, scale = _scaled(array - estimate)
    squares = deviations * deviations
    spread = math.sqrt(float(squares.mean()))
    skew = float((squares * deviations).mean()) / spread**3 / n**0.5
    skew *= _unbiased(n) ** power
    error = scale * spread / (n - 1) ** 0.5
    low, high = _skewed_ends(
        estimate, error, skew, t_quantile(0.5 + level / 2, n - 1), longest=longest
    )
    return Interval(estimate=estimate, low=low, high=high, n=n, method="hall")


def _unbiased(n: int) -> float:
    """Return the factor that makes the third cumulant of so many samples unbiased."""
    return math.sqrt(n * (n - 1)) / (n - 2) if n > 2 else 1.0


def _skewed_ends(
    estimate: float, error: float, skew: float, quantile: float, *, longest: float
) -> tuple[float, float]:
    """Return the ends of the wider of Student's interval and Hall's, on each side."""
    below = max(quantile, skewed(quantile, skew))
    above = max(quantile, -skewed(-quantile, skew))
    return (
        estimate - error * min(below, longest * quantile),
        estimate + error * min(above, longest * quantile),
    )


def bounded_interval(
    values: ArrayLike, *, low: float, high: float, level: float = 0.95
) -> Interval:
    """Return the mean of a score with a range, and an interval that allows for unseen values.

    It inverts `BoundedTest`. For values of 0 and 1 that is the interval of Clopper and Pearson, for
    values that are all the same `constant_interval`.

    Args:
        values: numbers, shape (n,).
        low: the end of the range; values beyond it widen it.
        high: its other end.
        level: confidence level.
    """
    array = finite(values)
    n = len(array)
    if n < 2:
        return _without_interval(array, n)
    low, high = min(low, float(array.min())), max(high, float(array.max()))
    if _constant(array):
        value = float(array[0])  # not the mean: that of three 0.1 is 0.10000000000000002
        ends = constant_interval(value, n, low, high, level)
        return Interval(estimate=value, low=ends[0], high=ends[1], n=n, method="bounded")
    below, above = BoundedTest(array, low, high).interval(level)
    return Interval(estimate=float(array.mean()), low=below, high=above, n=n, method="bounded")


def bca_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean and its bootstrap BCa interval (Efron 1987, JASA 82:171-185).

    Args:
        values: numbers, shape (n,).
        level: confidence level.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Equal values have no interval. Above `RESAMPLING_LIMIT` samples this is `t_interval`, which by
    then agrees to the digits that reports show.
    """
    array = finite(values)
    n = len(array)
    if n < 2 or _constant(array):
        return _without_interval(array, n)
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
    values: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    low: float | None = None,
    high: float | None = None,
) -> Interval:
    """Return the mean and its Student t interval; arguments as for `mean_interval`.

    With clusters, standard error and degrees of freedom are those of `clustered_t`, every value
    weighs the same, and fewer than `FEWEST_CLUSTERS` effective clusters have no interval.
    """
    array = finite(values)
    n = len(array) if clusters is None else cluster_index(clusters, len(array))[1]
    if n < 2:
        return _without_interval(array, n)
    if clusters is None:
        units, error, freedom = float(n), standard_error(array), float(n - 1)
    else:
        units = effective_clusters(clusters)
        if units < FEWEST_CLUSTERS:
            return _without_interval(array, n)
        error, freedom = clustered_t(array, clusters)
    estimate = float(array[0] if _constant(array) else array.mean())
    if error <= ROUNDING * float(np.abs(array).max()):
        if low is None or high is None:
            return _without_interval(array, n)
        ends = constant_interval(estimate, units, low, high, level)
        return Interval(estimate=estimate, low=ends[0], high=ends[1], n=n, method="bounded")
    half = t_quantile(0.5 + level / 2, freedom) * error
    return Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        n=n,
        method="t" if clusters is None else "clustered t",
    )


def standard_error(values: ArrayLike, *, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the standard error of the mean; that of `clustered_error` with `clusters`.

    Raises:
        ValueError: with fewer than two values (or clusters).
    """
    array = finite(values)
    if clusters is not None:
        return clustered_error(array, clusters)[0]
    n = len(array)
    if n < 2:
        raise ValueError("a standard error needs at least two samples")
    return float(array.std(ddof=1) / np.sqrt(n))


def clustered_error(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Return the CR2 standard error of a mean over clusters, and its degrees of freedom.

    Each cluster's sum of residuals is divided by the root of one minus its share of the values, so
    that the variance is not biased where values are independent (Bell and McCaffrey 2002, Survey
    Methodology 28:169-181); the degrees of freedom are Satterthwaite's for that variance, fewer
    the more clusters differ in size (Imbens and Kolesar 2016, Review of Economics and Statistics
    98:701-712; Pustejovsky and Tipton 2018, JBES 36:672-683).

    Raises:
        ValueError: with fewer than two clusters.
    """
    array = finite(values)
    n = len(array)
    index, k = cluster_index(clusters, n)
    if k < 2:
        raise ValueError("a clustered standard error needs at least two clusters")
    deviations, scale = _scaled(array - array.mean())
    sizes = np.bincount(index).astype(np.float64)
    shares = sizes / n
    sums = np.bincount(index, weights=deviations)
    error = scale * float(np.sqrt((sums**2 / (1 - shares)).sum())) / n
    # The adjusted sums have variances `sizes`, and covariances -m_g m_h / n over both roots, where
    # values are independent. The degrees of freedom are (trace of that matrix)^2 / trace of its
    # square.
    coupled = sizes * shares / (1 - shares)
    squares = (sizes**2).sum() + coupled.sum() ** 2 - (coupled**2).sum()
    return error, float(n**2 / squares)


def clustered_t(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Return the standard error of `clustered_error`, and the degrees of freedom for Student's t.

    They allow for samples that are alike within clusters of different sizes: `correlated_freedom`.
    """
    array = finite(values)
    error, freedom = clustered_error(array, clusters)
    return error, correlated_freedom(array, cluster_index(clusters, len(array))[0], freedom)


def effective_clusters(clusters: Sequence[Hashable]) -> float:
    """Return how many clusters of equal size weigh as much: n squared over the sum of squares."""
    index, _ = cluster_index(clusters, len(clusters))
    sizes = np.bincount(index).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def clustered_wilson(
    values: Floats,
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    low: float = 0.0,
    high: float = 1.0,
) -> Interval:
    """Return a share over clusters and its score interval at the effective number of samples.

    The number of samples is divided by how much larger the clustered variance is than that of
    independent samples, and the quantile is Student's with the degrees of freedom of that variance
    (Korn and Graubard 1998, Survey Methodology 24:193-201, do the same with the interval of Clopper
    and Pearson); as in `share_interval`, an end is that of the mid-p interval where that is further
    out. A mean of scores within a range is a share of it, and the number of samples that
    of zeros and ones with the same error: near an end of the range the interval leans inwards, as
    the scores do.

    Where all values but a few are the same, and those are in a handful of many clusters, their
    variance is mostly luck and too small: then the effective number is drawn towards that of
    clusters, wholly where there are no others. Up to `MANY_CLUSTERS` the quantile makes up for it,
    unless they are large.
    """
    n, units = len(values), effective_clusters(clusters)
    index, k = cluster_index(clusters, n)
    estimate = float(values.mean()) if n else None
    if estimate is None or k < 2 or units < FEWEST_CLUSTERS:
        return Interval(estimate=estimate, low=None, high=None, n=k)
    width = high - low
    share = (estimate - low) / width
    size, freedom = units, math.inf
    if 0 < share < 1:
        error, freedom = clustered_error(values, clusters)
        size = share * (1 - share) / (error / width) ** 2 if error else float(n)
        different, which, counts = np.unique(values, return_inverse=True, return_counts=True)
        if len(different) == 2 and width == different[1] - different[0]:
            size = min(float(n), size)
        affected = len(np.unique(index[which != counts.argmax()]))
        many = k > MANY_CLUSTERS or n > LARGE_CLUSTERS * k
        if many and affected < FEW_OTHERS:
            weight = affected / FEW_OTHERS
            size = size**weight * min(size, units) ** (1 - weight)
    quantile = t_quantile(0.5 + level / 2, min(freedom, k - 1.0))
    ends = score_interval(share, size, quantile)
    others = _mid_p_ends(share, size, _NORMAL.cdf(-quantile))
    return Interval(
        estimate=estimate,
        low=low + width * min(ends[0], others[0]),
        high=low + width * max(ends[1], others[1]),
        n=k,
        method="wilson",
    )


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return a proportion and its score interval (Wilson 1927, JASA 22:209-212).

    Unlike a bootstrap it is not of width zero when all n succeed or all fail.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are impossible")
    if n == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    share = successes / n
    low, high = score_interval(share, n, _NORMAL.inv_cdf(0.5 + level / 2))
    return Interval(estimate=share, low=low, high=high, n=n, method="wilson")


def share_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return a proportion and an interval that also holds near 0 and 1.

    Where one success in five or six samples of this size is expected, Wilson's interval covers 84%,
    whatever n is: for one success it begins too high (Brown, Cai and DasGupta 2001, Statistical
    Science 16:101-133). So each end is that of `wilson` or of the mid-p interval (Lancaster 1961,
    JASA 56:223-234), whichever is further out. The two differ little elsewhere.

    Args:
        successes: how many of the samples are 1.
        n: samples.
        level: confidence level.
    """
    score = wilson(successes, n, level=level)
    if n == 0:
        return score
    low, high = _mid_p_ends(successes / n, n, (1 - level) / 2)
    return _hull(score, msgspec.structs.replace(score, low=low, high=high))


def _mid_p_ends(share: float, n: float, tail: float) -> tuple[float, float]:
    """Return the shares at which the one-sided mid-p values of a share are `tail`."""
    if n > _SIZE_LIMIT:
        return share, share
    return _mid_p_end(share * n, n, tail), 1 - _mid_p_end((1 - share) * n, n, tail)


def _mid_p_end(successes: float, n: float, tail: float) -> float:
    from scipy.special import betainc  # noqa: PLC0415  (scipy takes a third of a second to import)

    if successes == 0:
        return 0.0

    def mid_p(share: float) -> float:
        as_many = float(betainc(successes, n - successes + 1, share))
        more = float(betainc(successes + 1, n - successes, share)) if successes < n else 0.0
        return (as_many + more) / 2

    return crossing(lambda share: mid_p(share) - tail, 0.0, successes / n)


def score_interval(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval at a quantile of the normal distribution."""
    square = quantile * quantile
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * (share * (1 - share) / n + square / (4 * n * n)) ** 0.5
    low = 0.0 if share == 0 else centre - half
    high = 1.0 if share == 1 else centre + half
    return low, high


def corpus_interval(
    statistics: ArrayLike,
    corpus: Corpus,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a corpus score and its interval by the bootstrap (Koehn 2004, EMNLP).

    The scores of resamples give the standard error and the skew; from these the ends are those of
    `skewed_interval`. Their percentiles would be too narrow with few samples, which vary less than
    samples do.

    Args:
        statistics: one row per sample, shape (n, k); `corpus` takes the k sums over the rows.
        corpus: the score of those sums.
        clusters: which cluster each row belongs to; whole clusters are drawn, and fewer than
            `FEWEST_CLUSTERS` effective ones have no interval.
        level: confidence level.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    rows = matrix(statistics)
    freedom, enough = len(rows) - 1.0, True
    if clusters is not None:
        enough = effective_clusters(clusters) >= FEWEST_CLUSTERS
        if enough:
            freedom = clustered_error(np.zeros(len(rows)), clusters)[1]
        rows = cluster_sums(rows, clusters)
    n = len(rows)
    if n == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    estimate = corpus_score(corpus, rows.sum(axis=0))
    if n == 1 or not enough:
        return Interval(estimate=estimate, low=None, high=None, n=n)
    drawn = resampled_scores(rows, lambda sums: corpus_score(corpus, sums), resamples, seed)
    if drawn.min() == drawn.max():
        return Interval(estimate=estimate, low=None, high=None, n=n)
    deviations, scale = _scaled(drawn - drawn.mean())
    squares = deviations * deviations
    spread = math.sqrt(float(squares.mean()))
    skew = float((squares * deviations).mean()) / spread**3 * _unbiased(n)
    # So much of it may be chance, of which resamples of many samples would show nothing else.
    skew = math.copysign(max(0.0, abs(skew) - math.sqrt(6 / resamples)), skew)
    low, high = _skewed_ends(
        estimate,
        # A resample varies as n - 1 in n samples do.
        scale * spread * (n / (n - 1)) ** 0.5,
        skew,
        t_quantile(0.5 + level / 2, freedom),
        longest=LONGEST_BOUNDED_END,
    )
    return Interval(estimate=estimate, low=low, high=high, n=n, method="bootstrap t")


def resampled_scores(
    rows: Floats, score: Callable[[Floats], float], resamples: int, seed: int
) -> Floats:
    """Return the scores of the sums of resampled rows, shape (resamples,)."""
    blocks = in_blocks(rows, seed)
    return np.array(
        [
            score(sums)
            for counts in multiplicities(len(blocks), resamples, seed)
            for sums in counts @ blocks
        ]
    )


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


def within(interval: Interval, low: float | None, high: float | None) -> Interval:
    """Cut the ends off at the range that a score declares."""
    if interval.low is None or interval.high is None:
        return interval
    smallest = -math.inf if low is None else low
    largest = math.inf if high is None else high
    return msgspec.structs.replace(
        interval,
        low=min(max(interval.low, smallest), largest),
        high=max(min(interval.high, largest), smallest),
    )


def _hull(first: Interval, second: Interval) -> Interval:
    """Return the first interval, with each end where it is further out of the two."""
    ends = (first.low, second.low, first.high, second.high)
    below, other_below, above, other_above = (0.0 if end is None else end for end in ends)
    return msgspec.structs.replace(first, low=min(below, other_below), high=max(above, other_above))


def _without_interval(values: Floats, n: int) -> Interval:
    if len(values) == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    constant = _constant(values)
    # Not the mean where all are the same: that of three 0.1 is 0.10000000000000002.
    estimate = float(values[0]) if constant else float(values.mean())
    method: Method = "constant" if constant and n > 1 else "none"
    return Interval(estimate=estimate, low=None, high=None, n=n, method=method)


def _constant(values: Floats) -> bool:
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def _nearly_alike(values: Floats, width: float, noise: float) -> bool:
    """Say whether all values but a few are the same, or as near as makes no difference.

    They are where their standard deviation is `ALIKE` of the range, or no more than what repeats of
    one sample explain.
    """
    n = len(values)
    few = min(FEW_OTHERS - 1, n // 3)
    ordered = np.sort(values)
    size = n - few
    start = int(np.argmin(ordered[size - 1 :] - ordered[: few + 1]))
    spread = float(ordered[start : start + size].std(ddof=1))
    if spread <= max(ALIKE * width, ROUNDING * float(np.abs(values).max())):
        return True
    return spread <= min(_NOISE_LIMIT * noise, _NOISY * width)


def _scaled(deviations: Floats) -> tuple[Floats, float]:
    """Divide by the largest deviation, so that cubes neither vanish nor overflow."""
    scale = float(np.abs(deviations).max()) or 1.0
    return deviations / scale, scale


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
    if not math.isfinite(score):
        raise ValueError("a corpus score must be a finite number")
    return score


def t_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # noqa: PLC0415  (scipy takes a third of a second to import)

    return float(stdtrit(freedom, share))
