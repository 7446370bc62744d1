"""Reads answers of `/v1/responses`, whole or as events. No IO: bytes in, bytes or an error out.

A stream is a series of events `response.*`, of which the last one has the whole response:
`response.completed`, `response.incomplete` or `response.failed`. Nothing follows it, no [DONE].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from providers.base import Path
from providers.errors import EvalrouterError, UpstreamProtocolError
from providers.host_json import decode, decode_object
from providers.http import sse
from providers.usage import ABSENT, usage_of_answer
from providers.wire import UNREADABLE
from router.gateway.answer_checks import (
    StreamBeginning,
    cut_off,
    ends_with,
    error_in_200,
    is_error,
    joined_events,
    last_chunks,
    looks_like_events,
    split_at,
)
from router.gateway.answer_content import AnswerContent
from router.records import Target

END_MARK = b"complete"

# Events before anything is generated.
_PREPARING = frozenset({"response.created", "response.in_progress", "response.queued"})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
# Fields of an event, not of a text within one: there, every quote has a backslash before it.
_END = re.compile(rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"')
_END_OR_ERROR = re.compile(
    rb'"type"\s*:\s*"(?:error|response\.(?:completed|incomplete|failed))"'
    rb'|(?:^|[\r\n])(?:error:|event: ?error|data: ?\{\s*"error")'
)
_CALLS = re.compile(rb'"type"\s*:\s*"(?:function_call|custom_tool_call)"')
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,15})')
_BEGINNINGS = (b"event: response.created\n", b'data: {"type":"response.created"')

_encode = msgspec.json.Encoder().encode


class _Whole(msgspec.Struct):
    status: Any = None
    output: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class _Event(msgspec.Struct):
    type: Any = None
    error: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT


class _Response(msgspec.Struct):
    """The fields that are read of a response; those of unusual types count as absent."""

    id: Any = None
    model: Any = None
    status: Any = None
    error: Any = None
    incomplete_details: Any = None
    output: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT


class _EndEvent(msgspec.Struct):
    type: Any = None
    response: _Response | None = None


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_end = msgspec.json.Decoder(_EndEvent).decode


def whole(body: bytes, path: Path, target: Target) -> bytes:
    """Return a whole response: the body itself, or the one that its events end with.

    Raises:
        UpstreamStatusError: it is an error object, or a response that failed.
        UpstreamProtocolError: it is not a response.
    """
    try:
        response = _decode_whole(body)
    except UNREADABLE:
        return _from_events(body, path, target)
    if is_error(response.error):
        raise error_in_200(_encode({"error": response.error}), target)
    if response.status == "failed":
        raise error_in_200(_encode({"error": "the response failed"}), target)
    if not bytes(response.output).startswith(b"["):
        raise UpstreamProtocolError(f"{target}: the answer has no output")
    return body


def _from_events(body: bytes, path: Path, target: Target) -> bytes:
    """Return the response at the end of a stream, for a host that streams unasked."""
    if not looks_like_events(body):
        reason = "it is empty" if not body.strip() else "it is not JSON of that form"
        raise UpstreamProtocolError(f"{target}: the answer is not a response: {reason}")
    for event in sse.Parser(limit=len(body) + 2).feed(body + b"\n\n"):
        kind, content = _read(event)
        if kind == "error":
            raise error_in_200(_error_of(event, content), target)
        if kind in _ENDS:
            return whole(bytes(content.response), path, target)
    raise cut_off(target)


def as_events(body: bytes, path: Path, target: Target) -> bytes:
    """Return the events that a whole response becomes, for a host that does not stream."""
    del path
    return joined_events(_numbered(body), target)


def _numbered(body: bytes) -> Iterator[bytes]:
    for number, event in enumerate(_events(decode_object(body))):
        yield sse.encode(_encode({**event, "sequence_number": number}), event["type"])


def _events(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a response, in the order in which a host sends them."""
    begun = {**response, "status": "in_progress", "output": []}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _item_events(item, {"output_index": index})
    end = "incomplete" if response.get("status") == "incomplete" else "completed"
    yield {"type": f"response.{end}", "response": response}


