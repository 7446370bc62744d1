"""Scores over time: the history of a schedule with its accepted runs, and sparklines.

history_plot(runs, "summarizer", "rougeL")     # runs of a schedule, in any order
sparkline("requests per minute", [12, 15, 11])
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import msgspec

from evaluators.reports.cells import ABSENT, plural
from evaluators.reports.scores import three_digits
from evaluators.stats.comparison import Verdict
from router.loop.schedule_results import ScheduledRun
from router.web.plots.axes import Axis, draw_across, draw_up, is_time, linear_axis, time_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    Shape,
    empty,
    finite,
    fitted,
    interval_text,
    known,
    label,
    number,
    plot,
    text_width,
)

MAX_POINTS = 120
MAX_SPARKS = 60
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12, 10.0, 170.0
_SPARK_WIDTH, _SPARK_HEIGHT = 120.0, 24.0
_SHAPES: dict[Verdict | None, tuple[Shape, str]] = {
    "better": ("up", "better"),
    "worse": ("down", "worse"),
}


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured at one time.

    Attributes:
        at: seconds since the epoch.
        estimate, low, high: None where nothing was measured, or there is no interval.
        run: the run's id; "" for none.
        accepted: whether later ones are compared with it.
        verdict: what is shown of the difference from the last accepted one.
        reason: why nothing was measured; "" for nothing to say.
    """

    at: float
    estimate: float | None
    low: float | None = None
    high: float | None = None
    run: str = ""
    accepted: bool = False
    verdict: Verdict | None = None
    reason: str = ""


def history_plot(
    runs: Sequence[ScheduledRun], route: str, output: str, *, accepted: Collection[str] = ()
) -> Plot:
    """Plot a route's scores of one output in the runs of a schedule.

    Args:
        runs: of one schedule.
        route: whose scores.
        output: which of them.
        accepted: ids of runs that a person has accepted, beside those that did so by themselves.
    """
    points = []
    for run in runs:
        if run.state == "running":
            continue
        result = run.result
        score = next(
            (
                each
                for each in (result.scores if result else ())
                if each.route == route and each.output == output
            ),
            None,
        )
        points.append(
            HistoryPoint(
                at=run.due,
                estimate=score.estimate if score else None,
                low=score.low if score else None,
                high=score.high if score else None,
                run=run.run_id,
                accepted=run.run_id in accepted or (result is not None and result.accepted),
                verdict=score.verdict if score else None,
                reason=(result.error if result else "") or run.reason or run.state,
            )
        )
    return history(f"{label(output)} of {label(route)} over time", points, axis_title=output)


def history(title: str, points: Sequence[HistoryPoint], *, axis_title: str) -> Plot:
    """Plot estimates over time with their intervals, and each accepted one until the next.

    Args:
        title: what is plotted.
        points: in any order; of more than MAX_POINTS, the plot has the newest.
        axis_title: what the numbers are.
    """
    timed = sorted((point for point in points if is_time(point.at)), key=lambda point: point.at)
    if not timed:
        return empty(title, "Nothing has been measured yet")
    shown = timed[-MAX_POINTS:]
    across = time_axis([point.at for point in shown], start=_LEFT, end=_RIGHT)
    levels = [point for point in timed if point.accepted and known(point.estimate) is not None]
    before = [point for point in levels if point.at < shown[0].at][-1:]
    values = [
        value for point in (*before, *shown) for value in (point.estimate, point.low, point.high)
    ]
    up = linear_axis(values, start=_BOTTOM, end=_TOP, upright=True)
    places = three_digits(*finite(values))
    drawing = Drawing(_BOTTOM + 66)
    first, last = _date(shown[0].at), _date(shown[-1].at)
    draw_up(drawing, up, _LEFT, _RIGHT)
    draw_across(drawing, across, _TOP, _BOTTOM, f"time (UTC), {first} to {last}")
    drawing.text(
        WIDTH / 2, _BOTTOM + 42, "up: " + fitted(axis_title, WIDTH - 40), "title", anchor="middle"
    )
    _draw_levels(drawing, [*before, *(point for point in shown if point in levels)], across, up)
    for stretch in _stretches(shown):
        drawing.path(
            [(across.at(point.at), up.at(point.estimate or 0.0)) for point in stretch], "course"
        )
    for point in shown:
        _draw_point(drawing, point, across, up, places)
    _draw_legend(drawing, shown)
    rest = len(timed) - len(shown)
    absent = sum(known(point.estimate) is None for point in shown)
    sentences = [
        *([f"The plot shows the newest {MAX_POINTS:,} of {len(timed):,} times."] if rest else []),
        *([f"{absent:,} {plural('time', absent)} nothing was measured."] if absent else []),
        *(_sentence(point, places) for point in reversed(shown)),
    ]
    return plot(
        drawing,
        title,
        sentences,
        ("time (UTC)", "estimate", "95% interval", "run", "accepted", "against the accepted run"),
        (
            (
                f"{_date(point.at)} {datetime.fromtimestamp(point.at, UTC):%H:%M}",
                number(point.estimate, places),
                interval_text(point.low, point.high, places),
                label(point.run) if point.run else ABSENT,
                "yes" if point.accepted else "no",
                point.verdict or (label(point.reason) if known(point.estimate) is None else ABSENT),
            )
            for point in reversed(timed)
        ),
        count=len(timed),
    )


