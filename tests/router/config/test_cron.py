"""Cron lines in a time zone."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import InputError
from router.config.cron import CronLine

BERLIN = ZoneInfo("Europe/Berlin")


def times(line: str, start: str, count: int) -> list[str]:
    after = datetime.fromisoformat(start).replace(tzinfo=BERLIN).timestamp()
    due = islice(CronLine(line, "Europe/Berlin").times_after(after), count)
    return [datetime.fromtimestamp(at, BERLIN).strftime("%d %H:%M%z") for at in due]


def test_a_line_is_read_in_its_time_zone():
    assert times("30 2 * * *", "2026-06-01T02:29", 2) == ["01 02:30+0200", "02 02:30+0200"]
    assert times("0 9 * * MON-FRI", "2026-06-05T09:00", 1) == ["08 09:00+0200"]
    assert times("0 0 L * *", "2026-02-01T00:00", 1) == ["28 00:00+0100"]
    assert str(CronLine(" 30  2 * * * ", "Asia/Tokyo")) == "30 2 * * * Asia/Tokyo"


def test_a_time_that_does_not_exist_comes_right_after_the_change_and_once():
    assert times("30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00+0200", "30 02:30+0200"]
    assert times("0,30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00+0200", "30 02:00+0200"]


def test_a_time_that_comes_twice_is_due_the_first_time():
    assert times("30 2 * * *", "2026-10-24T12:00", 2) == ["25 02:30+0200", "26 02:30+0100"]
    between = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1).timestamp()
    due = CronLine("30 2 * * *", "Europe/Berlin").next_after(between)
    assert datetime.fromtimestamp(due, BERLIN).day == 26


def test_a_line_that_begins_with_a_star_is_due_by_elapsed_time():
    assert times("*/30 * * * *", "2026-10-25T02:00", 4) == [
        "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "25 03:00+0100",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["0 */24 * * *", "*/60 * * * *", "0 9-17/9 * * *", "0 0 1/31 * *", "0 0 * * MON-FRI/2"]
)
def test_a_step_as_long_as_its_range_is_read(line):
    assert CronLine(line).text == line


@pytest.mark.parametrize("line", ["30 2 31 2 *", "0 0 31 4,6 *", "0 0 30,31 FEB *"])
def test_a_line_that_is_never_due_is_refused_and_says_so(line):
    with pytest.raises(InputError, match="is never due"):
        CronLine(line)


def test_a_line_that_is_rarely_due_is_read():
    after = datetime(2026, 1, 1, tzinfo=BERLIN).timestamp()
    due = CronLine("0 0 * 2 MON#5", "Europe/Berlin").next_after(after)
    assert datetime.fromtimestamp(due, BERLIN).year == 2044


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@daily", "'@daily' is not read here; write '0 0 * * *'"),
        ("@reboot", "is no cron line"),
        ("", "is no cron line"),
        ("* * * *", "is no cron line"),
        ("*/10 * * * * *", "six fields"),
        ("60 * * * *", "'60' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 0 * *", "'0' is no day of the month"),
        ("0 0 * 13 *", "'13' is no month"),
        ("0 0 * * 8", "'8' is no day of the week"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("*/99999999999 * * * *", "a step of 99999999999 goes beyond 60 values"),
        ("0 */25 * * *", "a step of 25 goes beyond 24 values"),
        ("1,5/61 * * * *", "in '1,5/61', a step of 61"),
        ("0 9-17/10 * * *", "a step of 10 goes beyond 9 values"),
        ("5-1 * * * *", "'5-1' is no minute"),
        ("\0 * * * *", "is no minute"),
        ("² * * * *", "is no minute"),
        ("1 " * 4 + "9" * 500, "at most 200 characters"),
    ],
)
def test_what_is_no_line_is_refused(line, message):
    with pytest.raises(InputError) as error:
        CronLine(line)
    assert message in error.value.message
    assert error.value.param == "cron"


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../../etc/passwd", "America", "europe/berlin", "\0", "x" * 5000]
)
def test_what_is_no_time_zone_is_refused(zone):
    with pytest.raises(InputError, match="time zone") as error:
        CronLine("* * * * *", zone)
    assert error.value.param == "timezone"
    assert len(error.value.message) < 500


@given(
    st.text(st.sampled_from("0123456789*,-/#L ABCDEFMONJW"), max_size=30),
    st.floats(min_value=0, max_value=4e9),
)
def test_any_text_is_a_line_or_refused(text, moment):
    try:
        line = CronLine(text)
        first, second = islice(line.times_after(moment), 2)
    except (InputError, ValueError):  # fewer than two in fifty years
        return
    assert moment < first < second
    assert first % 60 == 0
