"""Chat completions as OpenAI's Responses API: the answers, whole and streamed. No IO.

    reasoning_content, reasoning   -> a reasoning item: text, or the summary that was requested
    thinking_blocks                -> its `encrypted_content`, to be sent back signed
    content, refusal               -> a message
    tool_calls                     -> an item each
    finish_reason length           -> status incomplete, max_output_tokens
    usage                          -> usage; null where the host does not report it

Items of a stream are in the order in which they begin, and each ends before the next begins; but a
call whose arguments are not whole by then ends with the answer: they may come interleaved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from providers import wire
from providers.completion import read_content
from providers.errors import EvalrouterError, UpstreamProtocolError, UpstreamTooLargeError
from providers.host_json import decode, decode_object
from providers.http import sse
from providers.translation import dialect
from providers.translation.fold import MAX_ITEMS
from providers.translation.nested import ToolCallIndexes
from providers.translation.responses_items import (
    ITEM_DONE,
    Events,
    MessageItem,
    ReasoningItem,
    Status,
    TextPart,
    ToolCallItem,
    part_added,
)
from providers.usage import ABSENT, count_of, usage_of_answer

_Object = dict[str, Any]

# Bytes of the events of a stream whose texts are held for its last event.
MAX_STREAM_BYTES = 64 * 2**20

_KEEP_ALIVE = b": keep-alive\n\n"
_NULL = b"null"

# Why an answer is incomplete, by finish reason.
_INCOMPLETE: Mapping[str, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})

# The request's fields that an answer repeats, with OpenAI's defaults.
_ECHOED: Mapping[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
# Repeated where the request has them.
_OPTIONAL = ("conversation", "model", "prompt_cache_retention")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def echo_of(envelope: Mapping[str, msgspec.Raw]) -> _Object:
    """Return what an answer repeats of its request, with OpenAI's defaults for what is absent."""
    echo: _Object = dict(_ECHOED)
    for name in (*_ECHOED, *_OPTIONAL):
        raw = envelope.get(name)
        if raw is None or bytes(raw).strip() == _NULL:
            continue
        default = echo.get(name)
        if isinstance(default, dict) and default:
            given = _decode_fields(raw)
            echo[name] = default | {
                key: value for key, value in given.items() if bytes(value).strip() != _NULL
            }
        else:
            echo[name] = raw
    return echo


class AnswerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the answers to a request depend on.

    Attributes:
        echo: what they repeat of it; see `echo_of`.
        logprobs: whether it requested log probabilities.
        summaries: whether it requested summaries of the thoughts.
        custom_tools: the names of the functions that stand for custom tools.
    """

    echo: _Object
    logprobs: bool
    summaries: bool
    custom_tools: frozenset[str]


class _Delta(msgspec.Struct):
    """A message, or what a chunk adds to it."""

    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking_blocks: Any = None
    annotations: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    logprobs: msgspec.Raw = ABSENT
    finish_reason: Any = None


class _Completion(msgspec.Struct):
    """A chat completion, or a chunk of one."""

    choices: list[_Choice] | None = None
    model: Any = None
    usage: msgspec.Raw = ABSENT
    x_groq: msgspec.Raw = ABSENT
    service_tier: Any = None
    error: Any = None


class _Alternative(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_logprobs = msgspec.json.Decoder(_Logprobs | None).decode


class ResponseAnswers:
    """Turns one chat answer into a response, or into the events of one."""

    def __init__(
        self,
        plan: AnswerPlan,
        *,
        new_id: dialect.NewId = dialect.new_id,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = plan
        self._new_id = new_id
        self._clock = clock
        self._id = new_id("resp")
        self._created_at = int(clock())
        self._model: Any = plan.echo.get("model", "")
        self._service_tier: Any = plan.echo["service_tier"]
        self._usage: msgspec.Raw = ABSENT
        self._groq: msgspec.Raw = ABSENT
        self._reason = ""
        self._has_choice = False
        # Whether a message or a call has begun.
        self._says_something = False

        # Output items by index: those that have ended as they are, the others None.
        self._output: list[msgspec.Raw | None] = []
        self._item: MessageItem | ReasoningItem | None = None
        self._calls: dict[int, ToolCallItem] = {}
        self._last_call: ToolCallItem | None = None
        self._indexes = ToolCallIndexes()
        self._logprobs: list[Any] = []

        self._streams = False
        self._sequence = 0
        self._size = 0
        self._events: list[bytes] = []

    # The seam

    def whole(self, body: bytes) -> bytes:
        """Return a chat completion as a response."""
        self._add_choices(self._read(body))
        if not self._has_choice:
            raise UpstreamProtocolError("the answer has no choice")
        self._end_items()
        return wire.encode(self._last_response())

    def feed(self, events: bytes) -> bytes:
        """Return what complete events of a chat stream become."""
        self._size += len(events)
        if self._size > MAX_STREAM_BYTES:
            raise UpstreamTooLargeError(f"the stream is over {MAX_STREAM_BYTES:,} bytes")
        for data in _data_of(events):
            if data is None:
                self._events.append(_KEEP_ALIVE)
            elif data != b"[DONE]":
                completion = self._read(data)
                self._begin()
                self._add_choices(completion)
        return self._taken()

    def finish(self) -> bytes:
        """Return the events that close a stream which came to its end."""
        self._begin()
        self._end_items()
        response = self._last_response()
        self._event(f"response.{response['status']}", {"response": response})
        return self._taken()

    def fail(self, error: EvalrouterError) -> bytes:
        """Return the events that end a stream which broke off: `error`, `response.failed`."""
        self._begin()
        shown = error.as_openai()["error"]
        shown_fields = {name: shown[name] for name in ("code", "message", "param")}
        self._event("error", shown_fields)
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        response = self._response(
            "failed", output=self._so_far(), error={"code": code, "message": shown["message"]}
        )
        self._event("response.failed", {"response": response})
        return self._taken()

    # Events

    def _begin(self) -> None:
        """Add the first events, once."""
        if self._streams:
            return
        self._streams = True
        response = msgspec.Raw(wire.encode(self._response("in_progress")))
        self._event("response.created", {"response": response})
        self._event("response.in_progress", {"response": response})

    def _event(self, kind: str, fields: Mapping[str, Any]) -> None:
        if not self._streams:
            return
        data = wire.encode({"type": kind, **fields, "sequence_number": self._sequence})
        self._sequence += 1
        self._events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _put(self, events: Events) -> None:
        """Take an item's step: its events into the stream, and it into the output at its end."""
        for kind, fields in events:
            if kind == ITEM_DONE:
                item = msgspec.Raw(wire.encode(fields["item"]))
                self._output[fields["output_index"]] = item
                fields["item"] = item
            self._event(kind, fields)

    def _taken(self) -> bytes:
        """Return the events that were added since the last time."""
        events = b"".join(self._events)
        self._events.clear()
        return events

    # Reading

    def _read(self, data: bytes) -> _Completion:
        """Read a completion, or a chunk of one, and note what it has beside the choices.

        Raises:
            UpstreamProtocolError: it is no such, or an error.
        """
        try:
            completion = _decode_completion(data)
        except wire.UNREADABLE:
            completion = _read_odd(data)
        if completion.error and not completion.choices:
            raise UpstreamProtocolError(f"the answer is an error: {_message_of(completion.error)}")
        if isinstance(completion.model, str) and completion.model:
            self._model = completion.model
        if completion.usage is not ABSENT and bytes(completion.usage) != _NULL:
            self._usage = completion.usage
        if completion.x_groq is not ABSENT:
            self._groq = completion.x_groq
        if isinstance(completion.service_tier, str) and completion.service_tier in _TIERS:
            self._service_tier = completion.service_tier
        return completion

    def _add_choices(self, completion: _Completion) -> None:
        for choice in completion.choices or ():
            # The Responses API has one answer; a further one was never requested.
            if not count_of(choice.index):
                self._has_choice = True
                self._add_choice(choice)

    def _add_choice(self, choice: _Choice) -> None:
        if choice.logprobs is not ABSENT and self._plan.logprobs:
            self._logprobs += _read_logprobs(choice.logprobs)
        delta = choice.delta or choice.message
        if delta is not None:
            self._add_delta(delta)
        reason = choice.finish_reason
        if isinstance(reason, str) and reason:
            if reason == "error":
                raise UpstreamProtocolError("the answer ended with an error")
            self._reason = reason
            self._end_items()

    def _add_delta(self, delta: _Delta) -> None:
        content, refusal = delta.content, delta.refusal
        thought = delta.reasoning_content or delta.reasoning
        if isinstance(content, list):
            try:
                content, refusal_part, thinking = read_content(content)
            except msgspec.ValidationError as error:
                raise UpstreamProtocolError(f"the answer cannot be read: {error}") from None
            refusal, thought = refusal or refusal_part, thought or thinking
        if thought and isinstance(thought, str):
            self._think(thought)
        if delta.thinking_blocks and isinstance(delta.thinking_blocks, list):
            self._reasoning().signed += delta.thinking_blocks
        if content and isinstance(content, str):
            self._say(content)
        if delta.annotations and isinstance(delta.annotations, list):
            self._annotate(delta.annotations)
        if refusal and isinstance(refusal, str):
            self._grow(self._text_part("refusal"), refusal)
        calls = delta.tool_calls
        if delta.function_call and not calls:
            calls = [{"index": 0, "function": delta.function_call}]
        if calls and isinstance(calls, list):
            self._indexes.fix(0, calls)
            for call in calls:
                if isinstance(call, dict):
                    self._add_call(call)

    # Items

    def _new_index(self) -> int:
        self._output.append(None)
        return len(self._output) - 1

    def _settle(self) -> None:
        """End the items that nothing is added to, because another begins."""
        self._close_item("completed")
        call = self._last_call
        if call is not None and not call.is_closed and call.is_complete():
            self._put(call.closed("completed"))

    def _close_item(self, status: Status) -> None:
        item, self._item = self._item, None
        if item is None:
            return
        if isinstance(item, MessageItem) and item.part is not None:
            # Those of tokens without a text.
            item.part.logprobs += self._logprobs
            self._logprobs = []
        self._put(item.closed(status))

    def _end_items(self) -> None:
        """End all items; an answer that is complete has a message or a call at least."""
        incomplete = self._reason in _INCOMPLETE
        status: Status = "incomplete" if incomplete else "completed"
        self._close_item(status)
        for call in self._calls.values():
            if not call.is_begun:
                self._open_call(call)
            if not call.is_closed:
                self._put(call.closed("completed" if call.is_complete() else status))
        if not self._says_something and not incomplete:
            self._text_part("output_text")
            self._close_item(status)

    def _reasoning(self) -> ReasoningItem:
        if not isinstance(self._item, ReasoningItem):
            self._settle()
            index = self._new_index()
            item = ReasoningItem(self._new_id("rs"), index, as_summary=self._plan.summaries)
            self._item = item
            self._put(item.begin())
            return item
        return self._item

    def _think(self, text: str) -> None:
        item = self._reasoning()
        part = item.part
        if part is None:
            part = item.new_part()
            self._put(part_added(part))
        self._grow(part, text)

    def _text_part(self, kind: Literal["output_text", "refusal"]) -> TextPart:
        """Return the part of this kind that grows."""
        item = self._item
        if not isinstance(item, MessageItem):
            self._settle()
            self._says_something = True
            item = MessageItem(self._new_id("msg"), self._new_index())
            self._item = item
            self._put(item.begin())
        part = item.part
        if part is None or part.kind != kind:
            self._put(item.close_part())
            part = item.new_part(kind)
            self._put(part_added(part))
        return part

    def _say(self, text: str) -> None:
        part = self._text_part("output_text")
        if not self._logprobs:
            self._grow(part, text)
            return
        part.pieces.append(text)
        part.logprobs += self._logprobs
        fields = {**part.place, "delta": text, "logprobs": self._logprobs}
        self._event("response.output_text.delta", fields)
        self._logprobs = []

    def _grow(self, part: TextPart | ToolCallItem, text: str) -> None:
        part.pieces.append(text)
        if self._streams and part.form is not None:
            self._events.append(part.form.written(self._sequence, text))
            self._sequence += 1

    def _annotate(self, annotations: list[Any]) -> None:
        for annotation in map(_annotation, annotations):
            if annotation is not None:
                part = self._text_part("output_text")
                number = len(part.annotations)
                part.annotations.append(annotation)
                fields = {**part.place, "annotation_index": number, "annotation": annotation}
                self._event("response.output_text.annotation.added", fields)

    def _add_call(self, given: _Object) -> None:
        index = given["index"]
        call = self._calls.get(index)
        if call is None:
            if len(self._calls) >= MAX_ITEMS:
                raise UpstreamProtocolError(f"the answer has over {MAX_ITEMS} tool calls")
            call = self._calls[index] = ToolCallItem()
        function = given.get("function")
        if not isinstance(function, dict):
            function = {}
        arguments = _text_of(function.get("arguments"))
        if call.is_begun:
            if call.is_closed and arguments.strip():
                raise UpstreamProtocolError("the arguments of a tool call go on after their end")
            if arguments:
                self._grow(call, arguments)
            return
        call.call_id = call.call_id or _text_of(given.get("id"))
        call.name = call.name or _text_of(function.get("name"))
        call.pieces.append(arguments)
        if call.name:
            self._open_call(call)

    def _open_call(self, call: ToolCallItem) -> None:
        """Begin the item of a call, with the arguments that came before its name."""
        self._settle()
        self._says_something = True
        self._last_call = call
        call.call_id = call.call_id or self._new_id("call")
        is_custom = call.name in self._plan.custom_tools
        identity = self._new_id("ctc" if is_custom else "fc")
        self._put(call.open(identity, self._new_index(), is_custom=is_custom))
        arguments = "".join(call.pieces)
        call.pieces.clear()
        if arguments:
            self._grow(call, arguments)

    # The response

    def _last_response(self) -> _Object:
        """Return the response of an answer that came to its end."""
        why = _INCOMPLETE.get(self._reason)
        return self._response(
            "completed" if why is None else "incomplete",
            incomplete_details=None if why is None else {"reason": why},
            completed_at=int(self._clock()) if why is None else None,
            output=self._output,
            usage=_usage_of(self._usage, self._groq),
        )

    def _so_far(self) -> list[Any]:
        """Return the output of an answer that broke off."""
        output: list[Any] = list(self._output)
        for item in (self._item, *self._calls.values()):
            if item is not None and output[item.index : item.index + 1] == [None]:
                output[item.index] = item.so_far("incomplete")
        return output

    def _response(self, status: str, **known: Any) -> _Object:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            **self._plan.echo,
            "model": self._model,
            "service_tier": self._service_tier,
            "output": [],
            "usage": None,
            **known,
        }


