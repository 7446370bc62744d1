"""The output items of a response, and the events that a stream has of each. No IO.

An item is opened, grows by pieces, and is closed. Each step returns its events as pairs of a type
and the event's fields; `ResponseAnswers` numbers and writes them. A piece of text is the exception:
a stream has thousands of them, so that `DeltaForm` writes their bytes directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from providers import wire
from providers.translation.responses_input import signed_thoughts

_Object = dict[str, Any]
Events = Iterator[tuple[str, _Object]]
Status = Literal["in_progress", "completed", "incomplete"]

_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
_PART_ADDED = "response.reasoning_summary_part.added"


class DeltaForm(NamedTuple):
    """The bytes of an event before its sequence number, and after its text."""

    head: bytes
    tail: bytes = b"}\n\n"

    def written(self, sequence: int, text: str) -> bytes:
        """Return the event of a piece of text."""
        return b'%b%d,"delta":%b%b' % (self.head, sequence, wire.encode(text), self.tail)


def _form(kind: str, place: _Object, tail: bytes = b"}\n\n") -> DeltaForm:
    fields = wire.encode({"type": kind, **place})[:-1]
    return DeltaForm(
        b'event: %b\ndata: %b,"sequence_number":' % (kind.encode(), fields),
        tail,
    )


class TextPart:
    """A text that grows: a part of an item.

    Attributes:
        kind: its type.
        place: the fields that say in each event which part it is about.
        form: how the event of a piece is written.
    """

    __slots__ = ("annotations", "form", "kind", "logprobs", "pieces", "place")

    def __init__(self, kind: str, place: _Object, form: DeltaForm) -> None:
        self.kind = kind
        self.place = place
        self.form = form
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.annotations: list[Any] = []

    def joined(self) -> msgspec.Raw:
        """Return the whole text as JSON: several events have it."""
        return msgspec.Raw(wire.encode("".join(self.pieces)))

    def as_part(self, text: msgspec.Raw) -> _Object:
        """Return the part with this text in it."""
        if self.kind != "output_text":
            return {"type": self.kind, "refusal" if self.kind == "refusal" else "text": text}
        return {
            "type": self.kind,
            "text": text,
            "annotations": self.annotations,
            "logprobs": self.logprobs,
        }


_EMPTY = msgspec.Raw(b'""')


class MessageItem:
    """A message of the assistant, with parts that are text or a refusal.

    Attributes:
        part: the part that grows; None where none does.
    """

    def __init__(self, identity: str, index: int) -> None:
        self.part: TextPart | None = None
        self._id = identity
        self.index = index
        self._parts: list[_Object] = []

    def begin(self) -> Events:
        """Return the events of its beginning."""
        yield _ADDED, {"output_index": self.index, "item": self._item([], "in_progress")}

    def new_part(self, kind: Literal["output_text", "refusal"]) -> TextPart:
        """Begin a part; one that is open has to be closed before."""
        place = {
            "item_id": self._id,
            "output_index": self.index,
            "content_index": len(self._parts),
        }
        if kind == "refusal":
            form = _form("response.refusal.delta", place)
        else:
            form = _form("response.output_text.delta", place, b',"logprobs":[]}\n\n')
        self.part = TextPart(kind, place, form)
        return self.part

    def close_part(self) -> Events:
        """End the part that is open, if one is."""
        part, self.part = self.part, None
        if part is None:
            return
        text = part.joined()
        if part.kind == "refusal":
            yield "response.refusal.done", {**part.place, "refusal": text}
        else:
            done = {**part.place, "text": text, "logprobs": part.logprobs}
            yield "response.output_text.done", done
        whole = part.as_part(text)
        self._parts.append(whole)
        yield "response.content_part.done", {**part.place, "part": whole}

    def closed(self, status: Status) -> Events:
        """Return the events of its end."""
        yield from self.close_part()
        yield ITEM_DONE, {"output_index": self.index, "item": self.so_far(status)}

    def so_far(self, status: Status) -> _Object:
        """Return the item with what has come."""
        growing = [] if self.part is None else [self.part.as_part(self.part.joined())]
        return self._item([*self._parts, *growing], status)

    def _item(self, parts: list[_Object], status: Status) -> _Object:
        return {
            "id": self._id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": parts,
        }


def part_added(part: TextPart) -> Events:
    """Return the event of a part's beginning."""
    kind = _PART_ADDED if part.kind == "summary_text" else "response.content_part.added"
    yield kind, {**part.place, "part": part.as_part(_EMPTY)}


