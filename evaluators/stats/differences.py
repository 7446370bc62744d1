"""Is a better than b? Paired differences, their tests, and what to do without pairs.

    paired_difference({"a": 0.9}, {"a": 0.4})    -> Paired(difference=0.5, ...)
    unpaired_difference([0.9, 0.7], [0.4])       -> Unpaired(difference=0.4, ...)
    holm([0.01, 0.04, 0.03])                     -> [0.03, 0.06, 0.06]

A report decides by the test of `paired_difference` (`inversion.py`), whose interval holds what it
does not reject. The others answer other questions, and stand beside it for readers who expect them:
Student's and Wilcoxon's for pairs, McNemar's for pairs of 0 and 1, Welch's and Mann and Whitney's
where nothing is paired.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.stats.always_valid import AsymptoticTest, always_valid_test
from evaluators.stats.intervals import (
    FEWEST_CLUSTERS,
    ROUNDING,
    Corpus,
    cluster_index,
    cluster_sums,
    clustered_error,
    clustered_t,
    corpus_score,
    effective_clusters,
    finite,
    matrix,
    resampled_scores,
    standard_error,
)
from evaluators.stats.inversion import (
    FEW_DIFFERENT,
    BoundedTest,
    DichotomousTest,
    DifferenceMethod,
    DifferenceTest,
    EveryTest,
    NoTest,
    StudentTest,
    UnboundedConstantTest,
    UnseenTest,
    equivalence_p,
    mean_test,
    moments,
    p_value,
    sign_flips,
    skew_safe_test,
)
from evaluators.stats.power import minimum_detectable_effect
from evaluators.stats.resampling import Floats
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM
from evaluators.stats.unpaired import unpaired_test, welch_test

FEWEST_UNBOUNDED = 50
"""Without a range, fewer samples (or clusters) do not show how skewed differences are."""

FEWEST_ONE_SIDED = 100
"""Without a range and in one direction only, a bound of 97.5% takes so many samples to hold."""

PerSample: TypeAlias = Mapping[Any, float | Sequence[float]] | Sequence[float] | Floats


class WinCounts(NamedTuple):
    """How many samples the first wins, ties and loses against the second."""

    wins: int
    ties: int
    losses: int


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """The difference a - b over samples that both have.

    Attributes:
        difference: of the means, or of the corpus scores.
        low, high: its confidence interval, the differences that the test does not reject; None
            where the data give no bound (one sample, equal samples of a score without a range, or
            too few clusters).
        p_value: two-sided, of the same test; not corrected for other comparisons.
        p_equivalence: of a true difference of the margin or more, either way; None without one.
        method: the test.
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
    method: DifferenceMethod = "none"
    p_equivalence: float | None = None


def paired_difference(
    a: PerSample,
    b: PerSample,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    low: float | None = None,
    high: float | None = None,
    margin: float | None = None,
    always_valid: bool = False,
) -> Paired | None:
    """Return the mean difference a - b over the samples that both have; None without any.

    Interval and p-values are of one test: `DichotomousTest` where every score is 0 or 1,
    `mean_test` otherwise, and Student's t with a clustered standard error where samples have
    clusters. That of equivalence is of the same test and of another that allows for differences too
    rare to be among the samples; see `PairedTests`.

    Args:
        a: sample id to its value, or to the values of its repeats, which are averaged; or one value
            per sample.
        b: the same; where both are sequences, aligned with `a`.
        clusters: of two sequences: the cluster that each sample belongs to.
        level: confidence level of the interval.
        low: the end of the scores' range; None without one.
        high: its other end.
        margin: the largest difference that makes no difference to the user; None for none.
        always_valid: whether the numbers have to hold although they were looked at before.
    """
    first, second = _aligned(a, b)
    if not len(first):
        return None
    tests = paired_tests(
        first, second, clusters=clusters, low=low, high=high, always_valid=always_valid
    )
    return tests.paired(level=level, margin=margin)


