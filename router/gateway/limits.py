"""Computes limits per minute (token buckets), budget periods, and durations in words. No IO."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from router.store.keys import BudgetPeriod

MINUTE = 60.0


class Bucket:
    """A token bucket: full at first, holds `limit`, and fills at `limit` per minute.

    So in any window of t seconds at most `limit * (1 + t / 60)` is let through: a full minute's
    worth at once, and the limit per minute in the long run. That takes two numbers per bucket;
    an exact sliding window would have to remember every request.

    What was taken may exceed what is there (how many tokens an answer has is known afterwards):
    the debt is worked off before anything more is let through.

    Attributes:
        limit_text: the limit as headers have it.
    """

    __slots__ = ("_at", "_full", "_level", "_rate", "limit_text")

    def __init__(self, limit: int, now: float) -> None:
        self.limit_text = b"%d" % limit
        self._rate = limit / MINUTE
        self._full = self._level = float(limit)
        self._at = now

    def with_limit(self, limit: int, now: float) -> Bucket:
        """Return a bucket with another limit, of which as much is used as of this one."""
        changed = Bucket(limit, now)
        changed.take_of_level(self._full - self.level(now))
        return changed

    def level(self, now: float) -> float:
        """Return what may be taken now; it is negative while there is a debt."""
        level, full, elapsed = self._level, self._full, now - self._at
        # A clock that is set back must neither empty the bucket nor stop it from filling.
        self._at = now
        if elapsed > 0 and level < full:
            level += elapsed * self._rate
            self._level = level = level if level < full else full
        return level

    def has(self, amount: float, now: float) -> bool:
        """Return whether the amount may be taken now without a debt."""
        # It only grows, so the last level is mostly enough to know.
        return self._level >= amount or self.level(now) >= amount

    def take(self, amount: float, now: float) -> None:
        """Take the amount, into debt if need be."""
        self._level = self.level(now) - amount

    def take_of_level(self, amount: float) -> None:
        """Take the amount at the moment of the last `level`."""
        self._level -= amount

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until the amount may be taken without a debt."""
        return max(0.0, (amount - self.level(now)) / self._rate)

    def state(self, now: float) -> tuple[float, float]:
        """Return what may be taken now, and the seconds until it is full."""
        level = self.level(now)
        return level, (self._full - level) / self._rate


def period_around(kind: BudgetPeriod, now: float) -> tuple[float, float]:
    """Return when the budget period that `now` lies in begins, and when the next one does.

    Both are seconds since the epoch. Days, weeks (from Monday) and months are UTC's; `total` is
    one period from 0 to infinity.
    """
    if kind == "total":
        return 0.0, math.inf
    start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "day":
        end = start + timedelta(days=1)
    elif kind == "week":
        start -= timedelta(days=start.weekday())
        end = start + timedelta(days=7)
    else:
        start = start.replace(day=1)
        # 32 days after the first is in the next month, whichever it is.
        end = (start + timedelta(days=32)).replace(day=1)
    return start.timestamp(), end.timestamp()


def in_words(seconds: float) -> bytes:
    """Return a duration as OpenAI's headers `x-ratelimit-reset-*` have it, such as 20ms or 6m0s.

    It is rounded up to milliseconds, from a minute to seconds.

    Source: https://platform.openai.com/docs/guides/rate-limits (rate limits in headers).
    """
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s".encode()
    return b"%dm%ds" % divmod(math.ceil(milliseconds / 1000), 60)
