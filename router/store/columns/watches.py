"""References and probes of watches as columns of tables, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from providers.errors import StoreError
from router.store.columns.values import finite, json_text
from router.store.watches import WatchProbe, WatchReference

_Row = TypeVar("_Row", WatchReference, WatchProbe)

REFERENCE_FIELDS = {field.name: field.type for field in msgspec.structs.fields(WatchReference)}
PROBE_FIELDS = {field.name: field.type for field in msgspec.structs.fields(WatchProbe)}
_JSON = frozenset({"anchor", "detail"})


def watch_columns(row: WatchReference | WatchProbe, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the values of some columns. Raises StoreError for a number that is not finite."""
    return tuple(_column(name, getattr(row, name)) for name in names)


def reference_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of changed fields of a reference.

    Raises:
        StoreError: no such field, or a value of the wrong type.
    """
    for name in changes:
        if name not in REFERENCE_FIELDS:
            raise StoreError(f"a reference has no field {name!r}")
    return {
        name: _column(name, msgspec.convert(value, REFERENCE_FIELDS[name]))
        for name, value in changes.items()
    }


def _column(name: str, value: Any) -> Any:
    return json_text(value) if name in _JSON else finite(value, name)


def watch_row(kind: type[_Row], names: Sequence[str], columns: Sequence[Any]) -> _Row:
    """Read a reference or a probe from some of its columns."""
    values = {
        name: msgspec.json.decode(value) if name in _JSON else value
        for name, value in zip(names, columns, strict=True)
    }
    return msgspec.convert(values, kind)
