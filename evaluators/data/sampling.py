"""Which rows of a dataset a run uses: the first n, or n drawn at random with a seed.

    indexes = choose(Sampling(n=200, seed=1, by="topic"), dataset.rows())

The draw is a bottom-k sample: every row has a pseudo-random number made of the seed and its id,
and the rows with the n smallest are taken. So the same seed gives the same rows on any machine and
in any order of the file, and a larger n keeps every row that a smaller one drew (where `by` is not
given). Cohen, "Min-Hash Sketches", Encyclopedia of Algorithms, 2016.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
import numpy as np

from evaluators.data.records import kind
from evaluators.data.rows import MISSING, Row, value_at
from providers.errors import RunDocumentError

MAX_STRATA = 10_000
# More than a dataset has.
MAX_ROWS = 1_000_000_000
Rows = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows drawn at random, without replacement.

    Attributes:
        n: the number of rows; all of them where the dataset has fewer.
        seed: another one draws other rows.
        by: a column; each of its values gets its share of `n` (largest remainder: shares are
            rounded down, and what is left goes to those that lost most by it, the more frequent
            value first). A value that is too rare gets no place.
    """

    n: Rows
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    by: str | None = None


def choose(sampling: Sampling, rows: Iterable[Row]) -> list[int]:
    """Return the indexes (from 0) of the rows drawn, ascending. Holds 12 bytes per row.

    Raises:
        RunDocumentError: the column is missing in a row, holds lists or objects, or has more than
            10,000 different values.
    """
    ranks = array("Q")
    strata = array("I")
    names: dict[str, int] = {}
    for row in rows:
        ranks.append(rank_of(row.id, sampling.seed))
        if sampling.by is not None:
            strata.append(names.setdefault(_stratum(row, sampling.by), len(names)))
            if len(names) > MAX_STRATA:
                raise RunDocumentError(
                    f"sample.by: column {sampling.by!r} has more than {MAX_STRATA} different "
                    "values; take one with fewer",
                    param="sample.by",
                )
    rank = np.frombuffer(ranks, np.uint64) if len(ranks) else np.empty(0, np.uint64)
    if sampling.by is None:
        chosen = np.argsort(rank, kind="stable")[: sampling.n]
    else:
        stratum = np.frombuffer(strata, np.uint32) if len(strata) else np.empty(0, np.uint32)
        chosen = _stratified(sampling.n, rank, stratum)
    return [int(place) for place in np.sort(chosen)]


def rank_of(row_id: str, seed: int) -> int:
    """Return a row's pseudo-random number of 64 bits: the rows with the smallest are drawn."""
    salt = seed.to_bytes(8, "big")
    drawn = blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8, key=salt)
    return int.from_bytes(drawn.digest(), "big")


def allocate(n: int, sizes: list[int]) -> list[int]:
    """Share `n` places in proportion to `sizes` by the method of largest remainders (Hamilton).

    A share is never more than its size; all are where `n` is at least their sum.
    """
    total = sum(sizes)
    if n >= total:
        return sizes
    shares = [n * size // total for size in sizes]
    # Whole numbers, so that equal remainders are equal.
    order = sorted(range(len(sizes)), key=lambda at: (-(n * sizes[at] % total), -sizes[at], at))
    for at in order[: n - sum(shares)]:
        shares[at] += 1
    return shares


def _stratified(n: int, rank: Any, stratum: Any) -> Any:
    order = np.lexsort((rank, stratum))
    sizes = np.bincount(stratum)
    shares = allocate(n, [int(size) for size in sizes])
    starts = np.concatenate(([0], np.cumsum(sizes)))
    return np.concatenate(
        [order[start : start + share] for start, share in zip(starts, shares, strict=False)]
    )


def _stratum(row: Row, column: str) -> str:
    value = value_at(row.fields, column, MISSING)
    if value is MISSING:
        raise RunDocumentError(
            f"sample.by: row {row.number} has no column {column!r}", param="sample.by"
        )
    if isinstance(value, list | dict):
        raise RunDocumentError(
            f"sample.by: row {row.number} has {kind(value)} in column {column!r}; take a column "
            "of texts or numbers",
            param="sample.by",
        )
    return json.dumps(value)
