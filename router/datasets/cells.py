"""Cuts what a row has in a column, so that lists of rows stay small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

SHOWN_CHARACTERS = 500
# Of a chat, the last ones.
_SHOWN_MESSAGES = 4


def cut(value: Any, longest: int = SHOWN_CHARACTERS) -> Any:
    """Return a value, or the beginning of its text where that is longer, with `…` behind it."""
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + "…"
    text = msgspec.json.encode(value).decode()
    return value if len(text) <= longest else text[:longest] + "…"


def cut_cell(value: Any, longest: int = SHOWN_CHARACTERS) -> Any:
    """Return a value as `cut` does, where a chat stays one.

    It has its last messages alone, each with its `role` and, as `content`, the text of it, or what
    it has besides as JSON; `…` is the role of what says how many were left out.
    """
    if not is_chat(value):
        return cut(value, longest)
    shown = [
        {"role": message["role"], "content": cut(_words_of(message), longest)}
        for message in value[-_SHOWN_MESSAGES:]
    ]
    if more := len(value) - len(shown):
        shown.insert(0, {"role": "…", "content": f"{more:,} before these"})
    return shown


def is_chat(value: Any) -> bool:
    """Return whether a value is the messages of a chat."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value)
    )


def _words_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    others = {name: each for name, each in message.items() if name not in {"role", "content"}}
    if others or not all(isinstance(text, str) for text in texts):
        others |= {} if isinstance(content, str) else {"content": content}
        texts.append(msgspec.json.encode(others).decode())
    return "\n".join(text for text in texts if isinstance(text, str))
