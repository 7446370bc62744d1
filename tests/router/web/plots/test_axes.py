"""Axes: round numbers, coordinates, and numbers of any size."""

from datetime import UTC, datetime

import pytest
from plot_reading import ReadPlot

from router.web.plots.axes import (
    Axis,
    Tick,
    draw_across,
    draw_up,
    is_time,
    linear_axis,
    ratio_axis,
    time_axis,
)
from router.web.plots.figure import Drawing, plot, text_width

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.41, 0.52], ["0.42", "0.44", "0.46", "0.48", "0.50", "0.52"]),
        ([0, 100], ["0", "20", "40", "60", "80", "100"]),
        ([-3, 3], ["\u22122", "0", "2"]),
        ([1_000_000, 3_000_000], ["1,000,000", "1,500,000", "2,000,000", "2,500,000", "3,000,000"]),
        ([0, 25_000_000], ["0", "5.0e6", "1.0e7", "1.5e7", "2.0e7", "2.5e7"]),
        ([0.00012, 0.00018], ["0.00012", "0.00014", "0.00016", "0.00018"]),
        ([], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([NAN, INF, -INF, None, 0, 1], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([5], ["4.8", "4.9", "5.0", "5.1", "5.2"]),
        ([0], ["\u22120.4", "\u22120.2", "0.0", "0.2", "0.4"]),
    ],
)
def test_ticks_are_round_numbers(values, texts):
    axis = linear_axis(values, start=10, end=350)
    assert [tick.text for tick in axis.ticks] == texts


def test_an_axis_is_linear_and_clamps_what_is_beyond_it():
    axis = linear_axis([0, 10], start=300, end=100, padded=False)
    assert [axis.at(value) for value in (0, 2.5, 10, -1, 11)] == [300, 250, 100, 300, 100]
    assert axis.covers(0)
    assert axis.covers(10)
    assert not axis.covers(10.1)


def test_beside_the_outermost_numbers_is_some_room():
    axis = linear_axis([0, 10], start=0, end=108)
    assert (axis.low, axis.high) == pytest.approx((-0.4, 10.4))
    assert axis.at(0) == pytest.approx(4)


@pytest.mark.parametrize(
    "values",
    [
        [1e300, -1e300],
        [1e308, -1e308],
        [1, 1 + 1e-15],
        [1e15, 1e15 + 1],
        [5e-324],
        [1e-291, 1e-300],
        [1e-12, 3e-12],
        [123456.789, 123456.791],
    ],
)
def test_ticks_are_few_and_within_whatever_the_numbers(values):
    axis = linear_axis(values, start=10, end=350)
    assert 2 <= len(axis.ticks) <= 6
    assert all(axis.covers(tick.value) for tick in axis.ticks)
    assert len({tick.text for tick in axis.ticks}) == len(axis.ticks)
    assert sum(text_width(tick.text) for tick in axis.ticks) <= 340


def test_a_tick_is_the_decimal_number_that_its_text_says():
    for tick in linear_axis([0.1, 0.7], start=0, end=300).ticks:
        assert tick.value == float(tick.text)


def test_numbers_above_zero_may_have_a_plus():
    texts = [tick.text for tick in linear_axis([-1, 1], start=0, end=300, sign=True).ticks]
    assert texts == ["\u22121.0", "\u22120.5", "0.0", "+0.5", "+1.0"]


def test_texts_that_stand_above_each_other_need_no_room_side_by_side():
    assert len(linear_axis([0, 100_000], start=0, end=60).ticks) == 2
    assert len(linear_axis([0, 100_000], start=0, end=60, upright=True).ticks) == 6


def test_costs_far_apart_are_on_a_logarithmic_axis():
    axis = ratio_axis([0.001, 1.0], start=0, end=300)
    assert axis.logarithmic
    assert [tick.text for tick in axis.ticks] == ["0.001", "0.01", "0.1", "1"]
    steps = [axis.at(tick.value) for tick in axis.ticks]
    assert steps[1] - steps[0] == pytest.approx(steps[3] - steps[2])
    assert axis.at(0.001) == pytest.approx(300 * 0.18232 / (0.18232 * 2 + 6.907755), abs=0.01)


@pytest.mark.parametrize("values", [[1, 49], [0, 100], [-1, 100], [], [NAN]])
def test_other_costs_are_on_an_axis_from_zero(values):
    axis = ratio_axis(values, start=0, end=300)
    assert not axis.logarithmic
    assert axis.covers(0.0)


def test_fifty_times_the_least_is_far_apart():
    axis = ratio_axis([1, 50], start=0, end=300)
    assert [tick.text for tick in axis.ticks] == ["1", "2", "5", "10", "20", "50"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, 200], ["1", "2", "5", "10", "20", "50", "100", "200"]),
        ([1, 500], ["1", "10", "100"]),
        ([1e-5, 1], ["1e\u22125", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ([1, 1e8], ["1", "100", "10,000", "1,000,000", "1e8"]),
        ([1, 1e12], ["1", "100", "10,000", "1,000,000", "1e8", "1e10", "1e12"]),
        ([1e-30, 1], [f"1e\u2212{n}" for n in (30, 20, 10)] + ["1"]),
    ],
)
def test_powers_are_left_out_where_there_is_no_room(values, texts):
    axis = ratio_axis(values, start=0, end=300)
    assert [tick.text for tick in axis.ticks] == texts
    assert (axis.low, axis.high) == pytest.approx((values[0] / 1.2, values[1] * 1.2))


