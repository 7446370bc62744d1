"""Datasets: open a file of rows, check all of it, and stream it as samples.

    dataset = open_dataset(Path("news.csv"), columns={"article": "input"})
    render = compile_messages(None, "Summarize: {{ input }}", dataset.columns)
    for row in dataset.rows():
        sample = to_sample(row, render)

Columns with a meaning: `input`, `prompt` or `messages` (the question), `reference` or `references`
(text, or a list of texts), `id`; all others are for templates. `answer` is an answer that the
dataset already has. Lumigator's `examples`, `ground_truth` and `predictions` are taken as `input`,
`reference` and `answer`, and of OpenAI's evaluation rows `item` gives the columns and `sample` the
answer. A whole Prometheus prompt in `instruction` gives a row without a prompt its `input`,
`answer`, `reference` and `rubric`. CSV and TSV have a header and quote as RFC 4180 says; blank
lines are no rows.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from evaluators.data.formats import ARROW, EXTENSIONS, read
from evaluators.data.parquet import STATE
from evaluators.data.records import MAX_COLUMNS, FileRecord, lines
from evaluators.data.rows import KNOWN, Row, explicit_id, path_starts, to_row
from evaluators.data.template import Render, compile_messages, to_sample
from providers.errors import DatasetError, closest

__all__ = [
    "Dataset",
    "Render",
    "Row",
    "compile_messages",
    "open_beginning",
    "open_dataset",
    "to_sample",
]

MAX_LINE_BYTES = 16 * 1024 * 1024

# Formats whose rows are whole lines (a .json file may have lines, too).
_LINES = frozenset({"jsonl", "json", "csv", "tsv"})
# More than the lines by which the delimiter of a table is found out.
HEAD_ROWS = 64
INDEXED_ROWS = 250
_INDEXED_BYTES = 4 * 1024 * 1024

# What shells and YAML make hard to write.
_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
_MAX_DELIMITER = 8


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A file of rows that was read to its end without an error.

    Attributes:
        name: its name for people; the file's name without extension unless given.
        path: the file, or the folder of arrow files.
        format: jsonl, json, csv, tsv, parquet or arrow.
        hash: SHA-256 of the file's bytes (of a folder, its files' in order), hex.
        row_count: the number of its rows, at least 1.
        columns: every column of any row, mapped ones also under their known names.
        mapping: the file's own column names to known ones, as given.
        needs_prompt: whether each row was required to have messages, prompt or input.
        max_line_bytes: the longest line that was accepted.
        delimiter: what separates the cells of CSV and TSV, where that was named.
    """

    name: str
    path: Path
    format: str
    hash: str
    row_count: int
    columns: tuple[str, ...]
    mapping: dict[str, str]
    needs_prompt: bool
    max_line_bytes: int
    delimiter: str = ""

    def rows(self) -> Iterator[Row]:
        """Yield the rows one at a time, read again from the file.

        Raises:
            DatasetError: the file has changed since it was opened; where every row can still
                be read, this is raised only after the last one.
        """
        digest = sha256()
        for record in read(
            self.path,
            self.format,
            digest=digest,
            max_line_bytes=self.max_line_bytes,
            delimiter=self.delimiter,
        ):
            yield to_row(record, self.mapping, needs_prompt=self.needs_prompt)
        if digest.hexdigest() != self.hash:
            raise DatasetError(f"{self.path}: the file changed since it was opened; start again")


class RowEnd(NamedTuple):
    """Where a row ends.

    Attributes:
        row: its number, from 1.
        offset: the number of the file's bytes up to its end.
    """

    row: int
    offset: int


def row_ends(dataset: Dataset, rows: int) -> Iterator[RowEnd]:
    """Yield where some rows end, from which a file can be read on.

    The first is that of row `HEAD_ROWS` or of the last one; then one follows for every
    `INDEXED_ROWS` rows and every 4 MiB. The beginning of the file up to the first, with the bytes
    between two others, is a file of just those rows. A format that cannot be cut has no such place.

    Args:
        dataset: the file.
        rows: how many rows to read at least, where there are as many.

    Raises:
        DatasetError: the file cannot be read.
    """
    if dataset.format not in _LINES:
        return
    counted, size = _Count(), dataset.path.stat().st_size
    last = RowEnd(0, 0)
    number = 0
    records: Iterator[object]
    if dataset.format == "jsonl":
        # What is in them does not say where they end.
        numbered = lines(dataset.path, counted, dataset.max_line_bytes)
        records = (text for _, text in numbered if text.strip(" \t\r\n"))
    else:
        records = read(
            dataset.path,
            dataset.format,
            digest=counted,
            max_line_bytes=dataset.max_line_bytes,
            delimiter=dataset.delimiter,
        )
    for number, _ in enumerate(records, 1):
        end = RowEnd(number, counted.bytes)
        if number == 1 and dataset.format == "json" and counted.bytes == size:
            return  # an array, which is read as a whole
        if number >= HEAD_ROWS and (
            not last.row
            or number - last.row >= INDEXED_ROWS
            or end.offset - last.offset >= _INDEXED_BYTES
        ):
            last = end
            yield end
            if number >= rows:
                return
    if number > last.row:
        yield RowEnd(number, size)


