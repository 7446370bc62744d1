"""Compares two arms of live traffic, to which units are assigned at random, by e-values.

    events = RatioTest()                       # is an event more often the candidate's than it may?
    events.add(candidate=3, control=41, probability=0.05)
    events.e_value()

    means = MeanTest(margin=0.02)              # bounded scores, and how much worse they may be
    means.add(differences(values, arms, probability=0.05, center=0.8, variance=0.04))
    means.shown(), means.worse()

    rejected([e_1, e_2, e_3], alpha=0.05)      # e-BH

An e-value is a number whose expectation is at most 1 where the hypothesis is true; those here stay
so at every moment at which one may stop (Ville's inequality: their chance of ever reaching 1/alpha
is at most alpha). The randomness they rely on is the assignment, which is known exactly: rates may
drift over the day, and both arms drift together.

A unit must count once in a test. Its second value is the same arm's, which is no longer random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.stats.always_valid import AsymptoticTest
from evaluators.stats.resampling import Floats
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM

RATIOS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
"""How many times as frequent the candidate's events may be, as alternatives to "no more"."""

IMBALANCES = (1 / 4, 1 / 2, 1 / 1.25, 1 / 1.1, 1.1, 1.25, 2.0, 4.0)
"""The alternatives to "assigned as planned", as ratios of the odds."""

MULTIPLES = (1 / 3, 2 / 3, 4 / 3, 8 / 3, 10.0, 50.0)
"""Bets, as multiples of what is best for a mean that is the margin away from the hypothesis."""

_TYPICAL_GAP = 0.02  # of the range, where the margin is 0
_LARGEST_BET = 0.9  # of what leaves the capital above 0
_RATIO_LIMIT = 1000.0  # intervals of a ratio end here
_HALVINGS = 20
_TINY = 1e-12


class RatioTest(msgspec.Struct, kw_only=True):
    """Whether events are the candidate's more often than its share of the traffic explains.

    Where the candidate is no worse, an event that occurs is the candidate's with a probability of
    at most its share w, whatever the rate is at that moment. Each event multiplies the e-value of a
    risk ratio r by r / (wr + 1 - w) if it is the candidate's and by 1 / (wr + 1 - w) if not; the
    result is the mean over `RATIOS` (Lindon, Ham, Tingley and Bojinov 2022, arXiv:2210.08589).

    Where a unit counts with its first event only, it is enough that no unit's first event comes
    sooner with the candidate: the e-value rises with the candidate's events and falls with the
    control's, so fewer or later ones of the candidate never raise it.

    Attributes:
        logs: of the e-value of each ratio.
    """

    logs: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(RATIOS))

    def add(self, *, candidate: int, control: int, probability: float) -> None:
        """Count events that the arms had while the candidate's share was `probability`."""
        its, others = ratio_logs(RATIOS, probability)
        self.logs = (np.array(self.logs) + candidate * its + control * others).tolist()

    def e_value(self) -> float:
        """Return the evidence that the candidate has more events."""
        return mean_of_logs(self.logs)


class BalanceTest(msgspec.Struct, kw_only=True):
    """Whether units are assigned to the candidate more or less often than planned.

    The check for a sample-ratio mismatch (Fabijan and others 2019, KDD), by the construction of
    `RatioTest` in both directions, so that it holds at every moment (Lindon and Malek 2022).

    Attributes:
        logs: of the e-value of each alternative.
    """

    logs: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(IMBALANCES))

    def add(self, *, candidate: int, control: int, probability: float) -> None:
        """Count units that were assigned while the planned share was `probability`."""
        its, others = ratio_logs(IMBALANCES, probability)
        self.logs = (np.array(self.logs) + candidate * its + control * others).tolist()

    def e_value(self) -> float:
        """Return the evidence against the planned share."""
        return mean_of_logs(self.logs)