@pytest.mark.parametrize("largest", [1e9, 1e30, 1e300])
def test_ticks_of_a_logarithmic_axis_are_few(largest):
    axis = ratio_axis([1 / largest, largest], start=0, end=300)
    assert 2 <= len(axis.ticks) <= 10
    assert sum(text_width(tick.text) for tick in axis.ticks) <= 300


def seconds(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("first", "last", "texts"),
    [
        ("2026-11-30T10:00", "2026-11-30T10:04", ["10:00", "10:01", "10:02", "10:03", "10:04"]),
        ("2026-11-29T20:00", "2026-11-30T08:00", ["21:00", "30 Nov", "03:00", "06:00"]),
        ("2026-11-01", "2026-11-06", ["1 Nov", "2 Nov", "3 Nov", "4 Nov", "5 Nov", "6 Nov"]),
        ("2025-12-10", "2026-03-10", ["Jan 2026", "Feb 2026", "Mar 2026"]),
        ("2026-11-01T00:00", "2026-11-01T06:01", ["1 Nov", "03:00", "06:00"]),
        ("2026-11-01T01:00", "2026-11-01T07:00", [f"0{n}:00" for n in range(1, 8)]),
        ("2026-10-01", "2026-11-20", ["12 Oct", "26 Oct", "9 Nov"]),
        ("2026-11-01", "2026-11-30", ["2 Nov", "9 Nov", "16 Nov", "23 Nov", "30 Nov"]),
        ("2026-01-01", "2026-06-01", ["Jan 2026", "Mar 2026", "May 2026"]),
        ("1976-01-01", "2026-01-01", ["1980", "1990", "2000", "2010", "2020"]),
        ("2016-01-01", "2026-01-01", ["2016", "2018", "2020", "2022", "2024", "2026"]),
        ("2021-06-01", "2026-11-01", ["2022", "2023", "2024", "2025", "2026"]),
    ],
)
def test_times_are_round_in_utc(first, last, texts):
    axis = time_axis([seconds(first), seconds(last)], start=46, end=348)
    assert [tick.text for tick in axis.ticks] == texts
    assert axis.at(seconds(first)) == 46
    assert axis.at(seconds(last)) == 348


def test_months_begin_on_their_first_day():
    axis = time_axis([seconds("2025-12-10"), seconds("2026-03-10")], start=46, end=348)
    assert axis.ticks[1].value == seconds("2026-02-01")


@pytest.mark.parametrize("moments", [[], [0.0], [-1.0, NAN, INF, 1e20], [0.0, 253402300799.0]])
def test_times_that_are_none_leave_an_axis(moments):
    axis = time_axis(moments, start=46, end=348)
    assert axis.high > axis.low
    assert len(axis.ticks) <= 7


def test_one_moment_has_a_minute_on_both_sides():
    axis = time_axis([6000.0], start=0, end=300)
    assert (axis.low, axis.high) == (5940, 6060)
    assert [tick.text for tick in axis.ticks] == ["01:39", "01:40", "01:41"]
    assert time_axis([30.0], start=0, end=300).low == 0


@pytest.mark.parametrize(
    ("moment", "known"),
    [
        (0.0, True),
        (253402300799.0, True),
        (-0.1, False),
        (253402300800.0, False),
        (NAN, False),
        (INF, False),
    ],
)
def test_times_are_those_of_a_calendar(moment, known):
    assert is_time(moment) is known
    axis = time_axis([moment, 86400.0 * 5], start=0, end=300)
    assert axis.covers(moment) is known


AXIS = Axis(0.0, 4.0, 100.0, 300.0, (Tick(0.0, "0"), Tick(2.0, "2"), Tick(4.0, "4,000")))


def drawn(draw):
    drawing = Drawing(200)
    draw(drawing)
    return ReadPlot(plot(drawing, "t", [], (), (), count=0))


def test_an_axis_below_a_plot_has_lines_numbers_and_a_title():
    read = drawn(lambda drawing: draw_across(drawing, AXIS, 10, 150, "seconds"))
    assert read.lines("grid") == [(100, 10, 100, 150), (200, 10, 200, 150), (300, 10, 300, 150)]
    assert read.lines("axis") == [(100, 150, 300, 150)]
    assert read.texts == [
        ("tick", "0", 100, 163),
        ("tick", "2", 200, 163),
        ("tick", "4,000", 300, 163),
        ("title", "seconds", 200, 177),
    ]
    assert {element.get("text-anchor") for element in read.root.iter("text")} == {"middle"}


def test_numbers_below_a_plot_stay_within_it():
    wide = Axis(0.0, 1.0, 0.0, 360.0, (Tick(0.0, "0.000000"), Tick(1.0, "1.000000")))
    read = drawn(lambda drawing: draw_across(drawing, wide, 10, 150, "x"))
    half = text_width("0.000000") / 2
    assert [x for kind, _, x, _ in read.texts if kind == "tick"] == pytest.approx(
        [half, 360 - half], abs=0.01
    )
    assert [line[0] for line in read.lines("grid")] == [0, 360]


def test_an_axis_left_of_a_plot_has_lines_and_numbers():
    up = AXIS._replace(start=150.0, end=50.0)
    read = drawn(lambda drawing: draw_up(drawing, up, 40, 350))
    assert read.lines("grid") == [(40, 150, 350, 150), (40, 100, 350, 100), (40, 50, 350, 50)]
    assert read.lines("axis") == [(40, 150, 40, 50)]
    assert read.texts == [("tick", "0", 36, 154), ("tick", "2", 36, 104), ("tick", "4,000", 36, 54)]
    assert {element.get("text-anchor") for element in read.root.iter("text")} == {"end"}
