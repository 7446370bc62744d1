"""What becomes of times that were missed."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from router.config.cron import CronLine
from router.loop.timetable import MAX_MISSED, Dues, due_between

NOTHING = Dues(None, late=False, missed=(), unlisted=False)
HOUR = 3600.0
# Midnight of a day without a change of clocks.
DAY = datetime(2026, 6, 1, tzinfo=ZoneInfo("UTC")).timestamp()
HOURLY = CronLine("0 * * * *")


def test_nothing_is_due_in_between():
    assert due_between(HOURLY, after=DAY, now=DAY + 3599, catch_up=True) == NOTHING


def test_what_is_due_now_is_on_time():
    due = due_between(HOURLY, after=DAY, now=DAY + HOUR + 59, catch_up=False)
    assert due == Dues(DAY + HOUR, late=False, missed=(), unlisted=False)


def test_of_what_was_missed_the_last_is_caught_up_with():
    now = DAY + 4 * HOUR + 600
    missed = tuple(DAY + n * HOUR for n in range(1, 5))
    assert due_between(HOURLY, after=DAY, now=now, catch_up=True) == Dues(
        missed[-1], late=True, missed=missed[:-1], unlisted=False
    )
    assert due_between(HOURLY, after=DAY, now=now, catch_up=False) == Dues(
        None, late=True, missed=missed, unlisted=False
    )


@pytest.mark.parametrize("catch_up", [True, False])
def test_a_clock_that_jumps_far_ahead_makes_one_due_and_lists_the_last_of_the_others(catch_up):
    now = DAY + timedelta(days=3650).total_seconds() + 1800
    due = due_between(HOURLY, after=DAY, now=now, catch_up=catch_up)
    last = now - 1800
    assert due.run == (last if catch_up else None)
    assert due.unlisted
    assert len(due.missed) == MAX_MISSED
    assert due.missed[-1] == (last - HOUR if catch_up else last)


def test_a_clock_that_is_put_back_makes_nothing_due():
    assert due_between(HOURLY, after=DAY, now=DAY - 5 * HOUR, catch_up=True) == NOTHING


def test_a_rare_line_is_found_however_long_ago_it_was_due():
    line = CronLine("0 0 1 1 *")
    now = datetime(2026, 12, 31, tzinfo=ZoneInfo("UTC")).timestamp()
    due = due_between(line, after=0.0, now=now, catch_up=True)
    assert due.run == datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")).timestamp()
    assert len(due.missed) == 55  # 1971 to 2025; that of 1970 was at the moment after which
