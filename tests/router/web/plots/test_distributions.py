"""Histograms and cumulative distributions, read off their axes."""

import numpy as np
import pytest
from plot_reading import ReadPlot

from router.web.plots.distributions import BINS, MAX_CURVES, cumulative_shares, histograms

NAN = float("nan")
VALUES = {"a": [0.0] * 3 + [1.0] * 1, "b": [0.0, 0.52, 0.54, 1.0, NAN], "none": [NAN]}


def test_bars_are_the_shares_of_samples():
    read = ReadPlot(histograms("rougeL", VALUES))
    bars = read.boxes("bar")
    bases = [y1 for x1, y1, x2, y2 in read.lines("axis")]
    tops = [text for kind, text, x, y in read.texts if kind == "tick" and x == 42]
    assert tops == ["100%", "100%", "100%"]
    # Bars are 48 units high at 100%.
    shares = [
        (read.across(x - 0.4), read.across(x + width + 0.4), height / 48)
        for x, _, width, height in bars
    ]
    assert shares == [
        pytest.approx((0.0, 0.05, 0.75), abs=1e-3),
        pytest.approx((0.95, 1.0, 0.25), abs=1e-3),
        pytest.approx((0.0, 0.05, 0.25), abs=1e-3),
        pytest.approx((0.5, 0.55, 0.5), abs=1e-3),
        pytest.approx((0.95, 1.0, 0.25), abs=1e-3),
    ]
    assert [y + height for _, y, _, height in bars] == pytest.approx(
        [bases[0]] * 0 + [74] * 2 + [148] * 3
    )


def test_the_axis_of_shares_ends_at_a_round_number():
    read = ReadPlot(histograms("rougeL", {"a": np.linspace(0, 1, 1000)}))
    bars = read.boxes("bar")
    [top] = [text for kind, text, x, _ in read.texts if kind == "tick" and x == 42]
    assert top == "6%"
    assert len(bars) == BINS
    assert bars[3][3] == pytest.approx(48 * 0.05 / 0.06, abs=0.01)


def test_medians_are_where_the_axis_says():
    read = ReadPlot(histograms("rougeL", VALUES))
    lines = read.lines("median")
    assert [read.across(line[0]) for line in lines] == pytest.approx([0, 0.53], abs=1e-3)
    numbers = [text for kind, text, _, _ in read.texts if kind == "number"]
    assert numbers == [
        "median 0.000 \u00b7 4 samples",
        "median 0.530 \u00b7 4 samples",
        "0 samples",
    ]


@pytest.mark.parametrize("make", [histograms, cumulative_shares])
def test_quartiles_are_in_words_and_in_the_table(make):
    plot = make("rougeL", {"a": [0.0, 0.1, 0.2, 0.3, 0.4], "b": [0.5, NAN], "none": [NAN, NAN]})
    assert plot.rows == (
        ("a", "5", "0", "0.000", "0.100", "0.200", "0.300", "0.400"),
        ("b", "1", "1", "0.500", "0.500", "0.500", "0.500", "0.500"),
        ("none", "0", "2", "-", "-", "-", "-", "-"),
    )
    assert plot.description == (
        "a: median 0.200, half of them from 0.100 to 0.300, all from 0.000 to 0.400, 5 samples. "
        "b: median 0.500, half of them from 0.500 to 0.500, all from 0.500 to 0.500, 1 sample, 1 "
        "without a score. none: 0 samples, 2 without a score."
    )


@pytest.mark.parametrize(
    ("values", "median"),
    [([1.0, 2.0, 400.0], "2"), ([1.0, 2.0, 4.0], "2.00"), ([0.0, 0.001], "0.00050")],
)
def test_numbers_have_three_digits(values, median):
    assert histograms("x", {"a": values}).rows[0][5] == median


def test_a_curve_is_the_share_of_samples_that_score_at_most_so_much():
    read = ReadPlot(cumulative_shares("rougeL", {"a": [0.0, 0.25, 0.25, 1.0], "b": [0.5]}))
    [curve] = read.paths("series-1")
    steps = [(read.across(x), read.up(y)) for x, y in curve]
    assert steps == [
        pytest.approx(point, abs=2e-3)
        for point in [
            (0, 0),
            (0, 0),
            (0, 0.25),
            (0.25, 0.25),
            (0.25, 0.75),
            (1, 0.75),
            (1, 1),
            (1, 1),
        ]
    ]
    [curve] = read.paths("series-2")
    assert [(read.across(x), read.up(y)) for x, y in curve[1:3]] == [
        pytest.approx((0.5, 0), abs=2e-3),
        pytest.approx((0.5, 1), abs=2e-3),
    ]


def test_a_curve_of_many_samples_has_few_steps_that_are_exact():
    values = np.random.default_rng(0).beta(2, 3, 100_000)
    read = ReadPlot(cumulative_shares("rougeL", {"a": values}))
    [curve] = read.paths("series-1")
    assert 300 < len(curve) <= 343
    for x, y in curve[2::40]:
        assert read.up(y) == pytest.approx((values <= read.across(x)).mean(), abs=5e-3)


def test_routes_beyond_the_colours_are_in_the_table():
    values = {f"r{n}": [n, n + 1.0] for n in range(MAX_CURVES + 2)}
    plot = cumulative_shares("x", values)
    assert len(plot.rows) == MAX_CURVES + 2
    assert plot.description.startswith("The plot shows the first 6 of 8. r0: ")
    read = ReadPlot(plot)
    assert [text for kind, text, _, _ in read.texts if kind == "label"] == [
        f"r{n}" for n in range(6)
    ]
    assert [len(read.paths(f"series-{n}")) for n in range(1, 8)] == [1] * 6 + [0]
    # The legend has each line beside its name.
    rows = [y for kind, _, _, y in read.texts if kind == "label"]
    assert [read.lines(f"series-{n}")[0][1] for n in range(1, 7)] == [y - 4 for y in rows]
