"""Corrects the shares of a judge of 0 and 1 by how often it was right about other answers.

    errors = judge_errors(judge, people)              # of answers elsewhere
    errors.share(wilson(540, 1000))                   # the share of good answers among those here
    errors.difference(0.10, 0.04, 0.16)               # of the shares of two routes

The corrections hold where the judge errs here as it did there. A share is that of Rogan and Gladen
(1978), with the interval of Lee et al. (2026): see `prediction_powered.corrected_share`. Answers
that depend on each other count as so many independent ones as would give an interval of that width.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import msgspec

from evaluators.stats.intervals import Interval, mean_interval
from evaluators.stats.prediction_powered import corrected_share

_LEVEL = 0.95
_QUANTILE = NormalDist().inv_cdf(0.5 + _LEVEL / 2)


class JudgeErrors(msgspec.Struct, frozen=True, kw_only=True):
    """How often a judge of 0 and 1 agrees with people, with 95% intervals.

    Attributes:
        sensitivity: the share of people's good answers (1) that the judge finds good.
        specificity: the share of people's bad answers (0) that the judge finds bad.
    """

    sensitivity: Interval
    specificity: Interval

    @property
    def youden(self) -> float | None:
        """Return by how much the judge is better than chance, from 0 to 1; None where unknown.

        It is None as well where the difference from chance is not clear.
        """
        error = self._error
        if error is None:
            return None
        youden = (self.sensitivity.estimate or 0.0) + (self.specificity.estimate or 0.0) - 1
        return youden if youden > error else None

    @property
    def _error(self) -> float | None:
        """Return half the width of the interval of `youden`."""
        counts = (effective_counts(self.sensitivity), effective_counts(self.specificity))
        variance = 0.0
        for count in counts:
            if count is None:
                return None
            share, n = (count[0] + 1) / (count[1] + 2), count[1] + 2
            variance += share * (1 - share) / n
        return _QUANTILE * math.sqrt(variance)

    def estimate(self, share: float | None) -> float | None:
        """Return the estimate of `share`, without an interval."""
        if share is None or self.youden is None:
            return None
        specificity = self.specificity.estimate or 0.0
        return min(1.0, max(0.0, (share + specificity - 1) / self.youden))

    def share(self, judged: Interval) -> Interval | None:
        """Return the share of good answers for that which the judge finds good.

        None where the judge is not clearly better than chance, or a number is not known.
        """
        counts = effective_counts(judged)
        sensitivity = effective_counts(self.sensitivity)
        specificity = effective_counts(self.specificity)
        if counts is None or sensitivity is None or specificity is None or self.youden is None:
            return None
        corrected = corrected_share(
            *counts, sensitivity=sensitivity, specificity=specificity, level=_LEVEL
        )
        return corrected and msgspec.structs.replace(corrected, n=judged.n)

    def difference(
        self, estimate: float, low: float, high: float
    ) -> tuple[float, float, float] | None:
        """Return the difference of two shares with its interval, for that of the judge's shares.

        The interval is that of a ratio (Donner and Zou 2012, Stat. Methods Med. Res. 21:347-359),
        so that it leaves out 0 where the judge's does: whether there is a difference is the same
        question for both. None where the judge is not clearly better than chance.
        """
        youden, error = self.youden, self._error
        if youden is None or error is None:
            return None
        scale = youden**2 - error**2
        product = estimate * youden

        def end(limit: float, side: int) -> float:
            root = math.sqrt(max(0.0, product**2 - scale * limit * (2 * estimate - limit)))
            return min(1.0, max(-1.0, (product + side * root) / scale))

        return min(1.0, max(-1.0, estimate / youden)), end(low, -1), end(high, 1)


def equivalence_of(ends: tuple[float, float, float], margin: float) -> float:
    """Return the p-value of a true difference of `margin` or more, in either direction.

    It is below 0.05 exactly where the 95% interval lies within the margin, as in
    `inversion.equivalence_p`; at other levels each end is as far off as if it were normal.

    Args:
        ends: the estimate, and the ends of its 95% interval.
        margin: above 0.
    """
    estimate, low, high = ends

    def tail(distance: float, half: float) -> float:
        if half <= 0:
            return 0.0 if distance > 0 else 1.0
        return 1 - NormalDist().cdf(distance / half * _QUANTILE)

    below = tail(estimate + margin, estimate - low)
    above = tail(margin - estimate, high - estimate)
    return min(1.0, 2 * max(below, above))


def judge_errors(
    judge: Sequence[float],
    people: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
) -> JudgeErrors:
    """Measure a judge's errors; people's mean scores count as good from one half on.

    Args:
        judge: the judge's mean score of each answer, from 0 to 1.
        people: people's mean score of each answer.
        clusters: the cluster of each answer; None when each stands alone.
    """

    def rate(good: bool) -> Interval:
        chosen = [place for place, score in enumerate(people) if (score >= 0.5) is good]
        return mean_interval(
            [judge[place] if good else 1 - judge[place] for place in chosen],
            clusters=None if clusters is None else [clusters[place] for place in chosen],
            low=0.0,
            high=1.0,
        )

    return JudgeErrors(sensitivity=rate(True), specificity=rate(False))


def effective_counts(share: Interval) -> tuple[float, float] | None:
    """Return the successes and trials for which Wilson's interval would reach as far as this one.

    That is, towards the end that is further from the share: towards the other, an interval that is
    not Wilson's may come much nearer to 0 or 1, which says little of the trials. None without an
    interval.
    """
    p = share.estimate
    ends = [end for end in (share.low, share.high) if end is not None and 0 < end < 1 and end != p]
    if p is None or not ends:
        return None
    end = max(ends, key=lambda end: abs(end - p))
    n = _QUANTILE**2 * end * (1 - end) / (p - end) ** 2
    return p * n, n
