"""Tests of a difference of two means that have no samples in common.

    test = unpaired_test(first, second, low=0.0, high=1.0)
    p_value(test), test.interval(0.95)

As for pairs (`inversion.py`), the interval holds what the test does not reject.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from evaluators.stats.intervals import ROUNDING, score_interval
from evaluators.stats.inversion import (
    JUST_ABOVE_ZERO,
    DifferenceMethod,
    DifferenceTest,
    NoTest,
    StudentTest,
    Tails,
    crossing,
    drawn_again,
    mostly_alike,
)
from evaluators.stats.resampling import Floats

_NORMAL = NormalDist()
_DRAWS = 10_000
_FURTHEST = 12.0  # standard errors
_EDGE = 1e-9
_TABLES = 10_201  # with more, Fisher's mid-p is wrong in hardly more than it says
_SHARES = np.linspace(0.005, 0.995, 199)
_SAME = 1 + 1e-9


def unpaired_test(
    first: Floats, second: Floats, *, low: float | None, high: float | None
) -> DifferenceTest:
    """Return the test of the mean of the first minus that of the second.

    - Scores that are 0 or 1: `SharesTest`.
    - Where nearly all scores of a side are alike, and they have a range: `SidesTest`, whose bound
      for that side allows for others that are too rare to be among them. Without a range nothing is
      known of those, and nothing is tested where a side has one value only.
    - Otherwise Welch's t test (1947, Biometrika 34:28-35).

    Args:
        first: scores, shape (n,).
        second: scores of other samples, shape (m,).
        low: the end of the scores' range; None without one.
        high: its other end.
    """
    sides = first, second
    if min(len(side) for side in sides) < 2:
        return NoTest()
    if all(np.isin(side, (0.0, 1.0)).all() for side in sides):
        return SharesTest(
            right=float(first.sum()),
            n=len(first),
            other_right=float(second.sum()),
            other_n=len(second),
        )
    if low is not None and high is not None:
        ends = (
            min(low, *(float(side.min()) for side in sides)),
            max(high, *(float(side.max()) for side in sides)),
        )
        if any(mostly_alike(side) for side in sides):
            counted = [np.unique(side, return_counts=True) for side in sides]
            mine, theirs = (_Side(values, counts.astype(np.float64)) for values, counts in counted)
            return SidesTest(mine, theirs, *ends)
    elif any(np.ptp(side) <= ROUNDING * np.abs(side).max() for side in sides):
        return NoTest()
    return welch_test(first, second)


def welch_test(first: Floats, second: Floats) -> StudentTest:
    """Return Welch's t test of two values or more each, not all the same."""
    sides = first, second
    shares = [float(side.var(ddof=1)) / len(side) for side in sides]
    total = sum(shares)
    parts = [
        (share / total) ** 2 / (len(side) - 1) for share, side in zip(shares, sides, strict=True)
    ]
    difference = float(first.mean() - second.mean())
    return StudentTest(difference, math.sqrt(total), 1 / sum(parts), method="welch")


