"""Shortens texts of others for people: errors, names in traces, messages.

shortened("a long text", 7)  # "a long…"
"""

from __future__ import annotations


def shortened(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters; the last one is `…` where some are left out."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