class ReasoningItem:
    """A model's thoughts: as a summary where the request has one, else as they are.

    Attributes:
        part: the text; None as long as there is none.
        signed: the host's signed thoughts.
    """

    def __init__(self, identity: str, index: int, *, as_summary: bool) -> None:
        self.part: TextPart | None = None
        self.signed: list[Any] = []
        self._id = identity
        self.index = index
        self._as_summary = as_summary

    def begin(self) -> Events:
        """Return the events of its beginning."""
        yield _ADDED, {"output_index": self.index, "item": self.so_far("in_progress")}

    def new_part(self) -> TextPart:
        """Begin the text."""
        place: _Object = {"item_id": self._id, "output_index": self.index}
        if self._as_summary:
            place["summary_index"] = 0
            form = _form("response.reasoning_summary_text.delta", place)
            self.part = TextPart("summary_text", place, form)
        else:
            place["content_index"] = 0
            form = _form("response.reasoning_text.delta", place)
            self.part = TextPart("reasoning_text", place, form)
        return self.part

    def closed(self, status: Status) -> Events:
        """Return the events of its end."""
        part = self.part
        if part is not None:
            text = part.joined()
            if self._as_summary:
                done = "response.reasoning_summary_text.done"
                part_done = "response.reasoning_summary_part.done"
            else:
                done, part_done = "response.reasoning_text.done", "response.content_part.done"
            yield done, {**part.place, "text": text}
            yield part_done, {**part.place, "part": part.as_part(text)}
        yield ITEM_DONE, {"output_index": self.index, "item": self.so_far(status)}

    def so_far(self, status: Status) -> _Object:
        """Return the item with what has come."""
        parts = [] if self.part is None else [self.part.as_part(self.part.joined())]
        item: _Object = {"id": self._id, "type": "reasoning", "status": status, "summary": []}
        item["summary" if self._as_summary else "content"] = parts
        if self.signed:
            item["encrypted_content"] = signed_thoughts(self.signed)
        return item


_decode_arguments = msgspec.json.Decoder(dict[str, Any]).decode


class ToolCallItem:
    """A call of a function, or of a custom tool that a function stands for.

    Attributes:
        name: the function's name; "" as long as it has not come.
        call_id: the call's id; "" as long as it has not come.
        pieces: the arguments.
        form: how the event of a piece is written; None before the item begins, and for a custom
            tool, whose input comes as a whole.
    """

    def __init__(self) -> None:
        self.name = ""
        self.call_id = ""
        self.pieces: list[str] = []
        self.form: DeltaForm | None = None
        self.is_begun = False
        self.is_closed = False
        self._id = ""
        self.index = 0
        self._is_custom = False

    def open(self, identity: str, index: int, *, is_custom: bool) -> Events:
        """Begin the item, whose name has come."""
        self.is_begun = True
        self._id = identity
        self.index = index
        self._is_custom = is_custom
        if not is_custom:
            place = {"item_id": identity, "output_index": index}
            self.form = _form("response.function_call_arguments.delta", place)
        yield _ADDED, {"output_index": index, "item": self._item("", "in_progress")}

    def is_complete(self) -> bool:
        """Return whether the arguments are a whole object, which nothing can follow."""
        arguments = "".join(self.pieces)
        if not arguments.rstrip().endswith("}"):
            return False
        try:
            _decode_arguments(arguments)
        except wire.UNREADABLE:
            return False
        return True

    def closed(self, status: Status) -> Events:
        """Return the events of its end."""
        self.is_closed = True
        place = {"item_id": self._id, "output_index": self.index}
        arguments = "".join(self.pieces)
        if self._is_custom:
            text = _custom_input(arguments)
            yield "response.custom_tool_call_input.delta", {**place, "delta": text}
            yield "response.custom_tool_call_input.done", {**place, "input": text}
        else:
            done = {**place, "name": self.name, "arguments": arguments}
            yield "response.function_call_arguments.done", done
        yield ITEM_DONE, {"output_index": self.index, "item": self._item(arguments, status)}

    def so_far(self, status: Status) -> _Object:
        """Return the item with what has come."""
        return self._item("".join(self.pieces), status)

    def _item(self, arguments: str, status: Status) -> _Object:
        head = {"id": self._id, "status": status, "call_id": self.call_id, "name": self.name}
        if self._is_custom:
            return {"type": "custom_tool_call", **head, "input": _custom_input(arguments)}
        return {"type": "function_call", **head, "arguments": arguments}


def _custom_input(arguments: str) -> str:
    """Return the input that a function's arguments hold; themselves, where they are cut off."""
    try:
        text = _decode_arguments(arguments).get("input")
    except wire.UNREADABLE:
        return arguments
    return text if isinstance(text, str) else arguments
