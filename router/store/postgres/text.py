"""How Python's values travel to PostgreSQL and back, where psycopg's own way is not ours.

PostgreSQL's text cannot have the character NUL, which answers of models have now and then. It is
stored as the two characters DLE @, and a DLE as two; nothing else is changed, and equal texts stay
equal. JSON text has neither: it writes both as escapes.

Many rows travel as lines of CSV, which are lines of JSON but for the brackets: encoding them takes
a tenth of the time of converting value by value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from types import NoneType
from typing import Any

import msgspec
from psycopg.adapt import AdaptersMap, Buffer, Dumper, Loader
from psycopg.postgres import adapters as usual_adapters
from psycopg.pq import Format
from psycopg.types.string import StrDumper

_DLE = "\x10"
_NUL = "\0"
_ESCAPE = re.compile(r"\x10(.)", re.DOTALL)
_INT2, _TEXT = 21, 25

# How COPY reads `csv_lines`.
CSV_OPTIONS = r" (FORMAT csv, ESCAPE '\', NULL 'null')"
_encode_lines = msgspec.json.Encoder().encode_lines
# What JSON writes otherwise than CSV does; NUL and DLE are among it.
_JSON_ESCAPE = re.compile(rb"\\[bfnrtu]")
_SAME_IN_JSON = frozenset({str, int, float, NoneType})


class _TextDumper(StrDumper):
    """Sends text. Raises UnicodeEncodeError for a lone surrogate, which no UTF-8 has."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(stored(obj))


class _TextLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        text = str(data, "utf-8")
        return original(text) if _DLE in text else text


class _TruthDumper(Dumper):
    """Sends a truth value as the integer that its column has."""

    oid = _INT2

    def dump(self, obj: bool) -> Buffer | None:
        return b"1" if obj else b"0"


def stored(text: str) -> str:
    """Return the text as it is stored."""
    if _NUL in text or _DLE in text:
        return text.replace(_DLE, _DLE * 2).replace(_NUL, f"{_DLE}@")
    return text


def original(text: str) -> str:
    """Return the text that is stored so."""
    return _ESCAPE.sub(lambda match: _NUL if match[1] == "@" else _DLE, text)


def csv_lines(rows: Sequence[Sequence[Any]]) -> bytes | None:
    """Return rows as lines of CSV; None where a value needs more than JSON's text of it.

    Raises UnicodeEncodeError for a lone surrogate, which no UTF-8 has.
    """
    values = list(chain.from_iterable(rows))
    if not _SAME_IN_JSON.issuperset(map(type, values)):
        return None
    lines = _encode_lines(rows)
    if _JSON_ESCAPE.search(lines):
        return None
    # JSON has null for a number that is not finite. Texts may have the word too, within quotes.
    nulls = lines.count(b",null") + lines.count(b"[null")
    if nulls != values.count(None):
        return None
    return lines[1:-2].replace(b"]\n[", b"\n")


adapters = AdaptersMap(usual_adapters)
adapters.register_dumper(str, _TextDumper)
adapters.register_dumper(bool, _TruthDumper)
adapters.register_loader(_TEXT, _TextLoader)
