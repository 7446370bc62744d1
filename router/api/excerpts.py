"""Texts as pages show them: cut where they are long, with marks on what was found in them.

text = excerpt("Mail [EMAIL]", [Mark(5, 12, "email")])
text.pieces                      # (ExcerptPiece("Mail ", ""), ExcerptPiece("[EMAIL]", "email"))
shown_messages(messages).shown   # the texts of a conversation, message by message
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from router.api.page_layout import as_json

# Characters of one text, and of all texts of a page.
MAX_TEXT = 20_000
MAX_PAGE = 60_000
_NO_MARKS: Mapping[str, Sequence[Mark]] = {}
# Fields of a message that are shown by themselves, or say nothing.
_SHOWN_FIELDS = frozenset({"role", "content", "tool_calls", "function_call", "refusal"})


class Mark(NamedTuple):
    """Characters of a text that something was found at, and what."""

    start: int
    end: int
    name: str


class ExcerptPiece(NamedTuple):
    """A piece of a text; `mark` is what was found there, "" for nothing."""

    text: str
    mark: str


class Excerpt(NamedTuple):
    """A text, or its beginning.

    Attributes:
        pieces: what is shown of it.
        characters: how long it is as a whole.
        is_cut: whether the end is left out.
    """

    pieces: tuple[ExcerptPiece, ...]
    characters: int
    is_cut: bool


class MessageText(NamedTuple):
    """A text of a message.

    Attributes:
        place: where it is, as `messages[0].content`.
        title: what it is, where it is not simply what was said.
        excerpt: what is shown of it.
    """

    place: str
    title: str
    excerpt: Excerpt


class ShownMessage(NamedTuple):
    """A message, and the texts in it."""

    role: str
    texts: tuple[MessageText, ...]


class ShownMessages(NamedTuple):
    """The first messages of a conversation, and how many more there are."""

    shown: tuple[ShownMessage, ...]
    left_out: int


def excerpt(text: str, marks: Iterable[Mark] = (), *, limit: int = MAX_TEXT) -> Excerpt:
    """Return a text's first `limit` characters with the marks in them."""
    shown = text[:limit]
    pieces: list[ExcerptPiece] = []
    place = 0
    for mark in sorted(marks):
        start, end = max(mark.start, place), min(mark.end, len(shown))
        if start >= end:
            continue
        pieces += [ExcerptPiece(shown[place:start], ""), ExcerptPiece(shown[start:end], mark.name)]
        place = end
    pieces.append(ExcerptPiece(shown[place:], ""))
    sendable = (ExcerptPiece(_sendable(piece.text), piece.mark) for piece in pieces if piece.text)
    return Excerpt(tuple(sendable), len(text), len(shown) < len(text))


def shown_messages(
    messages: Sequence[Mapping[str, Any]],
    marks: Mapping[str, Sequence[Mark]] = _NO_MARKS,
    *,
    place: str = "messages",
    limit: int = MAX_PAGE,
) -> ShownMessages:
    """Return the messages of a conversation up to a number of characters.

    Args:
        messages: as OpenAI's API has them; what is odd in them is shown as JSON.
        marks: what was found, by the place of the text.
        place: where the messages are.
        limit: of all characters. A message of which nothing can be shown is left out.
    """
    shown: list[ShownMessage] = []
    for number, message in enumerate(messages):
        if limit <= 0:
            return ShownMessages(tuple(shown), len(messages) - number)
        texts = []
        for where, title, text in _texts(message, f"{place}[{number}]"):
            part = excerpt(text, marks.get(where, ()), limit=min(MAX_TEXT, max(0, limit)))
            limit -= min(part.characters, MAX_TEXT)
            texts.append(MessageText(where, title, part))
        shown.append(ShownMessage(_sendable(str(message.get("role", ""))[:100]), tuple(texts)))
    return ShownMessages(tuple(shown), 0)


def _texts(message: Mapping[str, Any], place: str) -> Iterable[tuple[str, str, str]]:
    """Yield the place, the title and the text of everything in a message."""
    content = message.get("content")
    if isinstance(content, str):
        yield f"{place}.content", "", content
    for number, part in enumerate(content if isinstance(content, list) else ()):
        where = f"{place}.content[{number}]"
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield f"{where}.text", "", part["text"]
        else:
            kind = part.get("type") if isinstance(part, Mapping) else None
            yield where, str(kind or "part"), as_json(part, 2)
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        yield f"{place}.refusal", "refusal", message["refusal"]
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, Mapping) else None
        where = f"{place}.tool_calls[{number}]"
        yield from _call(function, where + ".function", call)
    if message.get("function_call"):
        yield from _call(message["function_call"], f"{place}.function_call", None)
    others = {
        name: value
        for name, value in message.items()
        if name not in _SHOWN_FIELDS and value not in (None, "", [], {})
    }
    if others:
        yield place, "other fields", as_json(others, 2)


def _call(function: Any, place: str, whole: Any) -> Iterable[tuple[str, str, str]]:
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
        yield f"{place}.arguments", f"calls {function.get('name', '')}", function["arguments"]
    else:
        yield place, "calls", as_json(function if whole is None else whole, 2)


def _sendable(text: str) -> str:
    """Return a text as UTF-8 can have it: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def form_text(text: str) -> str:
    """Return a text as a form sends it back where a person has not changed it."""
    return _sendable(text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
