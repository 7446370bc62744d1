"""The Parquet files of sealed requests: how one is written, and how it is read a group at a time.

A file has the columns of the table `traffic`, and `request` and `response`, with its rows in the
order of their numbers. A row group has up to 32,768 requests, and up to 32 MiB of bodies, so what
is unpacked at a time is bounded. Behind each row group are its strips (`strips.py`).

Together with `arrow_queries.py` and `strips.py`, this is the only module of the router that knows
pyarrow.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from providers.errors import ArtifactError
from router.datasets.artifacts import Artifacts
from router.sealing.queries import damaged
from router.sealing.strips import StripWriter
from router.sealing.value_filter import ValueFilter
from router.store.columns.traffic import FIRST_COLUMNS, KIND_COLUMNS, TRAFFIC_COLUMNS
from router.store.sealed_traffic import FILTERED, FileFacts, FileField, Kind, SealedFile

GROUP_ROWS = 32_768
GROUP_BODY_BYTES = 32 * 2**20
MAX_KINDS = 1000
_FOOTERS = 64

_INTEGERS = frozenset({"number", "status", "stream", "cached", "prompt_tokens", "completion_tokens",
                       "bodies", "stored"})  # fmt: skip
_FRACTIONS = frozenset({"at", "cost_usd", "first_byte_s", "total_s"})
_BODIES = ("request", "response")
COLUMNS = (*TRAFFIC_COLUMNS, *_BODIES)
# As good as random.
_NAMES = {"id", "request_id", "response_id"}
_WITHOUT_STATISTICS = {"detail", *_NAMES, *_BODIES}
_WITHOUT_DICTIONARY = {"number", "at", "first_byte_s", "total_s", "detail", *_NAMES, *_BODIES}


def _type(column: str) -> Any:
    if column in _INTEGERS:
        return pa.int64()
    if column in _FRACTIONS:
        return pa.float64()
    return pa.binary() if column in _BODIES else pa.string()


SCHEMA = pa.schema([(column, _type(column)) for column in COLUMNS])
# Of files of earlier versions.
_FIRST_SCHEMA = pa.schema(
    [(column, _type(column)) for column in (*TRAFFIC_COLUMNS[:FIRST_COLUMNS], *_BODIES)]
)


class FileWriter:
    """Writes a file: it takes rows, and gives the file's bytes piece by piece."""

    def __init__(self) -> None:
        self._sink = _Sink()
        # It counts what is written, and strips count, too.
        self._file = pa.PythonFile(self._sink, mode="w")
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in COLUMNS if name not in _WITHOUT_DICTIONARY],
            column_encoding={"number": "DELTA_BINARY_PACKED"},
            # A body's smallest and largest would be bodies.
            write_statistics=[name for name in COLUMNS if name not in _WITHOUT_STATISTICS],
        )
        self._group: list[Any] = []
        self._group_rows = self._group_bytes = 0
        self._kinds: set[Kind] = set()
        self._filters = {name: ValueFilter() for name in FILTERED}
        self._strips = StripWriter()
        self._numbers: list[int] = []
        self._moments: list[float] = []
        self.rows = 0

    def add_rows(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        """Add rows of COLUMNS; return what there is of the file since the last call.

        Raises:
            ValueError, TypeError, OverflowError: a value has another type than its column.
        """
        columns = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)
        ]
        return self.add_table(pa.table(arrays, schema=SCHEMA))

    def add_table(self, table: Any) -> bytes:
        """Add the rows of a table; return what there is of the file since the last call."""
        if table.num_rows:
            self._note(table)
            self._group.append(table)
            self._group_rows += table.num_rows
            self._group_bytes += sum(table[name].nbytes for name in _BODIES)
            if self._group_rows >= GROUP_ROWS or self._group_bytes >= GROUP_BODY_BYTES:
                self._write_group()
        return self._sink.taken()

    def close(self) -> bytes:
        """End the file; return the rest of it."""
        self._write_group()
        self._writer.close()
        return self._sink.taken()

    def facts(self, size: int, sha256: str) -> FileFacts:
        """Return what the file has, which is not empty."""
        return FileFacts(
            requests=self.rows,
            size=size,
            sha256=sha256,
            first=min(self._numbers),
            last=max(self._numbers),
            earliest=min(self._moments),
            latest=max(self._moments),
            kinds=tuple(sorted(self._kinds)) if len(self._kinds) <= MAX_KINDS else None,
        )

    def filters(self) -> dict[FileField, bytes]:
        """Return the filters of the values of the file, which is closed, and its index."""
        return {
            **{name: values.bits() for name, values in self._filters.items()},
            **self._strips.index(),
        }

    def _note(self, table: Any) -> None:
        self.rows += table.num_rows
        for ends, column in ((self._numbers, "number"), (self._moments, "at")):
            ends += [end.as_py() for end in pc.min_max(table[column]).values()]
        if len(self._kinds) <= MAX_KINDS:
            kinds = table.group_by(KIND_COLUMNS).aggregate([]).select(KIND_COLUMNS).to_pydict()
            self._kinds.update(zip(*kinds.values(), strict=True))
        for name, values in self._filters.items():
            values.add(value or "" for value in pc.unique(table[name]).to_pylist())

    def _write_group(self) -> None:
        if self._group:
            table = pa.concat_tables(self._group).combine_chunks()
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._file.write(self._strips.add(table, self._file.tell()))
        self._group.clear()
        self._group_rows = self._group_bytes = 0


