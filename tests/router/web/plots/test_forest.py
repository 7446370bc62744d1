"""Forest plots, read off their axes."""

import pytest
from plot_reading import ReadPlot

from evaluators.reports.report import CostSummary, Report, RouteReport, Times, TokenSummary
from evaluators.reports.scores import OutputInfo, RouteScore
from evaluators.stats.comparison import Comparison
from router.web.plots.forest import ForestRow, difference_forest, forest, score_forest
from router.web.plots.frontier import run_frontier

PIXEL = 0.01


def score(output, estimate, low, high, n=60):
    return RouteScore(
        output=output, estimate=estimate, low=low, high=high, method="none", n=n, scored=n,
        expected=n, coverage=1.0, unscored=0, example="",
    )  # fmt: skip


def route(name, *scores, usd=None, p50=None, answered=60):
    return RouteReport(
        route=name, expected=60, answered=answered, failed=0, missing=0, cached=0, errors=(),
        targets={}, tokens=TokenSummary(prompt=0, completion=0, total=0, unknown=0),
        cost=CostSummary(total_usd=usd, known_usd=usd or 0.0, unknown=0),
        times=Times(p50_s=p50, p95_s=p50, n=answered), scores=scores,
    )  # fmt: skip


def output(name, *, higher=True):
    return OutputInfo(
        name=name, metric=name, higher_is_better=higher, low=0.0, high=1.0, unit="", corpus=False,
        description="",
    )  # fmt: skip


REPORT = Report(
    baseline="base",
    samples=60,
    outputs=(output("rougeL"), output("errors", higher=False)),
    routes=(
        route("base", score("rougeL", 0.41, 0.38, 0.44), score("errors", 0.2, 0.1, 0.3),
              usd=0.6, p50=2.0),
        route("new", score("rougeL", 0.45, 0.42, 0.49), score("errors", 0.1, 0.0, 0.2),
              usd=1.2, p50=1.0),
        route("cut", score("rougeL", 0.40, None, None, n=1), usd=0.9, p50=None),
        route("none", score("rougeL", None, None, None, n=0)),
    ),
    comparisons=(
        Comparison(route="new", output="errors", n=60, difference=0.4, verdict="worse", margin=0.3),
        Comparison(route="new", output="rougeL", n=60, difference=0.04, low=0.01, high=0.07,
                   verdict="better", margin=0.02),
        Comparison(route="cut", output="rougeL", n=50, difference=-0.03, low=-0.06, high=-0.01,
                   verdict="worse", margin=0.02),
        Comparison(route="same", output="rougeL", n=50, difference=0.001, low=-0.01, high=0.012,
                   verdict="equivalent", margin=0.02),
        Comparison(route="wide", output="rougeL", n=50, difference=0.02, low=-0.01, high=0.05,
                   verdict="no difference shown", margin=0.02),
        Comparison(route="gated", output="rougeL", n=50, difference=0.02, low=0.01, high=0.05,
                   gatekept=True, margin=0.02),
        Comparison(route="raw", output="rougeL", n=50, difference=0.02, low=0.01, high=0.05,
                   verdict="better", headline=False, margin=0.02),
    ),
    warnings=(),
    signatures={},
)  # fmt: skip


def test_scores_and_intervals_are_where_the_axis_says():
    plot = score_forest(REPORT, "rougeL")
    read = ReadPlot(plot)
    assert [shape for shape, _, _ in read.marks] == ["diamond", "circle", "circle"]
    assert [read.across(x) for _, x, _ in read.marks] == pytest.approx([0.41, 0.45, 0.40], abs=1e-4)
    whiskers = [line for line in read.lines("interval") if line[1] == line[3]]
    ends = [(read.across(x1), read.across(x2)) for x1, _, x2, _ in whiskers]
    assert ends[0] == pytest.approx((0.38, 0.44), abs=1e-4)
    assert ends[1] == pytest.approx((0.42, 0.49), abs=1e-4)
    assert ends[2] == pytest.approx((0.40, 0.40), abs=1e-4)
    caps = [x1 for x1, y1, _, y2 in read.lines("interval") if y1 != y2]
    assert [read.across(x) for x in caps] == pytest.approx([0.38, 0.44, 0.42, 0.49], abs=1e-4)
    # Each estimate is on the line of its interval, below its name.
    assert [y for _, _, y in read.marks] == [line[1] for line in whiskers] == [25, 57, 89]
    assert [y for kind, _, _, y in read.texts if kind == "label"] == [15, 47, 79, 111]
    assert not read.boxes("band")
    assert not read.lines("zero")


