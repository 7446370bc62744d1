"""Cuts what a row has in a column, so that lists of rows stay small."""

from __future__ import annotations

from typing import Any

import msgspec

SHOWN_CHARACTERS = 500


def cut(value: Any, longest: int = SHOWN_CHARACTERS) -> Any:
    """Return a value, or the beginning of its text where that is longer, with `…` behind it."""
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + "…"
    text = msgspec.json.encode(value).decode()
    return value if len(text) <= longest else text[:longest] + "…"
