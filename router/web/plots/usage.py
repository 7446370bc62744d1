"""Requests, tokens and money over time, added up by the hour or the day.

    usage_plot("Requests by the hour", stretches, step=3600.0)

A stretch without requests has no bar; one that was not added up is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from router.web.plots.axes import draw_across, draw_up, linear_axis, time_axis
from router.web.plots.figure import WIDTH, Drawing, Plot, empty, number, plot

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12, 10.0, 130.0
_DAY = 86400.0


class UsedStretch(msgspec.Struct, frozen=True, kw_only=True):
    """What was used in one hour or day.

    Attributes:
        since: when it began, seconds since the epoch.
        requests, failures: how many there were, and how many of them failed.
        tokens: of prompts and answers, as far as they are known.
        usd: US dollars, of the requests with a known cost.
        unpriced: how many had none.
    """

    since: float
    requests: int
    failures: int
    tokens: int
    usd: float
    unpriced: int


def usage_plot(title: str, stretches: Sequence[UsedStretch], *, step: float) -> Plot:
    """Plot how many requests there were in each stretch, and how many of them failed.

    Args:
        title: what is plotted.
        stretches: in the order of their time.
        step: how long each is, in seconds.
    """
    if not stretches:
        return empty(title, "Nothing was added up")
    drawing = Drawing(_BOTTOM + 36)
    across = time_axis([stretches[0].since, stretches[-1].since + step], start=_LEFT, end=_RIGHT)
    # A hundred requests are not 99.7.
    highest = max(1, *(stretch.requests for stretch in stretches))
    up = linear_axis(
        [0.0, float(highest)], start=_BOTTOM, end=_TOP, count=4, padded=False, upright=True
    )
    draw_up(drawing, up, _LEFT, _RIGHT)
    draw_across(drawing, across, _TOP, _BOTTOM, "time (UTC)")
    for stretch in stretches:
        if not stretch.requests:
            continue
        left, right = across.at(stretch.since), across.at(stretch.since + step)
        hint = _sentence(stretch, step)
        for count, kind in ((stretch.requests, "bar"), (stretch.failures, "bar-worse")):
            if count:
                y = up.at(count)
                drawing.box(left + 0.4, y, right - left - 0.8, up.start - y, kind, hint=hint)
    return plot(
        drawing,
        title,
        [_sentence(stretch, step) for stretch in reversed(stretches) if stretch.requests]
        or ["No requests."],
        ("from (UTC)", "requests", "failed", "tokens", "US dollars", "without a price"),
        (
            (
                _moment(stretch.since, step),
                f"{stretch.requests:,}",
                f"{stretch.failures:,}",
                f"{stretch.tokens:,}",
                number(stretch.usd, 4),
                f"{stretch.unpriced:,}",
            )
            for stretch in reversed(stretches)
        ),
        count=len(stretches),
    )


def _moment(since: float, step: float) -> str:
    time = datetime.fromtimestamp(since, UTC)
    day = f"{time.day} {time:%b}"
    return day if step >= _DAY else f"{day} {time:%H:%M}"


def _sentence(stretch: UsedStretch, step: float) -> str:
    failed = f", {stretch.failures:,} failed" if stretch.failures else ""
    return (
        f"{_moment(stretch.since, step)}: {stretch.requests:,} requests{failed}, "
        f"{number(stretch.usd, 4)} US dollars."
    )
