"""What differs between two versions of a dataset: rows added, removed and changed.

    changes = differences(lambda: rows(older), lambda: rows(newer))
    changes.added, changes.removed, changes.changed, changes.examples

Rows that have ids are the same row where they have the same one. Rows without ids have only their
content: one that was changed counts as one removed and one added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import msgspec

from evaluators.data.rows import Row
from router.datasets.cells import cut

# Rows of a version that are compared, from its first on.
MAX_COMPARED = 100_000
# Rows of each kind that are shown.
MAX_EXAMPLES = 20

DifferenceKind = Literal["added", "removed", "changed"]
_encode = msgspec.json.Encoder(order="sorted").encode


class RowDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not the same in both versions; its texts are cut.

    Attributes:
        kind: what happened to it.
        id: its id, or its number where it has none.
        before: its columns in the older version; of a changed row, those that differ. Empty for
            an added one.
        after: the same of the newer version; empty for a removed one.
    """

    kind: DifferenceKind
    id: str
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of both."""
        return tuple({**self.before, **self.after})


class VersionDifferences(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two versions.

    Attributes:
        added, removed, changed, same: how many rows of each kind there are.
        by_id: whether rows are known by their ids.
        is_part: whether a version has more than MAX_COMPARED rows: then its first were compared.
        examples: the first MAX_EXAMPLES rows of each kind.
    """

    added: int
    removed: int
    changed: int
    same: int
    by_id: bool
    is_part: bool
    examples: tuple[RowDifference, ...]


def differences(
    older: Callable[[], Iterator[Row]], newer: Callable[[], Iterator[Row]], *, by_id: bool
) -> VersionDifferences:
    """Compare two versions. Blocks; holds some 100 bytes of each row of the older one.

    Args:
        older: reads the rows of the older version, in order, once more at each call.
        newer: reads those of the newer one.
        by_id: whether the rows of both have ids.
    """
    comparison = _Comparison(by_id=by_id)
    comparison.take_older(older())
    comparison.take_newer(newer())
    comparison.show_older(older())
    return comparison.result()


class _Comparison:
    """Compares the newer version's rows with those of the older one, which is read twice."""

    def __init__(self, *, by_id: bool) -> None:
        self._by_id = by_id
        # By their key, contents of rows of the older version that the newer one lacks so far.
        self._left: dict[bytes, list[bytes]] = {}
        self._changed_rows: dict[bytes, Row] = {}
        self._counts = {"added": 0, "changed": 0, "same": 0}
        self._examples: list[RowDifference] = []
        self._is_part = False

    def _first(self, rows: Iterator[Row]) -> Iterator[Row]:
        yield from islice(rows, MAX_COMPARED)
        self._is_part = self._is_part or next(rows, None) is not None

    def _key(self, row: Row) -> bytes:
        return _digest({"id": row.id} if self._by_id else row.fields)

    def take_older(self, rows: Iterator[Row]) -> None:
        for row in self._first(rows):
            self._left.setdefault(self._key(row), []).append(_digest(row.fields))

    def take_newer(self, rows: Iterator[Row]) -> None:
        for row in self._first(rows):
            key = self._key(row)
            contents = self._left.get(key)
            if not contents:
                self._counts["added"] += 1
                if self._counts["added"] <= MAX_EXAMPLES:
                    shown = RowDifference(kind="added", id=row.id, after=_cut(row.fields))
                    self._examples.append(shown)
            elif contents.pop() == _digest(row.fields):
                self._counts["same"] += 1
            else:
                self._counts["changed"] += 1
                if len(self._changed_rows) < MAX_EXAMPLES:
                    self._changed_rows[key] = row

    def show_older(self, rows: Iterator[Row]) -> None:
        """Add the examples of rows that the older version has."""
        removed = {key: len(contents) for key, contents in self._left.items() if contents}
        room = MAX_EXAMPLES
        for row in self._first(rows):
            key = self._key(row)
            if key in self._changed_rows:
                self._examples.append(_changed(row, self._changed_rows.pop(key)))
            elif room and removed.get(key):
                removed[key] -= 1
                room -= 1
                shown = RowDifference(kind="removed", id=row.id, before=_cut(row.fields))
                self._examples.append(shown)

    def result(self) -> VersionDifferences:
        return VersionDifferences(
            added=self._counts["added"],
            removed=sum(map(len, self._left.values())),
            changed=self._counts["changed"],
            same=self._counts["same"],
            by_id=self._by_id,
            is_part=self._is_part,
            examples=tuple(self._examples),
        )


def _digest(fields: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(_encode(fields), digest_size=16).digest()


def _changed(before: Row, after: Row) -> RowDifference:
    names = [
        name
        for name in dict.fromkeys((*before.fields, *after.fields))
        if before.fields.get(name) != after.fields.get(name)
        or (name in before.fields) != (name in after.fields)
    ]
    return RowDifference(
        kind="changed",
        id=after.id,
        before=_cut({name: before.fields[name] for name in names if name in before.fields}),
        after=_cut({name: after.fields[name] for name in names if name in after.fields}),
    )


def _cut(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cut(value) for name, value in fields.items()}
