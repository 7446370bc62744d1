"""Pure statistics for comparing routes: intervals, paired differences, corrected p-values.

    mean_interval([0.2, 0.4, 0.9])               -> Interval(estimate=0.5, low=..., high=..., n=3)
    paired_difference({"a": 0.9}, {"a": 0.4})    -> Paired(difference=0.5, ...)
    holm([0.01, 0.04, 0.03])                     -> [0.03, 0.06, 0.06]

What is drawn by chance here is which *samples* a dataset has, so samples are resampled, and the
repeats of one sample stay together: averaged first, so that every sample weighs the same.
Everything is deterministic for a given `seed` (PCG64) and bounded in memory. Numbers are finite or
None, never NaN; NaN or infinity as input is a ValueError.

Above `RESAMPLING_LIMIT` samples, means use the t distribution: by then it agrees with the
bootstrap to the digits that reports show. Corpus scores resample that many blocks of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLING_LIMIT = 10_000
"""The largest number of samples that is resampled one by one."""

EXACT_LIMIT = 14
"""Up to so many pairs all sign flips are enumerated (at most 2**14)."""

PERMUTATIONS = 9_999
"""Random permutations of a test that is not exact, so that its smallest p-value is 0.0001."""

Floats: TypeAlias = NDArray[np.float64]
Corpus: TypeAlias = Callable[[Sequence[float]], float]
PerSample: TypeAlias = Mapping[Any, float | Sequence[float]] | Sequence[float] | Floats
Method = Literal["none", "bca", "t", "wilson", "percentile"]

_NORMAL = NormalDist()
_CHUNK = 2_000_000  # numbers drawn at once: tens of MB at most, whatever n is


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its confidence interval.

    Attributes:
        estimate: None when n is 0.
        low, high: None when n is below 2: one sample says nothing about the spread.
        n: samples (clusters), not single values.
        method: how the interval was found; `none` when there is none.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: Method = "none"


class Outcomes(NamedTuple):
    """On how many samples the first is larger than the second, equal to it, smaller than it."""

    wins: int
    ties: int
    losses: int


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The difference a - b over samples that both have.

    Attributes:
        difference: of the means, or of the corpus scores.
        low, high: its confidence interval; None when n is 1.
        p_value: two-sided; not corrected for other comparisons.
        n: samples in both.
        wins, ties, losses: samples on which a is larger, equal, smaller; None for corpus scores.
        effect_size: Cohen's d_z, the mean difference over the standard deviation of the
            differences; None where it is undefined and for corpus scores.
        detectable: the smallest true difference that a comparison like this one finds in 4 of 5
            cases (`minimum_detectable_effect`); None when n is 1.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float
    n: int
    wins: int | None
    ties: int | None
    losses: int | None
    effect_size: float | None
    detectable: float | None


def mean_interval(
    values: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean and its bootstrap BCa interval (Efron 1987, JASA 82:171-185).

    Args:
        values: numbers, shape (m,).
        clusters: which sample each value belongs to, length m; None when each is its own sample.
            The mean is over samples: values of one sample are averaged first.
        level: confidence level.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Equal values give an interval of width zero at that value. Above `RESAMPLING_LIMIT` samples
    this is `t_interval`.
    """
    means = _cluster_means(_finite(values), clusters)
    n = len(means)
    if n < 2 or means.min() == means.max():
        return _degenerate(means, method="bca")
    if n > RESAMPLING_LIMIT:
        return t_interval(means, level=level)

    estimate = float(means.mean())
    deviations = means - estimate
    scale = float(np.abs(deviations).max())
    deviations /= scale  # so that the cubes below neither vanish nor overflow
    drawn = np.empty(resamples)
    for rows, picks in _resamples(n, resamples, seed):
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
    """The mean and its Student t interval; arguments as for `mean_interval`."""
    means = _cluster_means(_finite(values), clusters)
    n = len(means)
    if n < 2 or means.min() == means.max():
        return _degenerate(means, method="t")
    estimate = float(means.mean())
    half = _t_quantile(0.5 + level / 2, n - 1) * standard_error(means)
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, n=n, method="t")


