"""Tests of a mean difference, and the intervals that invert them.

    test = DichotomousTest(wins=7, losses=1, n=40)
    p_value(test)                   -> 0.039...
    test.interval(0.95)             -> (0.014..., 0.301...)
    equivalence_p(test, 0.3)        -> 0.051..., of a true difference of 0.3 or more either way

An interval holds every difference that its test does not reject. So the interval, the p-value, the
verdict and the gate of a comparison come from one procedure and cannot contradict each other: the
interval at 95% leaves out a value exactly where the two-sided p-value of that value is below 0.05.

Which test holds its level where is measured by `make evidence`; docs/explanation/statistics.md
quotes the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from evaluators.stats.exponential_sums import chance_below_zero
from evaluators.stats.resampling import Floats

DifferenceMethod: TypeAlias = Literal[
    "none",
    "score",
    "t",
    "hall",
    "bounded",
    "clustered t",
    "bootstrap t",
    "betting",
    "asymptotic",
    "welch",
]

SKEWED = 1.0
"""With a larger skewness (that of an exponential distribution is 2), plain t misses on one side."""

FEWEST_SKEWED = 30
"""With fewer samples, how skewed they look is mostly chance."""

FEW_DIFFERENT = 5
"""With so many samples that differ, or fewer, all may have one sign by chance: 2 * 2**-5 > 0.05."""

RANGED = 0.85
"""Of one-sided differences of scores with a range, the part of the skewness that is corrected for.

The range ends their tail: a correction for all of it covers 97% where 15 of 50 samples differ.
"""

_NORMAL = NormalDist()
JUST_ABOVE_ZERO = 1e-9
_TINY = 1e-15
_SECANTS = 8
_CLOSE = 1e-6  # the error after one more step is about its square
_STEPS = 60  # halvings of a range that is at most 2 wide: as fine as a float
_VALUES_LIMIT = 512  # different ones, beyond which a grid of as many is as good
_CHOICES_LIMIT = 200_000
_PLACES = 2_000


class Tails(NamedTuple):
    """One-sided p-values of a hypothesis about the true difference.

    Attributes:
        above: how likely an estimate this large is if the true difference is the given value.
        below: how likely one this small is.
    """

    above: float
    below: float


class DifferenceTest(Protocol):
    """A test of the true mean difference; `tails` says how far a value is from the data."""

    @property
    def method(self) -> DifferenceMethod:
        """The name of the procedure."""
        ...

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        ...

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the values that the test does not reject; None where the data give no bound."""
        ...

    def scaled(self, ratio: float, luck: float) -> DifferenceTest:
        """Return the test of other data that are alike: how many are needed to show something.

        Args:
            ratio: times as many samples.
            luck: by how many of its standard errors their mean is above that of these.
        """
        ...


def p_value(test: DifferenceTest, value: float = 0.0) -> float:
    """Return the two-sided p-value of a true difference of `value`."""
    return min(1.0, 2 * min(test.tails(value)))


def equivalence_p(test: DifferenceTest, margin: float) -> float:
    """Return the p-value of a true difference of `margin` or more, in either direction.

    Both one-sided tests must reject (Schuirmann 1987, Journal of Pharmacokinetics and
    Biopharmaceutics 15:657-680), each at half the level of the interval: the p-value is below 0.05
    exactly where the 95% interval lies within the margin.
    """
    return min(1.0, 2 * max(test.tails(-margin).above, test.tails(margin).below))


def rejects(test: DifferenceTest, value: float, *, above: bool, alpha: float) -> bool:
    """Say whether the one-sided p-value of a true difference of `value` is below `alpha`.

    Args:
        test: the test.
        value: the difference.
        above: whether the estimate has to be above the value, or below it.
        alpha: the level, of one side.
    """
    if isinstance(test, EveryTest):
        return test.rejects(value, above=above, alpha=alpha)
    tails = test.tails(value)
    return (tails.above if above else tails.below) < alpha


