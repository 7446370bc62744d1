"""Rows that say the same: by the hash of their words, or nearly, by MinHash.

    rows = Duplicates(similarity=0.8)
    rows.add("a", text)          # None
    rows.add("b", same_text)     # Duplicate(of="a", similarity=1.0)

A text is the set of its groups of three words (of three characters, in short texts). The smallest
values of 128 hash functions over a set are its sketch: the share of equal values in two sketches
estimates the sets' Jaccard similarity (Broder 1997), with a standard error of at most 0.044. Rows
whose sketches agree in one of 32 bands of 4 values are compared, which finds 97 % of those at a
similarity of 0.57, and nearly all from 0.7 on (Leskovec et al., Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.text.words import letters_and_digits

_HASHES = 128
_BANDS = 32
_ROWS = _HASHES // _BANDS
_GROUP = 3
# Longer texts are known by their beginning: so much is enough to tell texts apart.
_MAX_CHARACTERS = 100_000
_AT_ONCE = 1024
_PRIME = np.uint64(2**61 - 1)

# The same in all processes and versions, because sketches are stored.
_numbers = np.frombuffer(
    hashlib.shake_256(b"evalrouter sketches").digest(16 * _HASHES), dtype="<u8"
).astype(np.uint64)
_FACTORS: NDArray[np.uint64] = _numbers[:_HASHES] >> np.uint64(32) | np.uint64(1)
_TERMS: NDArray[np.uint64] = _numbers[_HASHES:] >> np.uint64(3)


class Sketch(NamedTuple):
    """What rows are compared by.

    Attributes:
        digest: SHA-256 of the text's words, hex; equal for texts that differ in case, blanks and
            punctuation only.
        values: the smallest value of each hash function.
    """

    digest: str
    values: bytes

    def bands(self) -> list[bytes]:
        """Return the pieces of which two similar sketches have one in common."""
        size = 4 * _ROWS
        return [
            bytes((band,)) + self.values[band * size : (band + 1) * size] for band in range(_BANDS)
        ]

    def similarity(self, other: Sketch) -> float:
        """Return the estimated share of word groups that two texts have in common."""
        if self.digest == other.digest:
            return 1.0
        mine = np.frombuffer(self.values, dtype="<u4")
        others = np.frombuffer(other.values, dtype="<u4")
        return float(np.mean(mine == others))


class Duplicate(NamedTuple):
    """An earlier row that says the same, or nearly.

    Attributes:
        of: its name.
        similarity: 1.0 for the same words.
        exact: whether all words are the same, in their order.
    """

    of: str
    similarity: float
    exact: bool


def sketch(texts: Iterable[str]) -> Sketch:
    """Return the sketch of a row's texts."""
    words = [
        word.casefold() for text in texts for word in letters_and_digits(text[:_MAX_CHARACTERS])
    ]
    digest = hashlib.sha256("\x1f".join(words).encode("utf-8", "surrogatepass")).hexdigest()
    groups = {" ".join(words[place : place + _GROUP]) for place in range(len(words) - _GROUP + 1)}
    if not groups:
        text = " ".join(words)
        groups = {text[place : place + _GROUP] for place in range(max(1, len(text) - _GROUP + 1))}
    return Sketch(digest, _smallest(groups))


def _smallest(groups: set[str]) -> bytes:
    hashes = np.array(
        [
            int.from_bytes(
                hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=4).digest()
            )
            for group in groups
        ],
        dtype=np.uint64,
    )
    smallest = np.full(_HASHES, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(hashes), _AT_ONCE):
        some = hashes[start : start + _AT_ONCE, None]
        # Products wrap around at 2**64, which mixes as well.
        mixed = (some * _FACTORS + _TERMS) % _PRIME
        smallest = np.minimum(smallest, mixed.min(axis=0))
    return (smallest & np.uint64(0xFFFFFFFF)).astype("<u4").tobytes()


class Duplicates:
    """The rows so far, in memory.

    Args:
        similarity: from which share of word groups in common rows are near duplicates.
    """

    def __init__(self, *, similarity: float) -> None:
        self._similarity = similarity
        self._sketches: dict[str, Sketch] = {}
        self._by_digest: dict[str, str] = {}
        self._by_band: dict[bytes, list[str]] = {}

    def add(self, name: str, row: Sketch) -> Duplicate | None:
        """Return the row that says the same, or nearly; add it where none does.

        Args:
            name: the row's; later rows that say the same are duplicates `of` it.
            row: the row's sketch.
        """
        if (same := self._by_digest.get(row.digest)) is not None:
            return Duplicate(same, 1.0, exact=True)
        nearest: Duplicate | None = None
        bands = row.bands()
        candidates = dict.fromkeys(other for band in bands for other in self._by_band.get(band, ()))
        for other in candidates:
            similarity = row.similarity(self._sketches[other])
            if similarity >= self._similarity and (
                nearest is None or similarity > nearest.similarity
            ):
                nearest = Duplicate(other, similarity, exact=False)
        if nearest is None:
            self._sketches[name] = row
            self._by_digest[row.digest] = name
            for band in bands:
                self._by_band.setdefault(band, []).append(name)
        return nearest
