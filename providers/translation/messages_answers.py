"""Chat completions as messages of Anthropic's API, whole or streamed. No IO.

    reasoning_content     -> a `thinking` block, where the request's `thinking` asks for thoughts
    content, refusal      -> a `text` block
    tool_calls            -> `tool_use` blocks, which come last
    finish_reason         -> `stop_reason`; `tool_use` only where a tool is called
    usage                 -> cached and written tokens apart from `input_tokens`; unknown ones are 0

A stream's events have the order that the Messages API documents. Its blocks come one after the
other: what belongs to a later block waits until the one before it is complete, which a tool call is
once its arguments are a JSON object.

**Arguments that are no JSON object.** Anthropic's clients take nothing but an object for `input`,
and parse it while it streams. In a whole answer, and where nothing of the call has been sent yet,
such arguments become `{"INVALID_JSON": "the arguments as they came"}`, the form that Anthropic's
documentation gives for them, so that the model can be shown its mistake. In a stream whose pieces
went out already they are an error, unless the answer was cut off by its length: then the input is
as incomplete as `stop_reason: max_tokens` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import wire
from providers.completion import Content, read_content
from providers.errors import EvalrouterError, UpstreamProtocolError, UpstreamTooLargeError
from providers.host_json import check_values
from providers.http import sse
from providers.translation.dialect import NewId, new_id
from providers.translation.messages_errors import error_object
from providers.translation.messages_terms import STOP_REASONS
from providers.usage import ABSENT, TokenCounts, count_of, usage_of_answer

# Keeps a silent stream alive; clients of the Messages API ignore it.
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
# Characters of a stream's arguments, and of what waits for them, that are held.
MAX_HELD_CHARS = 16 * 2**20
# What a piece and a block count beside their characters.
_PER_PIECE = 64
_PER_BLOCK = 1024
# Of thoughts that are not shown, every so many are a ping.
_HIDDEN_PER_PING = 64

_encode = msgspec.json.Encoder().encode
_decode_value = msgspec.json.Decoder(Any).decode


class AnswerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says about its answer.

    Attributes:
        model: the model's name, for hosts that do not report one.
        stop_sequences: the texts that end the answer.
        names: the whole names of tools whose names had to be shortened.
        shows_thoughts: whether the answer has the model's thoughts.
    """

    model: str = ""
    stop_sequences: tuple[str, ...] = ()
    names: Mapping[str, str] = {}
    shows_thoughts: bool = False


# Only what has one type at every host has it here; the others are checked where they are read.
class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    id: Any = None
    index: Any = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    """A message, or what a chunk adds to one."""

    content: Any = None
    tool_calls: list[_Call] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    thinking_blocks: Any = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    delta: _Message | None = None
    index: Any = 0
    finish_reason: Any = None
    # vLLM and SGLang name the text that ended the answer.
    stop_reason: Any = None
    matched_stop: Any = None


class _Completion(msgspec.Struct, gc=False):
    """A completion, or a chunk of one."""

    id: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = ABSENT
    x_groq: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Completion).decode


class _Details(msgspec.Struct):
    reasoning_tokens: Any = None


class _Reasoning(msgspec.Struct):
    completion_tokens_details: _Details | None = None


_decode_reasoning = msgspec.json.Decoder(_Reasoning).decode


def token_count(tokens: int) -> bytes:
    """Return the answer of `messages/count_tokens`."""
    return _encode({"input_tokens": tokens})