class SharesTest:
    """The difference of two shares.

    Differences other than zero are tested by the score test of Miettinen and Nurminen (1985,
    Statistics in Medicine 4:213-226), which compares the estimate with the spread that it would
    have under the hypothesis, and by Newcombe's interval (1998, Statistics in Medicine 17:873-890),
    which is made of Wilson's intervals of both shares: rare events of sides of different sizes
    (30 and 120) are more than the score test alone holds. Zero is tested by Fisher's exact test in
    its mid-p form; up to 100 samples of each, by the chance of such a value where that is larger,
    which makes the test exact (as Boschloo 1970, Statistica Neerlandica 24:1-35, does with Fisher's
    p). Where it does not reject zero the interval reaches it.
    """

    method: DifferenceMethod = "score"

    def __init__(self, *, right: float, n: float, other_right: float, other_n: float) -> None:
        self._right, self._n = right, n
        self._other_right, self._other_n = other_right, other_n
        self._estimate = right / n - other_right / other_n

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        if value == 0.0:
            return self._mid_p()
        z = self._score(value)
        other = self._newcombe(value)
        return Tails(max(_NORMAL.cdf(-z), other.above), max(_NORMAL.cdf(z), other.below))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        tail, zero = (1 - level) / 2, self._mid_p()
        quantile = -_NORMAL.inv_cdf(tail)
        low = crossing(lambda value: quantile - self._score(value), -1.0, self._estimate)
        high = crossing(lambda value: quantile + self._score(value), 1.0, self._estimate)
        ends = self._ends(quantile)
        low, high = min(low, ends[0]), max(high, ends[1])
        if zero.above < tail:
            return max(low, JUST_ABOVE_ZERO), high
        if zero.below < tail:
            return low, min(high, -JUST_ABOVE_ZERO)
        return min(low, 0.0), max(high, 0.0)

    def _ends(self, quantile: float) -> tuple[float, float]:
        """Return the ends of Newcombe's interval."""
        share, other = self._right / self._n, self._other_right / self._other_n
        low, high = score_interval(share, self._n, quantile)
        other_low, other_high = score_interval(other, self._other_n, quantile)
        return (
            self._estimate - math.hypot(share - low, other_high - other),
            self._estimate + math.hypot(high - share, other - other_low),
        )

    def _newcombe(self, value: float) -> Tails:
        """Return the tails at which Newcombe's interval ends at a value."""
        distance = self._estimate - value

        def reach(quantile: float) -> float:
            low, high = self._ends(quantile)
            return abs(distance) - (self._estimate - low if distance > 0 else high - self._estimate)

        # Negative where even the widest interval does not reach the value.
        if reach(_FURTHEST) >= 0:
            tail = 0.0
        else:
            tail = _NORMAL.cdf(-crossing(lambda quantile: -reach(quantile), 0.0, _FURTHEST))
        return Tails(tail, 1.0) if distance > 0 else Tails(1.0, tail)

    def _mid_p(self) -> Tails:
        """Return the one-sided mid-p values of Fisher's exact test, or their errors if larger."""
        n, other_n, right = round(self._n), round(self._other_n), round(self._right)
        other_right = round(self._other_right)
        if (n + 1) * (other_n + 1) > _TABLES:
            total = right + other_right
            possible, chances = _possible(total, n, other_n)
            half = float(chances[possible == right].sum()) / 2
            above, below = (
                float(chances[side].sum()) for side in (possible > right, possible < right)
            )
            return Tails(above + half, below + half)
        return Tails(_shown(right, n, other_right, other_n), _shown(other_right, other_n, right, n))

    def scaled(self, ratio: float, luck: float) -> SharesTest:
        """Return the test of other data that are alike."""
        spread = math.sqrt(self._variance(self._estimate) / ratio)
        moved = min(1.0, max(0.0, self._right / self._n + luck * spread))
        return SharesTest(
            right=moved * self._n * ratio,
            n=self._n * ratio,
            other_right=self._other_right * ratio,
            other_n=self._other_n * ratio,
        )

    def _score(self, value: float) -> float:
        """Return the estimate's distance from `value` in standard errors under that value."""
        distance = self._estimate - value
        if abs(distance) < ROUNDING:
            return 0.0
        # Beyond the ends no share of either side is possible.
        variance = self._variance(min(1 - _EDGE, max(_EDGE - 1, value)))
        if variance <= 0:
            return math.copysign(math.inf, distance)
        return distance / math.sqrt(variance)

    def _variance(self, value: float) -> float:
        other = self._likeliest(value)
        share = min(1.0, max(0.0, other + value))
        total = self._n + self._other_n
        variance = share * (1 - share) / self._n + other * (1 - other) / self._other_n
        return variance * total / (total - 1)

    def _likeliest(self, value: float) -> float:
        """Return the second share that is likeliest if the difference is `value`.

        It is the root of a cubic, in closed form as in the paper's appendix.
        """
        n, m, right, other = self._n, self._other_n, self._right, self._other_right
        total = n + m
        square = (n + 2 * m) * value - total - right - other
        linear = (m * value - total - 2 * other) * value + right + other
        constant = other * value * (1 - value)
        shift = square / (3 * total)
        cube = shift**3 - square * linear / (6 * total**2) + constant / (2 * total)
        size = math.copysign(math.sqrt(max(0.0, shift**2 - linear / (3 * total))), cube)
        if size == 0:
            root = -shift
        else:
            angle = (math.pi + math.acos(min(1.0, max(-1.0, cube / size**3)))) / 3
            root = 2 * size * math.cos(angle) - shift
        return min(1.0, 1 - value, max(0.0, -value, root))


