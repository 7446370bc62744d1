"""Reliability diagrams: what people say of the answers to which a judge gives a score.

    bins = score_bins(items, low=1, high=5)        # of a calibration's items
    reliability_diagram("prometheus", bins, low=1, high=5)

A judge is calibrated where people's mean of the answers it gives a 4 is 4: where the points lie on
the diagonal. Each point has a 95% interval over answers, or over questions where answers to the
same question belong together.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.judge.calibration import MAX_BINS, ScoreBin
from evaluators.reports.cells import ABSENT, plural
from router.web.plots.axes import draw_across, draw_up, linear_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    empty,
    finite,
    interval_text,
    isolated,
    known,
    label,
    number,
    plot,
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12, 8.0, 218.0
_COUNTS = 44.0


def reliability_diagram(judge: str, bins: Sequence[ScoreBin], *, low: float, high: float) -> Plot:
    """Plot people's mean against the judge's, and below how many answers each point is of.

    Args:
        judge: its name.
        bins: at most some dozens.
        low: the lowest possible score.
        high: the highest possible score.
    """
    title = f"What people say at each score of {label(judge)}"
    if not any(known(each.people.estimate) is not None for each in bins):
        return empty(title, "No answer has scores of the judge and of people yet")
    values = [value for each in bins for value in (each.judge, each.people.low, each.people.high)]
    scale = [low, high, *values, *(each.people.estimate for each in bins)]
    across = linear_axis(scale, start=_LEFT, end=_RIGHT)
    up = linear_axis(scale, start=_BOTTOM, end=_TOP, upright=True)
    places = 3 if high - low <= 1 else 2
    bottom = _BOTTOM + 10 + _COUNTS
    drawing = Drawing(bottom + 48)
    draw_up(drawing, up, _LEFT, _RIGHT)
    draw_across(drawing, across, _TOP, bottom, "judge's mean score")
    footnote = "up: people's mean score, with 95% intervals; bars: answers"
    drawing.text(WIDTH / 2, bottom + 42, footnote, "title", anchor="middle")
    drawing.line(across.at(low), up.at(low), across.at(high), up.at(high), "ideal")
    largest = max(each.answers for each in bins)
    half = min(12.0, 0.4 * (_RIGHT - _LEFT) / len(bins))
    for each in bins:
        x, estimate = across.at(each.judge), known(each.people.estimate)
        height = (_COUNTS - 12) * each.answers / largest
        drawing.box(x - half, bottom - height, 2 * half, height, "bar", hint=_counted(each))
        if len(bins) <= MAX_BINS:
            drawing.text(x, bottom - height - 3, f"{each.answers:,}", "tick", anchor="middle")
        if estimate is None:
            continue
        ends = known(each.people.low), known(each.people.high)
        if ends[0] is not None and ends[1] is not None:
            drawing.line(x, up.at(ends[0]), x, up.at(ends[1]), "interval")
            for end in finite(ends):
                drawing.line(x - 3, up.at(end), x + 3, up.at(end), "interval")
        drawing.mark("circle", x, up.at(estimate), "point", hint=_sentence(each, places))
    return plot(
        drawing,
        title,
        [
            f"The diagonal is where {isolated(judge)} says what people say.",
            *(_sentence(each, places) for each in bins),
        ],
        ("judge's mean", "people's mean", "95% interval", "answers"),
        (
            (
                number(each.judge, places),
                number(each.people.estimate, places),
                interval_text(each.people.low, each.people.high, places),
                f"{each.answers:,}",
            )
            for each in bins
        ),
        count=len(bins),
    )


def _counted(each: ScoreBin) -> str:
    return f"{each.answers:,} {plural('answer', each.answers)}"


def _sentence(each: ScoreBin, places: int) -> str:
    interval = interval_text(each.people.low, each.people.high, places)
    within = "no interval" if interval == ABSENT else f"95% interval {interval}"
    return (
        f"Where the judge's mean is {number(each.judge, places)}, people's is "
        f"{number(each.people.estimate, places)}, {within}, {_counted(each)}."
    )
