"""What of a request is embedded: the text of the last message of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from providers.wire import UNREADABLE

MAX_CHARACTERS = 8000
"""Longer texts are cut: embedding models read no further than a few hundred tokens."""


class _Message(msgspec.Struct):
    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    text: Any = None


_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_content = msgspec.json.Decoder(str | list[str | _Part] | None).decode


def text_of_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what is embedded of a chat; "" where the user's last message has no text."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def text_of_envelope(envelope: Mapping[str, msgspec.Raw]) -> str:
    """Return what is embedded of a request, by its fields as bytes; "" for nothing."""
    try:
        if "messages" in envelope:
            for message in reversed(_decode_messages(envelope["messages"])):
                if message.role == "user":
                    return _text(_decode_content(message.content))
        elif "prompt" in envelope:
            return _text(_decode_content(envelope["prompt"]))
    except UNREADABLE:
        return ""
    return ""


def in_tool_loop(envelope: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether the last message of a request is the result of a tool."""
    try:
        messages = _decode_messages(envelope.get("messages") or b"[]")
    except UNREADABLE:
        return False
    return bool(messages) and messages[-1].role in ("tool", "function")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content[:MAX_CHARACTERS].strip()
    texts = []
    for part in content if isinstance(content, list) else ():
        text = part if isinstance(part, str) else getattr(part, "text", None)
        if isinstance(part, Mapping):
            text = part.get("text")
        if isinstance(text, str):
            texts.append(text)
    return "\n".join(texts)[:MAX_CHARACTERS].strip()