def standard_error(values: ArrayLike, *, clusters: Sequence[Hashable] | None = None) -> float:
    """Standard error of the mean over samples; with `clusters`, repeats count as one sample.

    For equally large clusters this is the cluster-robust error of Liang and Zeger (1986) with the
    factor k / (k - 1) for k clusters.

    Raises:
        ValueError: with fewer than two samples.
    """
    means = _cluster_means(_finite(values), clusters)
    if len(means) < 2:
        raise ValueError("a standard error needs at least two samples")
    return float(means.std(ddof=1) / np.sqrt(len(means)))


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
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A corpus score and its percentile bootstrap interval over samples (Koehn 2004, EMNLP).

    Args:
        statistics: one row per sample, shape (n, k); `corpus` takes the k sums over the rows.
        corpus: the score of those sums.
        level: confidence level.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    rows = _matrix(statistics)
    n = len(rows)
    if n == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    estimate = _corpus_score(corpus, rows.sum(axis=0))
    if n == 1:
        return Interval(estimate=estimate, low=None, high=None, n=1)
    blocks = _blocks(rows, seed)
    drawn = np.array(
        [
            _corpus_score(corpus, sums)
            for counts in _multiplicities(len(blocks), resamples, seed)
            for sums in counts @ blocks
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high), n=n, method="percentile")