def _item_events(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place_in_item = {**place, "item_id": item.get("id", "")}
    parts = item.get("content") if item.get("type") == "message" else None
    begun = dict(item)
    if isinstance(parts, list):
        begun |= {"content": [], "status": "in_progress"}
    if item.get("type") == "function_call":
        begun |= {"arguments": "", "status": "in_progress"}
    yield {"type": "response.output_item.added", **place, "item": begun}
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        yield from _part_events(part, {**place_in_item, "content_index": number})
    if item.get("type") == "function_call":
        kind, arguments = "response.function_call_arguments", item["arguments"]
        yield {"type": f"{kind}.delta", **place_in_item, "delta": arguments}
        name = {"name": item.get("name", "")}
        yield {"type": f"{kind}.done", **place_in_item, **name, "arguments": arguments}
    yield {"type": "response.output_item.done", **place, "item": item}


def _part_events(part: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    field = {"output_text": "text", "refusal": "refusal"}.get(part["type"])
    empty = {**part, field: ""} if field else part
    yield {"type": "response.content_part.added", **place, "part": empty}
    if field:
        # OpenAI's events of texts have their log probabilities, of which there are none here.
        more: dict[str, Any] = {"logprobs": []} if field == "text" else {}
        kind = f"response.{part['type']}"
        yield {"type": f"{kind}.delta", **place, **more, "delta": part[field]}
        yield {"type": f"{kind}.done", **place, **more, field: part[field]}
    yield {"type": "response.content_part.done", **place, "part": part}


def begins_plainly(first: bytes) -> bool:
    """Return whether a stream's first bytes are a whole event of a response that has not failed."""
    return (
        first.startswith(_BEGINNINGS) and b"\n\n" in first and _END_OR_ERROR.search(first) is None
    )


class ResponseBeginning(StreamBeginning):
    """Reads a stream up to its first event of a response that has not failed."""

    def feed(self, chunk: bytes) -> bool:
        """Return whether the response has begun.

        Raises:
            UpstreamStatusError: it has begun with an error, or failed at once.
            UpstreamProtocolError: it is not a stream of a response.
        """
        has_begun = False
        for event in self._parser.feed(chunk):
            if event.data == b"[DONE]":
                raise self.empty()
            kind, content = _read(event)
            if kind == "error":
                raise error_in_200(_error_of(event, content), self._target)
            if kind == "response.failed":
                raise error_in_200(_failure_of(content), self._target)
            if kind in _PREPARING:
                has_begun = True
            elif kind.startswith("response."):
                return True
            elif event.event == "message" and not has_begun:
                raise UpstreamProtocolError(
                    f"{self._target}: the stream's first event is not one of a response"
                )
        return has_begun


def _read(event: sse.Event) -> tuple[str, _Event]:
    """Return the type of an event, "" where it has none, and its fields."""
    try:
        content = _decode_event(event.data)
    except UNREADABLE:
        return ("error" if event.event == "error" else ""), _Event()
    if event.event == "error" or content.type == "error":
        return "error", content
    if isinstance(content.type, str):
        return content.type, content
    return ("error" if is_error(content.error) else ""), content


def _error_of(event: sse.Event, content: _Event) -> bytes:
    """Return the error in an event as OpenAI's object."""
    if is_error(content.error):
        return _encode({"error": content.error})
    try:
        fields = decode_object(event.data)
    except UNREADABLE:
        return event.data
    # The event's own type, and its number, say nothing of the error.
    fields.pop("type", None)
    fields.pop("sequence_number", None)
    return _encode({"error": fields})


def _failure_of(content: _Event) -> bytes:
    """Return the error of a response that failed as OpenAI's object."""
    error: Any = None
    with suppress(*UNREADABLE):
        error = _decode_response(content.response).error
    return _encode({"error": error or {"message": "the response failed"}})


def split_end(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """Return the events up to the end or an error, the error's data, and whether it ended.

    Args:
        data: complete events.
    """
    if _END_OR_ERROR.search(data) is None:
        return data, None, False
    return split_at(data, _judge)


def _judge(event: sse.Event) -> bytes | bool:
    kind, content = _read(event)
    return _error_of(event, content) if kind == "error" else kind in _ENDS


def last_event(held: bytes) -> tuple[bytes, bytes | None]:
    """Return a stream's last event where only its blank line is missing, or an error it holds.

    An event that is cut off in the middle becomes b"".
    """
    rest, wrong, _ = split_end(held.rstrip(b"\r\n") + b"\n\n")
    if wrong is not None:
        return b"", wrong
    for event in sse.Parser(limit=len(rest) + 2).feed(rest):
        if event.data == b"[DONE]":
            continue
        try:
            decode(event.data)
        except UNREADABLE:
            return b"", None
    return rest, None


def is_whole(tail: Sequence[bytes]) -> bool:
    """Return whether a stream that ended with these chunks came to the response's end."""
    return ends_with(tail, _END)


def error_event(error: EvalrouterError, tail: Sequence[bytes]) -> bytes:
    """Return the event that ends a stream which broke off after these chunks."""
    numbers = _NUMBER.findall(last_chunks(tail))
    shown = error.as_openai()["error"]
    event = {
        "type": "error",
        "code": shown["code"],
        "message": shown["message"],
        "param": shown["param"],
        "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
    }
    return sse.encode(_encode(event), "error")


def read_end(tail: bytes, _start: bytes) -> sse.StreamEnd:
    """Return what an answer's last bytes say of it, whole or a stream.

    Never raises: the answer went out already, and what cannot be read counts as absent.
    """
    if tail.startswith(b"{"):
        try:
            response = _decode_response(tail)
        except UNREADABLE:
            return sse.StreamEnd()
        return _end_of(response, done=True)
    # Nearly always the last event is the end, in one line.
    last = tail.rstrip().rpartition(b"\n\n")[2]
    data = last.partition(b"data:")[2]
    for candidate in (data, *_reversed_data(tail)):
        try:
            event = _decode_end(candidate)
        except UNREADABLE:
            continue
        if event.response is not None:
            return _end_of(event.response, done=event.type in _ENDS)
    return sse.StreamEnd()


def _reversed_data(tail: bytes) -> Iterator[bytes]:
    events = sse.Parser(limit=len(tail) + 2).feed(tail + b"\n\n")
    yield from (event.data for event in reversed(events))


def _end_of(response: _Response, *, done: bool) -> sse.StreamEnd:
    error = response.error
    message = error.get("message") if isinstance(error, dict) else error
    if response.status == "failed" and not message:
        message = "the response failed"
    return sse.StreamEnd(
        usage=usage_of_answer(response.usage),
        id=response.id if isinstance(response.id, str) else "",
        model=response.model if isinstance(response.model, str) else "",
        finish_reason=_finish(response),
        error=str(message or ""),
        done=done,
    )


def _finish(response: _Response) -> str:
    """Return why a response ended, in the words of chat completions."""
    if response.status == "incomplete":
        details = response.incomplete_details
        reason = details.get("reason") if isinstance(details, dict) else None
        return {"max_output_tokens": "length"}.get(str(reason), str(reason or "length"))
    if response.status == "completed":
        return "tool_calls" if _CALLS.search(response.output) is not None else "stop"
    return ""


def content_of(body: bytes) -> AnswerContent:
    """Return what an answer says, whole or streamed; of the end of a stream, what is in it."""
    deltas: list[str] = []
    if body.startswith(b"{"):
        return _content(body)
    for event in sse.Parser(limit=len(body) + 2).feed(body + b"\n\n"):
        kind, content = _read(event)
        if kind in _ENDS:
            return _content(bytes(content.response))
        if kind == "response.output_text.delta":
            try:
                deltas.append(str(decode_object(event.data).get("delta") or ""))
            except UNREADABLE:
                continue
    return AnswerContent("".join(deltas))


def _content(response: bytes) -> AnswerContent:
    try:
        items = decode(_decode_response(response).output)
    except UNREADABLE:
        return AnswerContent("")
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        if item.get("type") == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
        parts = item.get("content") if item.get("type") == "message" else None
        for part in parts if isinstance(parts, list) else ():
            text = part.get("text") or part.get("refusal") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
    return AnswerContent("".join(texts), tuple(calls))