class PairedTests(NamedTuple):
    """The tests of a difference, and the numbers beside them.

    Attributes:
        test: of the difference.
        margin: of statements about a margin. Those say that nothing large is there, so it allows
            for differences too rare to be among the samples: `test` and `BoundedTest` must both
            reject, or without a range `skew_safe_test`. The score test of 0 and 1 allows for them
            itself, and so do bets.
        units: samples, or clusters; of a judge's corrected scores, those with labels.
        n: samples.
        difference: of the means, or of the scores.
        spread: the standard deviation of a unit's part in it; None where it is not known.
        width: the largest difference that the scores' range allows; None without one.
        counts: wins, ties and losses; None where samples have no own value.
        effect_size: Cohen's d_z; None where it is undefined.
    """

    test: DifferenceTest
    margin: DifferenceTest
    units: int
    n: int
    difference: float
    spread: float | None
    width: float | None
    counts: WinCounts | None = None
    effect_size: float | None = None

    def paired(self, *, level: float = 0.95, margin: float | None = None) -> Paired:
        """Return what a report says of the difference.

        Args:
            level: confidence level of the interval.
            margin: the largest difference that makes no difference to the user; None for none.
        """
        wins, ties, losses = self.counts or (None, None, None)
        detectable = None
        if self.spread is not None and not isinstance(self.test, NoTest):
            detectable = minimum_detectable_effect(self.spread, self.units)
        return Paired(
            difference=self.difference,
            **_tested(self.test, level, self.width),
            n=self.n,
            wins=wins,
            ties=ties,
            losses=losses,
            effect_size=self.effect_size,
            detectable=detectable,
            p_equivalence=None if margin is None else equivalence_p(self.margin, margin),
        )


def paired_tests(
    first: Floats,
    second: Floats,
    *,
    clusters: Sequence[Hashable] | None = None,
    low: float | None = None,
    high: float | None = None,
    always_valid: bool = False,
) -> PairedTests:
    """Return the tests of the mean difference of scores of the same samples.

    Args:
        first: one score per sample, shape (n,), n above 0.
        second: what is subtracted, of the same shape.
        clusters: the cluster that each sample belongs to; None where each stands alone.
        low: the end of the scores' range; None without one.
        high: its other end.
        always_valid: whether the tests have to hold although the scores were looked at before.
    """
    n = len(first)
    differences = first - second
    # What differs by rounding only is a tie: otherwise noise of 1e-17 gets an effect size.
    differences[_tied(first, second)] = 0.0
    # Nor is what varies by rounding only a spread.
    if np.ptp(differences) <= ROUNDING * max(np.abs(first).max(), np.abs(second).max()):
        differences[:] = differences[0]
    width = None
    if low is not None and high is not None:
        # Scores beyond their range widen it.
        width = max(high - low, float(np.abs(differences).max()))
    dichotomous = n > 1 and all(np.isin(scores, (0.0, 1.0)).all() for scores in (first, second))
    if dichotomous:
        width = 1.0
    ends = (None, None) if width is None else (-width, width)
    units = n if clusters is None else cluster_index(clusters, n)[1]
    test: DifferenceTest
    if always_valid:
        test = always_valid_test(differences, clusters=clusters, low=ends[0], high=ends[1])
    elif clusters is not None:
        test = _clustered_test(differences, clusters, width)
    elif dichotomous:
        counts = outcomes(first, second)
        test = DichotomousTest(wins=counts.wins, losses=counts.losses, n=n)
    else:
        test = mean_test(differences, low=ends[0], high=ends[1])
    margin: DifferenceTest = test
    if test.method not in {"none", "score", "betting"}:
        margin = EveryTest([test, _safe_test(differences, clusters, width)], units=units)
    difference, spread, unit_spread = float(differences.mean()), 0.0, 0.0
    if differences.min() == differences.max():
        difference = float(differences[0])
    elif n > 1:
        spread = unit_spread = float(differences.std(ddof=1))
        if clusters is not None and units > 1:
            unit_spread = standard_error(differences, clusters=clusters) * units**0.5
    return PairedTests(
        test,
        margin,
        units,
        n,
        difference,
        unit_spread,
        width,
        counts=outcomes(first, second),
        effect_size=difference / spread if spread else None,
    )