class _Count:
    """Counts the bytes that a reader has read."""

    def __init__(self) -> None:
        self.bytes = 0

    def update(self, data: bytes, /) -> None:
        self.bytes += len(data)


def open_dataset(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    name: str = "",
    needs_prompt: bool = True,
    max_line_bytes: int = MAX_LINE_BYTES,
    delimiter: str = "",
) -> Dataset:
    """Read a dataset file to its end, once, and describe it.

    Args:
        path: a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, or a folder that Hugging
            Face's `Dataset.save_to_disk` wrote.
        columns: the file's own column names mapped to known ones, {"article": "input"}.
        name: its name for people; the file's name without extension when empty.
        needs_prompt: whether each row must have messages, prompt or input. False when the run
            brings a template of its own, which may use any column.
        max_line_bytes: the longest line, or row of several lines, that is accepted.
        delimiter: what separates the cells of CSV and TSV; "" to find out.

    Raises:
        DatasetError: anything wrong, beginning with `path:line:` where there is a line.
        MissingExtraError: a parquet file without pyarrow.
    """
    mapping = dict(columns or {})
    _check_mapping(mapping, path)
    format_ = _format(path)
    digest = sha256()
    seen: dict[str, None] = {}
    ids = _Ids()
    count = 0
    read_again = partial(
        read, path, format_, max_line_bytes=max_line_bytes, delimiter=_delimiter(delimiter)
    )
    for record in read_again(digest=digest):
        try:
            row = to_row(record, mapping, needs_prompt=needs_prompt)
        except DatasetError:
            # A misspelt mapping is the likelier cause of a missing prompt.
            _check_mapped(mapping, (*seen, *record.fields), path)
            raise
        ids.add(explicit_id(row.fields, record.where), record.where)
        seen.update(dict.fromkeys(row.fields))
        if len(seen) > MAX_COLUMNS:
            raise DatasetError(
                f"{record.where}: the rows up to here have more than {MAX_COLUMNS} different "
                "columns; put what varies from row to row into one column that holds an object"
            )
        count += 1
    if count == 0:
        raise DatasetError(f"{path}: the dataset has no rows; write at least one")
    _check_mapped(mapping, tuple(seen), path)
    if repeated := ids.repeated():
        _refuse_repeated(read_again(digest=sha256()), mapping, repeated)
    return Dataset(
        name=name or path.stem,
        path=path,
        format=format_,
        hash=digest.hexdigest(),
        row_count=count,
        columns=tuple(seen),
        mapping=mapping,
        needs_prompt=needs_prompt,
        max_line_bytes=max_line_bytes,
        delimiter=_delimiter(delimiter),
    )


def open_beginning(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    name: str = "",
    max_line_bytes: int = MAX_LINE_BYTES,
    delimiter: str = "",
) -> Dataset:
    """Return a dataset of which only the first rows can be read, as it was cut off after some.

    A last line that is not whole is cut off the file. Nothing else of it is read: `columns` of the
    dataset are empty, and `row_count` is 1.

    Args:
        path: the beginning of a file of lines, some MiB at most.
        columns: as for `open_dataset`.
        name: as for `open_dataset`.
        max_line_bytes: as for `open_dataset`.
        delimiter: as for `open_dataset`.

    Raises:
        DatasetError: the first line is not whole, or there can be no such columns or delimiter.
    """
    mapping = dict(columns or {})
    _check_mapping(mapping, path)
    cut = path.read_bytes()
    whole = cut[: cut.rfind(b"\n") + 1]
    if not whole:
        raise DatasetError(f"{path}: its first line is longer than what was read of it")
    path.write_bytes(whole)
    return Dataset(
        name=name or path.stem,
        path=path,
        format=_format(path),
        hash=sha256(whole).hexdigest(),
        row_count=1,
        columns=(),
        mapping=mapping,
        needs_prompt=False,
        max_line_bytes=max_line_bytes,
        delimiter=_delimiter(delimiter),
    )


