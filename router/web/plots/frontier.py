"""Quality against cost or time: what each target brings, and which of them need be considered.

frontier_plot(frontier, "cost_usd")            # a route's targets, from `loop/frontier.py`
run_frontier(report, "rougeL", "seconds")      # a run's routes, by the estimates alone
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from evaluators.reports.cells import ABSENT
from evaluators.reports.pareto import dominated_by
from evaluators.reports.report import Report, dollars
from evaluators.reports.scores import three_digits
from evaluators.stats.intervals import Interval
from router.loop.frontier import Frontier
from router.web.plots.axes import Axis, draw_across, draw_up, linear_axis, ratio_axis
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

MAX_POINTS = 40
Against = Literal["cost_usd", "seconds"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12, 10.0, 210.0
_LEGEND, _ROW = _BOTTOM + 64, 16.0
_WHAT: dict[Against, tuple[str, str]] = {
    "cost_usd": ("cost", "US dollars per request"),
    "seconds": ("time", "seconds to the last byte"),
}
_SHAPES: dict[bool | None, tuple[Shape, str]] = {
    True: ("circle", "better"),
    False: ("square", "hollow"),
    None: ("diamond", "hollow"),
}
_STANDINGS = {True: "no other", False: "another is", None: "not known"}
_NO_INTERVAL = Interval(estimate=None, low=None, high=None, n=0)


class FrontierPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A target or a route.

    Attributes:
        name: its name.
        quality, spend: what it brings, and what that takes.
        on_frontier: whether no other is better in every respect; None where that is not known.
    """

    name: str
    quality: Interval
    spend: Interval
    on_frontier: bool | None


def frontier_plot(frontier: Frontier, against: Against) -> Plot:
    """Plot the quality of a route's targets against their cost or time."""
    points = [
        FrontierPoint(
            name=target.target,
            quality=target.quality,
            spend=target.cost_usd if against == "cost_usd" else target.seconds,
            on_frontier=target.on_frontier,
        )
        for target in frontier.targets
    ]
    what = _WHAT[against][0]
    return scatter(
        f"{label(frontier.quality)} against {what}, targets of {label(frontier.route)}",
        points,
        quality=frontier.quality,
        higher_is_better=frontier.higher_is_better,
        against=against,
    )


def run_frontier(report: Report, output: str, against: Against) -> Plot:
    """Plot the scores of a run's routes against the mean cost, or the median time, of an answer.

    A route is on the frontier where none is better by the estimates.

    Raises:
        KeyError: the report has no such output.
    """
    info = {each.name: each for each in report.outputs}[output]
    quality, spend = {}, {}
    for route in report.routes:
        for score in route.scores:
            if score.output == output:
                quality[route.route] = Interval(
                    estimate=known(score.estimate), low=score.low, high=score.high, n=score.n
                )
        total, median = route.cost.total_usd, route.times.p50_s
        if against == "seconds":
            taken = _NO_INTERVAL if median is None else _only(median, route.times.n)
        elif total is None or not route.answered:
            taken = _NO_INTERVAL
        else:
            taken = _only(total / route.answered, route.answered)
        spend[route.route] = taken
    measured = {"quality": quality, "spend": spend}
    dominated = dominated_by(
        list(quality),
        {"quality": info.higher_is_better is not False, "spend": False},
        lambda name, measure: measured[measure][name].estimate,
        lambda *_: _NO_INTERVAL,
    )
    return scatter(
        f"{label(output)} against {_WHAT[against][0]} by route",
        [
            FrontierPoint(
                name=name,
                quality=quality[name],
                spend=spend[name],
                on_frontier=None
                if quality[name].estimate is None or spend[name].estimate is None
                else not dominated[name],
            )
            for name in quality
        ],
        quality=output,
        higher_is_better=info.higher_is_better is not False,
        against=against,
    )


def scatter(
    title: str,
    points: Sequence[FrontierPoint],
    *,
    quality: str,
    higher_is_better: bool,
    against: Against,
) -> Plot:
    """Plot quality against cost or time, with 95% intervals and the best quality at each price.

    Args:
        title: what is plotted.
        points: numbered in this order; those after the first MAX_POINTS are in the table only.
        quality: what quality is.
        higher_is_better: whether more of it is better.
        against: what the points take.
    """
    if not points:
        return empty(title, "There is nothing to compare yet")
    shown, rest = drawn(points, MAX_POINTS)
    positions = [position for position in map(_position, shown) if position is not None]
    across = ratio_axis(
        [value for point in shown if _position(point) for value in _ends(point.spend)],
        start=_LEFT,
        end=_RIGHT,
    )
    up = linear_axis(
        [value for point in shown if _position(point) for value in _ends(point.quality)],
        start=_BOTTOM,
        end=_TOP,
        upright=True,
    )
    places = three_digits(*(value for point in points for value in _ends(point.quality)))
    drawing = Drawing(_LEGEND + _ROW * len(shown) - 8)
    what, unit = _WHAT[against]
    scale = " (log scale)" if across.logarithmic else ""
    draw_across(drawing, across, _TOP, _BOTTOM, f"{what}, {unit}{scale}")
    draw_up(drawing, up, _LEFT, _RIGHT)
    direction = "higher" if higher_is_better else "lower"
    end = f" ({direction} is better)"
    up_title = "up: " + fitted(quality, WIDTH - text_width("up: " + end)) + end
    drawing.text(WIDTH / 2, _BOTTOM + 42, up_title, "title", anchor="middle")
    front = _best(positions, higher=higher_is_better)
    drawing.path(_steps(front, across, up), "front")
    for point in shown:
        if _position(point):
            _draw_intervals(drawing, point, across, up)
    taken = [_around(across.at(x), up.at(y)) for x, y in positions]
    for n, point in enumerate(shown, start=1):
        row = _LEGEND + _ROW * (n - 1)
        text = _numbers(point, places, against)
        position = _position(point)
        if position:
            shape, kind = _SHAPES[point.on_frontier]
            x, y = across.at(position[0]), up.at(position[1])
            drawing.mark(shape, x, y, kind, hint=f"{n} {label(point.name)}: {text}")
            _number_point(drawing, n, (x, y), taken)
            drawing.mark(shape, 24, row - 4, kind)
        drawing.text(16, row, str(n), "place", anchor="end")
        drawing.text(WIDTH, row, text, "number", anchor="end")
        drawing.text(34, row, fitted(point.name, WIDTH - 34 - text_width(text) - 8), "label")
    sentences = [
        f"{n} {isolated(point.name)}: {_in_words(point, places, against)}."
        for n, point in enumerate(shown, start=1)
    ]
    side = "up" if higher_is_better else "down"
    return plot(
        drawing,
        title,
        [f"Points {side} and to the left are better.", *([rest] if rest else []), *sentences],
        ("name", label(quality), "95% interval", what, "95% interval", "better in every respect"),
        (
            (
                label(point.name),
                number(point.quality.estimate, places),
                interval_text(point.quality.low, point.quality.high, places),
                _spend(point.spend.estimate, against),
                _spend_interval(point.spend, against),
                _STANDINGS[point.on_frontier],
            )
            for point in points
        ),
        count=len(points),
    )


