"""Checks the names of models, routes, runs, datasets, tags and fields of requests.

    check_name(model, "model")      # RequestError, with what is wrong and what to do

Names become rows, labels of metrics and headers. Those who choose them must not be able to fill
memory with them, or to write lines of their own into a log.
"""

from __future__ import annotations

import re

from providers.errors import InputError, RequestError

MAX_NAME_BYTES = 256
# Bytes of paths and URLs, which name a place.
MAX_ADDRESS_BYTES = 8192
# Control characters, what ends a line in some readers, and halves of surrogate pairs: the last are
# no text, and neither SQLite nor a header can have them.
_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_name(
    name: str,
    place: str,
    error: type[InputError] = RequestError,
    *,
    param: str | None = None,
    max_bytes: int = MAX_NAME_BYTES,
) -> None:
    """Refuse a text that cannot be a name.

    Args:
        name: the text.
        place: where it stands, as the message's beginning.
        error: the type of error to raise.
        param: the place for programs; None for `place`.
        max_bytes: bytes of UTF-8 that it may have.

    Raises:
        error: the text is too long, or has a character that no name has.
    """
    fault = _fault(name, max_bytes)
    if fault is not None:
        # Errors of documents have a code of their own.
        code = error.code or fault.code
        raise error(f"{place}: {fault.message}", param=param or place, code=code)


def as_name(text: str) -> str:
    """Return a name made of a text that was not chosen as one, such as a file's name."""
    encoded = _REFUSED.sub("\N{REPLACEMENT CHARACTER}", text).encode()[:MAX_NAME_BYTES]
    return encoded.decode(errors="ignore")


def _fault(name: str, max_bytes: int) -> RequestError | None:
    """Return what keeps a text from being a name; None when nothing does."""
    # A character has a byte at least, and what is far too long is not searched.
    if len(name) > max_bytes:
        return _too_long(f"{len(name):,} characters", max_bytes)
    if match := _REFUSED.search(name):
        return RequestError(
            f"has the character U+{ord(match[0]):04X} at {match.start()}, which no name can have; "
            "leave it out",
            code="invalid_value",
        )
    size = len(name.encode())
    return None if size <= max_bytes else _too_long(f"{size:,} bytes", max_bytes)


def _too_long(size: str, max_bytes: int) -> RequestError:
    return RequestError(
        f"is too long: {size}, of at most {max_bytes:,} bytes of UTF-8; choose a shorter name",
        code="string_above_max_length",
    )
