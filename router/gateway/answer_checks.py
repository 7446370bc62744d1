"""Tells a model's answer from what only looks like one. No IO: bytes in, bytes or an error out.

A status of 200 does not make an answer: hosts send error objects, login pages, halves of JSON and
answers without a choice with it, streams where none was requested and whole answers where one was.

`whole` reads a complete answer and `ChatBeginning` the first events of a stream, both before
anything has gone to the client; `is_whole` says of a stream that has ended whether it came to its
end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from providers.base import Path
from providers.errors import UpstreamProtocolError, UpstreamStatusError
from providers.host_json import decode_object
from providers.http import sse
from providers.off_loop import LARGE_BYTES
from providers.translation.fold import fold, unfold
from providers.wire import UNREADABLE
from router.records import Target

# Bytes of a stream that are read until it answers; a first event with images or scores is long.
MAX_BEGINNING_BYTES = 16 * 2**20
# The last chunks of a stream, in which its end is searched for.
LAST_CHUNKS = 8

# The largest `n` of OpenAI's API.
MAX_CHOICES = 128
# Bytes of the events that a whole answer becomes.
MAX_EVENTS_BYTES = 64 * 2**20

_ABSENT = msgspec.Raw(b"")
# What stands for "no error" where a host always writes the field.
_NO_ERROR = frozenset({b"null", b"false", b"0", b'""', b"{}", b"[]"})
_MAYBE_ERROR = re.compile(rb'"error"\s*:|"object"\s*:\s*"error"')
# What a server-sent event may begin with; "error:" is how older llama.cpp servers say that one.
_EVENT_STARTS = (b"data:", b":", b"event:", b"id:", b"retry:", b"error:")


class _Choice(msgspec.Struct):
    message: msgspec.Raw = _ABSENT
    text: msgspec.Raw = _ABSENT
    finish_reason: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: msgspec.Raw = _ABSENT


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw = _ABSENT


class _Embeddings(msgspec.Struct):
    data: list[_Vector] | None = None
    error: msgspec.Raw = _ABSENT


# Of lists in large answers only so much is decoded, and the rest skipped: millions of items take
# seconds, and no other thread runs in that time, as msgspec keeps the interpreter's lock.
_FirstChoices: Any = msgspec.defstruct(
    "_FirstChoices",
    [(f"choice_{number}", _Choice | UnsetType, UNSET) for number in range(MAX_CHOICES)],
    array_like=True,
)


class _FirstVector(msgspec.Struct, array_like=True):
    vector: _Vector | UnsetType = UNSET


class _LargeCompletion(msgspec.Struct):
    choices: _FirstChoices | None = None
    error: msgspec.Raw = _ABSENT


class _LargeEmbeddings(msgspec.Struct):
    data: _FirstVector | None = None
    error: msgspec.Raw = _ABSENT


class _Event(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    error: msgspec.Raw = _ABSENT


class _EndingChoice(msgspec.Struct):
    index: Any = 0
    finish_reason: Any = None


class _Ending(msgspec.Struct):
    choices: list[_EndingChoice] | None = None


# Values that are not read are skipped: 0.8 µs for a chat completion of 1 KB.
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode
_decode_large_completion = msgspec.json.Decoder(_LargeCompletion).decode
_decode_large_embeddings = msgspec.json.Decoder(_LargeEmbeddings).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_ending = msgspec.json.Decoder(_Ending).decode
_encode = msgspec.json.Encoder().encode


def whole(body: bytes, path: Path, target: Target) -> bytes:
    """Return a whole answer as OpenAI's object: the body itself, or what its events amount to.

    Raises:
        UpstreamStatusError: it is an error object.
        UpstreamProtocolError: it is not an answer of this path.
    """
    first: _Choice | _Vector | None
    try:
        if len(body) > LARGE_BYTES:
            first, error = _read_large(body, path)
        elif path == "embeddings":
            vectors = _decode_embeddings(body)
            first = vectors.data[0] if vectors.data else None
            error = vectors.error
        else:
            completion = _decode_completion(body)
            first = completion.choices[0] if completion.choices else None
            error = completion.error
    except UNREADABLE:
        return _from_events(body, path, target)
    if is_error(error):
        raise error_in_200(body, target)
    if first is None:
        if _MAYBE_ERROR.search(body[:200]) is not None:
            raise error_in_200(body, target)
        what = "data" if path == "embeddings" else "choices"
        raise UpstreamProtocolError(f"{target}: the answer has no {what}")
    if isinstance(first, _Choice):
        if is_error(first.error):
            raise error_in_200(_encode({"error": first.error}), target)
        # A host's filter may leave nothing of a choice but the reason.
        answer = first.text if path == "completions" else first.message
        if _is_empty(answer) and _is_empty(first.finish_reason):
            raise UpstreamProtocolError(f"{target}: the answer's first choice is empty")
    elif first.embedding is _ABSENT:
        raise UpstreamProtocolError(f"{target}: the answer's first vector is missing")
    return body


def _read_large(body: bytes, path: Path) -> tuple[_Choice | _Vector | None, msgspec.Raw]:
    """Return a large answer's first choice or vector, and its error."""
    if path == "embeddings":
        vectors = _decode_large_embeddings(body)
        vector = vectors.data.vector if vectors.data is not None else UNSET
        return None if vector is UNSET else vector, vectors.error
    completion = _decode_large_completion(body)
    choice = completion.choices.choice_0 if completion.choices is not None else UNSET
    return None if choice is UNSET else choice, completion.error