class _Side(NamedTuple):
    """The scores of one side: their values and how many there are of each, shape (k,)."""

    values: Floats
    counts: Floats

    def draw(self, ends: tuple[float, float], random: np.random.Generator) -> list[Floats]:
        """Draw means that could be the true one, with one more value at each end of the range."""
        n = float(self.counts.sum())
        mean = float(self.counts @ self.values) / n
        variance = float(self.counts @ (self.values - mean) ** 2) / (n - 1)
        unseen = random.beta(1, n, _DRAWS)
        if float(self.counts.max()) < n / 2:
            seen = mean + math.sqrt(variance / n) * random.standard_t(n - 1, _DRAWS)
        else:
            weights = random.standard_gamma(self.counts, (_DRAWS, len(self.counts)))
            seen = weights @ self.values / weights.sum(axis=1)
        return [seen * (1 - unseen) + end * unseen for end in ends]


def _possible(total: int, n: int, other_n: int) -> tuple[Floats, Floats]:
    """Return how many of the first n may be right where `total` are, and the chance of each."""
    from scipy.special import gammaln  # noqa: PLC0415  (slow to import)

    possible = np.arange(max(0, total - other_n), min(n, total) + 1, dtype=np.float64)
    # The hypergeometric distribution, up to a factor.
    logs = -sum(
        gammaln(count + 1)
        for count in (possible, n - possible, total - possible, other_n - total + possible)
    )
    chances = np.exp(logs - logs.max())
    return possible, chances / chances.sum()


def _shown(right: int, n: int, other_right: int, other_n: int) -> float:
    """Return the one-sided p-value of a first share above the other.

    It is the mid-p value of Fisher's test, unless tables with that value or a smaller one have a
    larger chance under some share that both sides have: then it is that chance.
    """
    values, errors = _mid_p_tables(n, other_n)
    value = float(values[right, other_right])
    return max(value, float(errors[np.searchsorted(errors[:, 0], value * _SAME, "right") - 1, 1]))


@lru_cache(maxsize=64)
def _mid_p_tables(n: int, other_n: int) -> tuple[Floats, Floats]:
    """Return the mid-p value of every table, and the largest chance of each value or less.

    Returns:
        One-sided values, shape (n + 1, other_n + 1); and the values in order with those chances,
        shape (tables, 2).
    """
    values = np.empty((n + 1, other_n + 1))
    for total in range(n + other_n + 1):
        possible, chances = _possible(total, n, other_n)
        rows = possible.astype(np.intp)
        reached = np.cumsum(chances[::-1])[::-1]
        values[rows, total - rows] = reached - chances / 2
    order = np.argsort(values, axis=None)
    largest = np.zeros(len(order))
    for share in _SHARES:
        table = np.outer(_binomial(n, share), _binomial(other_n, share))
        np.maximum(largest, np.cumsum(table.ravel()[order]), out=largest)
    return values, np.stack([values.ravel()[order], largest], axis=1)


def _binomial(n: int, share: float) -> Floats:
    """Return the chance of each number right, shape (n + 1,)."""
    from scipy.special import gammaln, xlogy  # noqa: PLC0415  (slow to import)

    right = np.arange(n + 1)
    logs = gammaln(n + 1) - gammaln(right + 1) - gammaln(n - right + 1)
    chances: Floats = np.exp(logs + xlogy(right, share) + xlogy(n - right, 1 - share))
    return chances


class SidesTest:
    """The difference of two means of scores with a range, whatever else they could be.

    What `BoundedTest` does for one mean, for two of them: the tail is the share of draws in which
    the means of the scores and one more, at the end of the range that is against the difference,
    weighted at random, differ by less. A side whose scores are not mostly alike has draws of
    Student's t for its mean. The draws have a fixed seed.
    """

    method: DifferenceMethod = "bounded"

    def __init__(self, first: _Side, second: _Side, low: float, high: float) -> None:
        self._sides, self._range = (first, second), (low, high)
        random = np.random.Generator(np.random.PCG64(0))
        drawn = [side.draw((low, high), random) for side in (first, second)]
        self._low, self._high = (np.sort(drawn[0][end] - drawn[1][1 - end]) for end in (0, 1))

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        smaller = int(np.searchsorted(self._low, value, side="right"))
        larger = _DRAWS - int(np.searchsorted(self._high, value, side="left"))
        return Tails((smaller + 1) / (_DRAWS + 1), (larger + 1) / (_DRAWS + 1))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the differences that the test does not reject."""
        place = max(1, math.ceil((1 - level) / 2 * (_DRAWS + 1) - 1))
        return float(self._low[place - 1]), float(self._high[-place])

    def scaled(self, ratio: float, luck: float) -> SidesTest:
        """Return the test of other data that are alike: the first side has all the luck."""
        first, second = self._sides
        return SidesTest(
            first._replace(counts=drawn_again(first.counts, first.values, ratio, luck)),
            second._replace(counts=second.counts * ratio),
            *self._range,
        )