class DichotomousTest:
    """The difference of two shares over the same samples: every score is 0 or 1.

    Differences other than zero are tested by Tango's score test (1998, Statistics in Medicine
    17:891-908), which compares the estimate with the spread that it would have under the
    hypothesis. Zero is tested by McNemar's test in its mid-p form, which that test comes near and
    which never exceeds its level in practice (Fagerland, Lydersen and Laake 2013, BMC Medical
    Research Methodology 13:91). Where mid-p does not reject zero the interval reaches it.
    """

    method: DifferenceMethod = "score"

    def __init__(self, *, wins: float, losses: float, n: float) -> None:
        self._wins, self._losses, self._n = wins, losses, n
        self._estimate = (wins - losses) / n

    def scaled(self, ratio: float, luck: float) -> DichotomousTest:
        """Return the test of other data that are alike."""
        ties = self._n - self._wins - self._losses
        counts = np.array([self._wins, ties, self._losses], dtype=np.float64)
        wins, ties, losses = drawn_again(counts, np.array([1.0, 0.0, -1.0]), ratio, luck)
        return DichotomousTest(wins=wins, losses=losses, n=wins + ties + losses)

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        if value == 0.0:
            return _mid_p(self._wins, self._losses)
        z = self._score(value)
        return Tails(_normal_above(z), _normal_above(-z))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        low, high = _score_ends(self._wins, self._losses, self._n, level)
        if p_value(self) > 1 - level:
            return min(low, 0.0), max(high, 0.0)
        # At levels far above 95% the two tests can differ the other way about.
        if self._estimate > 0:
            return max(low, JUST_ABOVE_ZERO), high
        return low, min(high, -JUST_ABOVE_ZERO)

    def _score(self, value: float) -> float:
        return _score(value, self._wins, self._losses, self._n)


# Comparisons of one report are of the same few tables.
@lru_cache(maxsize=4096)
def _score_ends(wins: float, losses: float, n: float, level: float) -> tuple[float, float]:
    """Return the differences that Tango's test does not reject."""
    quantile, estimate = _NORMAL.inv_cdf(0.5 + level / 2), (wins - losses) / n
    low = boundary(lambda value: _score(value, wins, losses, n) > quantile, -1.0, estimate)
    high = boundary(lambda value: _score(value, wins, losses, n) < -quantile, 1.0, estimate)
    return low, high


def _score(value: float, wins: float, losses: float, n: float) -> float:
    """Return the estimate's distance from `value` in standard errors under that value."""
    linear = (2 * n - wins + losses) * value - wins - losses
    constant = -losses * value * (1 - value)
    share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + value * (1 - value))
    distance = wins - losses - n * value
    if variance < 1e-12 * n:
        return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


class StudentTest:
    """An estimate over its standard error, by Student's t and corrected for skew on request.

    The correction is Hall's (1992, JRSS B 54:221-228): a cubic function turns the statistic into
    one that is not skewed, and can be inverted.
    """

    def __init__(
        self,
        estimate: float,
        error: float,
        freedom: float,
        *,
        method: DifferenceMethod = "t",
        skew: float = 0.0,
        different: int | None = None,
    ) -> None:
        """Take the parts of the statistic.

        Args:
            estimate: the mean difference.
            error: its standard error, above 0.
            freedom: degrees of freedom.
            method: the name to report.
            skew: the skewness of the differences over the root of their number.
            different: how many samples differ at all, where every sample stands alone.
        """
        self.method = method
        self._estimate, self.error, self._freedom, self._skew = estimate, error, freedom, skew
        few = different is not None and different <= FEW_DIFFERENT
        # All signs alike is the most extreme outcome of a sign-flip test.
        self._smallest_tail = 2.0 ** -(different or 1) if few else 0.0

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        from scipy.special import stdtr  # noqa: PLC0415  (a third of a second to import)

        statistic = self._unskewed((self._estimate - value) / self.error)
        above = float(stdtr(self._freedom, -statistic))
        below = float(stdtr(self._freedom, statistic))
        if value == 0.0:
            return Tails(max(above, self._smallest_tail), max(below, self._smallest_tail))
        return Tails(above, below)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        from scipy.special import stdtrit  # noqa: PLC0415  (a third of a second to import)

        quantile = float(stdtrit(self._freedom, 0.5 + level / 2))
        low = self._estimate - self.error * skewed(quantile, self._skew)
        high = self._estimate - self.error * skewed(-quantile, self._skew)
        if 2 * self._smallest_tail > 1 - level:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    def scaled(self, ratio: float, luck: float) -> StudentTest:
        """Return the test of other data that are alike."""
        root = math.sqrt(ratio)
        return StudentTest(
            self._estimate + luck * self.error / root,
            self.error / root,
            self._freedom * ratio,
            method=self.method,
            skew=self._skew / root,
        )

    def _unskewed(self, statistic: float) -> float:
        skew = self._skew
        return statistic + skew * statistic**2 / 3 + skew**2 * statistic**3 / 27 + skew / 6


