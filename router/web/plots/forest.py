"""Forest plots: estimates with their intervals, one below the other.

score_forest(report, "rougeL")           # the routes' scores
difference_forest(report, "rougeL")      # their differences from the baseline, and the margin
slice_forest(slices, "my-route")         # a route's scores by a column of the dataset
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from evaluators.reports.cells import ABSENT, output_title, plural, verdict_words
from evaluators.reports.report import Report
from evaluators.reports.scores import OutputInfo, decimals, three_digits
from evaluators.reports.slice_table import slice_name
from evaluators.reports.slices import SliceReport
from evaluators.stats.comparison import Comparison
from router.web.plots.axes import draw_across, linear_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    Shape,
    drawn,
    empty,
    finite,
    fitted,
    interval_text,
    isolated,
    known,
    label,
    number,
    plot,
    text_width,
)

MAX_ROWS = 40
_TOP, _ROW, _SIDE = 4.0, 32.0, 10.0
# So much of a row its texts have, with what is below their baseline.
_TEXT = 15.0
_SHAPES: dict[str | None, tuple[Shape, str]] = {
    "better": ("up", "better"),
    "worse": ("down", "worse"),
    "equivalent": ("square", "point"),
}


class ForestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One estimate.

    Attributes:
        name: what it is of.
        estimate, low, high: None, or not a number, where there is none.
        n: how many samples it is of.
        verdict: what is shown of it, in words; "" for nothing.
        shape: of the estimate.
        kind: the class of its colour in `plots.css`, without the prefix.
    """

    name: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    verdict: str = ""
    shape: Shape = "circle"
    kind: str = "point"


def score_forest(report: Report, output: str) -> Plot:
    """Plot the routes' scores of one output.

    Raises:
        KeyError: the report has no such output.
    """
    info = _info(report, output)
    rows = [
        ForestRow(
            name=f"{route.route} (baseline)" if route.route == report.baseline else route.route,
            estimate=score.estimate,
            low=score.low,
            high=score.high,
            n=score.n,
            shape="diamond" if route.route == report.baseline else "circle",
        )
        for route in report.routes
        for score in route.scores
        if score.output == output
    ]
    places = decimals(info, *_numbers_of(rows))
    return forest(f"{label(output)} by route", rows, axis_title=output_title(info), places=places)


def difference_forest(report: Report, output: str) -> Plot:
    """Plot the differences of one output from the baseline.

    The margin is a band around 0. Differences that are shown point up where they are better and
    down where they are worse.

    Raises:
        KeyError: the report has no such output.
    """
    info = _info(report, output)
    compared = [each for each in report.comparisons if each.output == output]
    rows = [_difference(each) for each in compared]
    margin = next((each.margin for each in compared if each.margin is not None), None)
    places = decimals(info, known(margin), *_numbers_of(rows))
    baseline = label(report.baseline or "the baseline")
    return forest(
        f"{label(output)}: difference from {baseline}",
        rows,
        axis_title=f"difference in {output_title(info)}",
        places=places,
        zero=True,
        margin=margin,
    )


def slice_forest(report: SliceReport, route: str) -> Plot:
    """Plot a route's scores by slice, below its score of all samples."""
    parts = [
        ("all samples", report.whole),
        *((slice_name(each), each.scores) for each in report.slices),
    ]
    rows = [
        ForestRow(
            name=f"{name}, few samples" if score.few else name,
            estimate=score.estimate,
            low=score.low,
            high=score.high,
            n=score.n,
            shape="circle" if place else "diamond",
        )
        for place, (name, scores) in enumerate(parts)
        for score in scores
        if score.route == route
    ]
    return forest(
        f"{label(report.output.name)} of {label(route)} by {label(report.column)}",
        rows,
        axis_title=output_title(report.output),
        places=decimals(report.output, *_numbers_of(rows)),
        rows_are="slice",
    )


def slice_difference_forest(report: SliceReport, route: str) -> Plot:
    """Plot a route's differences from the baseline by slice."""
    by_slice = [
        (slice_name(part), compared)
        for part in report.slices
        for compared in part.comparisons
        if compared.route == route
    ]
    rows = [
        msgspec.structs.replace(_difference(compared), name=name) for name, compared in by_slice
    ]
    margin = next((each.margin for _, each in by_slice if each.margin is not None), None)
    baseline = label(report.baseline or "the baseline")
    return forest(
        f"{label(report.output.name)} of {label(route)}: difference from {baseline}",
        rows,
        axis_title=f"difference in {output_title(report.output)}",
        places=decimals(report.output, known(margin), *_numbers_of(rows)),
        zero=True,
        margin=margin,
        rows_are="slice",
    )


