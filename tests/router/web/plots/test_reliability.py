"""Reliability diagrams, read off their axes."""

import math

import pytest
from plot_reading import ReadPlot

from evaluators.judge.calibration import Item, ScoreBin, score_bins
from evaluators.stats.intervals import Interval, mean_interval
from router.web.plots.reliability import reliability_diagram


def item(judge, people, question=""):
    return Item(id=f"{judge} {people} {question}", judge=judge, people=people, question=question)


def test_each_whole_score_is_a_bin():
    items = [
        item((4.0,), (5.0,)), item((4.0, 4.0), (3.0,)), item((4.0,), (4.0, 5.0)),
        item((3.6,), (4.0,)), item((1.0,), (2.0,)), item((1.0,), (1.0,)), item((), (1.0,)),
        item((2.0,), ()), item((9.0,), (5.0,)),
    ]  # fmt: skip
    bins = score_bins(items, low=1, high=5)
    assert [(each.low, each.high, each.answers) for each in bins] == [
        (0.5, 1.5, 2), (3.5, 4.5, 4), (4.5, 5.5, 1),
    ]  # fmt: skip
    assert [each.judge for each in bins] == pytest.approx([1.0, 3.9, 9.0])
    assert bins[1].people == mean_interval([5.0, 3.0, 4.5, 4.0], low=1, high=5)
    assert bins[0].people.estimate == 1.5


@pytest.mark.parametrize(
    ("low", "high", "score", "expected"),
    [
        (0, 1, 0.0, (0.0, 0.1)),
        (0, 1, 0.55, (0.5, 0.6)),
        (0, 1, 1.0, (0.9, 1.0)),
        (0.5, 5.5, 0.9, (0.5, 1.0)),
        (0, 100, 99, (90, 100)),
        (0, 2, 1, (0.5, 1.5)),
        (1, 10, 10, (9.5, 10.5)),
        (0, 10, 5, (5, 6)),
    ],
)
def test_other_scales_have_ten_equal_bins(low, high, score, expected):
    [only] = score_bins([item((score,), (low,))], low=low, high=high)
    assert (only.low, only.high) == pytest.approx(expected)


def test_answers_to_the_same_question_belong_together():
    items = [item((3.0,), (float(n % 5 + 1),), f"q{n // 2}") for n in range(40)]
    [only] = score_bins(items, low=1, high=5)
    assert only.people.n == 20
    assert only.answers == 40


def interval(estimate, low, high):
    return Interval(estimate=estimate, low=low, high=high, n=20)


BINS = (
    ScoreBin(low=0.5, high=1.5, judge=1.0, people=interval(1.5, 1.2, 1.8), answers=40),
    ScoreBin(low=2.5, high=3.5, judge=3.0, people=interval(2.9, 2.5, 3.3), answers=20),
    ScoreBin(low=4.5, high=5.5, judge=5.0, people=interval(4.0, None, None), answers=1),
)


def test_bins_are_where_the_axes_say_beside_the_diagonal():
    read = ReadPlot(reliability_diagram("a judge", BINS, low=1, high=5))
    assert [read.across(x) for _, x, _ in read.marks] == pytest.approx([1, 3, 5], abs=1e-3)
    assert [read.up(y) for _, _, y in read.marks] == pytest.approx([1.5, 2.9, 4.0], abs=1e-3)
    [(x1, y1, x2, y2)] = read.lines("ideal")
    assert (read.across(x1), read.up(y1), read.across(x2), read.up(y2)) == pytest.approx(
        (1, 1, 5, 5), abs=1e-3
    )
    lines = read.lines("interval")
    whiskers = [(read.across(x1), read.up(y1), read.up(y2)) for x1, y1, x2, y2 in lines if x1 == x2]
    assert whiskers == [
        pytest.approx((1, 1.2, 1.8), abs=1e-3),
        pytest.approx((3, 2.5, 3.3), abs=1e-3),
    ]
    caps = [read.up(y1) for x1, y1, x2, y2 in lines if y1 == y2]
    assert caps == pytest.approx([1.2, 1.8, 2.5, 3.3], abs=1e-3)


def test_bars_are_as_high_as_the_counts():
    read = ReadPlot(reliability_diagram("a judge", BINS, low=1, high=5))
    bars = read.boxes("bar")
    assert [height / bars[0][3] for _, _, _, height in bars] == pytest.approx(
        [1, 0.5, 0.025], abs=1e-3
    )
    assert len({round(y + height, 3) for _, y, _, height in bars}) == 1
    middles = [read.across(x + width / 2) for x, _, width, _ in bars]
    assert middles == pytest.approx([1, 3, 5], abs=1e-3)
    counts = [
        (text, x) for kind, text, x, y in read.texts if kind == "tick" and 230 < y < 272 and x > 43
    ]
    assert [text for text, _ in counts] == ["40", "20", "1"]
    assert [x for _, x in counts] == pytest.approx(
        [x + width / 2 for x, _, width, _ in bars], abs=0.01
    )
    assert max(y for _, y, _, _ in bars) > max(y for _, _, y in read.marks)


def test_bins_are_in_words_and_in_the_table():
    plot = reliability_diagram("a judge", BINS, low=1, high=5)
    assert plot.title == "What people say at each score of a judge"
    assert plot.rows == (
        ("1.00", "1.50", "1.20 to 1.80", "40"),
        ("3.00", "2.90", "2.50 to 3.30", "20"),
        ("5.00", "4.00", "-", "1"),
    )
    assert plot.description == (
        "The diagonal is where a judge says what people say. "
        "Where the judge's mean is 1.00, people's is 1.50, 95% interval 1.20 to 1.80, 40 answers. "
        "Where the judge's mean is 3.00, people's is 2.90, 95% interval 2.50 to 3.30, 20 answers. "
        "Where the judge's mean is 5.00, people's is 4.00, no interval, 1 answer."
    )


def test_shares_have_three_decimal_places():
    bins = [ScoreBin(low=0, high=0.1, judge=0.05, people=interval(0.125, 0.1, 0.2), answers=9)]
    assert reliability_diagram("j", bins, low=0, high=1).rows[0][:2] == ("0.050", "0.125")


def test_many_bins_have_no_counts_in_the_plot():
    bins = [
        ScoreBin(low=n, high=n + 1, judge=n, people=interval(math.sqrt(n), 0, 9), answers=3)
        for n in range(11)
    ]
    texts = [
        text for _, text, _, _ in ReadPlot(reliability_diagram("j", bins, low=0, high=11)).texts
    ]
    assert "3" not in texts