class BoundedTest:
    """The mean of values with a range, whatever else they could be.

    The tail of a mean is the chance that the values and one more, at the end of the range, have a
    mean beyond it when they are weighted by a flat Dirichlet distribution (Gaffke 2005,
    Mathematical Methods of Statistics 14:451-467; Learned-Miller and Thomas 2019, arXiv
    1905.06208). So it allows for values too rare to be among the samples: where all are the same,
    others have a share such that none is drawn with a chance of (1 - share) ** n, and lie at the
    end of the range. For values of 0 and 1 it is the test of Clopper and Pearson. That it holds its
    level in general is a conjecture, which no simulation has contradicted.

    Clusters count as one observation each, by their sizes, and the one more is as large as those
    that the effective number of clusters counts.
    """

    method: DifferenceMethod = "bounded"

    def __init__(
        self,
        values: Floats,
        low: float,
        high: float,
        *,
        counts: Floats | None = None,
        sizes: Floats | None = None,
        at_zero: Tails | None = None,
    ) -> None:
        """Take the values.

        Args:
            values: one number per sample (or the mean of a cluster), shape (n,).
            low: the end of the range.
            high: its other end.
            counts: how often each value is there, shape (n,); once by default.
            sizes: the samples of each cluster, shape (n,).
            at_zero: the tails of zero, by a test that is about zero alone.
        """
        if counts is None and sizes is None:
            values, whole = np.unique(values, return_counts=True)
            counts = whole.astype(np.float64)
        self._values, self._low, self._high = values, low, high
        self._counts = np.ones(len(values)) if counts is None else counts
        self._sizes = np.ones(len(values)) if sizes is None else sizes
        if len(values) > _VALUES_LIMIT and sizes is None:
            self._values, self._counts = _gridded(values, self._counts)
            self._sizes = np.ones(len(self._values))
        weights = self._counts * self._sizes
        self._unseen = float((weights * self._sizes).sum() / weights.sum())
        if len(values) > _VALUES_LIMIT and sizes is not None:
            self._values, self._counts, self._sizes = _grouped(values, self._counts, sizes)
            weights = self._counts * self._sizes
        self._mean = float(weights @ self._values / weights.sum())
        self._at_zero = at_zero

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        above, below = self._tail(value, self._low, 1.0), self._tail(value, self._high, -1.0)
        if self._at_zero is None:
            return Tails(above, below)
        if value == 0.0:
            return self._at_zero
        # What rejects zero rejects all that is further away.
        if value < 0:
            return Tails(min(above, self._at_zero.above), below)
        return Tails(above, min(below, self._at_zero.below))

    def _tail(self, value: float, end: float, sign: float) -> float:
        """Return how likely it is that the true mean is not on this side of a value."""
        terms = sign * self._sizes * (self._values - value)
        if sign * (end - value) >= 0:  # no mean lies beyond the end of the range
            return float(sign * (end - value) == 0 and not terms.any())
        unseen = sign * self._unseen * (end - value)
        return chance_below_zero(np.append(terms, unseen), np.append(self._counts, 1.0))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        tail = (1 - level) / 2
        low, high = self._end(tail, self._low, 1.0), self._end(tail, self._high, -1.0)
        if self._at_zero is None:
            return low, high
        if self._at_zero.above < tail:
            low = max(low, JUST_ABOVE_ZERO)
        elif self._at_zero.below < tail:
            high = min(high, -JUST_ABOVE_ZERO)
        else:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    def _end(self, tail: float, end: float, sign: float) -> float:
        """Return the value whose tail is so large."""
        furthest = _quantile(tail)
        weights = self._counts * self._sizes
        total = float(weights.sum()) + self._unseen
        mean = self._mean + self._unseen / total * (end - self._mean)
        squares = float(weights * self._sizes @ (self._values - mean) ** 2)
        spread = math.sqrt(squares + (self._unseen * (end - mean)) ** 2) / total
        return crossing(
            # As quantiles, tails are nearly straight lines.
            lambda value: _quantile(self._tail(value, end, sign)) - furthest,
            end,
            self._mean,
            near=(mean + sign * furthest * spread, sign * spread),
        )

    def limited(self, low: float, high: float, level: float) -> tuple[float, float]:
        """Return these ends, or those of the interval where they lie further in."""
        tail = (1 - level) / 2
        if self._tail(low, self._low, 1.0) < tail:
            low = self._end(tail, self._low, 1.0)
        if self._tail(high, self._high, -1.0) < tail:
            high = self._end(tail, self._high, -1.0)
        return low, high

    def scaled(self, ratio: float, luck: float) -> BoundedTest:
        """Return the test of other data that are alike."""
        influence = self._sizes * (self._values - self._mean)
        return BoundedTest(
            self._values,
            self._low,
            self._high,
            counts=drawn_again(self._counts, influence, ratio, luck),
            sizes=self._sizes,
        )