def _data_of(events: bytes) -> Iterator[bytes | None]:
    """Yield the data of each event; None for a comment, which keeps a connection alive.

    Raises:
        UpstreamProtocolError: an event is an error.
    """
    if b"\r" not in events:
        for event in events.split(b"\n\n"):
            if event.startswith(b"data: ") and b"\n" not in event:
                yield event[6:]
            elif event.startswith(b":") and b"\n" not in event:
                yield None
            elif event:
                yield from _parsed(event)
    else:
        yield from _parsed(events)


def _parsed(events: bytes) -> Iterator[bytes | None]:
    read_events = sse.Parser(limit=len(events) + 2).feed(events + b"\n\n")
    for event in read_events:
        if event.event == "error":
            raise UpstreamProtocolError(f"the answer is an error: {_message_of(event.data)}")
        if event.event == "message":
            yield event.data
    if not read_events:
        yield None


def _read_odd(data: bytes) -> _Completion:
    """Read a completion whose numbers Python cannot hold.

    Raises:
        UpstreamProtocolError: it is not one.
    """
    try:
        return _decode_completion(wire.encode(decode_object(data)))
    except wire.UNREADABLE as error:
        raise UpstreamProtocolError(f"the answer is not a chat completion: {error}") from None


def _message_of(error: Any) -> str:
    """Return what an error says, whatever its shape."""
    if isinstance(error, bytes):
        try:
            error = decode(error)
        except wire.UNREADABLE:
            error = error.decode("utf-8", "replace")
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)