def test_scores_are_in_words_and_in_the_table():
    plot = score_forest(REPORT, "rougeL")
    assert plot.title == "rougeL by route"
    assert plot.description == (
        "base (baseline): 0.410, 95% interval 0.380 to 0.440, 60 samples. "
        "new: 0.450, 95% interval 0.420 to 0.490, 60 samples. "
        "cut: 0.400, no interval, 1 sample. none: no estimate."
    )
    assert plot.columns == ("route", "estimate", "95% interval", "samples")
    assert plot.rows == (
        ("base (baseline)", "0.410", "0.380 to 0.440", "60"),
        ("new", "0.450", "0.420 to 0.490", "60"),
        ("cut", "0.400", "-", "1"),
        ("none", "-", "-", "0"),
    )
    texts = [(kind, text) for kind, text, _, _ in ReadPlot(plot).texts]
    assert ("number", "0.450 [0.420, 0.490]") in texts
    assert ("number", "no estimate") in texts
    assert ("title", "rougeL \u2191") in texts


def test_differences_have_a_zero_a_margin_and_a_shape_for_each_verdict():
    plot = difference_forest(REPORT, "rougeL")
    read = ReadPlot(plot)
    zeros = read.lines("zero")
    zero = zeros[0]
    assert {x for line in zeros for x in (line[0], line[2])} == {zero[0]}
    # The line is beside the intervals, not through the names and numbers above them.
    assert [(top, bottom) for _, top, _, bottom in zeros] == [
        (4 + 32 * n + 15, 4 + 32 * (n + 1)) for n in range(6)
    ]
    baselines = {y for kind, _, _, y in read.texts if kind in {"label", "number"}}
    assert baselines == {4 + 32 * n + 11 for n in range(6)}
    assert read.height == 4 + 32 * 6 + 36
    assert "+0.05" in [text for kind, text, _, _ in read.texts if kind == "tick"]
    assert [title.text for title in read.root.iter("title")][1:3] == [
        "new: +0.040 [+0.010, +0.070]",
        "cut: \u22120.030 [\u22120.060, \u22120.010]",
    ]
    assert read.across(zero[0]) == pytest.approx(0, abs=1e-4)
    [(x, y, width, height)] = read.boxes("band")
    assert (read.across(x), read.across(x + width)) == pytest.approx((-0.02, 0.02), abs=1e-4)
    assert (y, y + height) == (4, 4 + 32 * 6 + 2)
    assert [shape for shape, _, _ in read.marks] == [
        "up",
        "down",
        "square",
        "circle",
        "circle",
        "circle",
    ]
    assert [read.across(x) for _, x, _ in read.marks] == pytest.approx(
        [0.04, -0.03, 0.001, 0.02, 0.02, 0.02], abs=1e-4
    )
    assert plot.title == "rougeL: difference from base"
    assert plot.rows[0] == ("new", "+0.040", "+0.010 to +0.070", "60", "better")
    assert [row[4] for row in plot.rows] == [
        "better", "worse", "equivalent (\u00b10.02)", "not shown", "not tested", "raw",
    ]  # fmt: skip
    assert plot.description.startswith("The band is the margin of \u00b10.020. new: +0.040, 95%")
    kinds = [element.get("class") for element in read.root.iter("polygon")]
    assert kinds[:3] == ["plot-mark plot-better", "plot-mark plot-worse", "plot-mark plot-point"]