class UnboundedConstantTest:
    """Differences that are all the same, of scores without a range: only their sign is tested."""

    method: DifferenceMethod = "none"

    def __init__(self, value: float, n: int) -> None:
        self._value, self._n = value, n

    def tails(self, value: float) -> Tails:
        """Return the sign-flip test's p-values for zero; other values cannot be tested."""
        tail = 2.0**-self._n
        if value != 0.0 or self._value == 0.0:
            return Tails(1.0, 1.0)
        return Tails(tail, 1.0) if self._value > 0 else Tails(1.0, tail)

    def interval(self, level: float) -> None:
        """Return None: nothing says how far another value may be."""

    def scaled(self, ratio: float, luck: float) -> UnboundedConstantTest:
        """Return the test of other data that are alike."""
        return UnboundedConstantTest(self._value, max(1, round(self._n * ratio)))


class NoTest:
    """Too few samples (or clusters) for any statement."""

    method: DifferenceMethod = "none"

    def tails(self, value: float) -> Tails:
        """Return p-values that reject nothing."""
        return Tails(1.0, 1.0)

    def interval(self, level: float) -> None:
        """Return None."""

    def scaled(self, ratio: float, luck: float) -> NoTest:
        """Return the same: nothing says what more samples would show."""
        return self


class UnseenTest:
    """An estimate with a range over its standard error, and one unit more at the end of the range.

    What `BoundedTest` does for a mean, for a score of a whole corpus: the estimate varies as
    Student's t, and a share of the weight, as much as one of all units and one more has in a flat
    Dirichlet distribution, lies at the end of the range.
    """

    method: DifferenceMethod = "bounded"

    def __init__(
        self,
        estimate: float,
        error: float,
        units: float,
        width: float,
        *,
        tail: float | None = None,
    ) -> None:
        """Take the parts of the statistic.

        Args:
            estimate: the difference.
            error: its standard error; 0 where all units are the same.
            units: samples, or effective clusters.
            width: the largest difference that the score's range allows.
            tail: the p-value of zero on the side of the estimate, by a test that is about zero
                alone.
        """
        self._estimate, self._error, self._units, self._width = estimate, error, units, width
        self._at_zero = tail
        places = (np.arange(_PLACES) + 0.5) / _PLACES
        self._unseen = 1 - places ** (1 / units)

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        if value == 0.0 and self._at_zero is not None:
            tail = self._at_zero
            return Tails(tail, 1.0) if self._estimate > 0 else Tails(1.0, tail)
        return Tails(self._tail(value, 1.0), self._tail(value, -1.0))

    def _tail(self, value: float, sign: float) -> float:
        from scipy.special import stdtr  # noqa: PLC0415  (a third of a second to import)

        # sign * ((estimate + error * t) * (1 - unseen) - sign * width * unseen) <= sign * value
        left = (sign * value + self._width * self._unseen) / (1 - self._unseen)
        gap = left - sign * self._estimate
        if self._error == 0:
            return float((gap >= 0).mean())
        return float(stdtr(max(1.0, self._units - 1), gap / self._error).mean())

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        tail, width = (1 - level) / 2, self._width
        low = crossing(lambda value: self._tail(value, 1.0) - tail, -width, self._estimate)
        high = crossing(lambda value: self._tail(value, -1.0) - tail, width, self._estimate)
        return low, high

    def scaled(self, ratio: float, luck: float) -> UnseenTest:
        """Return the test of other data that are alike."""
        error = self._error / math.sqrt(ratio)
        return UnseenTest(self._estimate + luck * error, error, self._units * ratio, self._width)


