"""A quantile of recent values, in a few hundred numbers: the control's p95 of time or cost.

recent = RecentQuantile()
recent.add([0.8, 1.2], at=1_700_000_000.0)
recent.quantile(0.95)          # the number of its class; None until 100 values weigh in
class_of(1.5) > recent.quantile(0.95)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

HALF_LIFE = 3600.0
"""Seconds after which a value weighs half as much, so that the quantile follows the day."""

MIN_WEIGHT = 100.0
"""The weight of values before there is a quantile; each begins with 1."""

_WIDTH = math.log(1.02)  # quantiles are exact to two percent
_SMALLEST = 1e-12
_FORGOTTEN = 1e-3


class RecentQuantile(msgspec.Struct, kw_only=True):
    """A histogram of positive values in classes of two percent, that fades.

    Attributes:
        counts: the weight of each class, by its number; values of 0 are in the lowest.
        at: the time to which the weights have faded, in seconds.
    """

    counts: dict[int, float] = msgspec.field(default_factory=dict)
    at: float = 0.0

    def add(self, values: Iterable[float], *, at: float) -> None:
        """Add values of 0 or more that are known at this time."""
        faded = 0.5 ** (max(0.0, at - self.at) / HALF_LIFE)
        if faded < 1:
            self.counts = {
                number: weight * faded
                for number, weight in self.counts.items()
                if weight * faded > _FORGOTTEN
            }
            self.at = at
        for value in values:
            number = class_of(value)
            self.counts[number] = self.counts.get(number, 0.0) + 1.0

    def quantile(self, share: float) -> int | None:
        """Return the class that holds the quantile; None where too few values weigh in."""
        total = sum(self.counts.values())
        if total < MIN_WEIGHT:
            return None
        below = 0.0
        for number in sorted(self.counts):
            below += self.counts[number]
            if below >= share * total:
                break
        return number


def class_of(value: float) -> int:
    """Return the number of the class that holds a value; larger values are never in a lower one."""
    return math.floor(math.log(max(value, _SMALLEST)) / _WIDTH)
