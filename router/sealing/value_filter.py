"""A Bloom filter of a column's values: which sealed files cannot have a value.

Ten bits and seven hashes for each value: about one file in a hundred is read in vain (B. H. Bloom,
"Space/time trade-offs in hash coding with allowable errors", 1970). The hashes are two halves of
a BLAKE2b, combined (Kirsch and Mitzenmacher, "Less hashing, same performance", 2006).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_BITS = 10
_HASHES = 7
_DIGEST = 16


class ValueFilter:
    """Collects the values of a column."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, values: Iterable[str]) -> None:
        """Add values; those that were added already cost nothing."""
        self._digests.update(map(_digest, values))

    def bits(self) -> bytes:
        """Return the filter."""
        size = max(64, len(self._digests) * _BITS) + 7 & ~7
        hashes = np.frombuffer(b"".join(self._digests), dtype="<u8").reshape(-1, 2)
        places = _places(hashes, size)
        bits = np.zeros(size, dtype=bool)
        bits[places.ravel()] = True
        return np.packbits(bits, bitorder="little").tobytes()


def may_have(bits: bytes, value: str) -> bool:
    """Return whether a filter's column may have a value."""
    hashes = np.frombuffer(_digest(value), dtype="<u8").reshape(1, 2)
    places = map(int, _places(hashes, len(bits) * 8)[0])
    return all(bits[place >> 3] >> (place & 7) & 1 for place in places)


def _digest(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_DIGEST).digest()


def _places(hashes: np.ndarray, size: int) -> np.ndarray:
    """Return where the bits of each value are."""
    steps = np.arange(_HASHES, dtype=np.uint64)
    # Sums of 64 bits wrap around, which is as good as any other hash.
    places: np.ndarray = (hashes[:, :1] + steps * (hashes[:, 1:] | np.uint64(1))) % np.uint64(size)
    return places
