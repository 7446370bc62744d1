"""Intervals and p-values that hold at every moment together: for runs that were looked at.

    test = always_valid_test(differences, low=-1.0, high=1.0)
    test.interval(0.95), p_value(test)

A reader who lets a run go on or ends it because of its report makes many tests of one. An interval
for a number of samples fixed beforehand then misses far more often than its level says: ten looks
at equal routes show a difference in 19% of the runs. The sequences of intervals here hold the truth
at all moments together with a chance of 95%, so they may be read at any time. They are wider: by a
half to three quarters for the same samples.

What is assumed: the order of the dataset's rows has nothing to do with their scores.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import msgspec
import numpy as np

from evaluators.stats.intervals import (
    ROUNDING,
    Interval,
    clustered_error,
    effective_clusters,
    standard_error,
)
from evaluators.stats.inversion import (
    DifferenceMethod,
    DifferenceTest,
    NoTest,
    Tails,
    crossing,
    drawn_again,
)
from evaluators.stats.resampling import Floats
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM, BETS, asymptotic_spread


class BettingTest:
    """The mean of values with a range, by the capital of gamblers who bet against each value.

    A gambler who bets a fixed share of what a value allows gains nothing on average while that
    value is the mean, so the chance that the average capital of several ever exceeds 1 / alpha is
    at most alpha (Ville's inequality; Waudby-Smith and Ramdas 2024, JRSS B 86:1-27). One half of
    the level is for bets that the mean is larger, one for bets that it is smaller. With fixed bets
    the order of the samples does not matter.
    """

    method: DifferenceMethod = "betting"

    def __init__(
        self, values: Floats, low: float, high: float, counts: Floats | None = None
    ) -> None:
        if counts is None:
            values, whole = np.unique(values, return_counts=True)
            counts = whole.astype(np.float64)
        self._values, self._counts = values, counts
        self._low, self._high = low, high
        self._mean = float(counts @ values / counts.sum())

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true mean of `value`."""
        return Tails(above=self._above(value), below=self._below(value))

    def _tail(self, above_end: Floats, room: float) -> float:
        """Return one over the capital of bets that values lie further from the end of the range."""
        if room <= 0:  # the mean would be beyond every value, or all values at the end
            return float(room == 0 and not above_end.any())
        logs = np.log1p(np.outer(BETS, above_end / room - 1)) @ self._counts
        # Gamblers who lost next to everything: one over their capital may be beyond any float.
        return min(1.0, len(BETS) * math.exp(min(0.0, -_log_sum(logs))))

    def _above(self, value: float) -> float:
        return self._tail(self._values - self._low, value - self._low)

    def _below(self, value: float) -> float:
        return self._tail(self._high - self._values, self._high - value)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the means that no gambler has got rich by betting against."""
        alpha = (1 - level) / 2
        low = crossing(lambda value: _log(self._above(value) / alpha), self._low, self._mean)
        high = crossing(lambda value: _log(self._below(value) / alpha), self._high, self._mean)
        return low, high

    def scaled(self, ratio: float, luck: float) -> BettingTest:
        """Return the test of other data that are alike."""
        counts = drawn_again(self._counts, self._values, ratio, luck)
        return BettingTest(self._values, self._low, self._high, counts)


class AsymptoticTest:
    """An estimate and its standard error, whatever the scores are, from 100 samples on.

    Theorem 2.2 of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024, Annals of Statistics
    52:2613-2640): its error is alpha in the limit.
    """

    method: DifferenceMethod = "asymptotic"

    def __init__(self, estimate: float, error: float, units: int) -> None:
        self._estimate, self._error, self._units = estimate, error, units
        self._spread = units * asymptotic_spread(0.05)

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true mean of `value`."""
        distance = (self._estimate - value) / self._error
        evidence = distance**2 * self._spread / (2 * (self._spread + 1))
        tail = min(1.0, math.exp(math.log(self._spread + 1) / 2 - evidence)) / 2
        return Tails(tail, 1.0) if distance > 0 else Tails(1.0, tail)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the values that the test does not reject."""
        evidence = math.log(1 / (1 - level)) + math.log(self._spread + 1) / 2
        half = self._error * math.sqrt(2 * (self._spread + 1) / self._spread * evidence)
        return self._estimate - half, self._estimate + half

    def scaled(self, ratio: float, luck: float) -> AsymptoticTest:
        """Return the test of other data that are alike."""
        error = self._error / math.sqrt(ratio)
        return AsymptoticTest(
            self._estimate + luck * error, error, max(2, round(self._units * ratio))
        )


def always_valid_test(
    values: Floats,
    *,
    clusters: Sequence[Hashable] | None = None,
    low: float | None,
    high: float | None,
) -> DifferenceTest:
    """Return the test of a mean (or mean difference) that holds whenever one looks.

    Args:
        values: one number per sample.
        clusters: the cluster that each sample belongs to; None when each stands alone.
        low: the smallest possible value; None without a range.
        high: the largest.
    """
    n = len(values)
    if n < 2:
        return NoTest()
    if clusters is not None and len(set(clusters)) == len(values):
        clusters = None  # each stands alone
    if clusters is None and low is not None and high is not None:
        return BettingTest(values, low, high)
    units = float(n) if clusters is None else effective_clusters(clusters)
    if units < ASYMPTOTIC_MINIMUM:
        return NoTest()
    error = standard_error(values) if clusters is None else clustered_error(values, clusters)[0]
    if error <= ROUNDING * float(np.abs(values).max()):
        return NoTest()
    return AsymptoticTest(float(values.mean()), error, int(units))


def always_valid_interval(
    values: Floats,
    *,
    clusters: Sequence[Hashable] | None = None,
    low: float | None = None,
    high: float | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the mean and an interval that holds whenever one looks; see `always_valid_test`."""
    n = len(values) if clusters is None else len(set(clusters))
    if not len(values):
        return Interval(estimate=None, low=None, high=None, n=0)
    if low is not None and high is not None:
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    test = always_valid_test(values, clusters=clusters, low=low, high=high)
    ends = test.interval(level)
    return Interval(
        estimate=float(values.mean()),
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
        n=n,
        method=test.method,
    )


def widened(interval: Interval) -> Interval:
    """Return a bootstrap interval of 95%, widened to hold whenever one looks.

    Its half width is taken for that many standard errors of a normal estimate. Fewer than 100
    samples (or clusters) have none.
    """
    if interval.low is None or interval.high is None or interval.estimate is None:
        return interval
    if interval.n < ASYMPTOTIC_MINIMUM or interval.high <= interval.low:
        return msgspec.structs.replace(interval, low=None, high=None, method="none")
    error = (interval.high - interval.low) / (2 * NormalDist().inv_cdf(0.975))
    low, high = AsymptoticTest(interval.estimate, error, interval.n).interval(0.95)
    return msgspec.structs.replace(interval, low=low, high=high, method="asymptotic")


def _log(share: float) -> float:
    return math.log(max(share, sys.float_info.min))


def _log_sum(logs: Floats) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))
