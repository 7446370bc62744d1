"""Histories and sparklines, read off their axes."""

from datetime import UTC, datetime

import pytest
from plot_reading import ReadPlot

from router.loop.schedule_results import ScheduledRun, ScheduledScore, ScheduleResult
from router.web.plots.history import MAX_POINTS, HistoryPoint, history, history_plot, sparkline

DAY = 86400.0
START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def days(read, x):
    """The day of November at a coordinate, from 0."""
    ticks = [
        (x, int(text.split()[0]))
        for kind, text, x, y in read.texts
        if text.endswith(" Nov") and kind == "tick"
    ]
    (first_x, first), (last_x, last) = ticks[1], ticks[-2]
    return first - 1 + (x - first_x) / (last_x - first_x) * (last - first)


def point(day, estimate, low=None, high=None, **more):
    return HistoryPoint(at=START + day * DAY, estimate=estimate, low=low, high=high, **more)


POINTS = [
    point(3, 0.30, 0.25, 0.35, verdict="worse", run="r4"),
    point(0, 0.50, 0.45, 0.55, accepted=True, run="r1"),
    point(1, 0.52, 0.46, 0.58, verdict="better", run="r2"),
    point(2, None, reason="no server", run=""),
    point(4, 0.31, accepted=True, verdict="worse", run="r5"),
    point(5, 0.32, run="r6"),
]
PLOT = history("t", POINTS, axis_title="rougeL")


def test_points_are_where_the_axes_say_in_the_order_of_time():
    read = ReadPlot(PLOT)
    marks = read.marks[:6]
    assert [shape for shape, _, _ in marks] == [
        "diamond",
        "up",
        "cross",
        "down",
        "diamond",
        "circle",
    ]
    assert [days(read, x) for _, x, _ in marks] == pytest.approx([0, 1, 2, 3, 4, 5], abs=0.01)
    measured = [read.up(y) for shape, _, y in marks if shape != "cross"]
    assert measured == pytest.approx([0.50, 0.52, 0.30, 0.31, 0.32], abs=1e-3)
    whiskers = [
        (days(read, x1), read.up(y1), read.up(y2)) for x1, y1, _, y2 in read.lines("interval")
    ]
    assert whiskers == [
        pytest.approx((0, 0.45, 0.55), abs=0.01),
        pytest.approx((1, 0.46, 0.58), abs=0.01),
        pytest.approx((3, 0.25, 0.35), abs=0.01),
    ]


def test_an_accepted_score_is_a_line_until_the_next_one():
    read = ReadPlot(PLOT)
    levels = [
        (days(read, x1), days(read, x2), read.up(y1), read.up(y2))
        for x1, y1, x2, y2 in read.lines("level")
    ]
    assert levels == [
        pytest.approx((0, 4, 0.50, 0.50), abs=0.01),
        pytest.approx((4, 5, 0.31, 0.31), abs=0.01),
    ]


def test_the_course_is_interrupted_where_nothing_was_measured():
    read = ReadPlot(PLOT)
    courses = read.paths("course")
    heights = [read.up(y) for course in courses for _, y in course]
    assert heights == pytest.approx([0.50, 0.52, 0.30, 0.31, 0.32], abs=1e-3)
    assert [[round(days(read, x)) for x, _ in course] for course in courses] == [[0, 1], [3, 4, 5]]


def test_the_legend_has_the_shapes_that_are_there():
    legend = [text for kind, text, _, _ in ReadPlot(PLOT).texts if kind == "label"]
    assert legend == ["accepted", "better", "worse", "not measured"]
    plain = ReadPlot(history("t", [point(0, 1.0), point(1, 1.0)], axis_title="x"))
    assert not [text for kind, text, _, _ in plain.texts if kind == "label"]
    places = [x for kind, _, x, _ in ReadPlot(PLOT).texts if kind == "label"]
    assert places == sorted(places)
    assert len(ReadPlot(PLOT).marks) == 6 + 4
    # Each shape is beside its word, below the plot.
    words = [(x - 9, y - 4) for kind, _, x, y in ReadPlot(PLOT).texts if kind == "label"]
    assert [(x, y) for _, x, y in ReadPlot(PLOT).marks[6:]] == [pytest.approx(at) for at in words]


def test_the_newest_are_first_in_words_and_in_the_table():
    assert PLOT.description == (
        "1 time nothing was measured. 6 Nov 2026: 0.320. 5 Nov 2026: 0.310, accepted, worse than "
        "the accepted run. 4 Nov 2026: 0.300, 95% interval 0.250 to 0.350, worse than the accepted "
        "run. 3 Nov 2026: not measured (no server). 2 Nov 2026: 0.520, 95% interval 0.460 to "
        "0.580, better than the accepted run. 1 Nov 2026: 0.500, 95% interval 0.450 to 0.550, "
        "accepted."
    )
    assert PLOT.rows[0] == ("6 Nov 2026 00:00", "0.320", "-", "r6", "no", "-")
    assert PLOT.rows[3] == ("3 Nov 2026 00:00", "-", "-", "-", "no", "no server")
    assert PLOT.rows[5] == ("1 Nov 2026 00:00", "0.500", "0.450 to 0.550", "r1", "yes", "-")
    texts = [text for _, text, _, _ in ReadPlot(PLOT).texts]
    assert "time (UTC), 1 Nov 2026 to 6 Nov 2026" in texts


