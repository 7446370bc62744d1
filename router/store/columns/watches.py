"""References and probes of watches as columns of tables, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from providers.errors import StoreError
from router.store.columns.values import column_of, fields_of
from router.store.watches import WatchProbe, WatchReference

_Row = TypeVar("_Row", WatchReference, WatchProbe)

REFERENCE_FIELDS = {field.name: field.type for field in msgspec.structs.fields(WatchReference)}
PROBE_FIELDS = {field.name: field.type for field in msgspec.structs.fields(WatchProbe)}
_JSON = frozenset({"anchor", "detail"})


def watch_columns(row: WatchReference | WatchProbe, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the values of some columns. Raises StoreError for a number that is not finite."""
    return tuple(column_of(getattr(row, name), name, _JSON) for name in names)


def reference_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of changed fields of a reference.

    Raises:
        StoreError: no such field, or a value of the wrong type.
    """
    for name in changes:
        if name not in REFERENCE_FIELDS:
            raise StoreError(f"a reference has no field {name!r}")
    return {
        name: column_of(msgspec.convert(value, REFERENCE_FIELDS[name]), name, _JSON)
        for name, value in changes.items()
    }


def watch_row(kind: type[_Row], names: Sequence[str], columns: Sequence[Any]) -> _Row:
    """Read a reference or a probe from some of its columns."""
    return msgspec.convert(fields_of(names, columns, _JSON), kind)
