"""The attempts of a request as a waterfall: which target took how long, and how it ended.

    attempts_waterfall(record.attempts, first_byte_s=record.first_byte_s, total_s=record.total_s)

A record has when each attempt began and how long it took, so that a hedge is drawn beside the
attempt that it ran beside. Records of earlier versions have no beginnings: only the start of the
attempt that led to the answer is exact there, and the others are drawn one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evaluators.reports.cells import ABSENT
from evaluators.reports.scores import three_digits
from router.records import Attempt
from router.web.plots.axes import draw_across, linear_axis
from router.web.plots.figure import (
    WIDTH,
    Drawing,
    Plot,
    drawn,
    empty,
    finite,
    fitted,
    isolated,
    known,
    label,
    number,
    plot,
    text_width,
)

MAX_ATTEMPTS = 40
_SIDE, _TOP, _ROW = 10.0, 4.0, 30.0
_ANSWERED = "ok"


class PlacedAttempt(NamedTuple):
    """An attempt on the request's time line, in seconds from its start."""

    attempt: Attempt
    began: float
    ended: float


def placed_attempts(
    attempts: Sequence[Attempt], *, first_byte_s: float | None
) -> list[PlacedAttempt]:
    """Place attempts where they began.

    Where that is not known, they follow one another, and the last one with an answer ends with the
    answer's first byte.

    Args:
        attempts: in order; a time that is not a number is not known, such a duration counts as 0.
        first_byte_s: from the start of the request to the answer's first byte; None without one.
    """
    placed: list[PlacedAttempt] = []
    began = 0.0
    answer = max((n for n, each in enumerate(attempts) if each.result == _ANSWERED), default=None)
    first_byte = known(first_byte_s)
    for n, attempt in enumerate(attempts):
        seconds = max(0.0, known(attempt.seconds) or 0.0)
        recorded = known(attempt.began_s)
        if recorded is not None:
            began = max(0.0, recorded)
        elif n == answer and first_byte is not None:
            began = max(0.0, first_byte - seconds)
        placed.append(PlacedAttempt(attempt, began, began + seconds))
        began += seconds
    return placed


def attempts_waterfall(
    attempts: Sequence[Attempt], *, first_byte_s: float | None, total_s: float
) -> Plot:
    """Plot a request's attempts, and how long its answer took to arrive.

    Args:
        attempts: in order; those after the first MAX_ATTEMPTS are in the table only.
        first_byte_s: from the start of the request to the answer's first byte; None without one.
        total_s: to its last byte.
    """
    title = "Attempts of the request"
    if not attempts:
        return empty(title, "No target was tried")
    placed = placed_attempts(attempts, first_byte_s=first_byte_s)
    shown, rest = drawn(placed, MAX_ATTEMPTS)
    end, first_byte = known(total_s), known(first_byte_s)
    times = [0.0, *finite([end, first_byte]), *(each.ended for each in placed)]
    # Microseconds and longer; without any time the axis still needs a length.
    longest = max(*times, 1e-6)
    unit, scale = ("s", 1.0) if longest >= 1 else ("ms", 1000.0)
    across = linear_axis([0.0, longest * scale], start=_SIDE, end=WIDTH - _SIDE, padded=False)
    places = three_digits(longest * scale)
    bottom = _TOP + _ROW * len(shown) + 2
    drawing = Drawing(bottom + 34)
    draw_across(drawing, across, _TOP, bottom, f"time from the start of the request, {unit}")
    for n, each in enumerate(shown):
        top = _TOP + _ROW * n
        text = fitted(_result(each, unit, scale, places), 0.6 * WIDTH)
        drawing.text(WIDTH - _SIDE, top + 11, text, "number", anchor="end")
        room = WIDTH - 2 * _SIDE - text_width(text) - 8
        drawing.text(_SIDE, top + 11, fitted(each.attempt.target, room), "label")
        left, right = across.at(each.began * scale), across.at(each.ended * scale)
        answered = each.attempt.result == _ANSWERED
        hint = f"{label(each.attempt.target)}: {_result(each, unit, scale, places)}"
        kind = "bar-better" if answered else "bar-worse"
        drawing.box(left, top + 16, max(right - left, 1.5), 9, kind, hint=hint)
        if answered and end is not None and end > each.ended:
            width = across.at(end * scale) - right
            drawing.box(right, top + 18, width, 5, "wait", hint="the answer arrives")
    whole = [f"The request took {number(end * scale, places)} {unit}."] if end is not None else []
    first = (
        [f"The answer began after {number(first_byte * scale, places)} {unit}."]
        if first_byte is not None
        else []
    )
    return plot(
        drawing,
        title,
        [
            *whole,
            *first,
            *([rest] if rest else []),
            *(
                f"{n} {isolated(each.attempt.target)}: {_result(each, unit, scale, places)}"
                f"{', may be charged' if each.attempt.paid else ''}."
                for n, each in enumerate(shown, start=1)
            ),
        ],
        (
            "attempt",
            "target",
            "result",
            "status",
            "after",
            "to the first byte, or the failure",
            "may be charged",
        ),
        (
            (
                f"{n:,}",
                label(each.attempt.target),
                label(each.attempt.result),
                ABSENT if each.attempt.status is None else str(each.attempt.status),
                f"{number(each.began * scale, places)} {unit}",
                _took(each, unit, scale, places),
                "yes" if each.attempt.paid else "no",
            )
            for n, each in enumerate(placed, start=1)
        ),
        count=len(placed),
    )


def _took(each: PlacedAttempt, unit: str, scale: float, places: int) -> str:
    return f"{number((each.ended - each.began) * scale, places)} {unit}"


def _result(each: PlacedAttempt, unit: str, scale: float, places: int) -> str:
    status = "" if each.attempt.status is None else f" {each.attempt.status}"
    return f"{label(each.attempt.result)}{status} \u00b7 {_took(each, unit, scale, places)}"
