"""The messages of Anthropic's Messages API as those of chat completions. No IO.

    text                              -> text; only where there is more than that, parts
    image, document (PDF)             -> image_url and file parts
    document (text), search_result    -> text, with title and source in front
    tool_use                          -> tool calls of the assistant's message
    tool_result                       -> tool messages right behind the calls
    thinking, redacted_thinking       -> thinking_blocks, or reasoning_content if unsigned

A run of messages of one role is one turn, as it is in Anthropic's API. A tool message takes text
only: pictures and files of a result follow in the user's message. The word "Error" is put before
the result of a call that failed, where the text does not say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from providers import wire
from providers.errors import RequestError
from providers.translation.messages_checks import (
    invalid,
    objects,
    read_object,
    required,
    text_of,
)
from providers.translation.messages_tools import ToolNames
from providers.translation.translate import Edits

_Object = dict[str, Any]

# Between the texts of a message, as where a host takes no parts (`nested.text_for_parts`).
_BETWEEN = "\n"
_SAYS_ERROR = re.compile(r"\W*(?:\w+_)?error", re.IGNORECASE)
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_WHY_UNSIGNED = "the host takes no earlier thoughts"


def system_text(value: Any, path: str, edits: Edits) -> str:
    """Return a system prompt, a text or text blocks, as one text."""
    if isinstance(value, str):
        return value
    texts = []
    for index, block in enumerate(objects(value, path)):
        place = f"{path}.{index}"
        if _kind(block, place) != "text":
            raise invalid(f"{place}.type", "Input should be 'text'")
        texts.append(_text(block, place))
        _note_marks(block, edits)
    return _BETWEEN.join(texts)


_UNSIGNED = re.compile(rb'"signature"\s*:\s*""')


def has_unsigned(messages: bytes) -> bool:
    """Return whether messages may have thoughts without a signature, by their bytes alone."""
    return _UNSIGNED.search(messages) is not None


def without_unsigned(messages: Any, edits: Edits) -> Any:
    """Return messages without thoughts that have no signature; a Converter for Anthropic's own API.

    It refuses them: another model thought them, in an answer that was translated.
    """
    if not isinstance(messages, list):
        return messages
    signed = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        blocks = content if isinstance(content, list) else []
        rest = [block for block in blocks if not _is_unsigned(block)]
        if len(rest) == len(blocks):
            signed.append(message)
            continue
        edits.convert("messages.content.thinking", "left out where it has no signature")
        if rest:
            signed.append({**message, "content": rest})
    return signed


def _is_unsigned(block: Any) -> bool:
    return (
        isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
    )


class _Spoken:
    """A turn of the assistant's, as far as it has been read."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.signed: list[_Object] = []
        self.thoughts: list[str] = []
        self.calls: list[_Object] = []
        # Blocks that are sent although the host may not know them.
        self.others: list[_Object] = []

    def message(self) -> _Object:
        """Return the turn as one message."""
        text = "".join(self.texts)
        message: _Object = {"role": "assistant", "content": text}
        if self.others:
            message["content"] = [*_as_parts(text), *self.others]
        elif self.calls and not text:
            message["content"] = None
        if self.signed:
            message["thinking_blocks"] = self.signed
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class MessageTurns:
    """Translates the messages of one request.

    Args:
        edits: the record.
        names: of tools.
        takes_reasoning: whether earlier thoughts are sent.
    """

    def __init__(self, edits: Edits, names: ToolNames, *, takes_reasoning: bool) -> None:
        self._edits = edits
        self._names = names
        self._takes_reasoning = takes_reasoning
        self._sent: list[_Object] = []
        # What the user's turn consists of so far.
        self._results: list[_Object] = []
        self._attached: list[_Object] = []
        self._others: list[_Object] = []
        # The calls of the assistant's last turn, and those that have a result.
        self._calls: set[str] = set()
        self._answered: set[str] = set()
        # The assistant's turn, as far as it has been read, and where its last message stands.
        self._spoken: _Spoken | None = None
        self._spoken_place = ""

    def translate(self, messages: Any) -> list[_Object]:
        """Return the chat messages. Raises RequestError where they are not Anthropic's."""
        given = objects(messages, "messages")
        if not given:
            raise invalid("messages", "at least one message is required")
        role = ""
        for index, message in enumerate(given):
            place = f"messages.{index}"
            role = text_of(required(message, "role", place), f"{place}.role")
            content = required(message, "content", place)
            if content in ("", []) and (role != "assistant" or index < len(given) - 1):
                raise invalid(
                    place,
                    "all messages must have non-empty content except for the optional final "
                    "assistant message",
                )
            if role == "assistant":
                self._assistant(content, place)
            elif role == "user":
                self._end_assistant_turn()
                self._user(content, place)
            elif role == "system":
                self._end_assistant_turn()
                text = system_text(content, f"{place}.content", self._edits)
                self._others.append({"role": "system", "content": text})
            else:
                raise invalid(f"{place}.role", "Input should be 'user', 'assistant' or 'system'")
            for name in sorted(message.keys() - {"role", "content"}):
                self._edits.drop(f"messages.{name}", "messages have no such field")
        if role == "assistant":
            self._end_assistant_turn()
            why = "the host may answer anew instead of going on with the last message"
            self._edits.drop("messages.prefill", why)
        else:
            self._end_user_turn()
        self._edits.convert("messages", "to chat messages")
        return self._sent

    # The user's turns

    def _user(self, content: Any, place: str) -> None:
        parts: list[_Object] = []
        for block, path in _blocks(content, f"{place}.content"):
            if block.get("type") == "tool_result":
                self._tool_result(block, path)
            else:
                parts += self._parts(block, path)
        if parts or not self._results:
            _append(self._others, "user", parts)

    def _end_user_turn(self) -> None:
        """Send the user's turn: the results of tools first."""
        missing_results = self._calls - self._answered
        if missing_results:
            ids = ", ".join(sorted(missing_results))
            raise RequestError(
                f"{self._spoken_place}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {ids}. Each `tool_use` block must have a corresponding "
                "`tool_result` block in the next message.",
                param=self._spoken_place,
                code="invalid_value",
            )
        self._sent += self._results
        if self._attached:
            rest = self._others[0] if self._others else None
            if rest is not None and rest["role"] == "user":
                rest["content"] = _content([*self._attached, *_as_parts(rest["content"])])
            else:
                self._sent.append({"role": "user", "content": self._attached})
        self._sent += self._others
        self._results, self._attached, self._others = [], [], []
        self._calls, self._answered = set(), set()

    def _tool_result(self, block: _Object, path: str) -> None:
        identity = text_of(required(block, "tool_use_id", path), f"{path}.tool_use_id")
        if identity not in self._calls:
            raise RequestError(
                f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {identity}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous "
                "message.",
                param=path,
                code="invalid_value",
            )
        if identity in self._answered:
            raise RequestError(
                f"{path}: each tool_use must have a single result. Found multiple `tool_result` "
                f"blocks with id: {identity}",
                param=path,
                code="invalid_value",
            )
        self._answered.add(identity)
        texts, attached = [], []
        content = block.get("content")
        for inner, place in _blocks("" if content is None else content, f"{path}.content"):
            for part in self._parts(inner, place):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    attached.append(part)
        if attached:
            self._edits.convert(
                "messages.content.tool_result", "pictures and files moved to the user's message"
            )
            self._attached += [
                {"type": "text", "text": f"Result of the call {identity}:"},
                *attached,
            ]
            texts = texts or ["The result is in the next message."]
        text = _BETWEEN.join(texts)
        failed = block.get("is_error")
        if failed not in (None, True, False):
            raise invalid(f"{path}.is_error", "Input should be a valid boolean")
        if failed and not _SAYS_ERROR.match(text):
            text = f"Error: {text}"
            self._edits.convert("messages.content.tool_result.is_error", "to the word Error")
        _note_marks(block, self._edits)
        self._results.append({"role": "tool", "tool_call_id": identity, "content": text})

    def _parts(self, block: _Object, path: str) -> list[_Object]:
        """Return the chat parts of a block of the user's; none where it is left out."""
        kind = _kind(block, path)
        _note_marks(block, self._edits)
        reader = _PARTS.get(kind)
        if reader is not None:
            return reader(block, path, self._edits)
        return self._leave_out(block, kind)

    def _leave_out(self, block: _Object, kind: str) -> list[_Object]:
        why = "chat completions have no such block"
        return [] if self._edits.drop(f"messages.content.{kind}", why) else [block]

    # The assistant's turns

    def _assistant(self, content: Any, place: str) -> None:
        if self._spoken is None:
            self._end_user_turn()
            self._spoken = _Spoken()
        spoken = self._spoken
        self._spoken_place = place
        for block, path in _blocks(content, f"{place}.content"):
            kind = _kind(block, path)
            if kind == "text":
                spoken.texts.append(_text(block, path))
                if block.get("citations"):
                    why = "left out: they are no part of the text"
                    self._edits.convert("messages.content.citations", why)
            elif kind == "tool_use":
                spoken.calls.append(self._tool_call(block, path))
            elif kind in _THOUGHTS:
                self._thought(block, path, spoken)
            else:
                spoken.others += self._leave_out(block, kind)
            _note_marks(block, self._edits)

    def _end_assistant_turn(self) -> None:
        """Send the assistant's turn, if there is one."""
        spoken, self._spoken = self._spoken, None
        if spoken is None:
            return
        self._sent.append(spoken.message())
        self._calls = {call["id"] for call in spoken.calls}
        if len(self._calls) < len(spoken.calls):
            raise invalid(f"{self._spoken_place}.content", "`tool_use` ids must be unique")

    def _tool_call(self, block: _Object, path: str) -> _Object:
        name = text_of(required(block, "name", path), f"{path}.name")
        given = read_object(required(block, "input", path), f"{path}.input")
        return {
            "id": text_of(required(block, "id", path), f"{path}.id"),
            "type": "function",
            "function": {
                "name": self._names.short(name),
                "arguments": wire.encode(given).decode(),
            },
        }

    def _thought(self, block: _Object, path: str, spoken: _Spoken) -> None:
        if not self._takes_reasoning:
            self._edits.drop(f"messages.content.{block['type']}", _WHY_UNSIGNED)
        elif block["type"] == "redacted_thinking" or block.get("signature"):
            spoken.signed.append(block)
            self._edits.convert(f"messages.content.{block['type']}", "to thinking_blocks")
        else:
            spoken.thoughts.append(text_of(required(block, "thinking", path), f"{path}.thinking"))
            self._edits.convert("messages.content.thinking", "to reasoning_content")


