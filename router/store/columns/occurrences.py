"""Occurrences as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.columns.values import column_of, fields_of
from router.store.occurrences import Occurrence

OCCURRENCE_COLUMNS = Occurrence.__struct_fields__
_JSON = frozenset({"detail"})


def occurrence_columns(row: Occurrence) -> tuple[Any, ...]:
    """Return the values of OCCURRENCE_COLUMNS.

    Raises:
        StoreError: a number in its detail is NaN or infinite.
    """
    return tuple(column_of(getattr(row, name), name, _JSON) for name in OCCURRENCE_COLUMNS)


def occurrence_of(columns: Sequence[Any]) -> Occurrence:
    """Read an occurrence from OCCURRENCE_COLUMNS."""
    return msgspec.convert(fields_of(OCCURRENCE_COLUMNS, columns, _JSON), Occurrence)
