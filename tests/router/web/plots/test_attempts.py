"""Waterfalls of attempts, read off their axis."""

import pytest
from plot_reading import ReadPlot

from router.records import Attempt
from router.web.plots.attempts import attempts_waterfall, placed_attempts

ATTEMPTS = [
    Attempt("a/one", "rate_limited", 429, 0.2),
    Attempt("b/two", "breaker_open", None, 0.0),
    Attempt("c/three", "timeout", None, 1.5, paid=True),
    Attempt("d/four", "ok", 200, 0.4),
]


def placed(attempts, first_byte_s):
    return [
        (each.began, each.ended) for each in placed_attempts(attempts, first_byte_s=first_byte_s)
    ]


def test_attempts_follow_each_other_and_the_last_answer_ends_at_the_first_byte():
    assert placed(ATTEMPTS, 2.5) == [(0, 0.2), (0.2, 0.2), (0.2, 1.7), (pytest.approx(2.1), 2.5)]


def test_an_answer_without_a_first_byte_follows_the_others():
    assert placed(ATTEMPTS, None)[3] == pytest.approx((1.7, 2.1))


def test_a_hedge_that_lost_is_behind_the_answer():
    attempts = [Attempt("a", "ok", 200, 1.0), Attempt("b", "hedge_lost", None, 0.0, paid=True)]
    assert placed(attempts, 1.2) == [(pytest.approx(0.2), pytest.approx(1.2)), (1.2, 1.2)]


def test_attempts_whose_beginnings_are_recorded_are_where_they_were():
    attempts = [
        Attempt("a", "timeout", None, 2.0, began_s=0.5),
        Attempt("b", "ok", 200, 1.0, began_s=0.75),
        # Of an earlier version.
        Attempt("c", "hedge_lost", None, 0.25),
    ]
    assert placed(attempts, 9.0) == [(0.5, 2.5), (0.75, 1.75), (1.75, 2.0)]
    read = ReadPlot(attempts_waterfall(attempts, first_byte_s=1.75, total_s=4.0))
    [(x, _, width, _)] = read.boxes("bar-better")
    assert (read.across(x), read.across(x + width)) == pytest.approx((0.75, 1.75), abs=1e-3)
    plot = attempts_waterfall(attempts, first_byte_s=1.75, total_s=4.0)
    assert [row[4] for row in plot.rows] == ["0.50 s", "0.75 s", "1.75 s"]


@pytest.mark.parametrize("began", [float("nan"), float("inf")])
def test_a_beginning_that_is_none_is_not_known(began):
    attempts = [Attempt("a", "timeout", None, 2.0, began_s=began), ATTEMPTS[0]]
    assert placed(attempts, None) == [(0, 2.0), (2.0, 2.2)]


def test_an_answer_does_not_begin_before_the_request():
    assert placed([Attempt("a", "ok", 200, 1.0)], 0.9) == [(0, 1.0)]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_duration_that_is_none_counts_as_nothing(seconds):
    assert placed([Attempt("a", "timeout", None, seconds), ATTEMPTS[0]], None) == [(0, 0), (0, 0.2)]


def test_bars_are_where_the_axis_says():
    read = ReadPlot(attempts_waterfall(ATTEMPTS, first_byte_s=2.5, total_s=4.0))
    failed = [
        (read.across(x), read.across(x + width)) for x, _, width, _ in read.boxes("bar-worse")
    ]
    assert failed[0] == pytest.approx((0, 0.2), abs=1e-3)
    assert failed[2] == pytest.approx((0.2, 1.7), abs=1e-3)
    # What took no time is seen all the same.
    assert failed[1][0] == pytest.approx(0.2, abs=1e-3)
    assert read.boxes("bar-worse")[1][2] == 1.5
    [(x, y, width, height)] = read.boxes("bar-better")
    assert (read.across(x), read.across(x + width)) == pytest.approx((2.1, 2.5), abs=1e-3)
    [(x, wait_y, width, _)] = read.boxes("wait")
    assert (read.across(x), read.across(x + width)) == pytest.approx((2.5, 4.0), abs=1e-3)
    assert y < wait_y < y + height
    labels = [(text, y) for kind, text, _, y in read.texts if kind == "label"]
    assert labels == [("a/one", 15), ("b/two", 45), ("c/three", 75), ("d/four", 105)]


def test_attempts_are_in_words_and_in_the_table():
    plot = attempts_waterfall(ATTEMPTS, first_byte_s=2.5, total_s=4.0)
    assert plot.description == (
        "The request took 4.00 s. The answer began after 2.50 s. "
        "1 a/one: rate_limited 429 \u00b7 0.20 s. 2 b/two: breaker_open \u00b7 0.00 s. "
        "3 c/three: timeout \u00b7 1.50 s, may be charged. 4 d/four: ok 200 \u00b7 0.40 s."
    )
    assert plot.rows[2] == ("3", "c/three", "timeout", "-", "0.20 s", "1.50 s", "yes")
    assert plot.rows[3] == ("4", "d/four", "ok", "200", "2.10 s", "0.40 s", "no")


def test_short_requests_are_in_milliseconds():
    plot = attempts_waterfall([Attempt("a", "ok", 200, 0.012)], first_byte_s=0.012, total_s=0.05)
    read = ReadPlot(plot)
    assert "time from the start of the request, ms" in [text for _, text, _, _ in read.texts]
    [(x, _, width, _)] = read.boxes("bar-better")
    assert (read.across(x), read.across(x + width)) == pytest.approx((0, 12), abs=0.01)
    assert plot.rows[0][5] == "12.0 ms"
    whole = attempts_waterfall([Attempt("a", "ok", 200, 1.0)], first_byte_s=1.0, total_s=1.0)
    assert whole.rows[0][5] == "1.00 s"
    assert not ReadPlot(whole).boxes("wait")