def paired_difference(
    a: PerSample,
    b: PerSample,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Paired | None:
    """The mean difference a - b over the samples that both have; None when there are none.

    The interval is BCa. The p-value is of a two-sided sign-flip permutation test, whose null
    hypothesis is that a and b are exchangeable in each sample: exact up to `EXACT_LIMIT` samples,
    else `permutations` random flips counted with the observed one (Phipson and Smyth 2010). Above
    `RESAMPLING_LIMIT` samples it is of the paired t test.

    Args:
        a: sample id to its value, or to the values of its repeats, which are averaged; or one value
            per sample.
        b: the same; where both are sequences, aligned with `a`.
        level: confidence level of the interval.
        resamples: bootstrap resamples.
        permutations: random sign flips.
        seed: of the resampling and the flips.
    """
    first, second = _aligned(a, b)
    n = len(first)
    if n == 0:
        return None
    differences = first - second
    # What differs by rounding only is a tie: otherwise noise of 1e-17 gets an effect size.
    differences[np.isclose(first, second, rtol=1e-9, atol=1e-12)] = 0.0
    interval = mean_interval(differences, level=level, resamples=resamples, seed=seed)
    difference = interval.estimate
    assert difference is not None
    constant = differences.min() == differences.max()
    spread = 0.0 if n < 2 or constant else float(differences.std(ddof=1))
    return Paired(
        difference=difference,
        low=interval.low,
        high=interval.high,
        p_value=_sign_flip(differences, permutations, seed),
        n=n,
        **outcomes(first, second)._asdict(),
        effect_size=difference / spread if spread else None,
        detectable=minimum_detectable_effect(spread, n),
    )


def paired_corpus_difference(
    a: ArrayLike,
    b: ArrayLike,
    corpus: Corpus,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Paired | None:
    """The difference of two corpus scores a - b; None when there are no samples.

    The interval is a percentile bootstrap that draws the same samples for both (Koehn 2004). The
    p-value is of approximate randomisation (Riezler and Maxwell 2005), which exchanges the two
    answers to a sample at random, as sacreBLEU's paired test does; all exchanges are enumerated
    where there are no more of them than `permutations`. Equal systems get a p-value of 1.

    Args:
        a: statistics, one row per sample, shape (n, k).
        b: the same, the samples in the same order.
        corpus: the score of the k sums over the rows.
        level: confidence level of the interval.
        resamples: bootstrap resamples.
        permutations: random exchanges.
        seed: of the resampling and the exchanges.
    """
    first, second = _matrix(a), _matrix(b)
    if first.shape != second.shape:
        raise ValueError(f"statistics of shapes {first.shape} and {second.shape} cannot be paired")
    n, width = first.shape
    if n == 0:
        return None

    def gap(sums: Floats) -> float:
        return _corpus_score(corpus, sums[:width]) - _corpus_score(corpus, sums[width:])

    both = np.hstack([first, second])
    total = both.sum(axis=0)
    difference = gap(total)
    low = high = detectable = None
    blocks = _blocks(both, seed)
    if n > 1:
        drawn = np.array(
            [
                gap(sums)
                for counts in _multiplicities(len(blocks), resamples, seed)
                for sums in counts @ blocks
            ]
        )
        low, high = map(float, np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
        detectable = minimum_detectable_effect(float(drawn.std()) * n**0.5, n)

    # Exchanging a sample moves (second - first) into a's sums and out of b's.
    moves = np.hstack(
        [blocks[:, width:] - blocks[:, :width], blocks[:, :width] - blocks[:, width:]]
    )
    count = reached = 0
    exact = 2 ** (len(blocks) - 1) <= permutations
    masks = _all_masks(len(blocks)) if exact else _random_masks(len(blocks), permutations, seed)
    for mask in masks:
        for sums in total + mask @ moves:
            count += 1
            reached += abs(gap(sums)) >= abs(difference) * (1 - 1e-9)
    return Paired(
        difference=difference,
        low=low,
        high=high,
        p_value=reached / count if exact else (reached + 1) / (count + 1),
        n=n,
        wins=None,
        ties=None,
        losses=None,
        effect_size=None,
        detectable=detectable,
    )


def outcomes(a: ArrayLike, b: ArrayLike) -> Outcomes:
    """Wins, ties and losses of a against b, sample by sample; equal up to rounding is a tie."""
    first, second = _finite(a), _finite(b)
    ties = np.isclose(first, second, rtol=1e-9, atol=1e-12)
    wins = int(np.count_nonzero(~ties & (first > second)))
    tied = int(np.count_nonzero(ties))
    return Outcomes(wins=wins, ties=tied, losses=len(first) - wins - tied)


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p-value of the paired t test on the differences; 1 when all are zero or n is 1."""
    from scipy.special import stdtr  # noqa: PLC0415  (scipy takes a third of a second to import)

    values = _finite(differences)
    if len(values) < 2 or not values.any():
        return 1.0
    if values.min() == values.max():
        return 0.0
    t = float(values.mean()) / standard_error(values)
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def smallest_p_value(n: int, *, permutations: int = PERMUTATIONS) -> float:
    """The smallest p-value that `paired_difference` can give with n samples."""
    if n > RESAMPLING_LIMIT:
        return 0.0
    return 2.0 ** (1 - n) if n <= EXACT_LIMIT else 1 / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being a family, in the order given (Holm 1979, Scand. J. Stat. 6:65).

    Calling those below alpha significant keeps the chance of any false one below alpha, whatever
    the dependence between the tests.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def minimum_detectable_effect(
    sd_of_differences: float, n: int, *, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest true mean difference that n pairs find with probability `power`.

    For a single two-sided paired t test at level `alpha`, by the usual (t quantile + t quantile)
    times standard error. None when n is below 2 or the differences do not vary.
    """
    if n < 2 or sd_of_differences <= 0:
        return None
    quantiles = _t_quantile(1 - alpha / 2, n - 1) + _t_quantile(power, n - 1)
    return quantiles * sd_of_differences / math.sqrt(n)


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one number per sample, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite numbers")
    return array


def _matrix(statistics: ArrayLike) -> Floats:
    array = np.asarray(statistics, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, array.shape[1] if array.ndim == 2 else 0)
    if array.ndim != 2:
        raise ValueError(f"expected one row of statistics per sample, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("statistics must be finite numbers")
    return array


def _cluster_means(values: Floats, clusters: Sequence[Hashable] | None) -> Floats:
    if clusters is None:
        return values
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values but {len(clusters)} clusters")
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(name, len(number)) for name in clusters], dtype=np.intp)
    return np.bincount(index, weights=values) / np.bincount(index)


def _aligned(a: PerSample, b: PerSample) -> tuple[Floats, Floats]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        common = [sample for sample in a if sample in b]
        first = [float(np.mean(a[sample])) for sample in common]
        second = [float(np.mean(b[sample])) for sample in common]
        return _finite(first), _finite(second)
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        raise TypeError("pair two mappings or two sequences")
    if len(a) != len(b):
        raise ValueError(f"sequences of {len(a)} and {len(b)} values cannot be paired")
    return _finite(a), _finite(b)


def _degenerate(means: Floats, *, method: Method) -> Interval:
    if len(means) == 0:
        return Interval(estimate=None, low=None, high=None, n=0)
    value = float(means[0])  # not the mean: that of three 0.1 is 0.10000000000000002
    if len(means) == 1:
        return Interval(estimate=value, low=None, high=None, n=1)
    return Interval(estimate=value, low=value, high=value, n=len(means), method=method)


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


def _resamples(n: int, resamples: int, seed: int) -> Iterator[tuple[slice, NDArray[np.int32]]]:
    """Index arrays of shape (rows, n) in chunks, each with the slice of resamples that it is."""
    random = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        yield slice(start, stop), random.integers(n, size=(stop - start, n), dtype=np.int32)


def _multiplicities(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each sample is drawn, shape (rows, n), in chunks: sums are then a product."""
    for _, picks in _resamples(n, resamples, seed):
        rows = len(picks)
        flat = (picks + np.arange(rows, dtype=np.int64)[:, None] * n).ravel()
        yield np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def _blocks(rows: Floats, seed: int) -> Floats:
    """The rows, or sums of random blocks of them when there are more than is resampled singly.

    Sums of random groups vary as samples do, so resampling (or exchanging) whole groups estimates
    the same spread (the random groups method; Wolter 2007, chapter 2).
    """
    n = len(rows)
    if n <= RESAMPLING_LIMIT:
        return rows
    random = np.random.Generator(np.random.PCG64(seed))
    block = random.permutation(n) % RESAMPLING_LIMIT
    columns = [np.bincount(block, weights=column) for column in rows.T]
    return np.stack(columns, axis=1)


def _random_masks(n: int, permutations: int, seed: int) -> Iterator[Floats]:
    """Rows of random zeros and ones, shape (rows, n), in chunks; every bit drawn is used."""
    random = np.random.Generator(np.random.PCG64(seed))
    width = -(-n // 8)
    rows = max(1, _CHUNK // n)
    for start in range(0, permutations, rows):
        drawn = random.integers(256, size=(min(rows, permutations - start), width), dtype=np.uint8)
        yield np.unpackbits(drawn, axis=1, count=n).astype(np.float64)


def _all_masks(n: int) -> Iterator[Floats]:
    """Every row of zeros and ones that begins with a zero.

    Those with a one in front exchange the other half, which only turns the difference's sign.
    """
    numbers = np.arange(2 ** (n - 1))
    yield ((numbers[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _sign_flip(differences: Floats, permutations: int, seed: int) -> float:
    n = len(differences)
    if not differences.any():
        return 1.0
    if n > RESAMPLING_LIMIT:
        return paired_t(differences)
    total = float(differences.sum())
    # Sums of the same numbers in another order differ by rounding; they still count as equal.
    observed = abs(total) - 1e-12 * float(np.abs(differences).sum())
    if n <= EXACT_LIMIT:
        sums = np.zeros(1)
        for value in differences:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.count_nonzero(np.abs(sums) >= observed) / len(sums))
    reached = sum(
        int(np.count_nonzero(np.abs(total - 2 * (mask @ differences)) >= observed))
        for mask in _random_masks(n, permutations, seed)
    )
    return (reached + 1) / (permutations + 1)


def _corpus_score(corpus: Corpus, sums: Floats) -> float:
    score = float(corpus(sums.tolist()))
    if not np.isfinite(score):
        raise ValueError("a corpus score must be a finite number")
    return score


def _t_quantile(share: float, freedom: int) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415  (scipy takes a third of a second to import)

    return float(stdtrit(freedom, share))