def test_a_margin_and_zero_are_on_the_axis_however_far():
    read = ReadPlot(difference_forest(REPORT, "errors"))
    [(x, _, width, _)] = read.boxes("band")
    assert (read.across(x), read.across(x + width)) == pytest.approx((-0.3, 0.3), abs=2e-3)
    far = forest(
        "t", [ForestRow(name="a", estimate=5, low=4, high=6, n=3)], axis_title="x", zero=True
    )
    assert ReadPlot(far).across(ReadPlot(far).lines("zero")[0][0]) == pytest.approx(0, abs=0.03)


def test_an_interval_with_one_end_goes_from_the_estimate_to_it():
    rows = [
        ForestRow(name="a", estimate=5, low=4, high=None, n=3),
        ForestRow(name="b", estimate=5, low=None, high=7, n=3),
    ]
    plot = forest("t", rows, axis_title="x")
    read = ReadPlot(plot)
    lines = [
        (read.across(x1), read.across(x2)) for x1, y1, x2, y2 in read.lines("interval") if y1 == y2
    ]
    assert lines == [pytest.approx((4, 5), abs=0.01), pytest.approx((5, 7), abs=0.01)]
    assert [row[2] for row in plot.rows] == ["from 4.00", "up to 7.00"]


def test_names_and_numbers_have_their_places_in_a_row():
    rows = [ForestRow(name="W" * 500, estimate=1234567.1, low=-2345678, high=4567890, n=3)]
    read = ReadPlot(forest("t", rows, axis_title="x", zero=True))
    label, = [text for kind, text, _, _ in read.texts if kind == "label"]  # fmt: skip
    assert 5 < len(label) < 30
    assert label.endswith("W\u2026")


def test_numbers_of_an_output_without_a_range_have_three_digits():
    words = OutputInfo(
        name="words", metric="words", higher_is_better=None, low=None, high=None, unit="words",
        corpus=False, description="",
    )  # fmt: skip
    report = Report(
        baseline=None, samples=9, outputs=(words,),
        routes=(route("a", score("words", 120.4, 110.0, 130.0)),),
        comparisons=(
            Comparison(route="a", output="words", n=9, difference=1.25, low=1.0, high=2.0),
        ),
        warnings=(), signatures={},
    )  # fmt: skip
    assert score_forest(report, "words").rows[0][1:3] == ("120", "110 to 130")
    differences = difference_forest(report, "words")
    assert differences.rows[0][1:] == ("+1.25", "+1.00 to +2.00", "9", "-")
    assert differences.title == "words: difference from the baseline"


def test_an_output_that_is_not_there_is_an_error():
    for make in (score_forest, difference_forest):
        with pytest.raises(KeyError):
            make(REPORT, "bleu")
    with pytest.raises(KeyError):
        run_frontier(REPORT, "bleu", "seconds")


def test_routes_of_a_run_are_placed_by_mean_cost_and_estimates():
    plot = run_frontier(REPORT, "rougeL", "cost_usd")
    read = ReadPlot(plot)
    # Each point, then its mark in the legend.
    points = read.marks[::2]
    assert [read.across(x) for _, x, _ in points] == pytest.approx([0.01, 0.02, 0.015], abs=1e-5)
    assert [read.up(y) for _, _, y in points] == pytest.approx([0.41, 0.45, 0.40], abs=1e-3)
    assert [shape for shape, _, _ in points] == ["circle", "circle", "square"]
    assert [row[5] for row in plot.rows] == ["no other", "no other", "another is", "not known"]
    assert [row[3] for row in plot.rows] == ["$0.010", "$0.020", "$0.015", "-"]


def test_routes_of_a_run_are_placed_by_median_time():
    plot = run_frontier(REPORT, "errors", "seconds")
    assert [row[0] for row in plot.rows] == ["base", "new"]
    assert [row[3] for row in plot.rows] == ["2.00 s", "1.00 s"]
    assert [row[5] for row in plot.rows] == ["another is", "no other"]
    assert plot.description.startswith("Points down and to the left are better.")
