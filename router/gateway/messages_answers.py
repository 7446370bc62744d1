"""Reads answers of `/v1/messages`, whole or as events. No IO: bytes in, bytes or an error out.

A stream begins with `message_start`, which has the prompt's tokens, and ends with `message_delta`,
which has the others and why the message ended, and `message_stop`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from providers.base import Path
from providers.errors import EvalrouterError, UpstreamProtocolError, UpstreamStatusError
from providers.host_json import decode, decode_object
from providers.http import sse
from providers.translation.messages_errors import error_object
from providers.translation.messages_terms import FINISH_REASONS
from providers.usage import ABSENT, tokens_of
from providers.wire import UNREADABLE
from router.gateway.answer_checks import (
    StreamBeginning,
    cut_off,
    ends_with,
    is_error,
    joined_events,
    looks_like_events,
    split_at,
)
from router.gateway.answer_content import AnswerContent
from router.records import Target

END_MARK = b"message_stop"

# Fields of an event, not of a text within one: there, every quote has a backslash before it.
_END = re.compile(rb'"type"\s*:\s*"message_stop"')
_END_OR_ERROR = re.compile(
    rb'"type"\s*:\s*"(?:message_stop|error)"|(?:^|[\r\n])(?:error:|event: ?error)|"error"\s*:\s*\{'
)
_BEGINNINGS = (b"event: message_start\n", b'data: {"type":"message_start"')
# The statuses of errors in a stream, whose own status was sent before.
_STATUSES: Mapping[str, int] = {
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}

_encode = msgspec.json.Encoder().encode


class _Whole(msgspec.Struct):
    type: Any = None
    content: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class _Kind(msgspec.Struct):
    type: Any = None
    error: msgspec.Raw = ABSENT


class _Message(msgspec.Struct):
    """The fields that are read of a message; those of unusual types count as absent."""

    id: Any = None
    model: Any = None
    stop_reason: Any = None
    usage: msgspec.Raw = ABSENT
    content: msgspec.Raw = ABSENT


class _Delta(msgspec.Struct):
    stop_reason: Any = None


class _End(msgspec.Struct):
    """`message_start`, or `message_delta`."""

    type: Any = None
    message: _Message | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = ABSENT


class _Count(msgspec.Struct):
    input_tokens: Any = None
    error: msgspec.Raw = ABSENT


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_end = msgspec.json.Decoder(_End).decode
_decode_count = msgspec.json.Decoder(_Count).decode


def error_in_answer(data: bytes, target: Target) -> UpstreamStatusError:
    """Return the error that a host sent in an answer, or a stream, with status 200."""
    status = 502
    try:
        error = decode_object(data).get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        status = _STATUSES.get(str(kind), status)
    except UNREADABLE:
        pass
    message = f"{target} answered with an error in status 200"
    return UpstreamStatusError(status, data.strip(), {}, message)


def whole(body: bytes, path: Path, target: Target) -> bytes:
    """Return a whole message: the body itself, or what its events amount to.

    Raises:
        UpstreamStatusError: it is an error object.
        UpstreamProtocolError: it is not a message.
    """
    try:
        message = _decode_whole(body)
    except UNREADABLE:
        return _from_events(body, path, target)
    if message.type == "error" or is_error(message.error):
        raise error_in_answer(body, target)
    if not bytes(message.content).startswith(b"["):
        raise UpstreamProtocolError(f"{target}: the answer is no message: it has no content")
    return body


def whole_count(body: bytes, path: Path, target: Target) -> bytes:
    """Return a count of tokens, which is the body itself.

    Raises:
        UpstreamStatusError: it is an error object.
        UpstreamProtocolError: it is not a count.
    """
    del path
    try:
        count = _decode_count(body)
    except UNREADABLE:
        raise UpstreamProtocolError(f"{target}: the answer is not a count of tokens") from None
    if is_error(count.error):
        raise error_in_answer(body, target)
    if type(count.input_tokens) is not int:
        raise UpstreamProtocolError(f"{target}: the answer has no input_tokens")
    return body


def _from_events(body: bytes, path: Path, target: Target) -> bytes:
    """Return the message that a stream amounts to, for a host that streams unasked."""
    if not looks_like_events(body):
        reason = "it is empty" if not body.strip() else "it is not JSON of that form"
        raise UpstreamProtocolError(f"{target}: the answer is no message: {reason}")
    before, wrong, done = split_end(body + b"\n\n")
    if wrong is not None:
        raise error_in_answer(wrong, target)
    if not done:
        raise cut_off(target)
    try:
        return whole(_encode(_folded(before)), path, target)
    except (*UNREADABLE, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UpstreamProtocolError(f"{target}: its stream cannot be read") from error


# What each kind of delta adds to its block, and to which of its fields.
_GROWS: Mapping[str, str] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}


def _folded(events: bytes) -> dict[str, Any]:
    """Return the message that the events of a stream amount to."""
    message: dict[str, Any] = {}
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, list[str]] = {}
    for event in sse.Parser(limit=len(events) + 2).feed(events):
        fields = decode_object(event.data)
        match fields["type"]:
            case "message_start":
                message = fields["message"]
            case "content_block_start":
                blocks.append(fields["content_block"])
            case "content_block_delta":
                delta, block = fields["delta"], blocks[fields["index"]]
                if delta["type"] == "input_json_delta":
                    inputs.setdefault(fields["index"], []).append(delta["partial_json"])
                elif delta["type"] == "citations_delta":
                    block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
                else:
                    name = _GROWS[delta["type"]]
                    block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                message |= fields["delta"]
                message["usage"] = {**message.get("usage", {}), **fields.get("usage", {})}
    for index, pieces in inputs.items():
        blocks[index]["input"] = decode("".join(pieces).encode() or b"{}")
    return {**message, "content": blocks}


def as_events(body: bytes, path: Path, target: Target) -> bytes:
    """Return the events that a whole message becomes, for a host that does not stream."""
    del path
    return joined_events(_encoded(body), target)


def _encoded(body: bytes) -> Iterator[bytes]:
    for event in _events(decode_object(body)):
        yield sse.encode(_encode(event), event["type"])


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a message, in the order in which Anthropic sends them."""
    usage = message.get("usage") or {}
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": begun | {"usage": {**usage, "output_tokens": 0}}}
    for index, block in enumerate(message["content"]):
        begun, deltas = _begun_and_deltas(block)
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": ending, "usage": usage}
    yield {"type": "message_stop"}