def sparkline(title: str, values: Sequence[float | None]) -> Plot:
    """Plot a course of numbers small enough for a line of text; it has no axes.

    Of more than MAX_SPARKS numbers, each point is the mean of about equally many neighbours.

    Args:
        title: what the numbers are, with their unit.
        values: at equal distances; None, or not a number, where there is none.
    """
    numbers = finite(values)
    drawing = Drawing(_SPARK_HEIGHT, width=_SPARK_WIDTH, kind="spark")
    if not numbers:
        return plot(drawing, title, ["No numbers yet."], (), (), count=0)
    groups = _groups(values)
    up = linear_axis(finite(groups), start=_SPARK_HEIGHT - 4, end=4, upright=True, padded=False)
    distance = (_SPARK_WIDTH - 12) / max(1, len(groups) - 1)
    stretch: list[tuple[float, float]] = []
    for n, value in enumerate([*groups, None]):
        if value is not None:
            stretch.append((6 + n * distance, up.at(value)))
            continue
        drawing.path(stretch, "course")
        if len(stretch) == 1:
            drawing.box(stretch[0][0] - 1, stretch[0][1] - 1, 2, 2, "point")
        stretch = []
    ends = [n for n, value in enumerate(groups) if value is not None]
    last = groups[ends[-1]]
    drawing.mark("circle", 6 + ends[-1] * distance, up.at(last or 0.0), "point")
    places = three_digits(*numbers)
    sentence = (
        f"From {number(numbers[0], places)} to {number(numbers[-1], places)}, least "
        f"{number(min(numbers), places)}, largest {number(max(numbers), places)}, "
        f"{len(numbers):,} numbers."
    )
    return plot(
        drawing,
        title,
        [sentence],
        ("first", "last", "least", "largest", "numbers"),
        [
            (
                *(
                    number(value, places)
                    for value in (numbers[0], numbers[-1], min(numbers), max(numbers))
                ),
                f"{len(numbers):,}",
            )
        ],
        count=1,
    )


def _date(moment: float) -> str:
    time = datetime.fromtimestamp(moment, UTC)
    return f"{time.day} {time:%b} {time.year}"


def _draw_levels(drawing: Drawing, levels: Sequence[HistoryPoint], across: Axis, up: Axis) -> None:
    """Draw the score of each accepted run until the next one, and of the last to the right side."""
    for n, point in enumerate(levels):
        end = across.at(levels[n + 1].at) if n + 1 < len(levels) else across.end
        y = up.at(point.estimate or 0.0)
        drawing.line(across.at(point.at), y, end, y, "level")


def _stretches(points: Sequence[HistoryPoint]) -> list[list[HistoryPoint]]:
    """Return the points with an estimate, in groups that nothing without one interrupts."""
    stretches: list[list[HistoryPoint]] = [[]]
    for point in points:
        if known(point.estimate) is None:
            stretches.append([])
        else:
            stretches[-1].append(point)
    return stretches


def _draw_point(drawing: Drawing, point: HistoryPoint, across: Axis, up: Axis, places: int) -> None:
    x, estimate = across.at(point.at), known(point.estimate)
    if estimate is None:
        drawing.mark("cross", x, up.start - 6, "worse", hint=_sentence(point, places))
        return
    low, high = known(point.low), known(point.high)
    if low is not None and high is not None:
        drawing.line(x, up.at(low), x, up.at(high), "interval")
    shape, kind = _SHAPES.get(point.verdict, ("circle", "point"))
    if point.accepted:
        shape = "diamond"
    drawing.mark(shape, x, up.at(estimate), kind, hint=_sentence(point, places))


def _draw_legend(drawing: Drawing, points: Sequence[HistoryPoint]) -> None:
    """Say what the shapes mean, of those that are there."""
    entries: list[tuple[Shape, str, str]] = []
    if any(point.accepted for point in points):
        entries.append(("diamond", "point", "accepted"))
    if any(point.verdict == "better" and not point.accepted for point in points):
        entries.append(("up", "better", "better"))
    if any(point.verdict == "worse" and not point.accepted for point in points):
        entries.append(("down", "worse", "worse"))
    if any(known(point.estimate) is None for point in points):
        entries.append(("cross", "worse", "not measured"))
    x = _LEFT
    for shape, kind, text in entries:
        drawing.mark(shape, x, _BOTTOM + 54, kind)
        drawing.text(x + 9, _BOTTOM + 58, text, "label")
        x += 22 + text_width(text)


def _sentence(point: HistoryPoint, places: int) -> str:
    estimate = number(point.estimate, places)
    if estimate == ABSENT:
        reason = f" ({label(point.reason)})" if point.reason else ""
        return f"{_date(point.at)}: not measured{reason}."
    interval = interval_text(point.low, point.high, places)
    parts = [estimate]
    parts += [] if interval == ABSENT else [f"95% interval {interval}"]
    parts += ["accepted"] if point.accepted else []
    parts += [f"{point.verdict} than the accepted run"] if point.verdict in _SHAPES else []
    return f"{_date(point.at)}: {', '.join(parts)}."


def _groups(values: Sequence[float | None]) -> list[float | None]:
    """Return the values, or the means of MAX_SPARKS groups of neighbours."""
    if len(values) <= MAX_SPARKS:
        return [known(value) for value in values]
    means: list[float | None] = []
    for n in range(MAX_SPARKS):
        first, end = (len(values) * place // MAX_SPARKS for place in (n, n + 1))
        group = finite(values[first:end])
        means.append(math.fsum(value / len(group) for value in group) if group else None)
    return means