def _append(messages: list[_Object], role: str, parts: list[_Object]) -> None:
    """Add parts to the last message, if it has the role, else in a new one."""
    if messages and messages[-1]["role"] == role:
        parts = [*_as_parts(messages[-1]["content"]), *parts]
        messages[-1]["content"] = _content(parts)
    else:
        messages.append({"role": role, "content": _content(parts)})


def _as_parts(content: str | list[_Object]) -> list[_Object]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _content(parts: list[_Object]) -> str | list[_Object]:
    """Return parts as a content: a text, which every host takes, where they are texts only."""
    if all(part["type"] == "text" for part in parts):
        return _BETWEEN.join(part["text"] for part in parts)
    return parts


def _blocks(content: Any, path: str) -> list[tuple[_Object, str]]:
    """Return the blocks of a content, each with its place."""
    if isinstance(content, str):
        return [({"type": "text", "text": content}, path)] if content else []
    return [(block, f"{path}.{index}") for index, block in enumerate(objects(content, path))]


def _kind(block: _Object, path: str) -> str:
    return text_of(required(block, "type", path), f"{path}.type")


def _text(block: _Object, path: str) -> str:
    return text_of(required(block, "text", path), f"{path}.text")


def _note_marks(block: _Object, edits: Edits) -> None:
    """Note a mark for the prompt cache, which no block has elsewhere."""
    if block.get("cache_control") is not None:
        edits.convert("cache_control", "left out: it has no effect on the answer")