class _Block:
    """A block of a stream that is open, or waits for those before it.

    Attributes:
        kind: text, thinking, redacted_thinking or tool_use.
        pieces: all of a tool call's arguments; of other kinds, what waits.
        id: a tool call's id; "" before its beginning is sent.
        given_id: what the host gives as that.
        name: a tool's; "" until the host gives it.
        signature: a thought's.
        is_open: whether its beginning has been sent.
        is_closed: whether its end has been sent.
        has_sent: whether any of a tool call's arguments have been sent.
    """

    __slots__ = (
        *("given_id", "has_sent", "id", "is_closed", "is_open"),
        *("kind", "name", "pieces", "signature"),
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.id = ""
        self.given_id: Any = None
        self.name = ""
        self.signature = ""
        self.is_open = False
        self.is_closed = False
        self.has_sent = False


class MessageAnswers:
    """Turns the chat answer of one attempt into a message, or its stream's events.

    Args:
        facts: what the request says about its answer.
        new_id: makes the ids that the host leaves out.
        clock: not used, as a message has no time.
    """

    def __init__(
        self,
        facts: AnswerFacts,
        *,
        new_id: NewId = new_id,
        clock: Callable[[], float] = time.time,
    ) -> None:
        del clock
        self._facts = facts
        self._new_id = new_id
        self._started = False
        self._ended = False
        # The blocks that have not ended yet; the first of them is open, or its name is missing.
        self._waiting: list[_Block] = []
        # Tool calls by the index that the host gives them, the last one, and the ids of all.
        self._calls: dict[int, _Block] = {}
        self._last_call: _Block | None = None
        self._ids: set[str] = set()
        # The index of the block that is open, or of the next one.
        self._index = 0
        self._has_tool_use = False
        self._hidden = 0
        # Whether thoughts come as text, so that the signed ones have the same once more.
        self._thinks_aloud = False
        self._finish: Any = None
        self._stop_sequence: str | None = None
        self._refusal: list[str] = []
        self._usage: dict[str, Any] | None = None
        self._held_chars = 0

    def whole(self, body: bytes) -> bytes:
        """Return a chat completion as a message."""
        completion = _read(body)
        choice = _first(completion)
        message = choice.message if choice is not None else None
        if choice is None or message is None:
            raise UpstreamProtocolError("the answer has no choice with a message")
        read = _content(message.content)
        content = self._thinking_blocks(message, read.thinking)
        text = (read.text or "") + self._note_refusal(message.refusal or read.refusal)
        if text:
            content.append({"type": "text", "text": text})
        calls = [self._tool_use(call) for call in message.tool_calls or ()]
        self._has_tool_use = bool(calls)
        self._note_end(choice)
        return _encode(
            {
                "id": self._message_id(completion),
                "type": "message",
                "role": "assistant",
                "model": self._model(completion),
                "content": content + calls,
                **self._ending(),
                "usage": _usage_of(completion) or _usage(TokenCounts()),
            }
        )

    def feed(self, events: bytes) -> bytes:
        """Return what complete events of a chat stream become, in the order of the Messages API."""
        out: list[bytes] = []
        datas = sse.payloads(events)
        for data in datas:
            if self._ended:
                break
            if data == b"[DONE]":
                out.append(self.finish())
            else:
                self._chunk(_read(data), out)
        if not datas and events.startswith(b":"):
            # The host's own sign of life.
            return PING
        return b"".join(out)

    def finish(self) -> bytes:
        """Return the events that close the message: once, and then nothing."""
        if self._ended:
            return b""
        out: list[bytes] = []
        if not self._started:
            self._start(_Completion(), out)
        while self._waiting:
            block = self._waiting[0]
            if not block.is_open:
                self._open_whole(block, out)
            self._close(block, out)
        self._ended = True
        usage = self._usage or _usage(TokenCounts())
        delta = {"type": "message_delta", "delta": self._ending(), "usage": usage}
        out.append(b"event: message_delta\ndata: %b\n\n" % _encode(delta))
        out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return b"".join(out)

    def fail(self, error: EvalrouterError) -> bytes:
        """Return the event that ends a stream which broke off."""
        self._ended = True
        return b"event: error\ndata: %b\n\n" % _encode(error_object(error))

    # Whole answers

    def _thinking_blocks(self, message: _Message, thinking: str) -> list[dict[str, Any]]:
        if not self._facts.shows_thoughts:
            return []
        signed = [
            {**block, "signature": _string(block.get("signature"))}
            if block["type"] == "thinking"
            else block
            for block in _signed(message.thinking_blocks)
        ]
        thoughts = _thoughts(message) or thinking
        if not thoughts or any(block["type"] == "thinking" for block in signed):
            return signed
        return [{"type": "thinking", "thinking": thoughts, "signature": ""}, *signed]

    def _tool_use(self, call: _Call) -> dict[str, Any]:
        function = call.function or _Function()
        return {
            "type": "tool_use",
            "id": self._call_id(call.id),
            "name": self._name(function.name),
            "input": _input_of(_arguments(function.arguments)),
        }

    # Both

    def _message_id(self, completion: _Completion) -> str:
        """Return the host's id in Anthropic's form, so that it can be found in the host's log."""
        given = completion.id
        if not isinstance(given, str) or not given:
            return self._new_id("msg")
        return given if given.startswith("msg_") else f"msg_{given.removeprefix('chatcmpl-')}"

    def _model(self, completion: _Completion) -> str:
        model = completion.model
        return model if isinstance(model, str) and model else self._facts.model

    def _call_id(self, given: Any) -> str:
        """Return a call's id: the host's, to which its results belong, if it gives each its own."""
        is_usable = isinstance(given, str) and given and given not in self._ids
        identity = str(given) if is_usable else self._new_id("toolu")
        self._ids.add(identity)
        return identity

    def _name(self, name: Any) -> str:
        if not isinstance(name, str) or not name:
            raise UpstreamProtocolError("the answer calls a tool without a name")
        return self._facts.names.get(name, name)

    def _note_refusal(self, refusal: Any) -> str:
        """Return the words with which the model refuses, "" for none."""
        if not refusal or not isinstance(refusal, str):
            return ""
        self._refusal.append(refusal)
        return refusal

    def _note_end(self, choice: _Choice) -> None:
        if choice.finish_reason is not None:
            self._finish = choice.finish_reason
        for text in (choice.stop_reason, choice.matched_stop):
            if isinstance(text, str) and text in self._facts.stop_sequences:
                self._stop_sequence = text

    def _ending(self) -> dict[str, Any]:
        """Return why the message ends, in the fields of a message."""
        reason = STOP_REASONS.get(self._finish) if isinstance(self._finish, str) else None
        if self._refusal and reason != "max_tokens":
            reason = "refusal"
        elif reason in (None, "end_turn", "tool_use"):
            # Many hosts say "stop" of an answer that calls tools, and some the reverse.
            reason = "tool_use" if self._has_tool_use else "end_turn"
        if self._stop_sequence is not None and reason in ("end_turn", "stop_sequence"):
            return {"stop_reason": "stop_sequence", "stop_sequence": self._stop_sequence}
        if reason == "stop_sequence":
            reason = "end_turn"
        ending: dict[str, Any] = {"stop_reason": reason, "stop_sequence": None}
        if reason == "refusal":
            why = "".join(self._refusal) or None
            ending["stop_details"] = {"type": "refusal", "category": None, "explanation": why}
        return ending

    # Streams

    def _chunk(self, chunk: _Completion, out: list[bytes]) -> None:
        usage = _usage_of(chunk)
        if usage is not None:
            self._usage = usage
        if not self._started:
            self._start(chunk, out)
        choice = _first(chunk)
        if choice is None:
            return
        delta = choice.delta
        if delta is not None:
            self._delta(delta, out)
        self._note_end(choice)

    def _start(self, chunk: _Completion, out: list[bytes]) -> None:
        self._started = True
        message: dict[str, Any] = {
            "id": self._message_id(chunk),
            "type": "message",
            "role": "assistant",
            "model": self._model(chunk),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage or _usage(TokenCounts()),
        }
        start = {"type": "message_start", "message": message}
        out.append(b"event: message_start\ndata: %b\n\n" % _encode(start))

    def _delta(self, delta: _Message, out: list[bytes]) -> None:
        """Add what a chunk brings to the blocks, thoughts first."""
        content = delta.content
        if delta.reasoning_content or delta.reasoning or delta.thinking_blocks:
            self._think(delta, out)
        if content:
            if content.__class__ is not str:
                read = _content(content)
                if read.thinking:
                    self._think(_Message(reasoning=read.thinking), out)
                content = read.text
                self._write("text", self._note_refusal(read.refusal), out)
            self._write("text", content, out)
        if delta.refusal:
            self._write("text", self._note_refusal(delta.refusal), out)
        for call in delta.tool_calls or ():
            self._call(call, out)

    def _think(self, delta: _Message, out: list[bytes]) -> None:
        if not self._facts.shows_thoughts:
            if self._hidden % _HIDDEN_PER_PING == 0:
                out.append(PING)
            self._hidden += 1
            return
        thoughts = _thoughts(delta)
        self._thinks_aloud = self._thinks_aloud or bool(thoughts)
        self._write("thinking", thoughts, out)
        for block in _signed(delta.thinking_blocks):
            self._sign(block, out)

    def _sign(self, block: dict[str, Any], out: list[bytes]) -> None:
        """Add a signed thought, or a piece of one."""
        if block["type"] == "redacted_thinking":
            redacted = _Block("redacted_thinking")
            self._hold(redacted, _string(block.get("data")))
            self._add(redacted, out)
            return
        if not self._thinks_aloud:
            self._write("thinking", _string(block.get("thinking")), out)
        signature = _string(block.get("signature"))
        last = self._waiting[-1] if self._waiting else None
        if signature and last is not None and last.kind == "thinking":
            last.signature = last.signature or signature
        elif signature and not self._thinks_aloud:
            # A thought that is signed and not shown.
            hidden = _Block("thinking")
            hidden.signature = signature
            self._add(hidden, out)

    def _write(self, kind: str, text: str | None, out: list[bytes]) -> None:
        """Add a piece to the last block if it is of this kind, else to a new one."""
        if not text:
            return
        block = self._waiting[-1] if self._waiting else None
        if block is None or block.kind != kind or block.signature:
            block = _Block(kind)
            self._hold(block, text)
            self._add(block, out)
        elif block.is_open:
            out.append(_DELTAS[kind] % (self._index, _encode(text)))
        else:
            self._hold(block, text)

    def _hold(self, block: _Block, piece: str) -> None:
        """Keep a piece until its block is complete, or can begin."""
        self._count(len(piece) + _PER_PIECE)
        block.pieces.append(piece)

    def _count(self, chars: int) -> None:
        self._held_chars += chars
        if self._held_chars > MAX_HELD_CHARS:
            raise UpstreamTooLargeError(
                f"the stream has over {MAX_HELD_CHARS:,} characters of arguments of tools"
            )

    def _call(self, call: _Call, out: list[bytes]) -> None:
        """Add a piece of a tool call."""
        function = call.function or _Function()
        piece = _arguments(function.arguments)
        block = self._block_of(call, function, out)
        if block.is_closed:
            if piece.strip():
                raise UpstreamProtocolError("the answer adds to a tool call that was complete")
            return
        if function.name and not block.name:
            block.name = self._name(function.name)
        if piece:
            self._hold(block, piece)
        if block.is_open and piece:
            self._send_arguments(block, piece, out)
        if not block.is_open or len(self._waiting) > 1:
            self._advance(out)

    def _block_of(self, call: _Call, function: _Function, out: list[bytes]) -> _Block:
        """Return the block that a piece of a tool call belongs to, or a new one."""
        index = count_of(call.index)
        block = self._last_call if index is None else self._calls.get(index)
        # Some hosts give no index, or all calls the same one.
        begins = function.name and (call.id or index is None)
        if block is None or (begins and (not call.id or call.id != block.given_id)):
            self._count(_PER_BLOCK)
            block = _Block("tool_use")
            block.given_id = call.id
            if index is not None:
                self._calls[index] = block
            self._add(block, out)
        self._last_call = block
        return block

    def _add(self, block: _Block, out: list[bytes]) -> None:
        self._waiting.append(block)
        self._advance(out)

    def _advance(self, out: list[bytes]) -> None:
        """Open the first block that waits; close it if it is complete and another one follows."""
        while self._waiting:
            block = self._waiting[0]
            if not block.is_open and (block.kind != "tool_use" or block.name):
                self._open(block, out)
            if len(self._waiting) == 1 or not block.is_open or not _is_complete(block):
                return
            self._close(block, out)

    def _open(self, block: _Block, out: list[bytes]) -> None:
        block.is_open = True
        if block.kind == "tool_use":
            self._has_tool_use = True
            block.id = self._call_id(block.given_id)
            use = {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
            out.append(_block_start(self._index, use))
            self._send_arguments(block, "", out)
            return
        text = "".join(block.pieces)
        if block.kind == "redacted_thinking":
            out.append(_block_start(self._index, {"type": block.kind, "data": text}))
            return
        out.append(_block_start(self._index, _BEGINNINGS[block.kind]))
        if text:
            out.append(_DELTAS[block.kind] % (self._index, _encode(text)))

    def _open_whole(self, block: _Block, out: list[bytes]) -> None:
        """Open a block to which nothing more will be added."""
        if block.kind == "tool_use":
            text = "".join(block.pieces)
            block.name = self._name(block.name)
            if text.strip() and not _is_object(text):
                block.pieces = [_text_of_input(text)]
        self._open(block, out)

    def _send_arguments(self, block: _Block, piece: str, out: list[bytes]) -> None:
        """Send a piece of a tool call's arguments; all that waited, where it is the first."""
        if not block.has_sent:
            piece = "".join(block.pieces)
            # What does not begin as an object is sent when all of it is here.
            if not piece.lstrip().startswith("{"):
                return
            block.has_sent = True
        out.append(_DELTAS["tool_use"] % (self._index, _encode(piece)))

    def _close(self, block: _Block, out: list[bytes]) -> None:
        """Send the end of the first block."""
        if block.kind == "tool_use":
            self._complete_arguments(block, out)
        elif block.kind == "thinking":
            out.append(_SIGNATURE % (self._index, _encode(block.signature)))
        stop = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
        out.append(stop % self._index)
        block.is_closed = True
        del self._waiting[0]
        self._index += 1

    def _complete_arguments(self, block: _Block, out: list[bytes]) -> None:
        text = "".join(block.pieces)
        if not block.has_sent:
            if text.strip():
                out.append(_DELTAS["tool_use"] % (self._index, _encode(_text_of_input(text))))
        elif not _is_object(text) and self._finish != "length":
            raise UpstreamProtocolError(
                f"the answer calls the tool {block.name!r} with arguments that are no JSON object"
            )


_BLOCK_START = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,'
    b'"content_block":%b}\n\n'
)
_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%%d,'
    b'"delta":{"type":"%b","%b":%%b}}\n\n'
)
_DELTAS: Mapping[str, bytes] = {
    "text": _DELTA % (b"text_delta", b"text"),
    "thinking": _DELTA % (b"thinking_delta", b"thinking"),
    "tool_use": _DELTA % (b"input_json_delta", b"partial_json"),
}
_SIGNATURE = _DELTA % (b"signature_delta", b"signature")
_BEGINNINGS: Mapping[str, Mapping[str, str]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


def _block_start(index: int, block: Mapping[str, Any]) -> bytes:
    return _BLOCK_START % (index, _encode(block))


def _is_complete(block: _Block) -> bool:
    """Return whether nothing more can belong to a block, once another one has begun."""
    if block.kind != "tool_use":
        return True
    # Most that are not complete show it in their last piece.
    is_likely = bool(block.pieces) and block.pieces[-1].rstrip().endswith("}")
    return is_likely and _is_object("".join(block.pieces))


def _is_object(text: str) -> bool:
    """Return whether a text is a JSON object."""
    try:
        return isinstance(_decode_value(text), dict)
    except wire.UNREADABLE:
        return False


def _input_of(text: str) -> msgspec.Raw | dict[str, str]:
    """Return the `input` that the arguments of a call amount to; see the module's text."""
    if _is_object(text):
        return msgspec.Raw(text.encode())
    if not text.strip():
        return {}
    try:
        value: Any = _decode_value(text)
    except wire.UNREADABLE:
        value = text
    if value is None:
        return {}
    # Some hosts encode them twice.
    is_encoded = isinstance(value, str) and value != text and _is_object(value)
    return msgspec.Raw(value.encode()) if is_encoded else {"INVALID_JSON": text}


def _text_of_input(text: str) -> str:
    return _encode(_input_of(text)).decode()


def _arguments(value: Any) -> str:
    """Return a call's arguments, or a piece of them, as text; some hosts give an object."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value).decode()


def _read(data: bytes) -> _Completion:
    try:
        check_values(data)
        return _decode(data)
    except wire.UNREADABLE as error:
        raise UpstreamProtocolError(f"the answer is not a chat completion: {error}") from error


def _first(completion: _Completion) -> _Choice | None:
    """Return the first choice: a message has one only."""
    for choice in completion.choices or ():
        if not choice.index:
            return choice
    return None


def _content(value: Any) -> Content:
    try:
        return read_content(value)
    except wire.UNREADABLE as error:
        raise UpstreamProtocolError(f"the answer is not a chat completion: {error}") from error


def _thoughts(message: _Message) -> str:
    return _string(message.reasoning_content) or _string(message.reasoning)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _signed(blocks: Any) -> list[dict[str, Any]]:
    """Return a message's thoughts in Anthropic's form."""
    return [
        block
        for block in (blocks if isinstance(blocks, list) else ())
        if isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking")
    ]


def _usage_of(completion: _Completion) -> dict[str, Any] | None:
    """Return a completion's usage as Anthropic's; None where it has none."""
    usage = completion.usage
    if (usage is ABSENT or bytes(usage) == b"null") and completion.x_groq is ABSENT:
        return None
    counts = usage_of_answer(usage, completion.x_groq)
    if counts is None:
        return None
    fields = _usage(counts)
    try:
        details = _decode_reasoning(usage).completion_tokens_details
    except wire.UNREADABLE:
        details = None
    thinking = None if details is None else count_of(details.reasoning_tokens)
    if thinking is not None:
        fields["output_tokens_details"] = {"thinking_tokens": thinking}
    return fields


def _usage(counts: TokenCounts) -> dict[str, Any]:
    # Anthropic counts apart what OpenAI counts as part of the prompt.
    return {
        "input_tokens": (counts.prompt or 0) - counts.cached - counts.written,
        "cache_creation_input_tokens": counts.written,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion or 0,
    }
