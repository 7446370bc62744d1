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
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

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
]

FEW_DIFFERENT = 5
"""With so many samples that differ, or fewer, all may have one sign by chance: 2 * 2**-5 > 0.05."""

_NORMAL = NormalDist()
_JUST_ABOVE_ZERO = 1e-9
_STEPS = 60  # halvings of a range that is at most 2 wide: as fine as a float


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


class DichotomousTest:
    """The difference of two shares over the same samples: every score is 0 or 1.

    Differences other than zero are tested by Tango's score test (1998, Statistics in Medicine
    17:891-908), which compares the estimate with the spread that it would have under the
    hypothesis. Zero is tested by McNemar's test in its mid-p form, which that test comes near and
    which never exceeds its level in practice (Fagerland, Lydersen and Laake 2013, BMC Medical
    Research Methodology 13:91). Where mid-p does not reject zero the interval reaches it.
    """

    method: DifferenceMethod = "score"

    def __init__(self, *, wins: int, losses: int, n: int) -> None:
        self._wins, self._losses, self._n = wins, losses, n
        self._estimate = (wins - losses) / n

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        if value == 0.0:
            return _mid_p(self._wins, self._losses)
        z = self._score(value)
        return Tails(_normal_above(z), _normal_above(-z))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        quantile = _NORMAL.inv_cdf(0.5 + level / 2)
        low = boundary(lambda value: self._score(value) > quantile, -1.0, self._estimate)
        high = boundary(lambda value: self._score(value) < -quantile, 1.0, self._estimate)
        if p_value(self) > 1 - level:
            return min(low, 0.0), max(high, 0.0)
        # At levels far above 95% the two tests can differ the other way about.
        if self._estimate > 0:
            return max(low, _JUST_ABOVE_ZERO), high
        return low, min(high, -_JUST_ABOVE_ZERO)

    def _score(self, value: float) -> float:
        """Return the estimate's distance from `value` in standard errors under that value."""
        wins, losses, n = self._wins, self._losses, self._n
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
        self._estimate, self._error, self._freedom, self._skew = estimate, error, freedom, skew
        few = different is not None and different <= FEW_DIFFERENT
        # All signs alike is the most extreme outcome of a sign-flip test.
        self._smallest_tail = 2.0 ** -(different or 1) if few else 0.0

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        from scipy.special import stdtr  # noqa: PLC0415  (a third of a second to import)

        statistic = self._unskewed((self._estimate - value) / self._error)
        above = float(stdtr(self._freedom, -statistic))
        below = float(stdtr(self._freedom, statistic))
        if value == 0.0:
            return Tails(max(above, self._smallest_tail), max(below, self._smallest_tail))
        return Tails(above, below)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        from scipy.special import stdtrit  # noqa: PLC0415  (a third of a second to import)

        quantile = float(stdtrit(self._freedom, 0.5 + level / 2))
        low = self._estimate - self._error * skewed(quantile, self._skew)
        high = self._estimate - self._error * skewed(-quantile, self._skew)
        if 2 * self._smallest_tail > 1 - level:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    def _unskewed(self, statistic: float) -> float:
        skew = self._skew
        return statistic + skew * statistic**2 / 3 + skew**2 * statistic**3 / 27 + skew / 6


class ConstantTest:
    """Differences that are all the same, of scores with a range.

    The mean can still be another, if other values are rare. All n samples show the same value with
    a chance of (1 - share) ** n where others have that share, and those move the mean by at most
    their share of the way to the end of the range. This is the bound of betting everything against
    the hypothesis (Waudby-Smith and Ramdas 2024, JRSS B 86:1-27), and for shares that of Clopper
    and Pearson.
    """

    method: DifferenceMethod = "bounded"

    def __init__(self, value: float, n: int, low: float, high: float) -> None:
        self._value, self._n, self._low, self._high = value, n, low, high

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        return Tails(
            self._tail(self._value - value, self._value - self._low),
            self._tail(value - self._value, self._high - self._value),
        )

    def _tail(self, distance: float, room: float) -> float:
        if distance <= 0:
            return 1.0
        return max(0.0, 1 - distance / room) ** self._n if room > 0 else 0.0

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        return constant_interval(self._value, self._n, self._low, self._high, level)


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


class NoTest:
    """Too few samples (or clusters) for any statement."""

    method: DifferenceMethod = "none"

    def tails(self, value: float) -> Tails:
        """Return p-values that reject nothing."""
        return Tails(1.0, 1.0)

    def interval(self, level: float) -> None:
        """Return None."""


def mean_test(differences: Floats, *, low: float | None, high: float | None) -> DifferenceTest:
    """Return the test for the mean of differences of scores that are not all 0 or 1.

    - All differences alike: the bound of `ConstantTest`.
    - None above zero, or none below: t corrected for skew. Losses without a win are as skewed as
      can be, and plain t misses then.
    - Otherwise plain t. Differences of two routes have little skew, and correcting for what a
      handful of them shows by chance does harm.

    Args:
        differences: one number per sample.
        low: the smallest difference that the scores' range allows; None without a range.
        high: the largest.
    """
    n = len(differences)
    if n < 2:
        return NoTest()
    if differences.min() == differences.max():
        value = float(differences[0])
        if low is None or high is None:
            return UnboundedConstantTest(value, n)
        return ConstantTest(value, n, low, high)
    estimate = float(differences.mean())
    centred = differences - estimate
    scale = float(np.abs(centred).max())
    standard = centred / scale  # so that cubes neither vanish nor overflow
    spread = float(np.sqrt((standard**2).mean()))
    one_sided = differences.min() >= 0 or differences.max() <= 0
    skew = float((standard**3).mean()) / spread**3 / math.sqrt(n) if one_sided else 0.0
    return StudentTest(
        estimate,
        scale * spread / math.sqrt(n - 1),
        n - 1,
        method="hall" if one_sided else "t",
        skew=skew,
        different=int(np.count_nonzero(differences)),
    )


def constant_interval(
    value: float, n: float, low: float, high: float, level: float
) -> tuple[float, float]:
    """Return the interval of a mean whose n samples all have the same value; see `ConstantTest`."""
    share = 1 - ((1 - level) / 2) ** (1 / n)
    return value - share * (value - low), value + share * (high - value)


def skewed(quantile: float, skew: float) -> float:
    """Return the inverse of Hall's cubic function; `skew` is the skewness over the root of n."""
    if abs(skew) < 1e-9:
        return quantile
    return 3 / skew * (float(np.cbrt(1 + skew * (quantile - skew / 6))) - 1)


def _mid_p(wins: int, losses: int) -> Tails:
    """Return the one-sided mid-p values of McNemar's test."""
    from scipy.special import bdtr  # noqa: PLC0415  (a third of a second to import)

    n = wins + losses

    def cumulative(count: int) -> float:
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


def _normal_above(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2
