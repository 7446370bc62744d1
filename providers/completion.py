"""Reads the answer out of the body of a completion. No IO.

    completion = read_completion(body, chat=True)
    completion.text, completion.finish_reason
    completion.logprobs.total()       # of the whole answer
    completion.logprobs.last(32)      # the last tokens with their alternatives

This is the only place where a body that is to be scored becomes an answer, for samples and judges
alike.
Reading is lenient where hosts differ (null content, content as parts, no usage, extra fields, log
probabilities in a form of their own) and strict where a wrong value would be taken for an answer
(no `choices`, a text that is a number). Counts of tokens are read by `usage.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from providers.errors import UpstreamProtocolError
from providers.host_json import check_values
from providers.usage import ABSENT
from providers.wire import UNREADABLE, Content, message_text


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
        finish_reason: why the text ended; "" where the host does not report it.
        model: the model that the host reports; "" for none.
        system_fingerprint: the fingerprint that the host reports; "" for none.
        logprobs: the log probabilities of the text's tokens; empty without any that can be read.
    """

    text: str | None
    finish_reason: str = ""
    model: str = ""
    system_fingerprint: str = ""
    logprobs: Logprobs = Logprobs()


class _Message(msgspec.Struct):
    role: str | None = None
    content: msgspec.Raw = ABSENT


class _ChatChoice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: msgspec.Raw = ABSENT


class _TextChoice(msgspec.Struct):
    text: str
    finish_reason: str | None = None
    logprobs: msgspec.Raw = ABSENT


# Only the first choice is decoded; others, which may be millions, are skipped.
class _ChatChoices(msgspec.Struct, array_like=True):
    first: _ChatChoice | UnsetType = UNSET


class _TextChoices(msgspec.Struct, array_like=True):
    first: _TextChoice | UnsetType = UNSET


# Without the numbers: one that cannot be must not cost the answer.
class _Chat(msgspec.Struct):
    choices: _ChatChoices
    model: str | None = None
    system_fingerprint: str | None = None


class _Text(msgspec.Struct):
    choices: _TextChoices
    model: str | None = None
    system_fingerprint: str | None = None


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_text = msgspec.json.Decoder(_Text).decode
_decode_content = msgspec.json.Decoder(Content).decode
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
        completion = _decode_chat(body) if chat else _decode_text(body)
        first = completion.choices.first
        if first is UNSET:
            return Completion(text=None)
        text = _text_of(first)
    except UNREADABLE as error:
        kind = "chat completion" if chat else "completion"
        raise UpstreamProtocolError(f"the answer is not a {kind}: {error}") from error
    return Completion(
        text=text,
        finish_reason=first.finish_reason or "",
        model=completion.model or "",
        system_fingerprint=completion.system_fingerprint or "",
        logprobs=_logprobs(first.logprobs),
    )


def _text_of(choice: _ChatChoice | _TextChoice) -> str | None:
    if isinstance(choice, _TextChoice):
        return choice.text
    check_values(choice.message.content)
    content = _decode_content(choice.message.content)
    return None if content is None else message_text(content)


def _logprobs(raw: msgspec.Raw) -> Logprobs:
    try:
        return _decode_logprobs(raw) or Logprobs()
    except UNREADABLE:
        # Hosts that write them in a way of their own still gave a good answer.
        return Logprobs()


def _alternatives(raw: msgspec.Raw) -> dict[str, float]:
    return {other.token: other.logprob for other in _decode_alternatives(raw) or ()}
