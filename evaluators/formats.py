"""Files of rows, read one row at a time: JSON lines, a JSON array, CSV, TSV, parquet, arrow.

Arrow is the folder that Hugging Face's `Dataset.save_to_disk` writes.

    for record in read(Path("data.jsonl"), "jsonl", digest=sha256(), max_line_bytes=1 << 24):
        record.number, record.where, record.fields

A defect of the file is a DatasetError whose message begins with `path:line:`. What the columns
mean is decided in `rows.py`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from providers.errors import DatasetError, MissingExtraError

EXTENSIONS: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}

ARROW = "arrow"  # the folder's format; it has no extension
STATE = "state.json"  # which the folder has, and names its files

# A JSON array is parsed from one string; JSON lines have no such limit.
MAX_JSON_BYTES = 128 * 1024 * 1024

MAX_COLUMNS = 4096
# Deeper than any dataset means, and far less than Python's own stack allows.
MAX_DEPTH = 64
# Of one row group of a parquet file, unpacked, as its metadata says.
MAX_GROUP_BYTES = 2 * 1024 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_PARQUET_BATCH = 64
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Digest(Protocol):
    """What `hashlib.sha256()` returns."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""
        ...


class Record(NamedTuple):
    """One row as the file has it.

    `number` is the line for JSON lines and the row, from 1, for everything else; `where` is the
    beginning of an error message about it.
    """

    number: int
    where: str
    fields: dict[str, Any]


def read(path: Path, format: str, *, digest: Digest, max_line_bytes: int) -> Iterator[Record]:  # noqa: A002  # the field's word
    """The file's records in order, in bounded memory.

    Args:
        path: the file.
        format: a value of `EXTENSIONS`.
        digest: is given every byte of the file once; complete when the iterator is exhausted.
        max_line_bytes: the longest line, or row of several lines, that is accepted.

    Raises:
        DatasetError: anything wrong with the file.
        MissingExtraError: parquet without pyarrow.
    """
    try:
        yield from _READERS[format](path, digest, max_line_bytes)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


# Text