def is_error(field: msgspec.Raw) -> bool:
    """Return whether the field `error` of an answer says that it is one; absent, it does not."""
    return field is not _ABSENT and bytes(field) not in _NO_ERROR


def _is_empty(field: msgspec.Raw) -> bool:
    return field is _ABSENT or bytes(field) == b"null"


def _from_events(body: bytes, path: Path, target: Target) -> bytes:
    """Return the whole answer that a stream amounts to, for a host that streams unasked."""
    if path == "embeddings" or not looks_like_events(body):
        if b'"error"' in body[:200]:
            raise error_in_200(body, target)
        what = "a list of embeddings" if path == "embeddings" else "a completion"
        reason = "it is empty" if not body.strip() else "it is not JSON of that form"
        raise UpstreamProtocolError(f"{target}: the answer is not {what}: {reason}")
    beginning = ChatBeginning(target)
    beginning.feed(body)
    before, wrong, _ = sse.split_end(body)
    if wrong is not None:
        raise error_in_200(wrong, target)
    if not is_whole([before]):
        raise cut_off(target)
    events = sse.Parser(limit=len(before) + 2).feed(before + b"\n\n")
    # Events of other types (`ping`) are not chunks of the answer.
    chunks = [
        event.data for event in events if event.event == "message" and event.data != b"[DONE]"
    ]
    # Some hosts leave out what kind of object it is.
    kind = {"object": "text_completion" if path == "completions" else "chat.completion.chunk"}
    try:
        folded = _encode(fold([decode_object(chunk) | kind for chunk in chunks]))
    except (*UNREADABLE, AttributeError, TypeError, ValueError, KeyError) as error:
        # `fold` takes events that are well formed; a host's need not be.
        raise UpstreamProtocolError(f"{target}: its stream cannot be read") from error
    return whole(folded, path, target)


def events_of(body: bytes, path: Path, target: Target) -> bytes:
    """Return the events that a whole answer becomes, for a host that does not stream."""
    return joined_events(_events(body, path, target), target)


def _events(body: bytes, path: Path, target: Target) -> Iterator[bytes]:
    kind = {"object": "text_completion" if path == "completions" else "chat.completion"}
    answer = decode_object(body) | kind
    if len(answer.get("choices") or ()) > MAX_CHOICES:
        raise UpstreamProtocolError(f"{target}: the answer has over {MAX_CHOICES} choices")
    yield from unfold(answer, include_usage=True)


def joined_events(events: Iterator[bytes], target: Target) -> bytes:
    """Return the events that a whole answer becomes, in one.

    Args:
        events: reads the answer and makes them, one after the other.
        target: the target that answered.

    Raises:
        UpstreamProtocolError: the answer cannot be read, or is too long.
    """
    parts, size = [], 0
    try:
        for event in events:
            parts.append(event)
            size += len(event)
            # Every event repeats fields of the answer.
            if size > MAX_EVENTS_BYTES:
                raise UpstreamProtocolError(f"{target}: the answer is too long to be streamed")
    except (*UNREADABLE, AttributeError, TypeError, ValueError, KeyError) as error:
        raise UpstreamProtocolError(f"{target}: the answer cannot be read") from error
    return b"".join(parts)


def looks_like_events(body: bytes) -> bool:
    """Return whether the bytes begin as a stream of server-sent events does."""
    return sse.without_bom(body).lstrip().startswith(_EVENT_STARTS)


def begins_plainly(first: bytes) -> bool:
    """Return whether a stream's first bytes hold a whole event with a choice, and no error.

    That is how nearly all streams begin; `ChatBeginning` reads the others.
    """
    return (
        first.startswith(b"data: {")
        and (b'"choices":[{' in first or b'"choices": [{' in first)
        and b"\n\n" in first
        and b"error" not in first
    )


