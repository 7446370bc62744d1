"""Drawing with a fixed seed: resamples, exchanges and blocks, in chunks of bounded memory.

    for rows, picks in resamples(n, 2000, seed=0):
        drawn[rows] = values[picks].mean(axis=1)

All draws are of PCG64, so that the same seed gives the same numbers everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RESAMPLING_LIMIT = 10_000
"""The largest number of samples that is resampled one by one."""

Floats: TypeAlias = NDArray[np.float64]

_CHUNK = 2_000_000  # numbers drawn at once: tens of MB at most, whatever n is


def resamples(n: int, count: int, seed: int) -> Iterator[tuple[slice, NDArray[np.int32]]]:
    """Yield index arrays of shape (rows, n), each with the slice of resamples that it fills."""
    random = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, _CHUNK // n)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        yield slice(start, stop), random.integers(n, size=(stop - start, n), dtype=np.int32)


def multiplicities(n: int, count: int, seed: int) -> Iterator[Floats]:
    """Yield how often each sample is drawn, shape (rows, n): sums are then a matrix product."""
    for _, picks in resamples(n, count, seed):
        rows = len(picks)
        flat = (picks + np.arange(rows, dtype=np.int64)[:, None] * n).ravel()
        yield np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def in_blocks(rows: Floats, seed: int) -> Floats:
    """Return the rows, or sums of random blocks of rows above `RESAMPLING_LIMIT`.

    Sums of random groups vary as samples do, so resampling (or exchanging) whole groups estimates
    the same spread (the random groups method; Wolter 2007, chapter 2).
    """
    n = len(rows)
    if n <= RESAMPLING_LIMIT:
        return rows
    random = np.random.Generator(np.random.PCG64(seed))
    block = random.permutation(n) % RESAMPLING_LIMIT
    columns = [np.bincount(block, weights=column) for column in rows.T]
    return np.stack(columns, axis=1)


def random_masks(n: int, count: int, seed: int) -> Iterator[Floats]:
    """Yield rows of random zeros and ones, shape (rows, n), in chunks; every bit drawn is used."""
    random = np.random.Generator(np.random.PCG64(seed))
    width = -(-n // 8)
    rows = max(1, _CHUNK // n)
    for start in range(0, count, rows):
        drawn = random.integers(256, size=(min(rows, count - start), width), dtype=np.uint8)
        yield np.unpackbits(drawn, axis=1, count=n).astype(np.float64)


def all_masks(n: int) -> Iterator[Floats]:
    """Yield every row of zeros and ones that begins with a zero.

    Those with a one in front exchange the other half, which only turns the difference's sign.
    """
    numbers = np.arange(2 ** (n - 1))
    yield ((numbers[:, None] >> np.arange(n)) & 1).astype(np.float64)
