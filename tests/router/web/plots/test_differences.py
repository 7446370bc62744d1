"""Sorted differences, read off their axis."""

import numpy as np
import pytest
from plot_reading import ReadPlot

from evaluators.stats.intervals import Interval
from router.web.plots.differences import MAX_BARS, sorted_differences

NAN = float("nan")
MEAN = Interval(estimate=0.02, low=-0.05, high=0.09, n=5)
PLOT = sorted_differences(
    "rougeL", [0.1, -0.2, 0.3, 0.0, NAN, -0.1], ("new", "base"), higher_is_better=True, mean=MEAN
)


def test_bars_are_sorted_and_end_where_the_axis_says():
    read = ReadPlot(PLOT)
    [zero] = read.lines("zero")
    assert read.up(zero[1]) == pytest.approx(0, abs=1e-3)
    better, worse = read.boxes("bar-better"), read.boxes("bar-worse")
    assert [read.up(y) for _, y, _, _ in better] == pytest.approx([0.3, 0.1], abs=1e-3)
    assert [read.up(y + height) for _, y, _, height in better] == pytest.approx([0, 0], abs=1e-3)
    assert [read.up(y + height) for _, y, _, height in worse] == pytest.approx(
        [-0.1, -0.2], abs=1e-3
    )
    assert [read.up(y) for _, y, _, _ in worse] == pytest.approx([0, 0], abs=1e-3)
    # Five places, of which the equal one has no bar.
    assert [x for x, _, _, _ in better + worse] == pytest.approx(
        [46 + n * 306 / 5 for n in (0, 1, 3, 4)], abs=0.01
    )
    assert better[0][2] == pytest.approx(0.9 * 306 / 5, abs=0.01)


def test_the_mean_is_a_line_within_its_interval():
    read = ReadPlot(PLOT)
    [mean] = read.lines("mean")
    assert read.up(mean[1]) == pytest.approx(0.02, abs=1e-3)
    [(_, y, width, height)] = read.boxes("band")
    assert (read.up(y), read.up(y + height)) == pytest.approx((0.09, -0.05), abs=1e-3)
    assert width == 306
    without = ReadPlot(sorted_differences("x", [0.1], ("a", "b"), higher_is_better=True))
    assert not without.lines("mean")
    assert not without.boxes("band")


def test_differences_are_in_words_and_in_the_table():
    assert PLOT.title == "rougeL of each sample: new less base"
    assert PLOT.description == (
        "new has more than base in 2 samples, the same in 1 and less in 2. Above 0 is better. "
        "The differences go from \u22120.200 to +0.300; their median is 0.000. "
        "The mean is +0.020 (95% interval \u22120.050 to +0.090)."
    )
    assert PLOT.rows[0] == ("100%", "+0.300")
    assert PLOT.rows[3] == ("50%", "0.000")
    assert PLOT.rows[-1] == ("0%", "\u22120.200")
    assert len(PLOT.rows) == 7
    texts = [text for _, text, _, _ in ReadPlot(PLOT).texts]
    assert "above 0 (better): 2 \u00b7 equal: 1 \u00b7 below 0: 2" in texts
    assert "5 samples, sorted" in texts


def test_where_less_is_better_bars_below_are():
    read = ReadPlot(sorted_differences("x", [1, -2, -3], ("a", "b"), higher_is_better=False))
    assert (len(read.boxes("bar-worse")), len(read.boxes("bar-better"))) == (1, 2)
    assert "Below 0 is better." in read.description
    assert "above 0: 1 \u00b7 equal: 0 \u00b7 below 0 (better): 2" in [
        text for _, text, _, _ in read.texts
    ]


def test_without_a_direction_no_bar_is_better():
    read = ReadPlot(sorted_differences("x", [1, -2], ("a", "b"), higher_is_better=None))
    assert len(read.boxes("bar")) == 2
    assert "better" not in str(read.description)


def test_many_samples_share_bars_that_are_their_means():
    values = np.random.default_rng(0).permutation(np.arange(-1499.5, 1500))
    read = ReadPlot(sorted_differences("x", values, ("a", "b"), higher_is_better=True))
    bars = read.boxes("bar-better")
    assert len(bars) + len(read.boxes("bar-worse")) == MAX_BARS
    # Twenty neighbours each: the first has 1480.5 to 1499.5.
    assert [read.up(y) for _, y, _, _ in bars[:3]] == pytest.approx([1490, 1470, 1450], abs=1)
    texts = [text for _, text, _, _ in read.texts]
    assert "3,000 samples, sorted; each bar is the mean of about 20" in texts
    assert "from \u22121,500 to +1,500" in read.description
    exact = ReadPlot(sorted_differences("x", values[:150], ("a", "b"), higher_is_better=True))
    assert "150 samples, sorted" in [text for _, text, _, _ in exact.texts]
