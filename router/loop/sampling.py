"""Draws samples of requests by the ids of their records: all processes draw the same."""

from __future__ import annotations

import math

from router.loop.draws import NUMBERS, draw_by


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
