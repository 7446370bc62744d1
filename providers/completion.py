"""Reads the answer out of the body of a completion. No IO.

    completion = read_completion(body, chat=True)
    completion.text, completion.finish_reason
    completion.logprobs.total()       # of the whole answer
    completion.logprobs.first()       # the first token's alternatives
    completion.logprobs.last(32)      # the last tokens with theirs

This is the only place where a body that is to be scored becomes an answer, for samples and judges
alike.
Reading is lenient where hosts differ (null content, content as parts, no usage, extra fields, log
probabilities in a form of their own) and strict where a wrong value would be taken for an answer
(no `choices`, a text that is a number). A field beside the text that is odd is read as if the host
had left it out: nothing is scored by it. Counts of tokens are read by `usage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from providers.errors import UpstreamProtocolError
from providers.host_json import check_values, decode
from providers.usage import ABSENT
from providers.wire import UNREADABLE


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str = ""
    logprob: float | None = None
    top_logprobs: msgspec.Raw = ABSENT


class Logprobs(msgspec.Struct, frozen=True):
    """The log probabilities of an answer's tokens, those of a chat or of a text completion.

    Attributes:
        content: a chat's tokens.
        tokens: a text completion's tokens.
        top_logprobs: for each of those, its alternatives.
    """

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None

    def total(self) -> tuple[float, int] | None:
        """Return the sum over a chat's tokens and their number; None where it is not known."""
        values = [token.logprob for token in self.content or ()]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        try:
            return math.fsum(known), len(known)
        except OverflowError:
            # So little probability is a wrong report.
            return None

    def first(self) -> dict[str, float]:
        """Return the alternatives of the first token with their log probabilities.

        The token alone where the host gave no alternatives; {} where it gave nothing that can be
        read.
        """
        if self.content is None:
            return (self.top_logprobs or [None])[0] or {}
        if not self.content:
            return {}
        token = self.content[0]
        try:
            others = {} if token.top_logprobs is ABSENT else _alternatives(token.top_logprobs)
        except UNREADABLE:
            others = {}
        if not others and token.logprob is not None:
            return {token.token: token.logprob}
        return others

    def last(self, count: int) -> tuple[tuple[str, dict[str, float]], ...]:
        """Return the last tokens, each with its alternatives' log probabilities.

        It is empty where the host gave no alternatives, or gave them in a form of its own.
        """
        if self.content is None:
            pairs = zip(self.tokens or (), self.top_logprobs or (), strict=False)
            return tuple((token, others or {}) for token, others in pairs)[-count:]
        if all(token.top_logprobs is ABSENT for token in self.content):
            return ()
        try:
            return tuple(
                (token.token, _alternatives(token.top_logprobs)) for token in self.content[-count:]
            )
        except UNREADABLE:
            return ()


class Completion(NamedTuple):
    """The first choice of a completion, and the model that gave it.

    Attributes:
        text: the choice's text; None without one (tool calls, a refusal, or no choice at all).
        has_choice: whether there is a choice.
        calls_tools: whether the choice calls tools or functions.
        refusal: the model's words instead of an answer; "" where it does not refuse.
        thinking: the model's thoughts, where the host sends them beside the text.
        finish_reason: why the text ended; "" where the host does not report it.
        model: the model that the host reports; "" for none.
        system_fingerprint: the fingerprint that the host reports; "" for none.
        logprobs: the log probabilities of the text's tokens; empty without any that can be read.
    """

    text: str | None
    has_choice: bool = True
    calls_tools: bool = False
    refusal: str = ""
    thinking: str = ""
    finish_reason: str = ""
    model: str = ""
    system_fingerprint: str = ""
    logprobs: Logprobs = Logprobs()


# Only what becomes the text has a type: any other field that is odd must not cost the answer.
class _Message(msgspec.Struct):
    content: msgspec.Raw = ABSENT
    refusal: msgspec.Raw = ABSENT
    reasoning_content: msgspec.Raw = ABSENT
    reasoning: msgspec.Raw = ABSENT
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT


class _ChatChoice(msgspec.Struct):
    message: _Message
    finish_reason: msgspec.Raw = ABSENT
    logprobs: msgspec.Raw = ABSENT


class _TextChoice(msgspec.Struct):
    text: str | None
    finish_reason: msgspec.Raw = ABSENT
    logprobs: msgspec.Raw = ABSENT


# Only the first choice is decoded; others, which may be millions, are skipped.
class _Choices(msgspec.Struct, array_like=True):
    first: msgspec.Raw = ABSENT


