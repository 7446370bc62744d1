"""Occurrences as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.columns.values import json_text
from router.store.occurrences import Occurrence

OCCURRENCE_COLUMNS = Occurrence.__struct_fields__

_detail = msgspec.json.Decoder(dict[str, Any]).decode


def occurrence_columns(row: Occurrence) -> tuple[Any, ...]:
    """Return the values of OCCURRENCE_COLUMNS.

    Raises:
        StoreError: a number in its detail is NaN or infinite.
    """
    *plain, detail = msgspec.structs.astuple(row)
    return (*plain, json_text(detail))


def occurrence_of(columns: Sequence[Any]) -> Occurrence:
    """Read an occurrence from OCCURRENCE_COLUMNS."""
    *plain, detail = columns
    fields = dict(zip(OCCURRENCE_COLUMNS, (*plain, _detail(detail)), strict=True))
    return msgspec.convert(fields, Occurrence)
