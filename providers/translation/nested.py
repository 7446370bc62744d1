"""Fits what is below the top level of a chat request to a host: messages, parts, tools. No IO.

A conversation that began on one host goes on at another, so messages come back with what the first
host added to its answers (`reasoning_content`, `annotations`, `tool_calls[].index`), and with what
a client wrote for it (`cache_control`). `Nested` has the names that a host takes there; the
others are left out as names at the top level are, and named in the record by their path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from providers.translation.translate import Edits

_Object = dict[str, Any]

_WHY = "the host does not know this name there"
# Roles without a row of their own.
_OTHERS = ""


class Nested(msgspec.Struct, frozen=True, kw_only=True):
    """The names that a host takes below the top level.

    Attributes:
        messages: the names that a message may have, by role; the key "" stands for the roles that
            are not listed.
        calls: the names of a tool call; those of its function are `name` and `arguments`.
        parts: further names of a content part, besides `type` and the one that its type gives.
        tools: the names of a tool; those of its function are OpenAI's.
        why: why others are left out, for the record.
    """

    messages: Mapping[str, frozenset[str]]
    calls: frozenset[str] = frozenset({"id", "type", "function"})
    parts: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset({"type", "function"})
    why: str = _WHY

    def fit_messages(self, messages: Any, edits: Edits) -> Any:
        """Return the messages without the names that the host does not take; a Converter."""
        if not isinstance(messages, list):
            return messages
        return [
            self._fit_message(message, edits) if _is_object(message) else message
            for message in messages
        ]

    def fit_tools(self, tools: Any, edits: Edits) -> Any:
        """Return the tools without the names that the host does not take; a Converter."""
        if not isinstance(tools, list):
            return tools
        return [
            self._only(tool, self.tools, "tools", edits)
            if _is_object(tool) and tool.get("type") == "function"
            else tool
            for tool in tools
        ]

    def _fit_message(self, message: _Object, edits: Edits) -> _Object:
        role = message.get("role")
        known = self.messages.get(role if isinstance(role, str) else _OTHERS)
        if known is None:
            known = self.messages[_OTHERS]
        fitted = self._only(message, known, "messages", edits)
        content, calls = fitted.get("content"), fitted.get("tool_calls")
        if isinstance(content, list):
            fitted = {**fitted, "content": [self._fit_part(part, edits) for part in content]}
        if isinstance(calls, list):
            fitted = {**fitted, "tool_calls": [self._fit_call(call, edits) for call in calls]}
        return fitted

    def _fit_part(self, part: Any, edits: Edits) -> Any:
        kind = part.get("type") if _is_object(part) else None
        if not isinstance(kind, str):
            return part
        return self._only(part, self.parts | {"type", kind}, "messages.content", edits)

    def _fit_call(self, call: Any, edits: Edits) -> Any:
        if not _is_object(call):
            return call
        fitted = self._only(call, self.calls, "messages.tool_calls", edits)
        function = fitted.get("function")
        if not _is_object(function):
            return fitted
        known = frozenset({"name", "arguments"})
        path = "messages.tool_calls.function"
        return {**fitted, "function": self._only(function, known, path, edits)}

    def _only(self, given: _Object, known: frozenset[str], path: str, edits: Edits) -> _Object:
        foreign = given.keys() - known
        if not foreign:
            return given
        return {
            name: value
            for name, value in given.items()
            if name not in foreign or not leaves_out(value, f"{path}.{name}", self.why, edits)
        }


def leaves_out(value: Any, path: str, why: str, edits: Edits) -> bool:
    """Return whether to leave out a name that a host does not know; note it if so.

    Empty values lose nothing, nor does the index of a tool call, which is its place in the list.
    """
    if value is None or value in ([], {}, ""):
        edits.convert(path, "left out: it is empty")
        return True
    if path == "messages.tool_calls.index":
        edits.convert(path, "left out: the order of the calls says it")
        return True
    return edits.drop(path, why)


def _is_object(value: Any) -> TypeGuard[_Object]:
    return isinstance(value, dict)


# What OpenAI's own API answers "Unknown parameter" to, and other hosts and SDKs put into messages.
_FOREIGN_TO_OPENAI = frozenset(
    {
        "cache_control",
        "extra_content",
        "metadata",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "thinking_blocks",
    }
)
_FOREIGN_BYTES = re.compile(
    rb'"(?:' + b"|".join(sorted(name.encode() for name in _FOREIGN_TO_OPENAI)) + rb'|index)"'
)


def has_foreign(messages: bytes) -> bool:
    """Return whether messages may hold names that OpenAI's API refuses, by their bytes alone."""
    return _FOREIGN_BYTES.search(messages) is not None