def _delimiter(named: str) -> str:
    """Return the delimiter that a user names. Raises DatasetError for what cannot be one."""
    delimiter = _DELIMITER_NAMES.get(named.casefold(), named)
    if len(delimiter) > _MAX_DELIMITER or any(sign in delimiter for sign in '"\r\n\0'):
        raise DatasetError(
            f"delimiter: {named!r} cannot be one; write up to {_MAX_DELIMITER} characters, such as "
            "';' or 'tab', without quotes and newlines",
            param="delimiter",
        )
    return delimiter


def _format(path: Path) -> str:
    if path.is_dir():
        return _folder_format(path)
    if not path.exists():
        if not path.parent.is_dir():
            raise DatasetError(f"{path}: no such file; there is no folder {path.parent}")
        # A folder may hold very many files; the nearest of the first ones is help enough.
        beside = itertools.islice(path.parent.iterdir(), 10_000)
        names = [file.name for file in beside if file.suffix.lower() in EXTENSIONS]
        raise DatasetError(f"{path}: no such file.{closest(path.name, names)}")
    if not path.is_file():
        raise DatasetError(f"{path}: is not a regular file; copy its content into one")
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise DatasetError(
            f"{path}: {f'unknown extension {suffix!r}' if suffix else 'no extension'}; a dataset "
            f"is named {', '.join(EXTENSIONS)}"
        )
    return EXTENSIONS[suffix]


def _folder_format(path: Path) -> str:
    """Return the format of a folder, which Hugging Face's `save_to_disk` must have written."""
    if (path / STATE).is_file():
        return ARROW
    splits = sorted(state.parent.name for state in path.glob(f"*/{STATE}"))
    if splits:
        raise DatasetError(
            f"{path}: is a folder of splits ({', '.join(splits)}); name one of them, as "
            f"{path / splits[0]}"
        )
    raise DatasetError(f"{path}: is a folder; name a file in it")


def _check_mapping(mapping: Mapping[str, str], path: Path) -> None:
    for column, known in mapping.items():
        if known not in KNOWN:
            raise DatasetError(
                f"{path}: column {column!r} cannot be mapped to {known!r}.{closest(known, KNOWN)}",
                param=f"columns.{column}",
            )
        first = next(other for other in mapping if mapping[other] == known)
        if first != column:
            raise DatasetError(
                f"{path}: columns {first!r} and {column!r} are both mapped to {known!r}; keep one",
                param=f"columns.{column}",
            )


def _check_mapped(mapping: Mapping[str, str], seen: tuple[str, ...], path: Path) -> None:
    for column, known in mapping.items():
        # A path into a column is there where its value got the known name.
        if column not in seen and (known not in seen or not {*path_starts(column)} & {*seen}):
            raise DatasetError(
                f"{path}: there is no column {column!r} to map to {known!r}."
                f"{closest(column, seen)}",
                param=f"columns.{column}",
            )


class _Ids:
    """Checks that every row has an id, or that no row has one. Holds 8 bytes per row."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._with = self._without = ""

    def add(self, id_: str | None, where: str) -> None:
        if id_ is None:
            self._without = self._without or where
        else:
            self._with = self._with or where
            self._hashes.append(hash(id_))
        if self._with and self._without:
            raise DatasetError(
                f"{self._without}: the row has no id, while {self._with} has one; give every row "
                "an id, or none"
            )

    def repeated(self) -> set[int]:
        """Return hashes that more than one row has; different ids may, rarely, share one."""
        if not self._hashes:
            return set()
        hashes = np.sort(np.frombuffer(self._hashes, np.int64))
        return {int(value) for value in hashes[1:][hashes[1:] == hashes[:-1]]}


def _refuse_repeated(
    records: Iterable[FileRecord], mapping: Mapping[str, str], hashes: set[int]
) -> None:
    """Refuse the first id that occurs twice."""
    where: dict[str, str] = {}
    for record in records:
        row = to_row(record, mapping, needs_prompt=False)
        id_ = explicit_id(row.fields, record.where)
        if id_ is None or hash(id_) not in hashes:
            continue
        if id_ in where:
            raise DatasetError(
                f"{record.where}: the id {id_!r} was already used at {where[id_]}; ids are unique"
            )
        where[id_] = record.where