def _begun_and_deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a content block as it begins, and what is added to it."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            if block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use":
            given = _encode(block["input"]).decode()
            deltas = [{"type": "input_json_delta", "partial_json": given}]
            return {**block, "input": {}}, deltas
    return block, []


def begins_plainly(first: bytes) -> bool:
    """Return whether a stream's first bytes hold a whole `message_start`, and no error."""
    return (
        first.startswith(_BEGINNINGS) and b"\n\n" in first and _END_OR_ERROR.search(first) is None
    )


class MessageBeginning(StreamBeginning):
    """Reads a stream up to its `message_start`."""

    def feed(self, chunk: bytes) -> bool:
        """Return whether the message has begun.

        Raises:
            UpstreamStatusError: it has begun with an error.
            UpstreamProtocolError: it is not a stream of a message.
        """
        for event in self._parser.feed(chunk):
            kind = _kind_of(event)
            if kind == "error":
                raise error_in_answer(event.data, self._target)
            if kind == "message_start":
                return True
            if kind == "message_stop":
                raise self.empty()
            if kind != "ping":
                raise UpstreamProtocolError(
                    f"{self._target}: the stream's first event is not message_start"
                )
        return False


def _kind_of(event: sse.Event) -> str:
    """Return the type of an event; "" where it has none."""
    try:
        content = _decode_kind(event.data)
    except UNREADABLE:
        return "error" if event.event == "error" else ""
    if event.event == "error" or content.type == "error":
        return "error"
    if isinstance(content.type, str):
        return content.type
    return "error" if is_error(content.error) else ""