class EveryTest:
    """Several tests that must all reject, for statements about a margin.

    Fewer units than `fewest` reject nothing: without a range, they do not show how skewed the
    differences are.
    """

    def __init__(self, tests: Sequence[DifferenceTest], *, units: float, fewest: int = 0) -> None:
        self._tests, self._units, self._fewest = tests, units, fewest

    @property
    def method(self) -> DifferenceMethod:
        """The name of the first of them."""
        return self._tests[0].method

    def tails(self, value: float) -> Tails:
        """Return the largest of their one-sided p-values."""
        if self._units < self._fewest:
            return Tails(1.0, 1.0)
        tails = [test.tails(value) for test in self._tests]
        return Tails(max(tail.above for tail in tails), max(tail.below for tail in tails))

    def rejects(self, value: float, *, above: bool, alpha: float) -> bool:
        """Say whether all of them reject a value; the first that does not is the last one asked."""
        return self._units >= self._fewest and all(
            rejects(test, value, above=above, alpha=alpha) for test in self._tests
        )

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the values that one of them does not reject; None where one has no bound."""
        ends = [test.interval(level) for test in self._tests]
        given = [end for end in ends if end is not None]
        if len(given) < len(ends):
            return None
        return min(low for low, _ in given), max(high for _, high in given)

    def scaled(self, ratio: float, luck: float) -> EveryTest:
        """Return the test of other data that are alike."""
        return EveryTest(
            [test.scaled(ratio, luck) for test in self._tests],
            units=self._units * ratio,
            fewest=self._fewest,
        )


def mean_test(differences: Floats, *, low: float | None, high: float | None) -> DifferenceTest:
    """Return the test for the mean of differences of scores that are not all 0 or 1.

    - With a range, `FEW_DIFFERENT` or fewer samples beside many that are alike: `BoundedTest`, and
      for zero the sign-flip test. So few say little of what else could have been drawn.
    - All differences alike, without a range: only their sign is tested.
    - None above zero, or none below: t corrected for skew. Losses without a win are as skewed as
      can be, and plain t misses then.
    - Otherwise plain t. Differences of two routes have little skew, and correcting for what a
      handful of them shows by chance does harm. Where they are skewed all the same, the end further
      out of both.

    Args:
        differences: one number per sample.
        low: the smallest difference that the scores' range allows; None without a range.
        high: the largest.
    """
    n = len(differences)
    if n < 2:
        return NoTest()
    if low is not None and high is not None and mostly_alike(differences):
        return BoundedTest(differences, low, high, at_zero=sign_flips(differences))
    if differences.min() == differences.max():
        return UnboundedConstantTest(float(differences[0]), n)
    estimate, error, skew, _ = moments(differences)
    different = int(np.count_nonzero(differences))
    one_sided = bool(differences.min() >= 0 or differences.max() <= 0)
    if one_sided:
        part = 1.0 if low is None or high is None else RANGED
        return StudentTest(
            estimate, error, n - 1, method="hall", skew=part * skew, different=different
        )
    corrected = StudentTest(estimate, error, n - 1, method="hall", skew=skew, different=different)
    plain = StudentTest(estimate, error, n - 1, different=different)
    # Fewer samples show the skewness of what was drawn rather than of what it was drawn from.
    skewed_enough = n >= FEWEST_SKEWED and abs(skew) > SKEWED / n**0.5
    return EveryTest([plain, corrected], units=n) if skewed_enough else plain


class Moments(NamedTuple):
    """What a test of a mean needs of the differences.

    Attributes:
        mean: of the differences.
        error: its standard error.
        skew: the skewness over the root of their number.
        kurtosis: 3 for normal differences.
    """

    mean: float
    error: float
    skew: float
    kurtosis: float


def moments(differences: Floats) -> Moments:
    """Return the moments of two differences or more that are not all the same."""
    n, mean = len(differences), float(differences.mean())
    centred = differences - mean
    scale = float(np.abs(centred).max())
    standard = centred / scale  # so that powers neither vanish nor overflow
    squares = standard * standard
    spread = math.sqrt(float(squares.mean()))
    return Moments(
        mean,
        scale * spread / math.sqrt(n - 1),
        float((squares * standard).mean()) / spread**3 / math.sqrt(n),
        float((squares * squares).mean()) / spread**4,
    )


def skew_safe_test(given: Moments, units: float, freedom: float, *, fewest: int) -> DifferenceTest:
    """Return the test of a margin for scores without a range: no range bounds what is not seen.

    Student's t and the same corrected for skew must both reject, with fewer degrees of freedom the
    heavier the tails are: Satterthwaite's, for the variance of a variance that the kurtosis gives.

    Args:
        given: the moments of the differences (or of what clusters add to their mean).
        units: samples, or effective clusters.
        freedom: degrees of freedom at most.
        fewest: fewer units reject nothing.
    """
    freedom = min(freedom, 2 * units / max(given.kurtosis - 1, 1e-9))
    plain = StudentTest(given.mean, given.error, freedom)
    corrected = StudentTest(given.mean, given.error, freedom, skew=given.skew)
    return EveryTest([plain, corrected], units=units, fewest=fewest)


def mostly_alike(values: Floats) -> bool:
    """Say whether most values are the same and `FEW_DIFFERENT` or fewer are others."""
    others = len(values) - int(np.unique(values, return_counts=True)[1].max())
    return others <= FEW_DIFFERENT and 2 * others < len(values)


def sign_flips(values: Floats) -> Tails | None:
    """Return the one-sided p-values of the exact sign-flip test of zero.

    They are the shares of all choices of signs with a sum as large, or as small, as that of the
    values: if the two routes are exchangeable, each choice is as likely as the one that was drawn.
    None where there are too many choices.
    """
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    if math.prod((counts + 1).tolist()) > _CHOICES_LIMIT:
        return None
    total = float(values.sum())
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        positive = np.arange(count + 1)
        chance = np.array([math.comb(count, k) for k in positive.tolist()], dtype=np.float64)
        sums = np.add.outer(sums, size * (2 * positive - count)).ravel()
        chances = np.multiply.outer(chances, chance * 0.5**count).ravel()
    slack = 1e-9 * float(np.abs(values).sum())
    return Tails(
        above=float(chances[sums >= total - slack].sum()),
        below=float(chances[sums <= total + slack].sum()),
    )


def drawn_again(counts: Floats, influence: Floats, ratio: float, luck: float) -> Floats:
    """Return counts of so many times as many samples, whose mean is off by some standard errors.

    Args:
        counts: how often each value was drawn.
        influence: how each value moves the mean, up to a factor.
        ratio: times as many samples.
        luck: the standard errors by which the mean moves up.
    """
    n = float(counts.sum())
    centred = influence - float(counts @ influence) / n
    spread = math.sqrt(float(counts @ centred**2) / n)
    if spread == 0:
        return counts * ratio
    likelier = np.maximum(0.0, 1 + luck / math.sqrt(n * ratio) / spread * centred)
    drawn = counts * likelier
    return drawn * (n * ratio / float(drawn.sum()))


def _gridded(values: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Put values on a grid, each between the two points beside it, so that the mean stays."""
    low, high = float(values.min()), float(values.max())
    places = (values - low) / (high - low) * (_VALUES_LIMIT - 1)
    before = np.minimum(places.astype(np.intp), _VALUES_LIMIT - 2)
    share = places - before
    gridded: Floats = np.zeros(_VALUES_LIMIT)
    np.add.at(gridded, before, counts * (1 - share))
    np.add.at(gridded, before + 1, counts * share)
    chosen = gridded > 0
    points: Floats = np.linspace(low, high, _VALUES_LIMIT)
    return points[chosen], gridded[chosen]