def _safe_test(
    differences: Floats, clusters: Sequence[Hashable] | None, width: float | None
) -> DifferenceTest:
    """Return the test that allows for what the samples do not show."""
    if width is not None:
        return _bounded_test(differences, clusters, width)
    one_sided = bool(differences.min() >= 0 or differences.max() <= 0)
    fewest = FEWEST_ONE_SIDED if one_sided else FEWEST_UNBOUNDED
    if clusters is None:
        n = len(differences)
        return skew_safe_test(moments(differences), n, n - 1, fewest=fewest)
    error, freedom = clustered_error(differences, clusters)
    mean = float(differences.mean())
    parts = cluster_sums((differences - mean)[:, None], clusters)[:, 0]
    of_parts = moments(parts)._replace(mean=mean, error=error)
    return skew_safe_test(of_parts, effective_clusters(clusters), freedom, fewest=fewest)


def _bounded_test(
    differences: Floats, clusters: Sequence[Hashable] | None, width: float
) -> BoundedTest:
    if clusters is None:
        return BoundedTest(differences, -width, width, at_zero=None)
    sums = cluster_sums(np.stack([differences, np.ones(len(differences))], axis=1), clusters)
    return BoundedTest(sums[:, 0] / sums[:, 1], -width, width, sizes=sums[:, 1])


def _clustered_test(
    differences: Floats, clusters: Sequence[Hashable], width: float | None
) -> DifferenceTest:
    if effective_clusters(clusters) < FEWEST_CLUSTERS:
        return NoTest()
    error, freedom = clustered_t(differences, clusters)
    sums = cluster_sums(np.stack([differences, np.ones(len(differences))], axis=1), clusters)
    means = sums[:, 0] / sums[:, 1]
    largest = float(np.abs(differences).max())
    means[np.abs(means - np.median(means)) <= ROUNDING * largest] = np.median(means)
    if width is not None and np.ptp(means) == 0:
        return BoundedTest(
            means, -width, width, sizes=sums[:, 1], at_zero=sign_flips(means * sums[:, 1])
        )
    if error <= ROUNDING * largest:
        return UnboundedConstantTest(float(differences.mean()), len(means))
    different = int(np.count_nonzero(np.abs(sums[:, 0]) > ROUNDING))
    mean = float(differences.mean())
    plain = StudentTest(mean, error, freedom, method="clustered t", different=different)
    if differences.min() < 0 < differences.max():
        return plain
    # In one direction only, as skewed as can be: the end further out of t and of t corrected.
    skew = moments(sums[:, 0] - mean * sums[:, 1]).skew
    corrected = StudentTest(mean, error, freedom, skew=skew, different=different)
    return EveryTest([plain, corrected], units=len(means))


def _tested(test: DifferenceTest, level: float, width: float | None) -> dict[str, Any]:
    """Return the interval and p-value of a test; no end lies beyond what is possible."""
    low = high = None
    interval = test.interval(level)
    if interval is not None:
        limit = math.inf if width is None else width
        low, high = max(interval[0], -limit), min(interval[1], limit)
    return {"low": low, "high": high, "p_value": p_value(test), "method": test.method}


