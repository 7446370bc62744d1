"""YAML read within limits: what a small document may grow to is known before it is built.

An alias repeats a whole part of a document, so ten short lines can stand for a billion values, and
brackets nested by the thousand crash the parser. `check` reads a document as events, which takes
little memory whatever they say, and refuses those that are too much, and numbers without an end
(`.inf`, `.nan`, `1.0e+999`): no option means them, and JSON cannot store them.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import yaml

from providers.plain_files import read_plain_file

MAX_BYTES = 4 * 2**20
MAX_VALUES = 300_000
MAX_DEPTH = 100

# Documents up to this many characters may be read by PyYAML's slower reader, which says better
# where a mistake is, and takes escapes that the other one refuses: halves of surrogate pairs.
SLOWLY_READ = 100_000
_HALF = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")
# So many bytes of a text count as one more value.
_TEXT_BYTES = 64

# What PyYAML raises over a value that is not what its tag or form says: a date with a 13th month, a
# number of five thousand digits, `!!bool perhaps`.
UNREADABLE_VALUE = (ValueError, ArithmeticError, TypeError, LookupError, AttributeError)

_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}

_FLOAT = "tag:yaml.org,2002:float"
_RESOLVER: Any = yaml.SafeLoader("")
# What may be a number that is not finite, besides one of so many digits.
_ENDLESS = re.compile(r"[-+]?(?:\.(?:inf|nan)|[0-9._]+e\+[0-9]+)", re.IGNORECASE)
_DIGITS = 300

_T = TypeVar("_T")

# The one that is written in C is ten times as fast; a few platforms do not have it.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def kind_of(data: Any) -> str:
    """Return what a document is, in JSON's words."""
    return "null" if data is None else _KINDS.get(type(data), "an object")


def check(data: bytes | str, *, finite: bool = True) -> None:
    """Refuse a document that is too large, too deep, or would be with its aliases written out.

    Other mistakes are left to whoever reads it.

    Args:
        data: the document.
        finite: whether to refuse a number that is not finite, too.

    Raises:
        msgspec.DecodeError: it is one of these; the message names the limit.
    """
    if len(data) > MAX_BYTES:
        raise msgspec.DecodeError(f"it has more than {MAX_BYTES} bytes")
    if isinstance(data, str) and _HALF.search(data):
        raise msgspec.DecodeError("it has bytes that are no UTF-8, or half of a surrogate pair")
    try:
        _check_events(data, Loader, finite=finite)
    except (yaml.YAMLError, UnicodeDecodeError):
        if len(data) <= SLOWLY_READ:
            with suppress(yaml.YAMLError, UnicodeDecodeError):
                _check_events(data, yaml.SafeLoader, finite=finite)


def _check_events(data: bytes | str, loader: Any, *, finite: bool) -> None:
    sizes: dict[str | None, int] = {}
    # Of each collection that is open: its anchor, and how many values it has so far.
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(data, Loader=loader):
        size, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(outer == anchor for outer, _ in open_):
                raise msgspec.DecodeError(_at(event, f"the anchor {anchor} is nested in itself"))
            size = sizes.get(anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            if _HALF.search(event.value):
                why = "a \\u escape is half of a surrogate pair, which is no character"
                raise msgspec.DecodeError(_at(event, why))
            if finite and _is_infinite(event):
                raise msgspec.DecodeError(_at(event, f"{event.value[:40]} is not a finite number"))
            size = 1 + len(event.value) // _TEXT_BYTES
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1))
            if len(open_) > MAX_DEPTH:
                raise msgspec.DecodeError(
                    _at(event, f"nested too deeply, more than {MAX_DEPTH} levels")
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            if anchor is not None:
                sizes[anchor] = size
        within, so_far = open_[-1]
        open_[-1] = within, so_far + size
        if so_far + size > MAX_VALUES:
            raise msgspec.DecodeError(
                _at(event, f"more than {MAX_VALUES} values, with aliases (*name) written out")
            )


def _is_infinite(event: yaml.ScalarEvent) -> bool:
    """Say whether a scalar is an infinite number, or none: JSON has no such numbers."""
    plain, tag = event.implicit[0], event.tag
    if tag is None and plain and (_ENDLESS.fullmatch(event.value) or len(event.value) > _DIGITS):
        tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, (True, False))
    if tag != _FLOAT:
        return False
    try:
        number = _RESOLVER.construct_yaml_float(yaml.ScalarNode(_FLOAT, event.value))
    except UNREADABLE_VALUE:
        return False
    return not math.isfinite(number)


@overload
def decode_file(path: Path) -> Any: ...
@overload
def decode_file(path: Path, kind: type[_T]) -> _T: ...
def decode_file(path: Path, kind: Any = Any) -> Any:
    """Decode a file, which is never read beyond the limit.

    Raises:
        OSError: it cannot be read, has too many bytes, or is no plain file.
        msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError: as `decode` does.
    """
    return decode(read_plain_file(path, MAX_BYTES), kind)


def joined(text: str) -> str:
    """Return a text with its surrogate pairs, as JSON escapes an emoji, as characters.

    Raises:
        UnicodeDecodeError: it has half of a pair.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


class JoiningLoader(yaml.SafeLoader):
    """PyYAML's slower reader, with surrogate pairs as characters."""

    def construct_scalar(self, node: Any) -> str:
        """Return a scalar's text. Raises UnicodeDecodeError for half of a pair."""
        return joined(super().construct_scalar(node))


def _at(event: Any, what: str) -> str:
    return f"line {event.start_mark.line + 1}: {what}"


@overload
def decode(data: bytes | str) -> Any: ...
@overload
def decode(data: bytes | str, kind: type[_T]) -> _T: ...
def decode(data: bytes | str, kind: Any = Any) -> Any:
    """Decode a YAML or JSON document as a `kind`.

    Raises:
        msgspec.DecodeError: it is not YAML, is too much (see `check`), or holds a value that
            cannot be read.
        msgspec.ValidationError: it is not a `kind`.
        UnicodeDecodeError: it is not UTF-8.
    """
    check(data)
    try:
        return msgspec.yaml.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise
    except UNREADABLE_VALUE as error:
        raise msgspec.DecodeError(f"a value cannot be read: {error}") from None