def _text_of(value: Any) -> str:
    """Return a text; an object, as which some hosts send arguments, is written as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else wire.encode(value).decode()


def _read_logprobs(raw: msgspec.Raw) -> list[_Object]:
    """Return log probabilities as a response has them; [] where they cannot be read."""
    try:
        logprobs = _decode_logprobs(raw)
    except wire.UNREADABLE:
        return []
    tokens = (logprobs and logprobs.content) or []
    return [
        {**_alternative(token), "top_logprobs": [*map(_alternative, token.top_logprobs or ())]}
        for token in tokens
    ]


def _alternative(token: _Alternative) -> _Object:
    return {"token": token.token, "bytes": token.bytes or [], "logprob": token.logprob}


def _annotation(given: Any) -> _Object | None:
    """Return a citation of a web page as a response has it; None for anything else."""
    cited = given.get("url_citation") if isinstance(given, dict) else None
    if not isinstance(cited, dict):
        return None
    try:
        citation = msgspec.convert(cited, _Citation)
    except msgspec.ValidationError:
        return None
    return {"type": "url_citation", **msgspec.structs.asdict(citation)}


class _Citation(msgspec.Struct):
    url: str
    title: str
    start_index: int
    end_index: int


class _Details(msgspec.Struct):
    reasoning_tokens: Any = None


class _Usage(msgspec.Struct):
    completion_tokens_details: _Details | None = None


_decode_usage = msgspec.json.Decoder(_Usage).decode


def _usage_of(usage: msgspec.Raw, groq: msgspec.Raw) -> _Object | None:
    """Return the usage of a response; None where the host does not report it."""
    counts = usage_of_answer(usage, groq)
    if counts is None or counts.prompt is None or counts.completion is None:
        return None
    try:
        details = _decode_usage(usage).completion_tokens_details or _Details()
    except wire.UNREADABLE:
        details = _Details()
    reasoning = count_of(details.reasoning_tokens) or 0
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.written,
        },
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": min(reasoning, counts.completion)},
        "total_tokens": counts.prompt + counts.completion,
    }
