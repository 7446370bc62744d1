"""A run as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from providers.errors import StoreError, closest
from router.store.columns.values import finite, json_text
from router.store.runs import Run

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
    return json_text(value) if name in _JSON else finite(value, name)


def run_of(row: Mapping[str, Any]) -> Run:
    """Read a run from its columns."""
    return msgspec.convert(
        {
            name: msgspec.json.decode(row[name]) if name in _JSON else row[name]
            for name in RUN_FIELDS
        }
        | {"only_scores": bool(row["only_scores"])},
        Run,
    )
