"""Reads JSON of hosts as Python's objects; a number that none can hold is null by itself.

JSON sets numbers no bounds: `1e400`, or an integer of 5,000 digits, is well formed. msgspec refuses
the whole document then; but a count that cannot be must not cost the answer beside it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

# A string to its end (or the document's), or a number. Everything is looked at once.
_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL
)
# Any number of fewer characters, without an exponent, can be read.
_SHORT = 19

_decode = msgspec.json.Decoder(Any).decode


def decode(data: bytes | msgspec.Raw) -> Any:
    """Read a document.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no JSON.
    """
    try:
        return _decode(data)
    except msgspec.DecodeError:
        before = bytes(data)
        after = _TOKEN.sub(_null_if_odd, before)
        if after == before:
            raise
        return _decode(after)


def decode_object(data: bytes | msgspec.Raw) -> dict[str, Any]:
    """Read a document that is an object.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no JSON, or no object.
    """
    found = decode(data)
    if not isinstance(found, dict):
        raise msgspec.ValidationError(f"Expected `object`, got `{type(found).__name__}`")
    return found


def _null_if_odd(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token.startswith(b'"') or (len(token) < _SHORT and token.lstrip(b"-").isdigit()):
        return token
    try:
        _decode(token)
    except msgspec.DecodeError:
        return b"null"
    return token