def _grouped(values: Floats, counts: Floats, sizes: Floats) -> tuple[Floats, Floats, Floats]:
    """Put clusters into groups of like means, so that the mean stays and so does its variance."""
    order = np.argsort(values, kind="stable")
    starts = np.linspace(0, len(order), _VALUES_LIMIT, endpoint=False).astype(np.intp)
    weights = counts * sizes
    samples, squares, total = (
        np.add.reduceat(column[order], starts)
        for column in (weights, weights * sizes, weights * values)
    )
    return total / samples, samples**2 / squares, squares / samples


def constant_interval(
    value: float, n: float, low: float, high: float, level: float
) -> tuple[float, float]:
    """Return the interval of a mean whose n samples all have the same value; see `BoundedTest`."""
    share = 1 - ((1 - level) / 2) ** (1 / n)
    return value - share * (value - low), value + share * (high - value)


def skewed(quantile: float, skew: float) -> float:
    """Return the inverse of Hall's cubic function; `skew` is the skewness over the root of n."""
    if abs(skew) < 1e-9:
        return quantile
    return 3 / skew * (float(np.cbrt(1 + skew * (quantile - skew / 6))) - 1)


def _mid_p(wins: float, losses: float) -> Tails:
    """Return the one-sided mid-p values of McNemar's test."""
    from scipy.special import bdtr  # noqa: PLC0415  (a third of a second to import)

    n = wins + losses

    def cumulative(count: float) -> float:
        return float(bdtr(count, n, 0.5)) if count >= 0 else 0.0

    return Tails(
        above=(cumulative(losses) + cumulative(losses - 1)) / 2,
        below=(cumulative(wins) + cumulative(wins - 1)) / 2,
    )


