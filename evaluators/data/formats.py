"""Files of rows, read one row at a time: JSON lines, a JSON array, CSV, TSV, parquet, arrow.

    for record in read(Path("data.jsonl"), "jsonl", digest=sha256(), max_line_bytes=1 << 24):
        record.number, record.where, record.fields

A defect of the file is a DatasetError whose message begins with `path:line:`. What the columns
mean is decided in `rows.py`; CSV is read in `csv_tsv.py`, parquet and arrow in `parquet.py`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from evaluators.data.csv_tsv import read_delimited
from evaluators.data.parquet import read_arrow, read_parquet
from evaluators.data.records import Digest, FileRecord, decoded, kind, lines
from providers.errors import DatasetError

EXTENSIONS: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
ARROW = "arrow"  # the format of a folder, which has no extension

# A JSON array is parsed from one string; JSON lines have no such limit.
MAX_JSON_BYTES = 128 * 1024 * 1024
# Enough to see how a line begins.
_PEEKED_BYTES = 4096
# Deeper than any dataset means, and far less than Python's own stack allows.
MAX_DEPTH = 64

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read(
    path: Path,
    format: str,  # noqa: A002  # the field's word
    *,
    digest: Digest,
    max_line_bytes: int,
    delimiter: str = "",
) -> Iterator[FileRecord]:
    """Yield the file's records in order, in bounded memory.

    Args:
        path: the file.
        format: a value of `EXTENSIONS`.
        digest: is given every byte of the file once; complete when the iterator is exhausted.
        max_line_bytes: the longest line, or row of several lines, that is accepted.
        delimiter: what separates the cells of CSV and TSV; "" to find out.

    Raises:
        DatasetError: anything wrong with the file.
        MissingExtraError: parquet without pyarrow.
    """
    try:
        if format in _USUAL:
            yield from read_delimited(
                path, digest, max_line_bytes, delimiter=delimiter, usual=_USUAL[format]
            )
        else:
            yield from _READERS[format](path, digest, max_line_bytes)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


# JSON


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} appears twice in one object; remove one")
    return fields


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON; write null or leave the key out")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        limit = sys.get_int_max_str_digits()
        raise ValueError(
            f"an integer has {len(text):,} characters; at most {limit:,} are read: write it as text"
        ) from None


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int
)


def _value(text: str, start: int, where: str) -> tuple[Any, int]:
    """Return the JSON value at `start` and its end. A syntax error stays a JSONDecodeError."""
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
            f"{where}: a \\u escape is half of a surrogate pair, not a character; "
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
        inner = [item for item in level if isinstance(item, dict | list)]
        if not inner:
            return
        level = [x for item in inner for x in (item.values() if isinstance(item, dict) else item)]
    raise RecursionError


def _object(value: Any, where: str, hint: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: a row must be an object, not {kind(value)}; {hint}")
    return value


def _jsonl(
    path: Path,
    digest: Digest,
    max_line_bytes: int,
    hint: str = "write one object per line (a file that is one JSON array is named .json)",
) -> Iterator[FileRecord]:
    for number, text in lines(path, digest, max_line_bytes):
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
        yield FileRecord(number, where, _object(value, where, hint))


def _json(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[FileRecord]:
    if _has_lines(path, max_line_bytes):
        hint = "a .json dataset is one array of objects, or has one object per line"
        yield from _jsonl(path, digest, max_line_bytes, hint)
        return
    with path.open("rb") as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DatasetError(
            f"{path}: a JSON array may have {MAX_JSON_BYTES} bytes; convert it to JSON lines, "
            f"which are read line by line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    digest.update(raw)
    text = decoded(path, raw, first_line=1, offset=0)
    del raw
    try:
        yield from _elements(path, text, max_line_bytes)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}:{error.lineno}: not JSON at column {error.colno}: {error.msg}; a .json "
            "dataset is one array of objects, or has one object per line"
        ) from error


def _has_lines(path: Path, max_line_bytes: int) -> bool:
    """Return whether a .json file begins with two lines that are objects, or is one such line.

    JSON lines often have the name, those of the Prometheus repository for example.
    """
    with path.open("rb") as file:
        first = file.readline(max_line_bytes).removeprefix(BOM_UTF8)
        second = file.readline(_PEEKED_BYTES)
    if not first.lstrip().startswith(b"{"):
        return False
    return second.lstrip().startswith(b"{") or (not second and first.rstrip().endswith(b"}"))


def _elements(path: Path, text: str, max_bytes: int) -> Iterator[FileRecord]:
    """Yield the objects of a JSON array, parsed one by one so that each has a line."""

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
        yield FileRecord(number, where, _object(value, where, "write an array of objects"))
        at = skip(end)
        closing = text.startswith("]", at)
        if not closing:
            if not text.startswith(",", at):
                raise json.JSONDecodeError("expected , or ]", text, at)
            at = skip(at + 1)
    if skip(at + 1) != len(text):
        raise json.JSONDecodeError("more text after the array", text, skip(at + 1))


# What usually separates the cells in files of these formats.
_USUAL: Mapping[str, str] = {"csv": ",", "tsv": "\t"}

_Reader = Callable[[Path, Digest, int], Iterator[FileRecord]]
_READERS: Mapping[str, _Reader] = {
    "jsonl": _jsonl,
    "json": _json,
    "parquet": read_parquet,
    ARROW: read_arrow,
}