def split_end(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """Return the events up to the end or an error, the error's data, and whether it ended.

    Args:
        data: complete events.
    """
    if _END_OR_ERROR.search(data) is None:
        return data, None, False
    return split_at(data, _judge)


def _judge(event: sse.Event) -> bytes | bool:
    kind = _kind_of(event)
    return event.data if kind == "error" else kind == "message_stop"


def last_event(held: bytes) -> tuple[bytes, bytes | None]:
    """Return a stream's last event where only its blank line is missing, or an error it holds.

    An event that is cut off in the middle becomes b"".
    """
    rest, wrong, _ = split_end(held.rstrip(b"\r\n") + b"\n\n")
    if wrong is not None:
        return b"", wrong
    for event in sse.Parser(limit=len(rest) + 2).feed(rest):
        try:
            decode(event.data)
        except UNREADABLE:
            return b"", None
    return rest, None


def is_whole(tail: Sequence[bytes]) -> bool:
    """Return whether a stream that ended with these chunks came to the message's end."""
    return ends_with(tail, _END)


def error_event(error: EvalrouterError, _tail: Sequence[bytes]) -> bytes:
    """Return the event that ends a stream which broke off."""
    return sse.encode(_encode(error_object(error)), "error")


def read_end(tail: bytes, start: bytes) -> sse.StreamEnd:
    """Return what an answer's first and last bytes say of it, whole or a stream.

    Never raises: the answer went out already, and what cannot be read counts as absent.

    Args:
        tail: the last bytes.
        start: the first ones, where the last ones are not all of them.
    """
    if tail.startswith(b"{"):
        try:
            message = _decode_message(tail)
        except UNREADABLE:
            return sse.StreamEnd()
        return _end_of(message, {}, message.stop_reason, done=True)
    message, reason, done, error = _Message(), None, False, ""
    added: dict[str, Any] = {}
    for event in _parsed(start, tail):
        try:
            end = _decode_end(event.data)
        except UNREADABLE:
            continue
        if end.type == "message_start" and end.message is not None:
            message = end.message
        elif end.type == "message_delta":
            added |= _fields(end.usage)
            reason = reason if end.delta is None else end.delta.stop_reason or reason
        elif end.type == "message_stop":
            done = True
        elif end.type == "error":
            error = event.data.decode("utf-8", "replace")
    read = _end_of(message, added, reason, done=done)
    return msgspec.structs.replace(read, error=error) if error else read


# The types of the events that are read at a stream's end.
_READ = re.compile(rb'"type"\s*:\s*"(?:message_start|message_delta|message_stop|error)"')


def _parsed(start: bytes, tail: bytes) -> Iterator[sse.Event]:
    """Yield the events that are read of a stream: texts are passed over."""
    for part in (start, tail):
        for raw in sse.split(part):
            if _READ.search(raw) is not None:
                yield from sse.Parser(limit=len(raw) + 2).feed(raw + b"\n\n")


def _fields(usage: msgspec.Raw) -> dict[str, Any]:
    try:
        fields = decode(usage)
    except UNREADABLE:
        return {}
    if not isinstance(fields, dict):
        return {}
    return {name: value for name, value in fields.items() if value is not None}


def _end_of(message: _Message, added: dict[str, Any], reason: Any, *, done: bool) -> sse.StreamEnd:
    return sse.StreamEnd(
        usage=tokens_of(_fields(message.usage) | added),
        id=message.id if isinstance(message.id, str) else "",
        model=message.model if isinstance(message.model, str) else "",
        finish_reason=FINISH_REASONS.get(reason, reason) if isinstance(reason, str) else "",
        done=done,
    )


def content_of(body: bytes) -> AnswerContent:
    """Return what an answer says, whole or streamed; of the end of a stream, what is in it."""
    if body.startswith(b"{"):
        try:
            blocks = decode(_decode_message(body).content)
        except UNREADABLE:
            return AnswerContent("")
        return _content(blocks)
    texts: list[str] = []
    with_blocks: list[Any] = []
    inputs: dict[Any, list[str]] = {}
    for event in sse.Parser(limit=len(body) + 2).feed(body + b"\n\n"):
        try:
            fields = decode_object(event.data)
        except UNREADABLE:
            continue
        delta = fields.get("delta")
        if fields.get("type") == "content_block_start":
            with_blocks.append((fields.get("index"), fields.get("content_block")))
        elif isinstance(delta, dict) and isinstance(delta.get("text"), str):
            texts.append(delta["text"])
        elif isinstance(delta, dict) and isinstance(delta.get("partial_json"), str):
            inputs.setdefault(str(fields.get("index")), []).append(delta["partial_json"])
    calls = tuple(
        _call(block, "".join(inputs.get(str(index), ())))
        for index, block in with_blocks
        if isinstance(block, dict) and block.get("type") == "tool_use"
    )
    return AnswerContent("".join(texts), calls)


def _content(blocks: Any) -> AnswerContent:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks if isinstance(blocks, list) else ():
        if not isinstance(block, dict):
            continue
        if block.get("type") == "tool_use":
            calls.append(_call(block, _encode(block.get("input")).decode()))
        elif isinstance(block.get("text"), str):
            texts.append(block["text"])
    return AnswerContent("".join(texts), tuple(calls))


def _call(block: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}