def boundary(rejected: Callable[[float], bool], outside: float, inside: float) -> float:
    """Return the value between the two at which a test begins to reject."""
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if rejected(middle):
            outside = middle
        else:
            inside = middle
    return inside


def crossing(
    gap: Callable[[float], float],
    outside: float,
    inside: float,
    *,
    near: tuple[float, float] | None = None,
) -> float:
    """Return where a continuous function that is below zero outside becomes zero.

    The end that is outside, where the function is not below zero even there.

    Args:
        gap: the function.
        outside: where it is below zero.
        inside: where it is not.
        near: a value near that place, and by how much a value has to change there for the function
            to change by 1; None where nothing is known.
    """
    from scipy.optimize import brentq  # noqa: PLC0415  (a third of a second to import)

    if outside == inside or gap(outside) >= 0:
        return outside
    if near is not None:
        value, change = near
        last: tuple[float, float] | None = None
        for _ in range(_SECANTS):
            if not min(outside, inside) < value < max(outside, inside):
                break
            height = gap(value)
            if last is not None and height != last[1]:
                change = (value - last[0]) / (height - last[1])
            outside, inside = (value, inside) if height < 0 else (outside, value)
            last, value = (value, height), value - height * change
            if abs(height) < _CLOSE:
                return value
    return float(brentq(gap, outside, inside, xtol=1e-10, rtol=1e-9))


def _quantile(share: float) -> float:
    return _NORMAL.inv_cdf(min(1 - _TINY, max(_TINY, share)))


def _normal_above(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2