def paired_corpus_difference(
    a: ArrayLike,
    b: ArrayLike,
    corpus: Corpus,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    width: float | None = None,
    margin: float | None = None,
    always_valid: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Paired | None:
    """Return the difference of two corpus scores a - b; None without samples.

    The standard error is of a bootstrap that draws the same samples for both (Koehn 2004); interval
    and p-value compare the difference with it by Student's t. Equal systems get a p-value of 1.

    Args:
        a: statistics, one row per sample, shape (n, k).
        b: the same, the samples in the same order.
        corpus: the score of the k sums over the rows.
        clusters: the cluster that each row belongs to; whole clusters are drawn.
        level: confidence level of the interval.
        width: the largest difference that the score's range allows; None without a range.
        margin: the largest difference that makes no difference to the user; None for none.
        always_valid: whether the numbers have to hold although they were looked at before.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    tests = corpus_tests(
        a,
        b,
        corpus,
        clusters=clusters,
        width=width,
        always_valid=always_valid,
        resamples=resamples,
        seed=seed,
    )
    return None if tests is None else tests.paired(level=level, margin=margin)


def corpus_tests(
    a: ArrayLike,
    b: ArrayLike,
    corpus: Corpus,
    *,
    clusters: Sequence[Hashable] | None = None,
    width: float | None = None,
    always_valid: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedTests | None:
    """Return the tests of `paired_corpus_difference`, of the same arguments."""
    first, second = matrix(a), matrix(b)
    if len(first) == len(second) == 0:
        # A route without any answer has no columns either.
        return None
    if first.shape != second.shape:
        raise ValueError(f"statistics of shapes {first.shape} and {second.shape} cannot be paired")
    columns = first.shape[1]

    def gap(sums: Floats) -> float:
        return corpus_score(corpus, sums[:columns]) - corpus_score(corpus, sums[columns:])

    both = np.hstack([first, second])
    difference = gap(both.sum(axis=0))
    rows = both if clusters is None else cluster_sums(both, clusters)
    units = len(rows)
    effective = float(units) if clusters is None else effective_clusters(clusters)
    error = 0.0
    if units > 1:
        # A resample varies as n - 1 in n samples do.
        error = float(resampled_scores(rows, gap, resamples, seed).std())
        error *= (units / (units - 1)) ** 0.5
    constant = error <= ROUNDING * max(1.0, abs(difference))
    test: DifferenceTest
    if (
        units < 2
        or (clusters is not None and effective < FEWEST_CLUSTERS)
        or (always_valid and (units < ASYMPTOTIC_MINIMUM or error <= ROUNDING))
    ):
        test = NoTest()
    elif always_valid:
        test = AsymptoticTest(difference, error, units)
    elif constant:
        difference = difference if abs(difference) > ROUNDING else 0.0
        test = UnboundedConstantTest(difference, units)
        if width is not None:
            test = UnseenTest(difference, 0.0, effective, width, tail=min(test.tails(0.0)))
    else:
        different = int(np.count_nonzero((rows[:, :columns] != rows[:, columns:]).any(axis=1)))
        test = StudentTest(difference, error, units - 1, method="bootstrap t", different=different)
    margin: DifferenceTest = test
    if test.method != "none":
        safe: DifferenceTest = StudentTest(difference, error, units - 1)
        if width is not None:
            safe = UnseenTest(difference, 0.0 if constant else error, effective, width)
        margin = EveryTest(
            [test, safe], units=effective, fewest=FEWEST_UNBOUNDED if width is None else 0
        )
    return PairedTests(test, margin, units, len(first), difference, error * units**0.5, width)


def outcomes(a: ArrayLike, b: ArrayLike) -> WinCounts:
    """Count wins, ties and losses of a against b by sample; equal up to rounding is a tie."""
    first, second = finite(a), finite(b)
    ties = _tied(first, second)
    wins = int(np.count_nonzero(~ties & (first > second)))
    tied = int(np.count_nonzero(ties))
    return WinCounts(wins=wins, ties=tied, losses=len(first) - wins - tied)


def _tied(first: Floats, second: Floats) -> NDArray[np.bool_]:
    """Say which values are equal up to rounding."""
    tied: NDArray[np.bool_] = np.abs(first - second) <= 1e-12 + 1e-9 * np.abs(second)
    return tied


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p-value of the paired t test on the differences; 1 when all are zero or n is 1."""
    from scipy.special import stdtr  # noqa: PLC0415  (scipy takes a third of a second to import)

    values = finite(differences)
    if len(values) < 2 or not values.any():
        return 1.0
    if values.min() == values.max():
        return 0.0
    t = float(values.mean()) / standard_error(values)
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def wilcoxon(differences: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 when all differences are zero.

    Differences of zero are left out (Wilcoxon 1945, Biometrics 1:80-83). It is about the ranks of
    the differences, not about their mean. Exact for few samples without ties.
    """
    from scipy.stats import wilcoxon as signed_rank  # noqa: PLC0415  (slow to import)

    values = finite(differences)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    return float(signed_rank(values).pvalue)


class McNemar(NamedTuple):
    """P-values of McNemar's test for pairs of 0 and 1."""

    exact: float
    mid_p: float


def mcnemar(wins: int, losses: int) -> McNemar:
    """Compute McNemar's test (1947) from how often only a was right, and only b.

    `mid_p` is the one to use: the exact test is needlessly cautious and the asymptotic one is not
    safe for few pairs (Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91).
    """
    from scipy.special import bdtr  # noqa: PLC0415  (scipy takes a third of a second to import)

    n, fewer = wins + losses, min(wins, losses)
    if n == 0:
        return McNemar(1.0, 1.0)
    tail = 2 * float(bdtr(fewer, n, 0.5))
    point = float(bdtr(fewer, n, 0.5)) - (float(bdtr(fewer - 1, n, 0.5)) if fewer else 0.0)
    return McNemar(exact=min(1.0, tail), mid_p=min(1.0, tail - point))


class Unpaired(msgspec.Struct, frozen=True, kw_only=True):
    """The difference of the means of a and b, which have no samples in common.

    Attributes:
        difference: mean of a minus mean of b.
        low, high: its interval, what `unpaired_test` does not reject; None where either has fewer
            than two values, or only one value and the scores no range.
        p_value: two-sided, of the same test; 1 where there is none.
        p_equivalence: of a true difference of the margin or more, either way; None without one.
        method: the test.
        p_welch: of Welch's t test (1947, Biometrika 34:28-35), two-sided.
        p_mann_whitney: of Mann and Whitney's test of ranks (1947), two-sided.
        cliffs_delta: how much more often a value of a is larger than one of b than smaller, -1 to
            1 (Cliff 1993, Psychological Bulletin 114:494-509).
        n_a, n_b: values in each.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float
    p_welch: float | None
    p_mann_whitney: float
    cliffs_delta: float
    n_a: int
    n_b: int
    method: DifferenceMethod = "none"
    p_equivalence: float | None = None


def unpaired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    low: float | None = None,
    high: float | None = None,
    margin: float | None = None,
) -> Unpaired | None:
    """Compare values that have nothing in common, sample by sample; None where either has none.

    Questions differ in difficulty, and here that counts as noise: pair the samples where you can.

    Args:
        a: scores, shape (n,).
        b: scores of other samples, shape (m,).
        level: confidence level of the interval.
        low: the end of the scores' range; None without one.
        high: its other end.
        margin: the largest difference that makes no difference to the user; None for none.
    """
    from scipy.stats import mannwhitneyu  # noqa: PLC0415  (slow to import)

    first, second = finite(a), finite(b)
    n_a, n_b = len(first), len(second)
    if n_a == 0 or n_b == 0:
        return None
    test = unpaired_test(first, second, low=low, high=high)
    width = None
    if low is not None and high is not None:
        least = min(low, float(first.min()), float(second.min()))
        width = max(high, float(first.max()), float(second.max())) - least
    difference, units = float(first.mean() - second.mean()), min(n_a, n_b)
    safe = test
    if isinstance(test, StudentTest):
        tests: list[DifferenceTest] = [test]
        if width is not None:
            tests.append(UnseenTest(difference, test.error, units, width))
        safe = EveryTest(tests, units=units, fewest=0 if width else FEWEST_UNBOUNDED)
    ranks = mannwhitneyu(first, second)
    constant = min(first.min(), second.min()) == max(first.max(), second.max())
    return Unpaired(
        difference=difference,
        **_tested(test, level, width),
        p_equivalence=None if margin is None else equivalence_p(safe, margin),
        p_welch=welch(first, second),
        p_mann_whitney=1.0 if constant else float(ranks.pvalue),
        cliffs_delta=2 * float(ranks.statistic) / (n_a * n_b) - 1,
        n_a=n_a,
        n_b=n_b,
    )


def welch(a: Floats, b: Floats) -> float | None:
    """Two-sided p-value of Welch's t test; None with fewer than two values, or without a spread."""
    if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
        return None
    return p_value(welch_test(a, b))


def smallest_p_value(n: int, method: DifferenceMethod) -> float:
    """Return a bound below every p-value that `paired_difference` can give with n samples."""
    if method == "score":
        return 2.0**-n
    return 2.0 ** (1 - n) if n <= FEW_DIFFERENT else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family, in the order given (Holm 1979, Scand. J. Stat. 6:65).

    Calling those below alpha significant keeps the chance of any false one below alpha, whatever
    the dependence between the tests.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _aligned(a: PerSample, b: PerSample) -> tuple[Floats, Floats]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        common = [sample for sample in a if sample in b]
        first = [float(np.mean(a[sample])) for sample in common]
        second = [float(np.mean(b[sample])) for sample in common]
        return finite(first), finite(second)
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        raise TypeError("pair two mappings or two sequences")
    if len(a) != len(b):
        raise ValueError(f"sequences of {len(a)} and {len(b)} values cannot be paired")
    return finite(a), finite(b)