def _lines(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends. Only a newline ends one, as JSON lines and CSV want it."""
    offset = 0
    with path.open("rb") as file:
        for number in itertools.count(1):
            raw = file.readline(max_line_bytes + 1)
            if not raw:
                return
            if len(raw) > max_line_bytes:
                raise DatasetError(
                    f"{path}:{number}: the line is longer than {max_line_bytes} bytes; split the "
                    "row, or check that rows end with a newline"
                )
            digest.update(raw)
            yield number, _decoded(path, raw, first_line=number, offset=offset)
            offset += len(raw)


def _decoded(path: Path, raw: bytes, *, first_line: int, offset: int) -> str:
    if offset == 0 and raw.startswith(_BOM):
        raw, offset = raw[len(_BOM) :], len(_BOM)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise DatasetError(
            f"{path}:{line}: byte {offset + error.start} of the file (0x{raw[error.start]:02x}) "
            "is not UTF-8; save the file as UTF-8"
        ) from error


# JSON


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} appears twice in one object; remove one")
    return found


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON; write null or leave the key out")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def _value(text: str, start: int, where: str) -> tuple[Any, int]:
    """The JSON value at `start` and where it ends. A syntax error stays a JSONDecodeError."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        if text.count("{", start, end) + text.count("[", start, end) > MAX_DEPTH:
            _check_depth(value)
        if _SURROGATE.search(text, start, end):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{where}: a \\u escape is half of a surrogate pair, which is no character; "
            "write the file again as UTF-8"
        ) from error
    except RecursionError as error:
        raise DatasetError(
            f"{where}: the JSON is nested too deeply (more than {MAX_DEPTH} levels); flatten it"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    return value, end


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return
        level = [x for one in inner for x in (one.values() if isinstance(one, dict) else one)]
    raise RecursionError


def _object(value: Any, where: str, hint: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: a row must be an object, not {kind(value)}; {hint}")
    return value


def kind(value: Any) -> str:
    """What a JSON value is, in a reader's words."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


def _jsonl(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[Record]:
    hint = "write one object per line (a file that is one JSON array is named .json)"
    for number, text in _lines(path, digest, max_line_bytes):
        line = text.strip(" \t\r\n")
        if not line:
            continue
        where = f"{path}:{number}"
        indent = text.index(line[0])
        try:
            value, end = _value(line, 0, where)
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{where}: not JSON at column {indent + error.colno}: {error.msg}; {hint}"
            ) from error
        if end != len(line):
            column = indent + end + 1
            raise DatasetError(f"{where}: more text after the value at column {column}; {hint}")
        yield Record(number, where, _object(value, where, hint))


def _json(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[Record]:
    with path.open("rb") as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DatasetError(
            f"{path}: a JSON array may have {MAX_JSON_BYTES} bytes; convert it to JSON lines, "
            f"which are read line by line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    digest.update(raw)
    text = _decoded(path, raw, first_line=1, offset=0)
    del raw
    try:
        yield from _elements(path, text, max_line_bytes)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}:{error.lineno}: not JSON at column {error.colno}: {error.msg}; a .json "
            "dataset is one array of objects (a file of one object per line is named .jsonl)"
        ) from error


def _elements(path: Path, text: str, max_bytes: int) -> Iterator[Record]:
    """The objects of a JSON array, parsed one by one so that each has a line."""

    def skip(at: int) -> int:
        match = _WHITESPACE.match(text, at)
        return at if match is None else match.end()

    at = skip(0)
    if at == len(text):
        return
    if text[at] != "[":
        raise json.JSONDecodeError("expected [", text, at)
    at = skip(at + 1)
    line, counted = 1, 0
    closing = text.startswith("]", at)
    for number in itertools.count(1):
        if closing:
            break
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}:{line}"
        value, end = _value(text, at, where)
        if end - at > max_bytes:
            raise DatasetError(f"{where}: row {number} is longer than {max_bytes} bytes; split it")
        yield Record(number, where, _object(value, where, "write an array of objects"))
        at = skip(end)
        closing = text.startswith("]", at)
        if not closing:
            if not text.startswith(",", at):
                raise json.JSONDecodeError("expected , or ]", text, at)
            at = skip(at + 1)
    if skip(at + 1) != len(text):
        raise json.JSONDecodeError("more text after the array", text, skip(at + 1))


# CSV and TSV


def _delimited(
    path: Path, digest: Digest, max_line_bytes: int, *, delimiter: str
) -> Iterator[Record]:
    """Rows under a header, after RFC 4180 with any delimiter. Blank lines are no rows."""
    table = _Table(path, _lines(path, digest, max_line_bytes), delimiter, max_line_bytes)
    header: list[str] = []
    row = 0
    for number, cells in table.rows():
        where = f"{path}:{number}"
        if not header:
            header = _header([cell.strip() for cell in cells], where)
            continue
        if len(cells) != len(header):
            raise DatasetError(
                f"{where}: the row has {len(cells)} cells, the header {len(header)}; put a cell "
                f"that contains {delimiter!r} or a newline in double quotes"
            )
        row += 1
        yield Record(row, where, dict(zip(header, cells, strict=True)))


def _header(names: list[str], where: str) -> list[str]:
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name:
            raise DatasetError(
                f"{where}: column {number} of the header has no name; give it one or leave the "
                "column out (pandas: to_csv(..., index=False))"
            )
        if name in seen:
            raise DatasetError(f"{where}: the header names {name!r} twice; rename one")
        seen.add(name)
    return names


class _Table:
    """Cells of delimited text.

    The standard library's reader refuses cells over 128 KiB unless a limit of the whole process
    is raised, and does not say where a quote was opened.
    """

    def __init__(
        self, path: Path, lines: Iterator[tuple[int, str]], delimiter: str, max_row: int
    ) -> None:
        self._path = path
        self._lines = lines
        self._delimiter = delimiter
        self._max_row = max_row
        self._number, self._text, self._at = 0, "", 0

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row's first line and its cells."""
        while self._next_line():
            if self._text not in ("\n", "\r\n"):
                number = self._number
                cells = list(itertools.islice(self._row(), MAX_COLUMNS + 1))
                if len(cells) > MAX_COLUMNS:
                    raise DatasetError(
                        f"{self._path}:{number}: the row has more than {MAX_COLUMNS} cells"
                    )
                yield number, cells

    def _next_line(self) -> bool:
        self._number, self._text = next(self._lines, (self._number, ""))
        self._at = 0
        if "\0" in self._text:
            column = self._text.index("\0") + 1
            raise self._error(f"a NUL byte at column {column}; save the file as UTF-8 text")
        return bool(self._text)

    def _row(self) -> Iterator[str]:
        more = True
        while more:
            quoted = self._text.startswith('"', self._at)
            yield self._quoted() if quoted else self._plain()
            more = self._text.startswith(self._delimiter, self._at)
            self._at += len(self._delimiter)

    def _plain(self) -> str:
        start = self._at
        end = self._text.find(self._delimiter, start)
        self._at = len(self._text) if end < 0 else end
        cell = self._text[start : self._at]
        if end < 0:
            cell = cell.removesuffix("\n").removesuffix("\r")
        if "\r" in cell:
            raise self._error(
                "a carriage return without a newline; save the file with newlines as line ends, "
                "or put the cell in double quotes"
            )
        return cell

    def _quoted(self) -> str:
        opened, parts, size = self._number, [], 0
        self._at += 1
        while True:
            end = self._text.find('"', self._at)
            if end < 0:
                parts.append(self._text[self._at :])
                size += len(parts[-1])
                if size > self._max_row or not self._next_line():
                    raise DatasetError(
                        f"{self._path}:{opened}: the quote opened here is not closed within "
                        f"{self._max_row} bytes or the end of the file; close it, and write a "
                        "quote inside a quoted cell twice"
                    )
            elif self._text.startswith('""', end):
                parts.append(self._text[self._at : end + 1])
                self._at = end + 2
            else:
                parts.append(self._text[self._at : end])
                self._at = end + 1
                break
        rest = self._text[self._at : self._at + 2]
        if rest not in ("", "\n", "\r\n") and not rest.startswith(self._delimiter):
            raise self._error(
                f"text after the closing quote at column {end + 1}; write a quote inside a "
                "quoted cell twice"
            )
        return "".join(parts)

    def _error(self, what: str) -> DatasetError:
        return DatasetError(f"{self._path}:{self._number}: {what}")


# Parquet


def _parquet(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[Record]:
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
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH):
                _check_batch(batch, path, number, max_line_bytes)
                for fields in batch.to_pylist():
                    number += 1
                    yield _record(path, number, fields)
    except (ValueError, NotImplementedError) as error:  # pyarrow's errors derive from these
        raise DatasetError(
            f"{path}: not a parquet file pyarrow can read (after row {number}): {error}"
        ) from error


def _check_groups(metadata: Any, path: Path) -> None:
    """A row group is unpacked as a whole; a small file may hold a very large one."""
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise DatasetError(
                f"{path}: row group {number} has {size} bytes unpacked, more than "
                f"{MAX_GROUP_BYTES}; write the file again with smaller row groups"
            )


def _check_batch(batch: Any, path: Path, number: int, max_line_bytes: int) -> None:
    """A text that repeats takes next to nothing in a parquet file, and all its room here."""
    most = _PARQUET_BATCH // 4 * max_line_bytes
    if batch.nbytes > most:
        raise DatasetError(
            f"{path}: the {batch.num_rows} rows after row {number} have {batch.nbytes} bytes, more "
            f"than {most}; shorten their texts"
        )


def _record(path: Path, number: int, fields: dict[str, Any]) -> Record:
    where = f"{path}: row {number}"
    _json_only(fields, where)
    return Record(number, where, fields)


# Arrow


def _arrow(path: Path, digest: Digest, _max_line_bytes: int) -> Iterator[Record]:
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
                    for start in range(0, batch.num_rows, _PARQUET_BATCH):
                        for fields in batch.slice(start, _PARQUET_BATCH).to_pylist():
                            number += 1
                            yield _record(path, number, fields)
        except (ValueError, NotImplementedError, OSError) as error:
            raise DatasetError(
                f"{file}: not an arrow stream pyarrow can read (after row {number}): {error}"
            ) from error


def _arrow_files(folder: Path) -> list[Path]:
    """The folder's files, in the order its state gives them."""
    state = folder / STATE
    try:
        named = [str(one["filename"]) for one in json.loads(state.read_bytes())["_data_files"]]
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


def _json_only(fields: dict[str, Any], where: str) -> None:
    """Parquet has more types than JSON, in which samples are kept."""
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


_Reader = Callable[[Path, Digest, int], Iterator[Record]]
_READERS: Mapping[str, _Reader] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": partial(_delimited, delimiter=","),
    "tsv": partial(_delimited, delimiter="\t"),
    "parquet": _parquet,
    ARROW: _arrow,
}
