"""Evidence over time: e-values of several tests, and the limits from which on they decide.

evidence_plot("Evidence", [EvidenceSeries("errors", points)], {"rolls back": 60.0})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from router.web.plots.axes import draw_across, draw_up, is_time, ratio_axis, time_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    empty,
    fitted,
    known,
    label,
    number,
    plot,
)

MAX_SERIES = 6
MAX_POINTS = 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12, 10.0, 170.0
# E-values below it are no evidence at all, and are drawn there.
_LEAST = 0.01
_LINE = 15.0


class EvidencePoint(NamedTuple):
    """An e-value at a moment, seconds since the epoch."""

    at: float
    e_value: float


class EvidenceSeries(NamedTuple):
    """The e-values of one test."""

    name: str
    points: Sequence[EvidencePoint]


def evidence_plot(
    title: str, series: Sequence[EvidenceSeries], limits: Mapping[str, float]
) -> Plot:
    """Plot e-values over time on a logarithmic axis, with lines where they decide.

    Args:
        title: what is plotted.
        series: of more than MAX_SERIES, the first ones; of more points than MAX_POINTS, the newest.
        limits: what happens from an e-value on, and that e-value.
    """
    shown = [
        EvidenceSeries(each.name, points)
        for each in series[:MAX_SERIES]
        if (points := _drawn(each.points))
    ]
    if not shown:
        return empty(title, "Nothing was decided on evidence yet")
    lines = dict(limits)
    # How far beyond what decides says nothing more.
    highest = 10 * max(lines.values(), default=10.0)
    moments = [point.at for each in shown for point in each.points]
    values = [_within(point, highest) for each in shown for point in each.points]
    across = time_axis(moments, start=_LEFT, end=_RIGHT)
    up = ratio_axis([_LEAST, *values, *lines.values()], start=_BOTTOM, end=_TOP)
    drawing = Drawing(_BOTTOM + 36 + _LINE * len(shown))
    draw_up(drawing, up, _LEFT, _RIGHT)
    draw_across(drawing, across, _TOP, _BOTTOM, "time (UTC)")
    for n, (words, limit) in enumerate(lines.items()):
        y = up.at(limit)
        drawing.line(_LEFT, y, _RIGHT, y, "level")
        # By turns at either end, so that those of two limits that are close are apart.
        if n % 2:
            drawing.text(_LEFT + 3, y - 3, words, "label")
        else:
            drawing.text(_RIGHT, y - 3, words, "label", anchor="end")
    for n, each in enumerate(shown):
        kind = f"series-{n + 1}"
        places = [(across.at(point.at), up.at(_within(point, highest))) for point in each.points]
        drawing.path(places, kind)
        for (x, y), point in zip(places, each.points, strict=True):
            hint = f"{label(each.name)}: {e_value_text(point.e_value)} at {_time(point.at)}"
            drawing.mark("circle", x, y, "point", hint=hint)
        y = _BOTTOM + 40 + _LINE * n
        drawing.path([(_LEFT, y - 3), (_LEFT + 26, y - 3)], kind)
        drawing.text(_LEFT + 32, y, fitted(each.name, _RIGHT - _LEFT - 34), "label")
    newest = [(each.name, each.points[-1]) for each in shown]
    sentences = [
        f"{label(name)}: {e_value_text(point.e_value)} at {_time(point.at)}."
        for name, point in newest
    ] + [f"From {e_value_text(limit)} on, evidence {words}." for words, limit in lines.items()]
    rows = sorted(
        ((point.at, label(each.name), point.e_value) for each in shown for point in each.points),
        reverse=True,
    )
    return plot(
        drawing,
        title,
        sentences,
        ("time (UTC)", "test", "e-value"),
        ((_time(at), name, e_value_text(value)) for at, name, value in rows),
        count=len(shown),
    )


def _within(point: EvidencePoint, highest: float) -> float:
    return min(highest, max(_LEAST, point.e_value))


def _drawn(points: Sequence[EvidencePoint]) -> list[EvidencePoint]:
    """Return the points that can be drawn, in the order of time; the newest of too many."""
    timed = [point for point in points if is_time(point.at) and known(point.e_value) is not None]
    return sorted(timed)[-MAX_POINTS:]


def e_value_text(value: float) -> str:
    """Return an e-value with as many digits as say something."""
    return number(value, 0 if value >= 100 else 1 if value >= 10 else 3)


def _time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"
