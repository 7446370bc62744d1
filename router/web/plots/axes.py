"""Axes: where a number is drawn, and round numbers to read it by.

axis = linear_axis([0.41, 0.52], start=10, end=350)
axis.at(0.5)                      # the coordinate
axis.ticks                        # (Tick(value=0.42, text="0.42"), ...)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from router.web.plots.figure import Drawing, finite, text_width

_GAP = 8.0
# Beside the outermost numbers, as a share of their distance.
_PADDING = 0.04
# Numbers closer than this share of their size are drawn as the same number.
_RESOLUTION = 1e-9
_MAX_POWERS = 8
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS_OF_TIME = (
    _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR,
    _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY,
)  # fmt: skip
_STEPS_OF_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 6000)
_MONDAY = 4 * _DAY  # the first one of 1970
_LAST_TIME = 253_402_300_799.0  # the end of the year 9999


class Tick(NamedTuple):
    """A number that an axis names."""

    value: float
    text: str


class Axis(NamedTuple):
    """A range of numbers along a line.

    Attributes:
        low, high: the numbers at its two ends.
        start, end: the coordinates of the ends; an axis that points up has the larger one first.
        ticks: round numbers within.
        logarithmic: whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the coordinate of a number; beyond an end, that of the end."""
        low, high, number = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, number = math.log(low), math.log(high), math.log(number)
        # Halves, because a difference of large numbers overflows.
        share = (number / 2 - low / 2) / (high / 2 - low / 2)
        return self.start + share * (self.end - self.start)

    def covers(self, value: float) -> bool:
        """Return whether a number is within the axis."""
        return self.low <= value <= self.high


def linear_axis(
    values: Iterable[float | None],
    *,
    start: float,
    end: float,
    count: int = 6,
    padded: bool = True,
    upright: bool = False,
    sign: bool = False,
) -> Axis:
    """Return an axis on which all numbers fit.

    Args:
        values: the numbers; what cannot be drawn is left out.
        start: the coordinate of the low end.
        end: that of the high end.
        count: the largest number of ticks, at least 2; fewer where their texts would overlap.
        padded: whether the ends are a little beyond the outermost numbers.
        upright: whether the texts stand above each other rather than side by side.
        sign: whether numbers above 0 have a plus.
    """
    low, high = _range(values)
    if padded:
        pad = _PADDING * (high / 2 - low / 2) * 2
        low, high = low - pad, high + pad
    length = abs(end - start)
    for limit in range(max(2, count), 1, -1):
        ticks = tuple(_ticks(low, high, limit, sign=sign))
        if upright or _fit(ticks, length):
            break
    return Axis(low, high, start, end, ticks)


def ratio_axis(values: Iterable[float | None], *, start: float, end: float) -> Axis:
    """Return an axis for numbers above 0: logarithmic where the largest is 50 times the least."""
    numbers = finite(values)
    if not numbers or min(numbers) <= 0 or max(numbers) < 50 * min(numbers):
        return linear_axis([0.0, *numbers], start=start, end=end)
    low, high = min(numbers) / 1.2, max(numbers) * 1.2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, every in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 10), ((1,), 50)):
        ticks = tuple(
            Tick(value, _power_text(factor, power))
            for power in powers
            if power % every == 0
            for factor in factors
            if low <= (value := factor * 10.0**power) <= high
        )
        if len(ticks) <= _MAX_POWERS and _fit(ticks, abs(end - start)):
            break
    return Axis(low, high, start, end, ticks, logarithmic=True)


def time_axis(moments: Iterable[float], *, start: float, end: float) -> Axis:
    """Return an axis of seconds since the epoch, with round times in UTC."""
    times = [moment for moment in finite(moments) if 0 <= moment <= _LAST_TIME]
    low, high = (min(times), max(times)) if times else (0.0, float(_DAY))
    if high - low < _MINUTE:
        low, high = max(0.0, low - _MINUTE), min(_LAST_TIME, high + _MINUTE)
    ticks: tuple[Tick, ...] = ()
    for step in _STEPS_OF_TIME:
        if (high - low) / step > 6:
            continue
        ticks = tuple(_time_ticks(low, high, step))
        if _fit(ticks, abs(end - start)):
            return Axis(low, high, start, end, ticks)
    for months in _STEPS_OF_MONTHS:
        if (high - low) / (months * 30 * _DAY) > 6:
            continue
        ticks = tuple(_month_ticks(low, high, months))
        if _fit(ticks, abs(end - start)):
            break
    return Axis(low, high, start, end, ticks)


def is_time(moment: float) -> bool:
    """Return whether a number can be drawn as seconds since the epoch."""
    return math.isfinite(moment) and 0 <= moment <= _LAST_TIME


def draw_across(drawing: Drawing, axis: Axis, top: float, bottom: float, title: str) -> None:
    """Draw an axis below a plot: lines up to its top, numbers, and what they are."""
    for tick in axis.ticks:
        x = axis.at(tick.value)
        drawing.line(x, top, x, bottom, "grid")
        half = text_width(tick.text) / 2
        drawing.text(
            min(max(x, half), drawing.width - half), bottom + 13, tick.text, "tick", anchor="middle"
        )
    drawing.line(axis.start, bottom, axis.end, bottom, "axis")
    drawing.text((axis.start + axis.end) / 2, bottom + 27, title, "title", anchor="middle")


def draw_up(drawing: Drawing, axis: Axis, left: float, right: float) -> None:
    """Draw an axis left of a plot: lines to its right side, and numbers."""
    for tick in axis.ticks:
        y = axis.at(tick.value)
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 4, y + 4, tick.text, "tick", anchor="end")
    drawing.line(left, axis.start, left, axis.end, "axis")


def _range(values: Iterable[float | None]) -> tuple[float, float]:
    numbers = finite(values)
    if not numbers:
        return 0.0, 1.0
    low, high = min(numbers), max(numbers)
    size = max(abs(low), abs(high))
    if high / 2 - low / 2 <= _RESOLUTION * size:
        wide = 0.05 * size or 0.5
        return low - wide, high + wide
    return low, high


def _ticks(low: float, high: float, limit: int, *, sign: bool) -> Iterable[Tick]:
    """Yield at most so many multiples of 1, 2 or 5 times a power of ten."""
    exponent = math.floor(math.log10((high / 2 - low / 2) / limit * 2))
    for power, factor in ((exponent, 1), (exponent, 2), (exponent, 5), (exponent + 1, 1)):
        step = factor * 10.0**power
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first < limit:
            break
    for n in range(first, last + 1):
        # A quotient of whole numbers is the number nearest to the decimal one.
        value = n * factor * 10.0**power if power >= 0 else n * factor / 10.0**-power
        yield Tick(value, _tick_text(value, power, max(abs(low), abs(high)), sign=sign))


def _tick_text(value: float, power: int, size: float, *, sign: bool) -> str:
    if power >= -6 and size < 1e7:
        text = f"{value:,.{max(0, -power)}f}"
    else:
        digits = math.floor(math.log10(size)) - power
        mantissa, _, exponent = f"{value:.{min(max(digits, 0), 15)}e}".partition("e")
        text = f"{mantissa}e{int(exponent)}" if value else "0"
    if sign and value > 0:
        text = "+" + text
    return text.replace("-", "\u2212")


def _power_text(factor: int, power: int) -> str:
    if -4 <= power < 7:
        return f"{factor * 10.0**power:,.{max(0, -power)}f}"
    return f"{factor}e{power}".replace("-", "\u2212")


def _time_ticks(low: float, high: float, step: int) -> Iterable[Tick]:
    """Yield the multiples of a step; weeks begin on a Monday."""
    offset = _MONDAY if step >= 7 * _DAY else 0
    first, last = math.ceil((low - offset) / step), math.floor((high - offset) / step)
    for n in range(first, last + 1):
        moment = offset + n * step
        yield Tick(moment, _time_text(moment, step))


def _time_text(moment: float, step: float) -> str:
    time = datetime.fromtimestamp(moment, UTC)
    if step >= _DAY or (time.hour, time.minute) == (0, 0):
        return f"{time.day} {time:%b}"
    return f"{time:%H:%M}"


def _month_ticks(low: float, high: float, months: int) -> Iterable[Tick]:
    first, last = datetime.fromtimestamp(low, UTC), datetime.fromtimestamp(high, UTC)
    begin = (first.year * 12 + first.month - 1) // months * months
    for month in range(begin, last.year * 12 + last.month, months):
        if month < 12:
            continue
        time = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        if low <= time.timestamp() <= high:
            yield Tick(time.timestamp(), str(time.year) if months >= 12 else f"{time:%b %Y}")


def _fit(ticks: Sequence[Tick], length: float) -> bool:
    """Return whether the texts of ticks have room side by side."""
    return sum(text_width(tick.text) + _GAP for tick in ticks) <= length