class _Sink(io.RawIOBase):
    """A file whose bytes are taken from it as they come."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._parts += data
        size = len(memoryview(data))
        self._written += size
        return size

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        parts, self._parts = bytes(self._parts), bytearray()
        return parts


class FileReader:
    """Opens files of an artifact store, and remembers where their parts are."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._footers: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def open(self, file: SealedFile) -> Iterator[Any]:
        """Open a file.

        Raises:
            NotFoundError: there is no such file.
            ArtifactError: it cannot be read.
        """
        with self._lock:
            footer = self._footers.get(file.key)
        with self._artifacts.open(file.key, file.size) as source:
            try:
                parquet = pq.ParquetFile(pa.PythonFile(source, mode="r"), metadata=footer)
                if footer is None:
                    _check(parquet, file)
                with self._lock:
                    self._footers[file.key] = parquet.metadata
                    self._footers.move_to_end(file.key)
                    while len(self._footers) > _FOOTERS:
                        self._footers.popitem(last=False)
                yield parquet
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise damaged(file, error) from error

    def groups(self, file: SealedFile) -> Iterator[Any]:
        """Yield the row groups of a file as tables, with all columns."""
        with self.open(file) as parquet:
            for group in range(parquet.num_row_groups):
                yield read_group(parquet, group, COLUMNS)

    def rows(self, file: SealedFile, numbers: Sequence[int]) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the visible requests with some numbers as COLUMNS, those of a row group at a time.

        Args:
            file: the file.
            numbers: ascending.
        """
        selected = pa.array([number for number in numbers if number <= file.visible_to], pa.int64())
        with self.open(file) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=["number"], use_threads=False)
                mask = pc.is_in(table["number"], value_set=selected)
                if not pc.any(mask).as_py():
                    continue
                values = read_group(parquet, group, COLUMNS).filter(mask).to_pydict().values()
                yield list(zip(*values, strict=True))

    def numbers(self, file: SealedFile, above: int) -> list[int]:
        """Return the numbers of the file's requests above a number, in their order."""
        with self.open(file) as parquet:
            numbers = parquet.read(columns=["number"], use_threads=False)["number"]
        numbers_above: list[int] = numbers.filter(pc.greater(numbers, above)).to_pylist()
        return numbers_above


def read_group(parquet: Any, group: int, columns: Sequence[str]) -> Any:
    """Return columns of a row group as a table; those that the file does not have are null."""
    stored = set(parquet.schema_arrow.names)
    table = parquet.read_row_group(
        group, columns=[name for name in columns if name in stored], use_threads=False
    )
    for name in columns:
        if name not in stored:
            field = SCHEMA.field(name)
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(columns)


def _check(parquet: Any, file: SealedFile) -> None:
    """Raise ArtifactError where a file is another one than was sealed."""
    known = parquet.schema_arrow in (SCHEMA, _FIRST_SCHEMA)
    if not known or parquet.metadata.num_rows != file.requests:
        raise ArtifactError(
            f"sealed requests cannot be read: {file.key} is not the file that was sealed"
        )
