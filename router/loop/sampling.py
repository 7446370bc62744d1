"""Draws samples of requests by a hash of their records' ids: all processes draw the same."""

from __future__ import annotations

import math
from functools import partial
from hashlib import blake2b

_HASHES = 2**64
# No hash of eight bytes is above it.
_END = b"\xff" * 9
_hash = partial(blake2b, digest_size=8)


class RequestSample:
    """A sample of requests.

    Args:
        share: of all requests, from 0 to 1.
        salt: tells one sample from another, so that they are independent.
    """

    __slots__ = ("_end", "_salt")

    def __init__(self, share: float, salt: str) -> None:
        self._salt = f"{salt}\0".encode()
        end = math.ceil(share * _HASHES)
        self._end = end.to_bytes(8) if end < _HASHES else _END

    def has(self, record_id: str) -> bool:
        """Return whether a request is in it, by the id of its record, which the server minted."""
        return _hash(self._salt + record_id.encode()).digest() < self._end
