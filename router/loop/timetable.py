"""What was due, and what becomes of times that were missed.

line = CronLine("30 2 * * *", "Europe/Berlin")
dues = await dues_of(store, "schedule", "nightly", line, now=now, catch_up=True)
dues.run                                               # what is to be done now, or None
dues.missed                                            # what is too late
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from router.config.cron import CronLine
from router.store.occurrences import OccurrenceKind, OccurrenceStore

# What is found at most so many seconds after it was due is on time.
ON_TIME_S = 60.0
# Of the times that were missed, so many are listed: the last ones.
MAX_MISSED = 100


class Dues(NamedTuple):
    """What was due between two moments.

    Attributes:
        run: what is to be done now; None for nothing.
        late: whether that is late.
        missed: what is not done any more, oldest first: the last `MAX_MISSED`.
        unlisted: whether more were missed, before those.
    """

    run: float | None
    late: bool
    missed: tuple[float, ...]
    unlisted: bool


async def dues_of(
    store: OccurrenceStore,
    kind: OccurrenceKind,
    name: str,
    line: CronLine,
    *,
    now: float,
    catch_up: bool,
) -> Dues:
    """Return what is due by a line since it is followed and since its last occurrence.

    See `due_between` for `now` and `catch_up`.

    Raises:
        StoreError: the database does not work.
    """
    since = await store.timetable_since(kind, name, str(line))
    last = await store.last_due(kind, name, now)
    after = since if last is None else max(since, last)
    return due_between(line, after=after, now=now, catch_up=catch_up)


def due_between(line: CronLine, *, after: float, now: float, catch_up: bool) -> Dues:
    """Return what was due after a moment, and what becomes of it now.

    One occurrence at most is done: the last one, where it is on time or late ones are caught up
    with. A clock that was put forward, or a server that was off, has missed the others. A clock
    that was put back makes nothing due that was before `after`.

    Args:
        line: when it is due.
        after: the last time that has been dealt with.
        now: the time.
        catch_up: whether the last one is done although it is late.
    """
    dues = _last_dues(line, after, now)
    if not dues:
        return Dues(None, late=False, missed=(), unlisted=False)
    late = now - dues[-1] > ON_TIME_S
    run = dues.pop() if catch_up or not late else None
    missed = tuple(dues)[-MAX_MISSED:]
    return Dues(run, late=late, missed=missed, unlisted=len(dues) > MAX_MISSED)


def _last_dues(line: CronLine, after: float, now: float) -> deque[float]:
    """Return the last times that were due, up to two more than are listed.

    It looks back from now, further each time, because a line of every minute was due half a million
    times a year.
    """
    span = 3600.0
    while True:
        begin = max(after, now - span)
        dues: deque[float] = deque(maxlen=MAX_MISSED + 2)
        for due in line.times_after(begin):
            if due > now:
                break
            dues.append(due)
        if begin <= after or len(dues) == dues.maxlen:
            return dues
        span *= 4