def _only(estimate: float, n: int) -> Interval:
    return Interval(estimate=known(estimate), low=None, high=None, n=n)


def _position(point: FrontierPoint) -> tuple[float, float] | None:
    spend, quality = known(point.spend.estimate), known(point.quality.estimate)
    return None if spend is None or quality is None else (spend, quality)


def _ends(interval: Interval) -> list[float]:
    return finite((interval.estimate, interval.low, interval.high))


def _best(positions: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """Return the points that no cheaper one equals, the cheapest first."""
    best: list[tuple[float, float]] = []
    for spend, quality in sorted(positions, key=lambda at: (at[0], -at[1] if higher else at[1])):
        if not best or (quality > best[-1][1] if higher else quality < best[-1][1]):
            best.append((spend, quality))
    return best


def _steps(
    front: Sequence[tuple[float, float]], across: Axis, up: Axis
) -> list[tuple[float, float]]:
    """Return the line of the best quality for at most so much, to the plot's right side."""
    steps: list[tuple[float, float]] = []
    for spend, quality in front:
        if steps:
            steps.append((across.at(spend), steps[-1][1]))
        steps.append((across.at(spend), up.at(quality)))
    if steps:
        steps.append((across.end, steps[-1][1]))
    return steps


def _draw_intervals(drawing: Drawing, point: FrontierPoint, across: Axis, up: Axis) -> None:
    x, y = across.at(point.spend.estimate or 0.0), up.at(point.quality.estimate or 0.0)
    spends, qualities = _ends(point.spend), _ends(point.quality)
    if len(spends) > 1:
        drawing.line(across.at(min(spends)), y, across.at(max(spends)), y, "interval")
    if len(qualities) > 1:
        drawing.line(x, up.at(min(qualities)), x, up.at(max(qualities)), "interval")


def _around(x: float, y: float) -> tuple[float, float, float, float]:
    return x - 6, y - 6, x + 6, y + 6


def _number_point(
    drawing: Drawing,
    n: int,
    at: tuple[float, float],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write a point's number where nothing else is, or else above it to the right."""
    width = text_width(str(n))
    boxes = []
    left_side = -8.0 - width
    for dx, dy in (
        (8.0, -5.0),
        (8.0, 13.0),
        (left_side, -5.0),
        (left_side, 13.0),
        (-width / 2, -9.0),
        (-width / 2, 18.0),
        (16.0 + width, -5.0),
        (2 * left_side, -5.0),
    ):
        left, base = at[0] + dx, at[1] + dy
        boxes.append((left, base - 9, left + width, base))
    free = (
        box
        for box in boxes
        if box[0] >= _LEFT
        and box[2] <= WIDTH
        and box[1] >= 0
        and box[3] <= _BOTTOM
        and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
            for other in taken
        )
    )
    box = next(free, boxes[0])
    taken.append(box)
    drawing.text(box[0], box[3], str(n), "place")


def _spend(value: float | None, against: Against) -> str:
    shown = known(value)
    if shown is None:
        return ABSENT
    if against == "cost_usd":
        return dollars(shown)
    return f"{number(shown, three_digits(shown))} s"


def _spend_interval(spend: Interval, against: Against) -> str:
    low, high = _spend(spend.low, against), _spend(spend.high, against)
    return ABSENT if ABSENT in {low, high} else f"{low} to {high}"


def _numbers(point: FrontierPoint, places: int, against: Against) -> str:
    quality = number(point.quality.estimate, places)
    return f"{quality} \u00b7 {_spend(point.spend.estimate, against)}"


def _in_words(point: FrontierPoint, places: int, against: Against) -> str:
    parts = []
    for estimate, interval in (
        (
            f"quality {number(point.quality.estimate, places)}",
            interval_text(point.quality.low, point.quality.high, places),
        ),
        (
            f"{_WHAT[against][0]} {_spend(point.spend.estimate, against)}",
            _spend_interval(point.spend, against),
        ),
    ):
        parts.append(estimate if interval == ABSENT else f"{estimate} (95% interval {interval})")
    standing = {True: "on the frontier", False: "off the frontier", None: "not placed"}
    return f"{parts[0]}, {parts[1]}, {standing[point.on_frontier]}"
