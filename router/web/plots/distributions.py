"""Distributions of scores: a histogram for each route, or their cumulative shares in one plot.

    histograms("rougeL", {"a": values_of_a, "b": values_of_b})
    cumulative_shares("rougeL", {"a": values_of_a, "b": values_of_b})

Values are one per sample; NaN, as samples without a score have, are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.reports.cells import plural
from evaluators.reports.scores import three_digits
from router.web.plots.axes import Axis, draw_across, draw_up, linear_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    ascending,
    drawn,
    empty,
    fitted,
    isolated,
    label,
    number,
    plot,
    text_width,
)

BINS = 20
MAX_HISTOGRAMS = 12
MAX_CURVES = 6
"""So many colours and kinds of dashes differ from each other."""

_LEFT, _RIGHT = 46.0, WIDTH - 12
_LABEL, _BARS, _SPACE = 16.0, 48.0, 10.0
_TOP, _BOTTOM = 8.0, 198.0
# A curve has at most so many steps: no more can be told apart.
_STEPS = 170
_QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def histograms(output: str, values: Mapping[str, ArrayLike]) -> Plot:
    """Plot the share of samples in each of BINS equally wide bins, and the median, of each route.

    Args:
        output: what was scored.
        values: route to its scores; those after the first MAX_HISTOGRAMS are in the table only.
    """
    title = f"Distribution of {label(output)} by route"
    scores = {route: ascending(given) for route, given in values.items()}
    if not any(len(given) for given in scores.values()):
        return empty(title, "There are no scores yet")
    shown, rest = drawn(list(scores), MAX_HISTOGRAMS)
    across = _axis([scores[route] for route in shown])
    edges = np.linspace(across.low, across.high, BINS + 1)
    shares = {
        route: np.histogram(scores[route], edges)[0] / max(1, len(scores[route])) for route in shown
    }
    largest = max(float(share.max()) for share in shares.values())
    places = _places(scores)
    step = _LABEL + _BARS + _SPACE
    bottom = step * len(shown)
    drawing = Drawing(bottom + 34)
    draw_across(drawing, across, _LABEL, bottom, fitted(output, _RIGHT - _LEFT))
    # Of the first two round numbers, the axis ends at a multiple that covers the longest bar.
    first, second = linear_axis(
        [0.0, largest], start=0, end=1, count=3, padded=False, upright=True
    ).ticks[:2]
    highest = math.ceil(largest / second.value) * second.value
    for n, route in enumerate(shown):
        base = step * (n + 1)
        up = Axis(0.0, highest, base, base - _BARS, (first, second))
        _draw_bars(drawing, shares[route], edges, across, up)
        drawing.line(_LEFT, base, _RIGHT, base, "axis")
        drawing.text(_LEFT - 4, base - _BARS + 8, f"{100 * highest:.3g}%", "tick", anchor="end")
        given = scores[route]
        text = f"{len(given):,} {plural('sample', len(given))}"
        if len(given):
            median = float(np.median(given))
            drawing.line(across.at(median), base - _BARS, across.at(median), base, "median")
            text = f"median {number(median, places)} \u00b7 {text}"
        drawing.text(_RIGHT, base - _BARS - 4, text, "number", anchor="end")
        drawing.text(4, base - _BARS - 4, fitted(route, _RIGHT - 12 - text_width(text)), "label")
    return _with_quartiles(drawing, title, scores, values, rest)


def cumulative_shares(output: str, values: Mapping[str, ArrayLike]) -> Plot:
    """Plot the share of samples that score at most so much, one curve for each route.

    Args:
        output: what was scored.
        values: route to its scores; those after the first MAX_CURVES are in the table only.
    """
    title = f"Cumulative distribution of {label(output)} by route"
    scores = {route: ascending(given) for route, given in values.items()}
    if not any(len(given) for given in scores.values()):
        return empty(title, "There are no scores yet")
    shown, rest = drawn(list(scores), MAX_CURVES)
    across = _axis([scores[route] for route in shown])
    up = linear_axis([0.0, 1.0], start=_BOTTOM, end=_TOP, padded=False, upright=True)
    legend = _BOTTOM + 46
    drawing = Drawing(legend + 16 * len(shown) - 6)
    draw_across(drawing, across, _TOP, _BOTTOM, fitted(output, _RIGHT - _LEFT))
    draw_up(drawing, up, _LEFT, _RIGHT)
    for n, route in enumerate(shown):
        kind, row = f"series-{n + 1}", legend + 16 * n
        drawing.path(_curve(scores[route], across, up), kind)
        drawing.line(2, row - 4, 30, row - 4, kind)
        drawing.text(36, row, fitted(route, WIDTH - 36), "label")
    return _with_quartiles(drawing, title, scores, values, rest)


def _axis(columns: list[NDArray[np.float64]]) -> Axis:
    ends = [float(end) for column in columns if len(column) for end in (column[0], column[-1])]
    return linear_axis(ends, start=_LEFT, end=_RIGHT, padded=False)


def _places(scores: Mapping[str, NDArray[np.float64]]) -> int:
    ends = [abs(float(end)) for given in scores.values() if len(given) for end in given[[0, -1]]]
    largest = max(ends, default=0.0)
    # Shares and the like have three decimal places in all of a report.
    return three_digits(largest if largest > 1 else 0.5 if largest > 0.01 else largest)


def _draw_bars(
    drawing: Drawing,
    shares: NDArray[np.float64],
    edges: NDArray[np.float64],
    across: Axis,
    up: Axis,
) -> None:
    for n, share in enumerate(shares.tolist()):
        if share:
            left, right = across.at(float(edges[n])), across.at(float(edges[n + 1]))
            y = up.at(share)
            drawing.box(left + 0.4, y, right - left - 0.8, up.start - y, "bar", hint=f"{share:.1%}")


def _curve(scores: NDArray[np.float64], across: Axis, up: Axis) -> list[tuple[float, float]]:
    """Return the steps of a cumulative distribution; of many samples, those of its quantiles."""
    if not len(scores):
        return []
    places = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), _STEPS)).astype(int))
    points = [(across.start, up.at(0.0))]
    for value in np.unique(scores[places]).tolist():
        share = float(np.searchsorted(scores, value, side="right")) / len(scores)
        points += [(across.at(value), points[-1][1]), (across.at(value), up.at(share))]
    return [*points, (across.end, points[-1][1])]


def _with_quartiles(
    drawing: Drawing,
    title: str,
    scores: Mapping[str, NDArray[np.float64]],
    values: Mapping[str, ArrayLike],
    rest: str,
) -> Plot:
    places = _places(scores)
    rows, sentences = [], []
    for route, given in scores.items():
        absent = int(np.asarray(values[route]).size) - len(given)
        quartiles = np.quantile(given, _QUARTILES).tolist() if len(given) else [None] * 5
        texts = [number(value, places) for value in quartiles]
        rows.append((label(route), f"{len(given):,}", f"{absent:,}", *texts))
        without = f", {absent:,} without a score" if absent else ""
        spread = (
            f"median {texts[2]}, half of them from {texts[1]} to {texts[3]}, all from {texts[0]} "
            f"to {texts[4]}, "
            if len(given)
            else ""
        )
        counted = f"{len(given):,} {plural('sample', len(given))}"
        sentences.append(f"{isolated(route)}: {spread}{counted}{without}.")
    return plot(
        drawing,
        title,
        [*([rest] if rest else []), *sentences],
        (
            "route",
            "samples",
            "no score",
            "least",
            "first quartile",
            "median",
            "third quartile",
            "largest",
        ),
        rows,
        count=len(rows),
    )