def test_of_many_times_the_plot_has_the_newest_and_the_level_before_them():
    points = [point(n, 0.5 + n / 1000, accepted=n in {2, 5}) for n in range(MAX_POINTS + 30)]
    read = ReadPlot(history("t", points, axis_title="x"))
    assert len([shape for shape, _, _ in read.marks]) == MAX_POINTS
    [(x1, y1, x2, _)] = read.lines("level")
    assert (x1, x2) == (46, 348)
    assert read.up(y1) == pytest.approx(0.505, abs=1e-3)
    assert read.description.startswith(
        "The plot shows the newest 120 of 150 times. 30 Mar 2027: 0.649."
    )


@pytest.mark.parametrize("at", [float("nan"), -1.0, 1e20])
def test_what_is_no_time_is_left_out(at):
    plot = history("t", [HistoryPoint(at=at, estimate=1.0), point(0, 0.5)], axis_title="x")
    assert len(plot.rows) == 1


def scheduled(day, *scores, state="completed", accepted=False, error="", run="r"):
    result = ScheduleResult(scores=scores, accepted=accepted, error=error)
    return ScheduledRun(
        schedule="nightly", due=START + day * DAY, cause="due", state=state, started_at=None,
        finished_at=None, run_id=run, reason="late",
        result=None if state == "missed" else result,
    )  # fmt: skip


def test_a_schedules_runs_are_the_points():
    def score(route, output, estimate, verdict=None):
        return ScheduledScore(
            route=route, output=output, estimate=estimate, low=0.1, high=0.9, n=9, verdict=verdict
        )

    runs = [
        scheduled(
            0,
            score("b", "x", 0.1),
            score("a", "y", 0.2),
            score("a", "x", 0.3),
            accepted=True,
            run="r1",
        ),
        scheduled(1, score("a", "x", 0.4, "better"), run="r2"),
        scheduled(2, state="missed", run=""),
        scheduled(3, state="failed", error="too dear", run="r4"),
        scheduled(4, state="running"),
        scheduled(5, score("b", "x", 0.1), run="r6"),
    ]
    plot = history_plot(runs, "a", "x", accepted=["r2"])
    assert plot.title == "x of a over time"
    assert [row[1:] for row in reversed(plot.rows)] == [
        ("0.300", "0.100 to 0.900", "r1", "yes", "-"),
        ("0.400", "0.100 to 0.900", "r2", "yes", "better"),
        ("-", "-", "-", "no", "late"),
        ("-", "-", "r4", "no", "too dear"),
        ("-", "-", "r6", "no", "late"),
    ]


def test_a_sparkline_is_a_course_from_least_to_largest():
    plot = sparkline("requests", [1, 3, 2])
    read = ReadPlot(plot)
    assert (read.width, read.height) == (120, 24)
    assert read.paths("course") == [[(6, 20), (60, 4), (114, 12)]]
    assert read.marks == [("circle", 114, 12)]
    assert plot.rows == (("1.00", "2.00", "1.00", "3.00", "3"),)
    assert read.title == "requests"
    assert read.description == "From 1.00 to 2.00, least 1.00, largest 3.00, 3 numbers."
    assert read.root.get("class") == "plot-spark"


def test_a_sparkline_has_gaps_and_single_numbers():
    read = ReadPlot(sparkline("x", [1, 2, None, 3, float("nan"), 1, 2, None]))
    assert [len(course) for course in read.paths("course")] == [2, 2]
    [(x, y, width, height)] = read.boxes("point")
    assert (x + width / 2, y + height / 2) == pytest.approx((6 + 3 * 108 / 7, 4), abs=0.01)
    assert [x for _, x, _ in read.marks] == pytest.approx([6 + 6 * 108 / 7], abs=0.01)


def test_a_long_sparkline_has_the_means_of_neighbours():
    values = [n // 100 for n in range(6000)]
    read = ReadPlot(sparkline("x", values))
    [course] = read.paths("course")
    assert len(course) == 60
    assert [y for _, y in course] == pytest.approx([20 - 16 * n / 59 for n in range(60)], abs=0.01)


def test_a_sparkline_without_numbers_is_empty():
    plot = sparkline("x", [None, float("inf")])
    assert plot.description == "No numbers yet."
    assert not ReadPlot(plot).marks
