"""Writes rows of one kind as a table: CSV or parquet.

    write_table(path, "csv", {"id": "string", "score": "float64"}, batches)

A type is the name of an arrow type, or `texts` for a list of texts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from providers.errors import MissingExtraError

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

Batches = Iterable[Sequence[Mapping[str, Any]]]

_encode = msgspec.json.Encoder().encode


def write_table(
    path: Path, kind: Literal["csv", "parquet"], types: Mapping[str, str], batches: Batches
) -> None:
    """Write rows as a table.

    Args:
        path: the file.
        kind: its format.
        types: the columns with their types; a row may lack any of them.
        batches: the rows; a batch is what is written at once.

    Raises:
        MissingExtraError: parquet without pyarrow.
        OSError: the file cannot be written.
    """
    if kind == "parquet":
        _write_parquet(path, types, batches)
    else:
        _write_csv(path, types, batches)


def check_parquet() -> None:
    """Check that parquet can be written. Raises MissingExtraError."""
    _pyarrow()


def _write_csv(path: Path, types: Mapping[str, str], batches: Batches) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(types)
        for batch in batches:
            writer.writerows([_text(row.get(name)) for name in types] for row in batch)


def _text(value: Any) -> Any:
    """Return a value as it stands in CSV: booleans and lists as JSON, null as an empty cell."""
    return _encode(value).decode() if isinstance(value, bool | list | tuple | dict) else value


def _write_parquet(path: Path, types: Mapping[str, str], batches: Batches) -> None:
    pa = _pyarrow()
    arrow = {
        name: pa.list_(pa.string()) if alias == "texts" else pa.type_for_alias(alias)
        for name, alias in types.items()
    }
    schema = pa.schema(list(arrow.items()))
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            columns = [
                pa.array([row.get(name) for row in batch], of_type)
                for name, of_type in arrow.items()
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _pyarrow() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415  # an optional package of 170 MB
        import pyarrow.parquet  # noqa: PLC0415  # likewise
    except ImportError:
        raise MissingExtraError("Exporting parquet", "parquet") from None
    return pa