class Differences(NamedTuple):
    """Values whose expectation is the difference of the arms' means, candidate minus control.

    Attributes:
        values: one per unit, shape (n,).
        low: the smallest possible value.
        high: the largest.
        variance: that earlier batches let expect.
    """

    values: Floats
    low: float
    high: float
    variance: float


class MeanTest(msgspec.Struct, kw_only=True):
    """Whether the candidate's mean is not inferior by a margin, and whether it is worse by more.

    The capital of gamblers who bet on either side (Waudby-Smith and Ramdas 2024, JRSS B 86:1-27),
    averaged over `MULTIPLES`. Higher values are better. The bets may depend on earlier batches, not
    on the values that are added with them.

    Attributes:
        margin: how far below the control's mean the candidate's may be; below 0, how far above it
            has to be.
        gains: logs of the capital of bets that the mean is not so far below.
        losses: logs of the capital of bets that it is further below.
        units: how many were added since `restart`.
        total: of their differences.
        squares: of their differences.
    """

    margin: float
    gains: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(MULTIPLES))
    losses: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(MULTIPLES))
    units: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, drawn: Differences) -> None:
        """Bet on the differences of units that have not counted before."""
        if not len(drawn.values):
            return
        up, down = bets(drawn, self.margin)
        beyond = drawn.values + self.margin
        self.gains = (np.array(self.gains) + np.log1p(np.outer(up, beyond)).sum(axis=1)).tolist()
        self.losses = (
            np.array(self.losses) + np.log1p(-np.outer(down, beyond)).sum(axis=1)
        ).tolist()
        self.units += len(drawn.values)
        self.total += float(drawn.values.sum())
        self.squares += float(drawn.values @ drawn.values)

    def restart(self) -> None:
        """Forget what speaks for the candidate, and the estimate; what speaks against it stays."""
        self.gains = [0.0] * len(MULTIPLES)
        self.units, self.total, self.squares = 0, 0.0, 0.0

    def shown(self) -> float:
        """Return the e-value against "worse by the margin or more"."""
        return mean_of_logs(self.gains)

    def worse(self) -> float:
        """Return the e-value against "worse by the margin or less"."""
        return mean_of_logs(self.losses)

    def estimate(self) -> float | None:
        """Return the estimated difference since `restart`; None without units."""
        return self.total / self.units if self.units else None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return an asymptotic interval that holds at every moment; None for fewer than 100 units.

        See `always_valid.AsymptoticTest`. It describes; the e-values decide.
        """
        if self.units < ASYMPTOTIC_MINIMUM:
            return None
        mean = self.total / self.units
        variance = (self.squares - self.units * mean**2) / (self.units - 1)
        if variance <= 0:
            return None
        error = math.sqrt(variance / self.units)
        return AsymptoticTest(mean, error, self.units).interval(level)


def ratio_logs(ratios: Sequence[float], probability: float | Floats) -> tuple[Floats, Floats]:
    """Return the logs of what an event of the candidate, and of the control, multiplies by.

    Args:
        ratios: the alternatives, shape (k,).
        probability: that an event is the candidate's where it is no worse, above 0 and below 1; of
            any shape, to which the results add one axis of size k.
    """
    values = np.array(ratios)
    shared = np.log1p(np.multiply.outer(probability, values - 1))
    return np.log(values) - shared, -shared


def ratio_interval(
    candidate: int, control: int, probability: float, *, level: float = 0.95
) -> tuple[float, float]:
    """Return the ratios of the candidate's risk to the control's that events do not speak against.

    It holds at every moment: the ratios that a two-sided `BalanceTest`, with the probability which
    that ratio implies, does not reject. Its ends are at most 1,000 and at least 1/1,000.

    Args:
        candidate: events of the candidate.
        control: events of the control.
        probability: the candidate's share of the units.
        level: of the interval.
    """
    limit = -math.log(1 - level)

    def evidence(log_ratio: float) -> float:
        odds = probability / (1 - probability) * math.exp(log_ratio)
        its, others = ratio_logs(IMBALANCES, odds / (1 + odds))
        return _log_mean(candidate * its + control * others)

    widest = math.log(_RATIO_LIMIT)
    odds = (candidate + 0.5) / (control + 0.5) * (1 - probability) / probability
    inside = min(widest, max(-widest, math.log(odds)))
    ends = []
    for end in (-widest, widest):
        outer, inner = end, inside
        if evidence(outer) >= limit:
            for _ in range(_HALVINGS):
                middle = (outer + inner) / 2
                outer, inner = (outer, middle) if evidence(middle) < limit else (middle, inner)
        ends.append(math.exp(outer))
    return ends[0], ends[1]


def differences(
    values: Floats,
    arms: NDArray[np.bool_],
    *,
    probability: float,
    center: float,
    variance: float,
) -> Differences:
    """Return (A - p) / (p (1 - p)) (value - center), whose expectation is the means' difference.

    By inverse probability weights. Any center and variance that earlier batches determine are
    valid; those of all units let the capital grow fastest.

    Args:
        values: of the units, from 0 to 1, shape (n,).
        arms: whether each unit is the candidate's, shape (n,).
        probability: that a unit is the candidate's.
        center: what is subtracted from each value, from 0 to 1.
        variance: of the values.
    """
    weights = np.where(arms, 1 / probability, -1 / (1 - probability))
    low, high = bounds(probability, center)
    expected = variance / (probability * (1 - probability))
    return Differences(weights * (values - center), float(low), float(high), expected)


def bounds(probability: float | Floats, center: float | Floats) -> tuple[Floats, Floats]:
    """Return the smallest and largest that `differences` can be, of numbers or of arrays."""
    above, below = 1 - np.asarray(center), np.asarray(center)
    share = np.asarray(probability)
    return (
        -np.maximum(below / share, above / (1 - share)),
        np.maximum(above / share, below / (1 - share)),
    )


class DifferenceRange(Protocol):
    """What bets depend on, of numbers or of arrays."""

    @property
    def low(self) -> float | Floats:
        """Return the smallest possible difference."""
        ...

    @property
    def high(self) -> float | Floats:
        """Return the largest."""
        ...

    @property
    def variance(self) -> float | Floats:
        """Return the variance that is expected."""
        ...


def bets(drawn: DifferenceRange, margin: float) -> tuple[Floats, Floats]:
    """Return the bets that the mean is above -margin, and those that it is below.

    Capital grows fastest, nearly, by the distance of the mean over the variance; no bet may lose
    more than nine tenths on one value. The results add one axis of size k to the ranges.
    """
    gap = abs(margin) or _TYPICAL_GAP
    aims = np.multiply.outer(gap / np.maximum(drawn.variance, _TINY), np.array(MULTIPLES))
    limits = (-np.asarray(drawn.low) - margin, np.asarray(drawn.high) + margin)
    up, down = (np.minimum(aims, _LARGEST_BET / limit[..., None]) for limit in limits)
    return up, down


def rejected(e_values: Sequence[float], alpha: float) -> list[int]:
    """Return the places of the hypotheses that e-BH rejects, the strongest first.

    The k largest, where k is the largest number whose k-th e-value is at least K / (k alpha) (Wang
    and Ramdas 2022, JRSS B 84:822-852). Where all hypotheses are true the chance that any is
    rejected is at most alpha, however they depend on each other, and what a split of alpha into K
    parts rejects is always among them.
    """
    count = len(e_values)
    order = sorted(range(count), key=e_values.__getitem__, reverse=True)
    for rank in range(count, 0, -1):
        if e_values[order[rank - 1]] * rank * alpha >= count:
            return order[:rank]
    return []


def mean_of_logs(logs: Sequence[float]) -> float:
    """Return the mean of e-values from their logs, at most 1e300."""
    return math.exp(min(_log_mean(np.array(logs)), math.log(1e300)))


def _log_mean(logs: Floats) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))
