"""The parts of every reader of files: its records, its digest, and lines of text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from providers.errors import DatasetError

MAX_COLUMNS = 4096

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Digest(Protocol):
    """The part of `hashlib.sha256()` that readers use."""

    def update(self, data: bytes, /) -> None:
        """Add bytes to the digest."""
        ...


class FileRecord(NamedTuple):
    """One row as it is in the file.

    `number` is the line for JSON lines and the row, from 1, for everything else; `where` is the
    beginning of an error message about it.
    """

    number: int
    where: str
    fields: dict[str, Any]


def lines(path: Path, digest: Digest, max_line_bytes: int) -> Iterator[tuple[int, str]]:
    """Yield numbered lines with their ends. Only a newline ends a line."""
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
            yield number, decoded(path, raw, first_line=number, offset=offset)
            offset += len(raw)


def decoded(path: Path, raw: bytes, *, first_line: int, offset: int) -> str:
    """Decode bytes that lie at `offset` of the file, without a byte order mark at its start.

    Raises:
        DatasetError: they are not UTF-8; names the line and the byte.
    """
    if offset == 0 and raw.startswith(_BOM):
        raw, offset = raw[len(_BOM) :], len(_BOM)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        if offset == 0 and raw.startswith(_UTF_16):
            raise DatasetError(f"{path}: begins as UTF-16 does; save the file as UTF-8") from error
        raise DatasetError(
            f"{path}:{line}: byte {offset + error.start} of the file (0x{raw[error.start]:02x}) "
            "is not UTF-8; save the file as UTF-8"
        ) from error


def kind(value: Any) -> str:
    """Return the kind of a JSON value in words for an error message."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
