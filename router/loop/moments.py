"""Moments as people write them: seconds since the epoch, ISO 8601, or how long ago (`7d`)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from providers.errors import RequestError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])")


def moment(text: str, now: float, *, param: str) -> float:
    """Return a moment in seconds since the epoch.

    Args:
        text: seconds since the epoch, ISO 8601 (UTC without a time zone), or how long ago: a number
            with s, m, h, d or w.
        now: the present, in seconds since the epoch.
        param: what the text is called, for the error.

    Raises:
        RequestError: it is none of these.
    """
    if ago := _AGO.fullmatch(text):
        return now - float(ago[1]) * _UNITS[ago[2]]
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise RequestError(
                f"{param} is seconds since the epoch, ISO 8601 as 2026-11-21T09:30:00Z, or how "
                f"long ago, as 7d or 12h; not {text!r}.",
                param=param,
            ) from None
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) < 1e12:
        raise RequestError(f"{param} is not a moment: {text!r}.", param=param)
    return seconds


def length_of_time(text: str, *, param: str) -> float:
    """Return a length of time in seconds: a number with s, m, h, d or w.

    Raises:
        RequestError: it is none; `param` is what the text is called there.
    """
    length = _AGO.fullmatch(text)
    if length is None:
        raise RequestError(f"{param} is a length of time as 30m or 12h; not {text!r}.", param=param)
    return float(length[1]) * _UNITS[length[2]]


def period(
    since: str | float | None, until: str | float | None, now: float
) -> tuple[float | None, float | None]:
    """Return the ends of a period, each as by `moment`; None for an end that is open.

    Raises:
        RequestError: one of them is no moment.
    """
    first, last = (
        None if value is None else moment(str(value), now, param=param)
        for param, value in (("since", since), ("until", until))
    )
    return first, last