# The readers of blocks: each returns the parts of a chat message.


def _text_part(text: str) -> _Object:
    return {"type": "text", "text": text}


def _text_block(block: _Object, path: str, _edits: Edits) -> list[_Object]:
    return [_text_part(_text(block, path))]


def _source(block: _Object, path: str) -> tuple[_Object, str, str]:
    """Return the source of an image or a document, its place and its type."""
    place = f"{path}.source"
    source = read_object(required(block, "source", path), place)
    return source, place, _kind(source, place)


def _data_url(source: _Object, place: str) -> str:
    media_type = text_of(required(source, "media_type", place), f"{place}.media_type")
    data = text_of(required(source, "data", place), f"{place}.data")
    return f"data:{media_type};base64,{data}"


def _image(block: _Object, path: str, edits: Edits) -> list[_Object]:
    source, place, kind = _source(block, path)
    if kind == "base64":
        url = _data_url(source, place)
    elif kind == "url":
        url = text_of(required(source, "url", place), f"{place}.url")
    else:
        return _without_file(block, f"image.{kind}", edits)
    return [{"type": "image_url", "image_url": {"url": url}}]


def _without_file(block: _Object, kind: str, edits: Edits) -> list[_Object]:
    why = "files of Anthropic's are not at hand elsewhere"
    return [] if edits.drop(f"messages.content.{kind}", why) else [block]


