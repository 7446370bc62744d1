"""A run as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from providers.errors import StoreError, closest
from router.store.columns.values import UNREADABLE, column_of
from router.store.runs import Run, UnreadableRun

RUN_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Run)}
_JSON = frozenset({"document", "metrics", "versions", "tags"})


def run_columns(run: Run) -> dict[str, Any]:
    """Return a run's columns. Raises StoreError where a field has a value of the wrong type."""
    return {name: _column(name, getattr(run, name)) for name in RUN_FIELDS}


def changed_columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of changed fields.

    Raises:
        StoreError: no such field, or a value of the wrong type.
    """
    for name in changes:
        if name == "id" or name not in RUN_FIELDS:
            known = closest(name, RUN_FIELDS.keys() - {"id"})
            raise StoreError(f"a run has no field {name!r} that can be changed.{known}")
    return {name: _column(name, value) for name, value in changes.items()}


def _column(name: str, value: Any) -> Any:
    try:
        value = msgspec.convert(value, RUN_FIELDS[name])
    except msgspec.ValidationError as error:
        raise StoreError(f"a run's {name!r} cannot be {value!r}: {error}") from error
    return column_of(value, name, _JSON)


def run_of(row: Mapping[str, Any]) -> Run:
    """Read a run from its columns; one that cannot be read is an UnreadableRun."""
    try:
        return msgspec.convert({name: _decoded(name, row[name]) for name in RUN_FIELDS}, Run)
    except UNREADABLE:
        return _unreadable(row)


def _decoded(name: str, value: Any) -> Any:
    if name == "only_scores":
        return bool(value)
    return msgspec.json.decode(value) if name in _JSON else value


# Run has no default for them.
_EMPTY: dict[str, Any] = {
    "name": "",
    "document": {},
    "dataset": "",
    "dataset_hash": "",
    "dataset_rows": 0,
    "metrics": {},
    "created_at": 0.0,
}


def _unreadable(row: Mapping[str, Any]) -> UnreadableRun:
    """Read what can be read of a run, column by column."""
    fields = dict(_EMPTY)
    damaged = []
    for name, kind in RUN_FIELDS.items():
        try:
            fields[name] = msgspec.convert(_decoded(name, row[name]), kind)
        except UNREADABLE as error:
            damaged.append(f"{name}: {error}")
    run_id = str(row["id"])
    reason = f"{run_id} cannot be read: {'; '.join(damaged)}"
    return UnreadableRun(**fields | {"id": run_id, "state": "failed", "error": reason})
