"""Draws samples of requests by the ids of their records: all processes draw the same."""

from __future__ import annotations

import math

from router.loop.draws import NUMBERS, draw_by

# Half of the digits that a record's id has by chance, see `router.records.new_record_id`.
_DIGITS = slice(20, 28)
_PLACES = 16**8


class RequestSample:
    """A sample of requests.

    Args:
        share: of all requests, from 0 to 1.
        salt: tells one sample from another, so that they are independent.
    """

    __slots__ = ("_draw", "_end")

    def __init__(self, share: float, salt: str) -> None:
        self._draw = draw_by(salt)
        self._end = math.ceil(share * NUMBERS)

    def has(self, record_id: str) -> bool:
        """Return whether a request is in it, by the id of its record, which the server minted."""
        return self._draw(record_id.encode()) < self._end


class TrafficSample:
    """A sample of all requests of a route, for which each of them is looked at.

    It costs a third of a RequestSample: a request is in it whose id has random digits in an
    interval. Where that begins depends on the salt, so that targets, which are sent the id, cannot
    tell which requests are in it. Two such samples of the same requests are not independent.

    Args:
        share: of all requests, above 0 and up to 1.
        salt: where the interval begins.
    """

    __slots__ = ("_first", "_last")

    def __init__(self, share: float, salt: str) -> None:
        size = math.ceil(share * _PLACES)
        start = draw_by(salt)(b"") * (_PLACES - size) // NUMBERS
        # A sample of all requests has those whose ids have no such digits.
        self._first = f"{start:08x}" if start else ""
        self._last = f"{start + size - 1:08x}"

    def has(self, record_id: str) -> bool:
        """Return whether a request is in it, by the id of its record, which the server minted."""
        return self._first <= record_id[_DIGITS] <= self._last
