"""Cron lines in a time zone: when something is due.

    line = CronLine("30 2 * * *", "Europe/Berlin")
    line.next_after(now)               # seconds since the epoch

Lines have five fields and are read as Debian's cron reads them. In the night in which clocks are
put forward, a time that does not exist is an hour later on the clock: 02:30 is 03:00, right after
the change. In the night in which they are put back, a time that comes twice is due the first time.
Lines that begin with a `*` in their minutes or hours are due by elapsed time instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from providers.errors import InputError, closest
from router.config.documents import Document, DocumentPath, Problem

MAX_LINE = 200

# Each with how many values it has.
_FIELDS = {"minute": 60, "hour": 24, "day of the month": 31, "month": 12, "day of the week": 7}
_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ALLOWED = re.compile(r"[0-9A-Za-z*,/#-]+")


class CronLine:
    """When something is due.

    Args:
        text: minute, hour, day of the month, month and day of the week.
        timezone: where these are read, such as `Europe/Berlin`.

    Attributes:
        text: with single spaces.
        timezone: as given.

    Raises:
        InputError: the line cannot be read or is never due, or there is no such time zone.
    """

    def __init__(self, text: str, timezone: str = "UTC") -> None:
        self._zone = _zone(timezone)
        self.text = _checked(text)
        self.timezone = timezone
        try:
            self.next_after(0.0)
        except StopIteration:
            raise InputError(
                f"{self.text!r} is never due: no month that it names has such a day", param="cron"
            ) from None

    def __str__(self) -> str:
        return f"{self.text} {self.timezone}"

    def next_after(self, moment: float) -> float:
        """Return the first time that is due after a moment, in seconds since the epoch."""
        return next(self.times_after(moment))

    def times_after(self, moment: float) -> Iterator[float]:
        """Yield the times that are due after a moment, each later than the one before."""
        last = moment
        for due in CronSim(self.text, datetime.fromtimestamp(moment, self._zone)):
            # A time that comes twice begins again, and several that do not exist are the same one.
            if (at := due.timestamp()) > last:
                yield at
                last = at


def cron_problems(
    document: Document, place: DocumentPath, cron: str, timezone: str
) -> Iterator[Problem]:
    """Yield why `cron` and `timezone` of a section are no line."""
    try:
        CronLine(cron, timezone)
    except InputError as error:
        yield document.problem((*place, error.param or "cron"), error.message)


def _zone(name: str) -> ZoneInfo:
    if len(name) > MAX_LINE:
        raise InputError(
            f"the name of a time zone has at most {MAX_LINE} characters", param="timezone"
        )
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = closest(name, available_timezones())
        raise InputError(
            f"{name!r} is no time zone; write one such as Europe/Berlin or UTC.{near}",
            param="timezone",
        ) from None


def _checked(text: str) -> str:
    """Return a line with single spaces. Raises InputError where it cannot be read."""
    if len(text) > MAX_LINE:
        raise InputError(f"a cron line has at most {MAX_LINE} characters", param="cron")
    fields = text.split()
    line = " ".join(fields)
    if len(fields) == 1 and fields[0].lower() in _NAMES:
        raise InputError(
            f"{line!r} is not read here; write {_NAMES[fields[0].lower()]!r}", param="cron"
        )
    if len(fields) == 6:
        raise InputError(
            f"{line!r} has six fields; write five, because nothing is due more often than every "
            "minute",
            param="cron",
        )
    if len(fields) != len(_FIELDS):
        raise InputError(
            f"{line!r} is no cron line; it has five fields ({', '.join(_FIELDS)}), such as "
            "'30 2 * * *' for 02:30 every day",
            param="cron",
        )
    for name, field in zip(_FIELDS, fields, strict=True):
        if not _ALLOWED.fullmatch(field):
            raise InputError(f"{line!r}: {field!r} is no {name}", param="cron")
    _read(line, fields)
    for size, field in zip(_FIELDS.values(), fields, strict=True):
        for step, values in _steps(field, size):
            if step > values:
                raise InputError(
                    f"{line!r}: in {field!r}, a step of {step} goes beyond {values} values, so "
                    "that only the first would count",
                    param="cron",
                )
    return line


def _steps(field: str, values: int) -> Iterator[tuple[int, int]]:
    """Yield each step of a field that can be read, and how many values it steps over."""
    for part in field.split(","):
        span, slash, step = part.partition("/")
        first, _, last = span.partition("-")
        # Ranges of names are taken for the whole field, which is never too strict.
        is_range = first.isdigit() and last.isdigit()
        if slash:
            yield int(step), int(last) - int(first) + 1 if is_range else values


def _read(line: str, fields: list[str]) -> None:
    """Raise InputError where a line cannot be read, or is never due."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    try:
        CronSim(line, start)
    except CronSimError:
        for n, name in enumerate(_FIELDS):
            alone = ["*"] * len(_FIELDS)
            alone[n] = fields[n]
            try:
                CronSim(" ".join(alone), start)
            except CronSimError:
                raise InputError(f"{line!r}: {fields[n]!r} is no {name}", param="cron") from None
        raise InputError(
            f"{line!r} is never due: no month that it names has such a day", param="cron"
        ) from None
