"""What a copy of a whole store needs of a database, and how its two ends are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from router.store.sql.connection import Connection

# In the place of a migration's name: every version refuses to open a database that has it.
UNFINISHED = "unfinished_copy"
UNFINISHED_COPY = (
    "a copy into it (evalrouter store migrate) is under way or was cut off; wait for it, or start "
    "it again"
)
# These have a row from the start.
COUNTERS = frozenset(
    {"key_changes", "learned_changes", "rollout_changes", "route_changes", "traffic_deletions"}
)

_BUCKETS = 4096
_MODULUS = 2**128
# So many rows are kept in memory to name those that differ.
_NAMED_ROWS = 100_000
_encode = msgspec.msgpack.Encoder().encode
# SQLite stores it as zero.
_MINUS_ZERO = b"\xcb\x80" + bytes(7)


class TableShape(NamedTuple):
    """A table that is copied.

    Attributes:
        kinds: the Python type of each column's values.
        key: the columns that name a row; none in a table of one row.
        refers_to: the tables whose rows must be there first.
    """

    kinds: Mapping[str, type]
    key: tuple[str, ...]
    refers_to: frozenset[str]


class CopyEnd(Protocol):
    """A database inside one transaction, which a copy reads.

    Attributes:
        name: its address without secrets, for messages.
        connection: for short queries in the transaction.
    """

    name: str
    connection: Connection

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table, in the order in which they are best inserted."""
        ...


class CopyTarget(CopyEnd, Protocol):
    """A database inside one transaction, which a copy fills."""

    def insert(self, table: str, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
        """Insert rows, without what triggers and indexes add to that."""
        ...

    def complete(self) -> None:
        """Make what follows from the rows: indexes, triggers, and the numbers of later rows."""
        ...


class Fingerprint:
    """What the rows of a table are, whatever their order: how many, and the sum of their hashes.

    A row's hash (BLAKE2b, 128 bits) is of its values as MessagePack, so texts, bytes, integers and
    fractions are told apart, and fractions compared by their bits, but for the sign of zero. Sums
    are by the hash's last 12 bits: two tables that differ need to be searched in few of them.
    """

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self.rows = 0
        self.sums = [0] * _BUCKETS
        for row in rows:
            number = _hash(row)
            self.sums[number % _BUCKETS] += number
            self.rows += 1

    @property
    def hash(self) -> str:
        """The hash of the whole table."""
        sums = b"".join((total % _MODULUS).to_bytes(16) for total in self.sums)
        return hashlib.blake2b(sums, digest_size=16).hexdigest()

    def differing(self, other: Fingerprint) -> frozenset[int]:
        """Return the sums that differ, as many as can be searched in bounded memory."""
        differing = [n for n in range(_BUCKETS) if self.sums[n] != other.sums[n]]
        limit = _NAMED_ROWS * _BUCKETS // max(self.rows, other.rows, 1)
        return frozenset(differing[: max(limit, 1)])


def rows_in(
    sums: frozenset[int], rows: Iterable[tuple[Any, ...]], key: int
) -> dict[int, tuple[Any, ...]]:
    """Return the first `key` values of the rows that are in some sums, by the rows' hashes."""
    keys = {}
    for row in rows:
        number = _hash(row)
        if number % _BUCKETS in sums:
            keys[number] = row[:key]
    return keys


def _hash(row: tuple[Any, ...]) -> int:
    encoded = _encode(row)
    if _MINUS_ZERO in encoded:
        encoded = _encode([value + 0.0 if isinstance(value, float) else value for value in row])
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=16).digest())