def without_foreign(value: Any, edits: Edits, path: str = "messages") -> Any:
    """Return messages or tools without the names of other hosts; a Converter for OpenAI's own API.

    A list of what OpenAI refuses, not of what it takes: it adds names, and those must pass.
    """
    if isinstance(value, list):
        return [without_foreign(inner, edits, path) for inner in value]
    if not _is_object(value):
        return value
    fitted: _Object = {}
    for name, inner in value.items():
        place = f"{path}.{name}"
        foreign = name in _FOREIGN_TO_OPENAI or place == "messages.tool_calls.index"
        if foreign and leaves_out(inner, place, "OpenAI's API refuses it", edits):
            continue
        # A tool's parameters are a schema, whose names are the client's.
        deeper = place in ("messages.content", "messages.tool_calls")
        fitted[name] = without_foreign(inner, edits, place) if deeper else inner
    return fitted


def text_for_parts(messages: Any, edits: Edits) -> Any:
    """Return messages whose content is a string; a Converter for hosts that take no list of parts.

    Texts are joined by a line break. Other parts are left out, as what a host cannot express is.
    """
    if not isinstance(messages, list):
        return messages
    return [
        _text_for_parts(message, edits) if _is_object(message) else message for message in messages
    ]


def _text_for_parts(message: _Object, edits: Edits) -> _Object:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts: list[str] = []
    for part in content:
        text = part.get("text") if _is_object(part) and part.get("type") == "text" else None
        if isinstance(text, str):
            texts.append(text)
            continue
        kind = part.get("type") if _is_object(part) else None
        if not edits.drop(f"messages.content.{kind}", "the host takes text only"):
            return message
    edits.convert("messages.content", "parts joined into one text")
    return {**message, "content": "\n".join(texts)}


class ToolCallIndexes:
    """Numbers the tool calls of a streamed answer, for hosts that do not, or number all of them 0.

    One for a stream. A client puts a call's pieces together by `index`: two calls with the same one
    would become a single call whose arguments cannot be read.
    """

    def __init__(self) -> None:
        # By choice: each call's own number by the id that the host gave it, and the last one.
        self._by_id: dict[int, dict[str, int]] = {}
        self._last: dict[int, int] = {}
        # Choices whose calls are not numbered, or all the same.
        self._misnumbered: set[int] = set()

    def fix(self, choice: int, calls: Any) -> bool:
        """Set the indexes of a delta's `tool_calls`; return whether any had to be changed."""
        changed = False
        for call in calls if isinstance(calls, list) else ():
            if not _is_object(call):
                continue
            index = self._index_of(choice, call)
            if call.get("index") != index:
                call["index"] = index
                changed = True
        return changed

    def _index_of(self, choice: int, call: _Object) -> int:
        by_id = self._by_id.setdefault(choice, {})
        given, identity = call.get("index"), call.get("id")
        if not isinstance(identity, str) or not identity:
            # A further piece of a call, or a call of a host without ids, which comes whole.
            function = call.get("function")
            begins = _is_object(function) and bool(function.get("name"))
            if not begins:
                # Where they are numbered rightly, calls may come interleaved.
                if _is_number(given) and (given > 0 or choice not in self._misnumbered):
                    return given
                return self._last.get(choice, 0)
            identity = f"\0{len(by_id)}"
        if identity not in by_id:
            taken = set(by_id.values())
            if not _is_number(given) or given in taken:
                self._misnumbered.add(choice)
                given = max(taken, default=-1) + 1
            by_id[identity] = given
        self._last[choice] = by_id[identity]
        return by_id[identity]


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
