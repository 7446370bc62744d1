"""Draws samples of requests by a hash of their records' ids: all processes draw the same."""

from __future__ import annotations

from hashlib import blake2b

_RANGE = 2**64


def sampled(record_id: str, share: float, salt: str) -> bool:
    """Return whether a request is in a sample.

    Args:
        record_id: the id of its record, which the server has minted.
        share: of all requests, from 0 to 1.
        salt: tells one sample from another, so that they are independent.
    """
    digest = blake2b(f"{salt}\0{record_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * _RANGE
