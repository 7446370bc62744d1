"""Token buckets, budget periods, and durations in words."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gateway.limits import Bucket, in_words, period_around

# A Wednesday, half past ten in the morning.
WEDNESDAY = datetime(2026, 11, 18, 10, 30, tzinfo=UTC).timestamp()


@settings(deadline=None)
@given(
    limit=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=120),
)
def test_a_bucket_keeps_its_bound_in_every_window(limit, steps):
    """At most `limit * (1 + t / 60)` in any window of t seconds."""
    now, bucket, taken = 1000.0, Bucket(limit, 1000.0), []
    for pause, requested in steps:
        now += pause
        through = 0
        for _ in range(requested):
            if bucket.level(now) < 1:
                break
            bucket.take(1, now)
            through += 1
        taken.append((now, through))
    for first, (start, _) in enumerate(taken):
        total = 0
        for end, through in taken[first:]:
            total += through
            assert total <= limit * (1 + (end - start) / 60) + 1e-6


@settings(deadline=None)
@given(
    limit=st.integers(1, 10_000),
    amounts=st.lists(st.integers(0, 5000), max_size=20),
    pause=st.floats(0, 1000),
)
def test_a_bucket_says_how_long_to_wait(limit, amounts, pause):
    now, bucket = 1000.0, Bucket(limit, 1000.0)
    for amount in amounts:
        bucket.take(amount, now)
    now += pause
    assert bucket.level(now) <= limit
    wait = bucket.wait(1, now)
    if bucket.level(now) >= 1:
        assert wait == 0
    else:
        assert bucket.level(now + wait / 2) < 1
        assert bucket.level(now + wait + 1e-6) >= 1 - 1e-6
    _, full = bucket.state(now + wait)
    assert bucket.level(now + wait + full + 1e-6) == pytest.approx(limit)


def test_a_clock_set_back_neither_empties_nor_stops_a_bucket():
    bucket = Bucket(60, 1_000_000.0)
    bucket.take(60, 1_000_000.0)
    assert bucket.level(10.0) == 0
    assert bucket.level(11.0) == 1


# budget periods and words


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [
        ("day", "2026-11-18", "2026-11-19"),
        ("week", "2026-11-16", "2026-11-23"),
        ("month", "2026-11-01", "2026-12-01"),
    ],
)
def test_periods_are_those_of_utc(kind, start, end):
    # Half a second on: a period begins with a whole one.
    period = period_around(kind, WEDNESDAY + 7.5)
    assert period == tuple(
        datetime.fromisoformat(f"{one}T00:00Z").timestamp() for one in (start, end)
    )


@given(
    kind=st.sampled_from(["day", "week", "month", "total"]),
    now=st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # hypothesis adds the zone
)
def test_periods_follow_each_other_without_a_gap(kind, now):
    moment = now.timestamp()
    start, end = period_around(kind, moment)
    assert start <= moment < end
    assert period_around(kind, start) == (start, end)
    if not math.isinf(end):
        assert period_around(kind, end)[0] == end


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.0171, "18ms"),
        (0.999, "999ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.0001, "1.001s"),
        (1.5, "1.5s"),
        (59.999, "59.999s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (60.001, "1m1s"),
        (119, "1m59s"),
        (372, "6m12s"),
        (7260, "121m0s"),
    ],
)
def test_durations_read_as_openai_writes_them(seconds, words):
    assert in_words(seconds).decode() == words


def test_the_servers_own_time_zone_does_not_matter(monkeypatch):
    monkeypatch.setenv("TZ", "XXX-9")
    time.tzset()
    try:
        start, _ = period_around("day", WEDNESDAY)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert start == datetime(2026, 11, 18, tzinfo=UTC).timestamp()


def test_all_time_is_one_period():
    assert period_around("total", WEDNESDAY) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("now", "start", "end"),
    [
        ("2026-01-31", "2026-01-01", "2026-02-01"),
        ("2026-02-28", "2026-02-01", "2026-03-01"),
        ("2026-12-31", "2026-12-01", "2027-01-01"),
    ],
)
def test_a_month_ends_where_the_next_begins(now, start, end):
    moment = datetime.fromisoformat(f"{now}T23:59:59Z").timestamp()
    assert period_around("month", moment) == tuple(
        datetime.fromisoformat(f"{one}T00:00Z").timestamp() for one in (start, end)
    )


@pytest.mark.parametrize(
    ("taken", "seconds", "level", "wait", "until_full"),
    [
        # Of a bucket that holds 120 and fills with 2 a second.
        (0, 0, 120, 0, 0),
        (0, 9, 120, 0, 0),
        (20, 0, 100, 0, 10),
        (20, 4, 108, 0, 6),
        (20, 9.75, 119.5, 0, 0.25),
        (20, 10, 120, 0, 0),
        (115, 0, 5, 2.5, 57.5),
        (150, 0, -30, 20, 75),
        (150, 10, -10, 10, 65),
        (120.5, 0, -0.5, 5.25, 60.25),
    ],
)
def test_what_a_bucket_holds(taken, seconds, level, wait, until_full):
    bucket = Bucket(120, 1000.0)
    bucket.take(taken, 1000.0)
    now = 1000.0 + seconds
    assert bucket.limit_text == b"120"
    assert bucket.level(now) == level
    assert bucket.wait(10, now) == wait
    assert bucket.state(now) == (level, until_full)
    # Each moment is counted once.
    assert bucket.level(now) == level
