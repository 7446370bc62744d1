"""Parquet files, and the folder of arrow files that Hugging Face's `Dataset.save_to_disk` writes.

Both need the extra `parquet`. Samples are stored as JSON, so dates and decimals become texts, and
other values that JSON cannot hold are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from evaluators.data.records import MAX_COLUMNS, Digest, FileRecord
from providers.errors import DatasetError, MissingExtraError

STATE = "state.json"  # names the folder's files

# The unpacked size of one row group of a parquet file, by its metadata.
MAX_GROUP_BYTES = 2 * 1024 * 1024 * 1024

_BATCH = 64


def read_parquet(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[FileRecord]:
    """Yield the file's rows in order. `formats.read` lists the errors."""
    try:
        from pyarrow import parquet  # noqa: PLC0415  # an optional package of 170 MB
    except ImportError:
        raise MissingExtraError("Reading parquet", "parquet") from None
    with path.open("rb") as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            digest.update(block)
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            _unique(table.schema_arrow.names, str(path))
            _check_groups(table.metadata, path)
            for batch in table.iter_batches(batch_size=_BATCH):
                _check_batch(batch, path, number, max_line_bytes)
                for fields in batch.to_pylist():
                    number += 1
                    yield _record(path, number, fields)
    except (ValueError, NotImplementedError) as error:  # pyarrow's errors derive from these
        raise DatasetError(
            f"{path}: not a parquet file pyarrow can read (after row {number}): {error}"
        ) from error


def _check_groups(metadata: Any, path: Path) -> None:
    """Refuse a large row group: it is unpacked as a whole, and a small file may hold one."""
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise DatasetError(
                f"{path}: row group {number} has {size} bytes unpacked, more than "
                f"{MAX_GROUP_BYTES}; write the file again with smaller row groups"
            )


def _check_batch(batch: Any, path: Path, number: int, max_line_bytes: int) -> None:
    """Refuse a large batch: a text that repeats is tiny in the file, and unpacked here."""
    limit = _BATCH // 4 * max_line_bytes
    if batch.nbytes > limit:
        raise DatasetError(
            f"{path}: the {batch.num_rows} rows after row {number} have {batch.nbytes} bytes, more "
            f"than {limit}; shorten their texts"
        )


def _record(path: Path, number: int, fields: dict[str, Any]) -> FileRecord:
    where = f"{path}: row {number}"
    fields = {name: _as_json(value) for name, value in fields.items()}
    _json_only(fields, where)
    return FileRecord(number, where, fields)


# Arrow


def read_arrow(path: Path, digest: Digest, _max_line_bytes: int) -> Iterator[FileRecord]:
    """Yield the folder's rows in order. `formats.read` lists the errors."""
    try:
        import pyarrow as pa  # noqa: PLC0415  # an optional package of 170 MB
    except ImportError:
        raise MissingExtraError("Reading a folder of arrow files", "parquet") from None
    number = 0
    for file in _arrow_files(path):
        with file.open("rb") as raw:
            for block in iter(partial(raw.read, 1 << 20), b""):
                digest.update(block)
        try:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
                _unique(batches.schema.names, str(file))
                for batch in batches:
                    # Offsets that lead outside the file would crash the process.
                    batch.validate(full=True)
                    # A batch is mapped, not read; its rows become Python objects few at a time.
                    for start in range(0, batch.num_rows, _BATCH):
                        for fields in batch.slice(start, _BATCH).to_pylist():
                            number += 1
                            yield _record(path, number, fields)
        except (ValueError, NotImplementedError, OSError) as error:
            raise DatasetError(
                f"{file}: not an arrow stream pyarrow can read (after row {number}): {error}"
            ) from error


def _arrow_files(folder: Path) -> list[Path]:
    """Return the folder's files, in the order that its state gives."""
    state = folder / STATE
    try:
        named = [str(entry["filename"]) for entry in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{state}: not written by datasets' save_to_disk ({error})") from error
    for name in named:
        if Path(name).name != name or not name.isascii():
            raise DatasetError(f"{state}: names {name!r}, which save_to_disk would not")
    return [folder / name for name in named]


def _unique(names: Sequence[str], where: str) -> None:
    if len(names) > MAX_COLUMNS:
        raise DatasetError(f"{where}: has {len(names)} columns, more than {MAX_COLUMNS}")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DatasetError(f"{where}: two columns are named {name!r}; rename one")


def _as_json(value: Any) -> Any:
    """Return a value with dates and decimals within it as texts."""
    if isinstance(value, str | None):
        return value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list):
        return list(map(_as_json, value))
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    return value


def _json_only(fields: dict[str, Any], where: str) -> None:
    """Refuse values that JSON cannot hold, as samples are stored in it."""
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise DatasetError(
                    f"{where}: column {name!r} holds NaN or an infinity; write null or leave the "
                    "column out"
                ) from None
            except TypeError:
                raise DatasetError(
                    f"{where}: column {name!r} holds a {type(value).__name__}, which JSON cannot "
                    "hold; cast it to text or leave the column out"
                ) from None