def forest(
    title: str,
    rows: Sequence[ForestRow],
    *,
    axis_title: str,
    places: int | None = None,
    zero: bool = False,
    margin: float | None = None,
    rows_are: str = "route",
) -> Plot:
    """Plot estimates with their intervals.

    Args:
        title: what is plotted.
        rows: from top to bottom; those after the first MAX_ROWS are in the table only.
        axis_title: what the numbers are.
        places: decimal places of numbers; None for as many as give three digits.
        zero: whether these are differences: 0 has a line, and numbers have a sign.
        margin: the largest difference that makes no difference, drawn as a band; None for none.
        rows_are: what each row is, as the table's heading.
    """
    if not rows:
        return empty(title, "There are no estimates yet")
    shown, rest = drawn(rows, MAX_ROWS)
    digits = three_digits(*_numbers_of(rows)) if places is None else places
    margin = known(margin)
    axis = linear_axis(
        [
            *_numbers_of(shown),
            *([0.0] if zero else []),
            *([-margin, margin] if margin else []),
        ],
        start=_SIDE,
        end=WIDTH - _SIDE,
        sign=zero,
    )
    bottom = _TOP + _ROW * len(shown) + 2
    drawing = Drawing(bottom + 34)
    if margin:
        left, right = axis.at(-margin), axis.at(margin)
        drawing.box(left, _TOP, right - left, bottom - _TOP, "band")
    draw_across(drawing, axis, _TOP, bottom, fitted(axis_title, WIDTH - 2 * _SIDE))
    for n, row in enumerate(shown):
        top = _TOP + _ROW * n
        numbers_text = _numbers(row, digits, sign=zero)
        drawing.text(WIDTH - _SIDE, top + 11, numbers_text, "number", anchor="end")
        room = WIDTH - 2 * _SIDE - text_width(numbers_text) - 8
        drawing.text(_SIDE, top + 11, fitted(row.name, room), "label")
        y = top + 21
        if zero:
            # Not through the texts above and below.
            drawing.line(axis.at(0.0), top + _TEXT, axis.at(0.0), top + _ROW, "zero")
        estimate, low, high = known(row.estimate), known(row.low), known(row.high)
        if estimate is None:
            continue
        for end in (low, high):
            if end is not None:
                drawing.line(axis.at(end), y - 3, axis.at(end), y + 3, "interval")
        drawing.line(
            axis.at(estimate if low is None else low), y,
            axis.at(estimate if high is None else high), y, "interval",
        )  # fmt: skip
        hint = f"{label(row.name)}: {numbers_text}"
        drawing.mark(row.shape, axis.at(estimate), y, row.kind, hint=hint)
    sentences = [_sentence(row, digits, sign=zero) for row in shown]
    if margin:
        band = f"\u00b1{number(margin, digits)}"
        sentences.insert(0, f"The band is the margin of {band}.")
    return plot(
        drawing,
        title,
        [*([rest] if rest else []), *sentences],
        (rows_are, "estimate", "95% interval", "samples", *(("verdict",) if zero else ())),
        (
            (
                label(row.name),
                number(row.estimate, digits, sign=zero),
                interval_text(row.low, row.high, digits, sign=zero),
                f"{row.n:,}",
                *((row.verdict or ABSENT,) if zero else ()),
            )
            for row in rows
        ),
        count=len(rows),
    )


def _info(report: Report, output: str) -> OutputInfo:
    infos = {info.name: info for info in report.outputs}
    return infos[output]


def _difference(compared: Comparison) -> ForestRow:
    verdict = compared.verdict if compared.headline and not compared.gatekept else None
    shape, kind = _SHAPES.get(verdict, ("circle", "point"))
    return ForestRow(
        name=compared.route,
        estimate=compared.difference,
        low=compared.low,
        high=compared.high,
        n=compared.n,
        verdict="not tested" if compared.gatekept else verdict_words(compared),
        shape=shape,
        kind=kind,
    )


def _numbers_of(rows: Sequence[ForestRow]) -> list[float]:
    return finite(value for row in rows for value in (row.estimate, row.low, row.high))


def _numbers(row: ForestRow, places: int, *, sign: bool) -> str:
    estimate = number(row.estimate, places, sign=sign)
    if estimate == ABSENT:
        return "no estimate"
    low, high = known(row.low), known(row.high)
    if low is None or high is None:
        return estimate
    ends = f"{number(low, places, sign=sign)}, {number(high, places, sign=sign)}"
    return f"{estimate} [{ends}]"


def _sentence(row: ForestRow, places: int, *, sign: bool) -> str:
    estimate = number(row.estimate, places, sign=sign)
    if estimate == ABSENT:
        return f"{isolated(row.name)}: no estimate."
    interval = interval_text(row.low, row.high, places, sign=sign)
    within = "no interval" if interval == ABSENT else f"95% interval {interval}"
    verdict = f", {row.verdict}" if row.verdict else ""
    samples = f"{row.n:,} {plural('sample', row.n)}"
    return f"{isolated(row.name)}: {estimate}, {within}, {samples}{verdict}."