def _document(block: _Object, path: str, edits: Edits) -> list[_Object]:
    source, place, kind = _source(block, path)
    heads = [
        text_of(block[name], f"{path}.{name}")
        for name in ("title", "context")
        if block.get(name) is not None
    ]
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        edits.drop("messages.content.document.citations", "chat answers cite nothing")
    if kind == "text":
        texts = [*heads, text_of(required(source, "data", place), f"{place}.data")]
    elif kind == "content":
        texts, others = list(heads), []
        for inner, inner_path in _blocks(required(source, "content", place), f"{place}.content"):
            inner_kind = _kind(inner, inner_path)
            if inner_kind not in ("text", "image"):
                raise invalid(f"{inner_path}.type", "Input should be 'text' or 'image'")
            for part in _PARTS[inner_kind](inner, inner_path, edits):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    others.append(part)
        return _joined(texts, "document", edits) + others
    elif kind == "base64":
        return _file(heads, _data_url(source, place))
    elif kind == "url":
        url = text_of(required(source, "url", place), f"{place}.url")
        why = "chat completions take the bytes of a document, not its URL"
        if edits.drop("messages.content.document.url", why):
            return []
        return _file(heads, url)
    else:
        return _without_file(block, f"document.{kind}", edits)
    return _joined(texts, "document", edits)


def _file(heads: list[str], data: str) -> list[_Object]:
    """Return a file, named by the first of the texts that stand before it; then come the others."""
    name, *rest = heads or ["document.pdf"]
    file = {"type": "file", "file": {"filename": name, "file_data": data}}
    return [*map(_text_part, rest), file]


def _joined(texts: list[str], kind: str, edits: Edits) -> list[_Object]:
    edits.convert(f"messages.content.{kind}", "to text")
    return [_text_part(_BETWEEN.join(texts))]


def _search_result(block: _Object, path: str, edits: Edits) -> list[_Object]:
    texts = [text_of(required(block, name, path), f"{path}.{name}") for name in ("title", "source")]
    place = f"{path}.content"
    for inner, inner_path in _blocks(required(block, "content", path), place):
        texts.append(_text(inner, inner_path))
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        edits.drop("messages.content.search_result.citations", "chat answers cite nothing")
    return _joined(texts, "search_result", edits)


def _tool_reference(block: _Object, path: str, edits: Edits) -> list[_Object]:
    name = text_of(required(block, "tool_name", path), f"{path}.tool_name")
    return _joined([name], "tool_reference", edits)


_PARTS: Mapping[str, Callable[[_Object, str, Edits], list[_Object]]] = {
    "text": _text_block,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_reference": _tool_reference,
}
