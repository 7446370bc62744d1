"""Between a streamed answer and a whole one: `fold(chunks)` and `unfold(completion)`. No IO.

Fields that are new to us survive: text grows, lists with an `index` merge by it, and anything else
keeps its last value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from providers import wire
from providers.http import sse
from providers.translation.compose import words
from providers.usage import count_of

_Object = dict[str, Any]

# Texts that come once and not piece by piece.
_ONCE = frozenset({"role", "id", "type", "name", "finish_reason", "object", "model"})


# Of a list whose items have an `index`, such as the tool calls of a choice.
MAX_ITEMS = 1000


class _Text:
    """A text that grows: its pieces are joined once, at the end."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: str) -> None:
        self.pieces = [*pieces]


_decode = msgspec.json.Decoder(_Object).decode


def fold_stream(body: bytes) -> tuple[_Object, bool]:
    """Return the completion that a stream amounts to, and whether the stream has its [DONE].

    Raises:
        msgspec.MsgspecError, UnicodeError, RecursionError: an event is no JSON object.
        AttributeError, TypeError, ValueError: the chunks are not a completion's.
    """
    chunks = []
    is_done = False
    for event in sse.Parser(limit=len(body) + 2).feed(body + b"\n\n"):
        is_done = event.data.strip() == b"[DONE]"
        if is_done:
            break
        if event.event == "message":
            chunks.append(_decode(event.data))
    return fold(chunks), is_done


def fold(chunks: Iterable[_Object]) -> _Object:
    """Return the chat or text completion that the chunks of a stream amount to.

    Raises:
        AttributeError, TypeError, ValueError: the chunks are not a completion's.
    """
    whole: _Object = {}
    choices: dict[int, _Object] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name != "choices" and (value is not None or name not in whole):
                whole[name] = value
        for piece in chunk.get("choices") or ():
            index = count_of(piece.get("index")) or 0
            _merge(choices.setdefault(index, {"index": index}), piece)
    for choice in choices.values():
        _join(choice)
    if str(whole.get("object", "")).startswith("chat.completion"):
        whole["object"] = "chat.completion"
        for choice in choices.values():
            message = choice.pop("delta", {})
            for call in message.get("tool_calls") or ():
                call.pop("index", None)
            choice["message"] = {"role": "assistant", "content": None} | message
            choice.setdefault("finish_reason", None)
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _merge(into: _Object, piece: _Object) -> None:
    for name, value in piece.items():
        before = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, str) and isinstance(before, _Text):
            before.pieces.append(value)
        elif isinstance(value, str) and isinstance(before, str) and name not in _ONCE:
            into[name] = _Text(before, value)
        elif isinstance(value, dict) and isinstance(before, dict):
            _merge(before, value)
        elif isinstance(value, list):
            into[name] = before if isinstance(before, list) else []
            _merge_list(into[name], value)
        elif isinstance(value, dict):
            into[name] = {}
            _merge(into[name], value)
        else:
            into[name] = value


def _merge_list(into: list[Any], pieces: list[Any]) -> None:
    for item in pieces:
        if not isinstance(item, dict) or "index" not in item:
            into.append(item)
            continue
        match = next((known for known in into if known.get("index") == item["index"]), None)
        if match is None:
            if len(into) >= MAX_ITEMS:
                raise ValueError(f"a list has over {MAX_ITEMS} items")
            match = {"index": item["index"]}
            into.append(match)
        _merge(match, item)


def _join(value: Any) -> None:
    """Put whole texts in place of those that grew, in an object or a list."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, _Text):
            value[key] = "".join(inner.pieces)
        elif isinstance(inner, dict | list):
            _join(inner)


def unfold(whole: _Object, *, include_usage: bool) -> Iterator[bytes]:
    """Yield the events of a stream that amounts to a completion, `[DONE]` included."""
    head = {name: value for name, value in whole.items() if name not in ("choices", "usage")}
    chat = head.get("object") == "chat.completion"
    if chat:
        head["object"] = "chat.completion.chunk"
    if include_usage:
        head["usage"] = None
    for choice in whole.get("choices") or ():
        for delta in _deltas(choice) if chat else _texts(choice):
            piece = {"index": choice.get("index", 0), "finish_reason": None, **delta}
            yield sse.encode(wire.encode({**head, "choices": [piece]}))
    if include_usage and whole.get("usage"):
        yield sse.encode(wire.encode({**head, "choices": [], "usage": whole["usage"]}))
    yield sse.DONE


def _deltas(choice: _Object) -> Iterator[_Object]:
    """Yield the deltas of a choice, in the order in which a model would write them."""
    message = dict(choice.get("message") or {})
    content = message.pop("content", None)
    calls = message.pop("tool_calls", None)
    yield {"delta": {"role": message.pop("role", "assistant"), "content": None}}
    if message:
        yield {"delta": message}
    if isinstance(content, str):
        for piece in words(content) or [""]:
            yield {"delta": {"content": piece}}
    elif content is not None:
        yield {"delta": {"content": content}}
    if calls is not None:
        yield {"delta": {"tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}}
    yield _ending(choice, {"delta": {}}, "message")


def _texts(choice: _Object) -> Iterator[_Object]:
    for piece in words(choice.get("text") or ""):
        yield {"text": piece}
    yield _ending(choice, {"text": ""}, "text")


def _ending(choice: _Object, empty: _Object, content_key: str) -> _Object:
    rest = {name: value for name, value in choice.items() if name not in (content_key, "index")}
    return {**empty, **rest}
