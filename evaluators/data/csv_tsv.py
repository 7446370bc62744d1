"""CSV in any dialect, one row at a time: RFC 4180's quoting, with any delimiter.

The delimiter is the one that is named, else that of a first line `sep=;` (as Excel writes it), else
found: the first of comma, semicolon, tab and bar with which the header has several cells and the
first rows as many. Cells stay texts: a decimal comma is not touched. Spreadsheets write more
delimiters than there are columns: empty cells behind the last name of the header are left out.
Other programs write no delimiter at all for the last columns where no row has a value there (such
as the references): where the cells of the first row are in quotes, such columns are empty.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from evaluators.data.records import MAX_COLUMNS, Digest, FileRecord, lines
from providers.errors import DatasetError

_DELIMITERS = (",", ";", "\t", "|")
_SEP_LINE = re.compile(r'"?sep=(?P<delimiter>[^"\r\n])"?\r?\n?', re.IGNORECASE)
# As many lines, and characters, are looked at to find a delimiter.
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 50, 256 * 1024

_Lines = Iterator[tuple[int, str]]


def read_delimited(
    path: Path, digest: Digest, max_line_bytes: int, *, delimiter: str, usual: str
) -> Iterator[FileRecord]:
    """Yield the rows under a header; blank lines and rows of empty cells are skipped.

    Args:
        path: the file.
        digest: is given every byte of the file once.
        max_line_bytes: the longest row.
        delimiter: what separates cells; "" to find out.
        usual: the delimiter to prefer where it is not named.
    """
    named, numbered = _sep_line(lines(path, digest, max_line_bytes))
    delimiter = delimiter or named
    if not delimiter:
        delimiter, numbered = _detected(path, numbered, usual, max_line_bytes)
    table = _Table(path, numbered, delimiter, max_line_bytes)
    header: list[str] = []
    # How many cells a row has, and the columns that no row has a cell for.
    width, absent = 0, dict[str, str]()
    row = 0
    for number, all_cells in table.rows():
        where = f"{path}:{number}"
        if not header:
            header = _header(_filled([cell.strip() for cell in all_cells]), where)
            width = len(header)
            continue
        if not any(map(str.strip, all_cells)):
            continue
        cells = _filled(all_cells, width)
        if not row and len(cells) < width and table.row_is_quoted:
            width = len(cells)
            absent = dict.fromkeys(header[width:], "")
        if len(cells) != width:
            other = f"the rows before it {width}" if absent else f"the header {width}"
            raise DatasetError(
                f"{where}: the row has {len(cells)} cells, {other}; put a cell that "
                f"contains {delimiter!r} or a newline in double quotes, or name another delimiter"
            )
        row += 1
        yield FileRecord(row, where, dict(zip(header, cells, strict=False)) | absent)


def _sep_line(numbered: _Lines) -> tuple[str, _Lines]:
    """Return the delimiter that a first line `sep=;` names, and the other lines."""
    first = next(numbered, None)
    if first is None:
        return "", numbered
    line = _SEP_LINE.fullmatch(first[1])
    return (line["delimiter"], numbered) if line else ("", itertools.chain([first], numbered))


def _filled(cells: list[str], at_least: int = 1) -> list[str]:
    """Return the cells without the empty ones at their end, but at least so many."""
    while len(cells) > at_least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _detected(
    path: Path, numbered: _Lines, usual: str, max_row: int
) -> tuple[str, Iterator[tuple[int, str]]]:
    """Return the delimiter, and the lines that have the table."""
    sample: list[tuple[int, str]] = []
    size = 0
    for number, text in numbered:
        sample.append((number, text))
        size += len(text)
        if len(sample) == _SAMPLE_LINES or size > _SAMPLE_CHARACTERS:
            break
    candidates = (usual, *(mark for mark in _DELIMITERS if mark != usual))
    fits = (mark for mark in candidates if _fits(path, sample, mark, max_row))
    return next(fits, usual), itertools.chain(sample, numbered)


def _fits(path: Path, sample: list[tuple[int, str]], delimiter: str, max_row: int) -> bool:
    """Return whether all rows of the sample have as many cells as the header, and that several."""
    width = 0
    try:
        for _, cells in _Table(path, iter(sample), delimiter, max_row).rows():
            width = width or len(_filled(cells))
            if width < 2 or (len(_filled(cells, width)) != width and any(cells)):
                return False
    except DatasetError:
        # The sample may end within a quoted cell; what is wrong beyond that shows later.
        return width > 1
    return width > 1


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

    The standard library's reader takes half the time (`docs/decisions/0007-datasets.md`). But it
    refuses cells over 128 KiB unless a limit of the whole process is raised, reads on to the end of
    the file after a quote that is not closed, and says neither where that quote was opened nor in
    which column anything is wrong.

    Attributes:
        row_is_quoted: whether every cell of the last row is in quotes, so that nothing in it can
            be a delimiter that was not recognized.
    """

    def __init__(
        self, path: Path, lines: Iterator[tuple[int, str]], delimiter: str, max_row: int
    ) -> None:
        self._path = path
        self._lines = lines
        self._delimiter = delimiter
        self._max_row = max_row
        self._number, self._text, self._at = 0, "", 0
        self.row_is_quoted = False

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row's first line and its cells."""
        while self._next_line():
            if self._text not in ("\n", "\r\n"):
                number = self._number
                self.row_is_quoted = True
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
            self.row_is_quoted &= quoted
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
        first_line, parts, size = self._number, [], 0
        self._at += 1
        while True:
            end = self._text.find('"', self._at)
            if end < 0:
                parts.append(self._text[self._at :])
                size += len(parts[-1])
                if size > self._max_row or not self._next_line():
                    raise DatasetError(
                        f"{self._path}:{first_line}: the quote opened here is not closed within "
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
