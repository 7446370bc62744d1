"""Single values: JSON text, numbers that JSON and a mean can carry, and damaged ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import msgspec

from providers.errors import StoreError

log = logging.getLogger("evalrouter")

_Columns = TypeVar("_Columns")
_Row = TypeVar("_Row")

# What reading a damaged column raises: a RecursionError where JSON is nested too deep, a TypeError
# where NULL is in the place of JSON.
UNREADABLE = (msgspec.MsgspecError, TypeError, UnicodeError, RecursionError)


def json_text(value: Any) -> str:
    """Return `value` as JSON text.

    msgspec would write NaN as null, which is not what was measured.

    Raises:
        StoreError: a number in it is NaN or infinite.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float):
            finite(item, "a JSON value")
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
    return msgspec.json.encode(value).decode()


def finite(value: Any, name: str) -> Any:
    """Return `value`. Raises StoreError where it is a number that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise StoreError(f"cannot store {value} as {name!r}: it is not a finite number")
    return value


def column_of(value: Any, name: str, json: Collection[str]) -> Any:
    """Return a field's value as its column has it: as JSON text where `json` names the field.

    Raises:
        StoreError: a number in it is NaN or infinite.
    """
    return json_text(value) if name in json else finite(value, name)


def fields_of(
    names: Iterable[str], columns: Iterable[Any], json: Collection[str]
) -> dict[str, Any]:
    """Return a row's fields by their names; the columns that `json` names are JSON texts."""
    return {
        name: msgspec.json.decode(value) if name in json else value
        for name, value in zip(names, columns, strict=True)
    }


def readable(
    rows: Iterable[_Columns], read: Callable[[_Columns], _Row], name: Callable[[_Columns], str]
) -> list[_Row]:
    """Read rows for a list; one that cannot be read is named in the log, and hides no other."""
    readable_rows = []
    for columns in rows:
        try:
            readable_rows.append(read(columns))
        except UNREADABLE as error:
            log.error("%s cannot be read and is left out: %s", name(columns), error)
    return readable_rows
