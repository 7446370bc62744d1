"""Paired differences, one bar for each sample, from the largest to the smallest.

sorted_differences("rougeL", values_of_a - values_of_b, ("a", "b"), higher_is_better=True)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.reports.cells import ABSENT
from evaluators.reports.scores import three_digits
from evaluators.stats.intervals import Interval
from router.web.plots.axes import draw_up, linear_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    ascending,
    empty,
    interval_text,
    isolated,
    known,
    label,
    number,
    plot,
)

MAX_BARS = 150
"""More samples share bars, each the mean of about equally many."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 8, 24.0, 184.0
_QUANTILES = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.0)


def sorted_differences(
    output: str,
    differences: ArrayLike,
    routes: tuple[str, str],
    *,
    higher_is_better: bool | None,
    mean: Interval | None = None,
) -> Plot:
    """Plot the differences of samples, sorted.

    Args:
        output: what was scored.
        differences: the first route's score less the second's, one for each sample that both have
            a score for; what is not a number is left out.
        routes: their names.
        higher_is_better: None where neither direction is.
        mean: of the differences, with its interval; None to leave it out.
    """
    first, second = routes
    title = f"{label(output)} of each sample: {label(first)} less {label(second)}"
    values = ascending(differences)[::-1]
    if not len(values):
        return empty(title, "No sample has scores of both")
    estimate = None if mean is None else known(mean.estimate)
    ends = [] if mean is None else [known(mean.low), known(mean.high)]
    bars = _bars(values)
    up = linear_axis(
        [0.0, float(bars[0]), float(bars[-1]), estimate, *ends],
        start=_BOTTOM,
        end=_TOP,
        upright=True,
        sign=True,
    )
    drawing = Drawing(_BOTTOM + 40)
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        height = up.at(ends[0]) - up.at(ends[1])
        drawing.box(_LEFT, up.at(ends[1]), _RIGHT - _LEFT, height, "band")
    draw_up(drawing, up, _LEFT, _RIGHT)
    places = three_digits(float(values[0]), float(values[-1]), *ends)
    width = (_RIGHT - _LEFT) / len(bars)
    zero = up.at(0.0)
    for n, value in enumerate(bars.tolist()):
        if value == 0.0:
            continue
        better = higher_is_better is None or (value > 0) is higher_is_better
        kind = "bar" if higher_is_better is None else "bar-better" if better else "bar-worse"
        y = up.at(value)
        drawing.box(
            _LEFT + n * width, min(y, zero), width * 0.9, abs(y - zero), kind,
            hint=number(value, places, sign=True),
        )  # fmt: skip
    drawing.line(_LEFT, zero, _RIGHT, zero, "zero")
    if estimate is not None:
        drawing.line(_LEFT, up.at(estimate), _RIGHT, up.at(estimate), "mean")
    above, below = int((values > 0).sum()), int((values < 0).sum())
    ties = len(values) - above - below
    marks = {True: (" (better)", ""), False: ("", " (better)"), None: ("", "")}[higher_is_better]
    counts = (
        f"above 0{marks[0]}: {above:,} \u00b7 equal: {ties:,} \u00b7 below 0{marks[1]}: {below:,}"
    )
    drawing.text(4, 14, counts, "label")
    per_bar = len(values) / len(bars)
    samples = f"{len(values):,} samples, sorted"
    if len(bars) < len(values):
        samples += f"; each bar is the mean of about {per_bar:,.0f}"
    drawing.text(WIDTH / 2, _BOTTOM + 18, samples, "title", anchor="middle")
    mean_text = _mean_text(mean, places)
    drawing.text(WIDTH / 2, _BOTTOM + 33, mean_text, "title", anchor="middle")
    direction = {True: "Above 0 is better.", False: "Below 0 is better.", None: ""}[
        higher_is_better
    ]
    quantiles = np.quantile(values, _QUANTILES).tolist()
    sentences = [
        f"{isolated(first)} has more than {isolated(second)} in {above:,} samples, the same in "
        f"{ties:,} and less in {below:,}.",
        *([direction] if direction else []),
        f"The differences go from {number(quantiles[-1], places, sign=True)} to "
        f"{number(quantiles[0], places, sign=True)}; their median is "
        f"{number(quantiles[3], places, sign=True)}.",
        *([f"The {mean_text}."] if mean_text else []),
    ]
    return plot(
        drawing,
        title,
        sentences,
        ("of the samples", "difference at most"),
        (
            (f"{share:.0%}", number(value, places, sign=True))
            for share, value in zip(_QUANTILES, quantiles, strict=True)
        ),
        count=len(quantiles),
    )


def _bars(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values, or the means of MAX_BARS groups of neighbours."""
    if len(values) <= MAX_BARS:
        return values
    groups = np.array_split(values / len(values), MAX_BARS)
    return np.array([group.sum() / len(group) * len(values) for group in groups])


def _mean_text(mean: Interval | None, places: int) -> str:
    if mean is None or known(mean.estimate) is None:
        return ""
    interval = interval_text(mean.low, mean.high, places, sign=True)
    within = "" if interval == ABSENT else f" (95% interval {interval})"
    return f"mean is {number(mean.estimate, places, sign=True)}{within}"
