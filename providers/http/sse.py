"""Server-sent events, as the WHATWG HTML standard (section 9.2) defines them. No IO.

Reading: `Parser().feed(bytes)` returns the events that became complete, whatever the pieces.
Writing: `encode(data)`. After a relayed stream: `read_end(its last bytes)`.

Only `data` and `event` are read: `id` and `retry` serve clients that reconnect, and a POST cannot.
A line `error: ...` (older llama.cpp servers) is read as the data of an event of type `error`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from providers import wire
from providers.errors import UpstreamProtocolError
from providers.host_json import decode
from providers.usage import ABSENT, TokenCounts, usage_of_answer

DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"
# Works on bytes: no UTF-8 sequence contains CR or LF, so characters are never cut.
_LINE_END = re.compile(rb"\r\n|\n|\r")
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*(?:\[\s*\]|null)')
_EVENTS = re.compile(rb".+?(?:\n\n|\r\n\r\n|\r\r|\Z)", re.DOTALL)
# Within a JSON string, a quote has a backslash before it: these are a key, or fields of an event.
_MAYBE_ERROR = re.compile(rb'"error"|(?:^|[\r\n])(?:error:|event: ?error)')
_GAPS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Event(NamedTuple):
    """One event: its data lines joined with LF, and its type."""

    data: bytes
    event: str = "message"


class Parser:
    """Reads one stream. An event that the stream's end leaves unfinished is never given.

    Args:
        limit: bytes of an event, or of a line of any kind, at most.
    """

    def __init__(self, limit: int = 16 * 2**20) -> None:
        self._limit = limit
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._first = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes, in order.

        Raises:
            UpstreamProtocolError: an event is over the limit. The stream is lost with it.
        """
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        # A CR ends its line at once; should an LF follow in the next chunk, it belongs to the CR.
        self._after_cr = chunk.endswith(b"\r")
        events = []
        *ends, rest = _LINE_END.split(chunk)
        for end in ends:
            self._grow(end)
            line = bytes(self._line)
            self._line.clear()
            if self._first:
                line = line.removeprefix(_BOM)
                self._first = False
            if line:
                self._field(line)
            else:
                events += self._dispatch()
        self._grow(rest)
        return events

    def _grow(self, piece: bytes) -> None:
        self._line += piece
        if self._size + len(self._line) > self._limit:
            raise UpstreamProtocolError(f"an event of the stream is over {self._limit} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"error" and value:
            self._event = "error"
            self._data.append(value)
            self._size += len(value) + 1

    def _dispatch(self) -> list[Event]:
        events = [Event(b"\n".join(self._data), self._event or "message")] if self._data else []
        self._data.clear()
        self._size = 0
        self._event = ""
        return events


def payloads(events: bytes) -> list[bytes]:
    """Return the data of complete events, all but those that have a type of their own."""
    datas: list[bytes] = []
    for event in events.split(b"\n\n"):
        if not event:
            continue
        if not event.startswith(b"data: ") or b"\n" in event or b"\r" in event:
            # Not how nearly all hosts write them.
            parsed = Parser(limit=len(events) + 2).feed(events)
            return [event.data for event in parsed if event.event == "message"]
        datas.append(event[6:])
    return datas


def encode(data: bytes, event: str | None = None) -> bytes:
    """Return one event as bytes, ready to be sent. Line ends in `data` arrive as LF."""
    head = b"" if event is None else b"event: %b\n" % event.encode()
    lines = [b"data: %b\n" % line for line in _LINE_END.split(data)]
    return head + b"".join(lines) + b"\n"


def split(data: bytes) -> list[bytes]:
    """Return complete events one by one, each with the blank line at its end."""
    return _EVENTS.findall(data)


def split_complete(data: bytes) -> tuple[bytes, bytes]:
    """Return the bytes up to the end of the last complete event, and the unfinished rest.

    A rest that holds comments only (keep-alives) counts as complete: its end does not matter.
    """
    end = max(data.rfind(gap) + len(gap) if gap in data else 0 for gap in _GAPS)
    rest = data[end:]
    if rest.startswith(b":") and rest.endswith(b"\n") and b"\ndata" not in rest:
        return data, b""
    return data[:end], rest


def without_bom(data: bytes) -> bytes:
    """Return a stream's first bytes without the byte order mark that some hosts begin with."""
    return data.removeprefix(_BOM)


def split_end(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """Return the events up to the answer's end or an error, the error's data, and whether it ended.

    The end is [DONE], which is returned too; what follows it is no part of the answer.

    Args:
        data: complete events.
    """
    if b"[DONE]" in data:
        end = 0
        for raw in split(data):
            end += len(raw)
            events = Parser(limit=len(raw) + 2).feed(raw + b"\n\n")
            if any(event.data == b"[DONE]" for event in events):
                before, wrong = split_error(data[:end])
                return before, wrong, wrong is None
    before, wrong = split_error(data)
    return before, wrong, False


def split_error(data: bytes) -> tuple[bytes, bytes | None]:
    """Return the complete events before the first that is an error, and the data of that one.

    None stands for no error; then all of `data` is returned, or all up to [DONE] where an error
    follows that.
    """
    if _MAYBE_ERROR.search(data) is None:
        return data, None
    end, done = 0, False
    for raw in split(data):
        for event in Parser(limit=len(raw) + 2).feed(raw + b"\n\n"):
            if _is_error(event):
                return data[:end], None if done else event.data
            done = done or event.data == b"[DONE]"
        end += len(raw)
    return data, None


def _is_error(event: Event) -> bool:
    if event.event == "error":
        return True
    try:
        content = decode(event.data)
    except wire.UNREADABLE:
        return False
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, dict):
        return False
    choices = content.get("choices")
    parts = [content, *(choices if isinstance(choices, list) else ())]
    return any(isinstance(part, dict) and bool(part.get("error")) for part in parts)


def without_usage(data: bytes) -> bytes:
    """Return complete events without the one that holds nothing but the usage.

    For clients that did not request it, when the router did.
    """
    if _NO_CHOICES.search(data) is None:
        return data
    rest = [event for event in split(data) if not _only_usage(event)]
    return b"".join(rest)


def _only_usage(event: bytes) -> bool:
    events = Parser().feed(event)
    try:
        content = decode(events[0].data) if events else None
    except wire.UNREADABLE:
        return False
    return isinstance(content, dict) and not content.get("choices") and bool(content.get("usage"))


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What the last events of a streamed answer report.

    Attributes:
        usage: the tokens; None when the host does not report them.
        id: the answer's id; "" for none.
        model: the model that the host reports; "" for none.
        system_fingerprint: the fingerprint that the host reports; "" for none.
        finish_reason: the last finish reason; "" for none.
        error: the message of an error in mid-stream; "" for none.
        done: whether `[DONE]` came; without it, or a finish reason, the answer is not whole.
    """

    usage: TokenCounts | None = None
    id: str = ""
    model: str = ""
    system_fingerprint: str = ""
    finish_reason: str = ""
    error: str = ""
    done: bool = False


class _End(msgspec.Struct):
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    """The fields that are read of a last event; those of unusual types count as absent."""

    id: Any = None
    model: Any = None
    system_fingerprint: Any = None
    usage: msgspec.Raw = ABSENT
    x_groq: msgspec.Raw = ABSENT
    choices: list[_End] | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def read_end(tail: bytes) -> StreamEnd:
    """Return what a stream's last bytes say; they may begin in the middle of an event.

    Never raises: the answer went out already, and an event that cannot be read counts as absent.
    """
    end: dict[str, Any] = {}
    # Some hosts leave out the blank line after [DONE]; an event really cut off is not JSON.
    for event in Parser(limit=len(tail) + 2).feed(tail + b"\n\n"):
        if event.data == b"[DONE]":
            end["done"] = True
            continue
        try:
            chunk = _decode_chunk(event.data)
        except wire.UNREADABLE:
            continue
        if event.event == "error" and not chunk.error:
            chunk.error = event.data.decode("utf-8", "replace")
        reasons = [_text(choice.finish_reason) for choice in chunk.choices or ()]
        read = {
            "usage": usage_of_answer(chunk.usage, chunk.x_groq),
            "id": _text(chunk.id),
            "model": _text(chunk.model),
            "system_fingerprint": _text(chunk.system_fingerprint),
            "finish_reason": next(filter(None, reversed(reasons)), None),
            "error": _error_text(chunk.error),
        }
        end |= {name: value for name, value in read.items() if value}
    return StreamEnd(**end)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _error_text(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or error or "")
