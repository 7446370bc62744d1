"""Single values: JSON text, and numbers that JSON and a mean can carry."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from providers.errors import StoreError


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
