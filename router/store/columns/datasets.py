"""A dataset version as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from router.store.datasets import DatasetRow

_JSON = ("columns", "mapping", "provenance", "statistics")


def dataset_columns(row: DatasetRow) -> dict[str, Any]:
    """Return a dataset version's columns."""
    values = msgspec.structs.asdict(row)
    return values | {name: msgspec.json.encode(values[name]).decode() for name in _JSON}


def dataset_of(row: Mapping[str, Any]) -> DatasetRow:
    """Read a dataset version from its columns."""
    decoded = {name: msgspec.json.decode(row[name]) for name in _JSON}
    return msgspec.convert({**row, **decoded}, DatasetRow)