class StreamBeginning:
    """What the readers of a stream's beginning have in common, whatever it is a stream of."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._parser = sse.Parser(limit=MAX_BEGINNING_BYTES)

    def empty(self) -> UpstreamProtocolError:
        """Return the error of a stream that ended before it began to answer."""
        return UpstreamProtocolError(f"{self._target}: the stream ended before it said anything")


class ChatBeginning(StreamBeginning):
    """Reads a stream up to its first event that is neither a comment nor without a choice."""

    def feed(self, chunk: bytes) -> bool:
        """Return whether the stream has begun to answer.

        Raises:
            UpstreamStatusError: it has begun with an error.
            UpstreamProtocolError: it is not a stream of completions, or has no choice.
        """
        for event in self._parser.feed(chunk):
            if event.event == "error":
                raise error_in_200(event.data, self._target)
            if event.data == b"[DONE]":
                raise self.empty()
            try:
                chunk_of_answer = _decode_event(event.data)
            except UNREADABLE:
                if b'"error"' in event.data[:200]:
                    raise error_in_200(event.data, self._target) from None
                if event.event == "message":
                    raise UpstreamProtocolError(
                        f"{self._target}: the stream's first event is not a chunk of a completion"
                    ) from None
                continue
            if is_error(chunk_of_answer.error):
                raise error_in_200(event.data, self._target)
            if chunk_of_answer.choices:
                return True
        return False


def is_whole(tail: Sequence[bytes]) -> bool:
    """Return whether a stream that ended with these chunks came to its end.

    Its end is [DONE], or a finish reason for each choice in the last chunks.
    """
    if tail and tail[-1].endswith(sse.DONE):
        return True
    last = last_chunks(tail)
    begun: set[str] = set()
    finished: set[str] = set()
    # Some hosts leave out the blank line after [DONE].
    for event in sse.Parser(limit=len(last) + 2).feed(last + b"\n\n"):
        if event.data == b"[DONE]":
            return True
        try:
            choices = _decode_ending(event.data).choices
        except UNREADABLE:
            continue
        for choice in choices or ():
            (finished if choice.finish_reason else begun).add(str(choice.index))
    return bool(finished) and begun <= finished


def is_done(tail: Sequence[bytes]) -> bool:
    """Return whether [DONE] is among a stream's last events."""
    events = sse.Parser(limit=2**62).feed(last_chunks(tail) + b"\n\n")
    return any(event.data == b"[DONE]" for event in events)


def last_event(held: bytes) -> tuple[bytes, bytes | None]:
    """Return a stream's last event where only its blank line is missing, or an error it holds.

    An event that is cut off in the middle becomes b"".
    """
    whole = held.rstrip(b"\r\n") + b"\n\n"
    rest, wrong = sse.split_error(whole)
    if wrong is not None:
        return b"", wrong
    for event in sse.Parser(limit=len(whole) + 2).feed(rest):
        if event.data == b"[DONE]":
            continue
        try:
            _decode_event(event.data)
        except UNREADABLE:
            return b"", None
    return rest, None


def split_at(
    data: bytes, judge: Callable[[sse.Event], bytes | bool]
) -> tuple[bytes, bytes | None, bool]:
    """Return the events up to the end or an error, the error's data, and whether it ended.

    Args:
        data: complete events.
        judge: returns the data of the error that an event is, or else whether it is the end.
    """
    end = 0
    for raw in sse.split(data):
        for event in sse.Parser(limit=len(raw) + 2).feed(raw + b"\n\n"):
            verdict = judge(event)
            if verdict is True:
                return data[: end + len(raw)], None, True
            if verdict is not False:
                return data[:end], verdict, False
        end += len(raw)
    return data, None, False


def ends_with(tail: Sequence[bytes], last: re.Pattern[bytes]) -> bool:
    """Return whether a stream that ended with these chunks has a whole event of its end."""
    chunks = last_chunks(tail)
    return chunks.endswith((b"\n", b"\r")) and last.search(chunks) is not None


def last_chunks(tail: Sequence[bytes]) -> bytes:
    """Return the last chunks of a stream, in which its end is searched for."""
    first = max(0, len(tail) - LAST_CHUNKS)
    return b"".join([tail[n] for n in range(first, len(tail))])


def cut_off(target: Target) -> UpstreamProtocolError:
    """Return the error of a stream that ended without [DONE] and without a finish reason."""
    return UpstreamProtocolError(f"{target}: the answer was cut off before its end")


def error_in_200(body: bytes, target: Target) -> UpstreamStatusError:
    """Return the error that a host sent in an answer with status 200."""
    return UpstreamStatusError(
        502, body.strip(), {}, f"{target} answered with an error in status 200"
    )
