"""How Python's values travel to PostgreSQL and back, where psycopg's own way is not ours.

PostgreSQL's text cannot have the character NUL, which answers of models have now and then. It is
stored as the two characters DLE @, and a DLE as two; nothing else is changed, and equal texts stay
equal. JSON text has neither: it writes both as escapes.
"""

from __future__ import annotations

import re

from psycopg.adapt import AdaptersMap, Buffer, Dumper, Loader
from psycopg.postgres import adapters as usual_adapters
from psycopg.pq import Format
from psycopg.types.string import StrDumper

_DLE = "\x10"
_NUL = "\0"
_ESCAPE = re.compile(r"\x10(.)", re.DOTALL)
_INT2, _TEXT = 21, 25


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


adapters = AdaptersMap(usual_adapters)
adapters.register_dumper(str, _TextDumper)
adapters.register_dumper(bool, _TruthDumper)
adapters.register_loader(_TEXT, _TextLoader)
