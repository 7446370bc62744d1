"""Plots of quality against cost or time, read off their axes."""

import pytest
from plot_reading import ReadPlot

from evaluators.stats.intervals import Interval
from router.loop.frontier import Frontier, FrontierTarget
from router.web.plots.frontier import FrontierPoint, frontier_plot, scatter

ABSENT = Interval(estimate=None, low=None, high=None, n=0)


def within(estimate, half=None):
    if half is None:
        return Interval(estimate=estimate, low=None, high=None, n=9)
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, n=9)


def target(name, quality, cost, seconds, *, front):
    return FrontierTarget(
        target=name, configured=True, samples=9, quality=quality, cost_usd=cost, seconds=seconds,
        on_frontier=front,
    )  # fmt: skip


FRONTIER = Frontier(
    route="chat",
    quality="feedback:helpful",
    higher_is_better=True,
    source="requests",
    run="",
    since=None,
    targets=(
        target("a/best", within(0.8, 0.04), within(0.006, 0.001), within(3.0, 0.5), front=True),
        target("a/cheap", within(0.7, 0.05), within(0.001), within(1.0, 0.1), front=True),
        target("a/poor", within(0.6, 0.05), within(0.004, 0.001), within(2.0), front=False),
        target("a/new", within(0.9), ABSENT, ABSENT, front=None),
    ),
)


def test_targets_and_intervals_are_where_the_axes_say():
    read = ReadPlot(frontier_plot(FRONTIER, "cost_usd"))
    points = read.marks[::2]
    assert [shape for shape, _, _ in points] == ["circle", "circle", "square"]
    assert [read.across(x) for _, x, _ in points] == pytest.approx([0.006, 0.001, 0.004], abs=1e-6)
    assert [read.up(y) for _, _, y in points] == pytest.approx([0.8, 0.7, 0.6], abs=1e-4)
    kinds = [element.get("class") for element in read.root.iter("polygon")][::2]
    assert kinds == ["plot-mark plot-better"] * 2 + ["plot-mark plot-hollow"]
    lines = read.lines("interval")
    across = [
        (read.across(x1), read.across(x2), read.up(y1)) for x1, y1, x2, y2 in lines if y1 == y2
    ]
    assert across == [
        pytest.approx((0.005, 0.007, 0.8), abs=1e-4),
        pytest.approx((0.003, 0.005, 0.6), abs=1e-4),
    ]
    up = [(read.up(y1), read.up(y2), read.across(x1)) for x1, y1, x2, y2 in lines if x1 == x2]
    assert up == [
        pytest.approx((0.76, 0.84, 0.006), abs=1e-4),
        pytest.approx((0.65, 0.75, 0.001), abs=1e-4),
        pytest.approx((0.55, 0.65, 0.004), abs=1e-4),
    ]


def test_a_line_shows_the_best_quality_for_each_amount():
    read = ReadPlot(frontier_plot(FRONTIER, "cost_usd"))
    [path] = read.paths("front")
    steps = [(read.across(x), read.up(y)) for x, y in path]
    assert steps[:3] == [
        pytest.approx((0.001, 0.7), abs=1e-4),
        pytest.approx((0.006, 0.7), abs=1e-4),
        pytest.approx((0.006, 0.8), abs=1e-4),
    ]
    assert path[3] == (348, path[2][1])
    assert len(path) == 4


def test_where_less_is_better_the_line_goes_down():
    points = [
        FrontierPoint(name=str(n), quality=within(quality), spend=within(spend), on_frontier=True)
        for n, (quality, spend) in enumerate(
            [(0.3, 1.0), (0.1, 2.0), (0.2, 3.0), (0.1, 2.5), (0.4, 1.0)]
        )
    ]
    plot = scatter("t", points, quality="errors", higher_is_better=False, against="seconds")
    read = ReadPlot(plot)
    [path] = read.paths("front")
    assert [(read.across(x), read.up(y)) for x, y in path[:3]] == [
        pytest.approx((1.0, 0.3), abs=0.01),
        pytest.approx((2.0, 0.3), abs=0.01),
        pytest.approx((2.0, 0.1), abs=0.01),
    ]
    assert "up: errors (lower is better)" in [text for _, text, _, _ in read.texts]


def test_targets_are_numbered_in_the_plot_and_in_the_legend():
    read = ReadPlot(frontier_plot(FRONTIER, "seconds"))
    numbers = [text for kind, text, _, _ in read.texts if kind == "place"]
    assert sorted(numbers) == ["1", "1", "2", "2", "3", "3", "4"]
    legend = [y for kind, _, x, y in read.texts if kind == "place" and x == 16]
    assert [y for kind, _, _, y in read.texts if kind == "label"] == legend == [274, 290, 306, 322]
    texts = [text for kind, text, _, _ in read.texts if kind == "number"]
    assert texts == [
        "0.800 \u00b7 3.00 s",
        "0.700 \u00b7 1.00 s",
        "0.600 \u00b7 2.00 s",
        "0.900 \u00b7 -",
    ]
    assert read.height > 322


def test_numbers_of_points_that_are_close_stand_apart():
    points = [
        FrontierPoint(
            name=str(n), quality=within(0.5 + n / 1000), spend=within(1.0), on_frontier=True
        )
        for n in range(3)
    ] + [FrontierPoint(name="far", quality=within(1.0), spend=within(2.0), on_frontier=True)]
    read = ReadPlot(scatter("t", points, quality="q", higher_is_better=True, against="seconds"))
    places = [(x, y) for kind, _, x, y in read.texts if kind == "place" and x != 16]
    assert len(set(places)) == 4
    for n, (x, y) in enumerate(places):
        assert all(abs(x - other) > 6 or abs(y - up) >= 9 for other, up in places[:n])


def test_targets_are_in_words_and_in_the_table():
    plot = frontier_plot(FRONTIER, "cost_usd")
    assert plot.title == "feedback:helpful against cost, targets of chat"
    assert plot.rows[0] == (
        "a/best",
        "0.800",
        "0.760 to 0.840",
        "$0.0060",
        "$0.0050 to $0.0070",
        "no other",
    )
    assert plot.rows[3] == ("a/new", "0.900", "-", "-", "-", "not known")
    assert plot.description.startswith(
        "Points up and to the left are better. 1 a/best: quality 0.800 (95% interval 0.760 to "
        "0.840), cost $0.0060 (95% interval $0.0050 to $0.0070), on the frontier. 2 a/cheap: "
        "quality 0.700 (95% interval 0.650 to 0.750), cost $0.0010, on the frontier. 3 a/poor:"
    )
    assert plot.description.endswith(
        "off the frontier. 4 a/new: quality 0.900, cost -, not placed."
    )


def test_costs_far_apart_are_read_off_a_logarithmic_axis():
    points = [
        FrontierPoint(
            name=str(n), quality=within(n), spend=within(0.00003 * 10**n), on_frontier=True
        )
        for n in range(5)
    ]
    read = ReadPlot(scatter("t", points, quality="q", higher_is_better=True, against="cost_usd"))
    assert [read.across(x, log=True) for _, x, _ in read.marks[::2]] == pytest.approx(
        [0.00003, 0.0003, 0.003, 0.03, 0.3], rel=1e-3
    )
    assert "cost, US dollars per request (log scale)" in [text for _, text, _, _ in read.texts]