class _Envelope(msgspec.Struct):
    choices: _Choices
    model: msgspec.Raw = ABSENT
    system_fingerprint: msgspec.Raw = ABSENT


# Why an answer ends that calls tools.
_CALLS = ("tool_calls", "function_call")

# Of the kinds of content parts, those whose `text` belongs to the answer.
_TEXT_PARTS = ("text", "output_text", None)
_THINKING_PARTS = ("thinking", "reasoning")

_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_chat = msgspec.json.Decoder(_ChatChoice).decode
_decode_text = msgspec.json.Decoder(_TextChoice).decode
_decode_logprobs = msgspec.json.Decoder(Logprobs | None).decode
_decode_alternatives = msgspec.json.Decoder(list[_Alternative] | None).decode


def read_completion(body: bytes, *, chat: bool) -> Completion:
    """Return the first choice of a completion.

    Args:
        body: the whole body of the answer.
        chat: whether it answers `chat/completions`, else `completions`.

    Raises:
        UpstreamProtocolError: it is not JSON, or has no choices (an error sent with status 200).
    """
    try:
        envelope = _decode_envelope(body)
        raw = envelope.choices.first
        if raw is ABSENT:
            return Completion(text=None, has_choice=False)
        choice = _decode_chat(raw) if chat else _decode_text(raw)
        content = (
            Content(choice.text)
            if isinstance(choice, _TextChoice)
            else _content(choice.message.content)
        )
    except UNREADABLE as error:
        kind = "chat completion" if chat else "completion"
        raise UpstreamProtocolError(f"the answer is not a {kind}: {error}") from error
    message = _Message() if isinstance(choice, _TextChoice) else choice.message
    finish_reason = _string(choice.finish_reason)
    return Completion(
        text=content.text,
        calls_tools=finish_reason in _CALLS
        or not (_is_empty(message.tool_calls) and _is_empty(message.function_call)),
        refusal=_string(message.refusal) or content.refusal,
        thinking=_string(message.reasoning_content)
        or _string(message.reasoning)
        or content.thinking,
        finish_reason=finish_reason,
        model=_string(envelope.model),
        system_fingerprint=_string(envelope.system_fingerprint),
        logprobs=_logprobs(choice.logprobs),
    )


class Content(NamedTuple):
    """What a message's content says, wherever in it that is."""

    text: str | None
    refusal: str = ""
    thinking: str = ""


def _content(raw: msgspec.Raw) -> Content:
    return read_content(None if raw is ABSENT else decode(raw))


def read_content(content: Any) -> Content:
    """Return what a message's decoded content says: itself, or its parts joined; None without any.

    Raises:
        msgspec.ValidationError: the content is neither text nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return Content(content)
    if not isinstance(content, list) or not all(isinstance(part, dict | str) for part in content):
        raise msgspec.ValidationError("content is neither text nor a list of content parts")
    parts = [{"text": part} if isinstance(part, str) else part for part in content]
    return Content(
        _joined(part.get("text") for part in parts if part.get("type", "text") in _TEXT_PARTS),
        refusal=_joined(part.get("refusal") for part in parts),
        thinking=_joined(
            bit
            for part in parts
            if part.get("type") in _THINKING_PARTS
            for bit in (part.get("text"), *_bits(part.get("thinking")))
        ),
    )


def _bits(value: Any) -> list[Any]:
    """Return the texts of a part that is a text, or a list of text parts."""
    if not isinstance(value, list):
        return [value]
    return [bit.get("text") for bit in value if isinstance(bit, dict)]


def _joined(texts: Iterable[Any]) -> str:
    return "".join(text for text in texts if isinstance(text, str))


def _is_empty(raw: msgspec.Raw) -> bool:
    """Return whether a field is missing, null, or an empty list or object."""
    return raw is ABSENT or memoryview(raw)[:64].tobytes().translate(None, b" \t\r\n") in (
        b"null",
        b"[]",
        b"{}",
    )


def _string(raw: msgspec.Raw) -> str:
    """Return a field's text, "" where it has none."""
    # Anything else may be large, and is not decoded.
    if raw is ABSENT or not bytes(raw).startswith(b'"'):
        return ""
    try:
        return str(decode(raw))
    except UNREADABLE:
        return ""


def _logprobs(raw: msgspec.Raw) -> Logprobs:
    try:
        check_values(raw)
        return _decode_logprobs(raw) or Logprobs()
    except UNREADABLE:
        # Hosts that write them in a way of their own still gave a good answer.
        return Logprobs()


def _alternatives(raw: msgspec.Raw) -> dict[str, float]:
    return {other.token: other.logprob for other in _decode_alternatives(raw) or ()}
