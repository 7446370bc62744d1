"""Reads JSON of hosts as Python's objects; a number that Python cannot hold becomes null.

JSON sets numbers no bounds: `1e400`, or an integer of 5,000 digits, is well formed. msgspec refuses
the whole document then; but a count that cannot be must not cost the answer beside it.

The number of values is bounded: 18 MB of `[[]]` take seconds to become objects, and no other thread
of the process runs in that time, as msgspec keeps the interpreter's lock.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

# A string to its end (or the document's), or a number. Each byte is read once.
_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL
)
# Any number of fewer characters, without an exponent, can be read.
_SHORT = 19
# Lists, objects and keys of a document: at most half a second's worth. An answer of 9,000 tokens
# has as many where each token has the log probabilities of 20 others beside it.
MAX_VALUES = 1_000_000
# Shorter documents are read without counting.
_FEW_BYTES = 64 * 1024

_decode = msgspec.json.Decoder(Any).decode


def decode(data: bytes | msgspec.Raw) -> Any:
    """Read a document.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no JSON, or has more
            than MAX_VALUES lists, objects and keys.
    """
    check_values(data)
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
    value = decode(data)
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"Expected `object`, got `{type(value).__name__}`")
    return value


def check_values(data: bytes | msgspec.Raw) -> None:
    """Refuse a document with over MAX_VALUES lists, objects and keys.

    Raises:
        msgspec.DecodeError: it has more.
    """
    if len(data) <= _FEW_BYTES:
        return
    # Those within texts count too, and are few there.
    if sum(map(bytes(data).count, (b"[", b"{", b":"))) > MAX_VALUES:
        raise msgspec.DecodeError(f"it has over {MAX_VALUES:,} lists, objects and keys")


def _null_if_odd(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token.startswith(b'"') or (len(token) < _SHORT and token.lstrip(b"-").isdigit()):
        return token
    try:
        _decode(token)
    except msgspec.DecodeError:
        return b"null"
    return token
