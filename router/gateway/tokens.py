"""Estimates how many tokens a request or an answer has, where the target does not say. No IO.

Vocabularies differ between models and are megabytes long, so this counts words instead, weighted as
measured on Mistral's tekken vocabulary: ordinary text in European languages, Chinese, Japanese and
Korean, and source code come out within a fifth or so (Russian, Hindi and Arabic up to 1.8 times too
high, long numbers and base64 up to twice too low). Reading stops where it would take long; the rest
is taken to be like what was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from providers.errors import UpstreamProtocolError
from providers.http import sse
from providers.wire import UNREADABLE

# The number of characters of a text, and of bytes of a request, that are read.
MAX_TEXT = 32 * 1024
MAX_BODY = 512 * 1024
# Bytes per token of JSON that is not read.
BYTES_PER_TOKEN = 4
# Bytes of a stream per token, where its events cannot be read: they are at least that long.
BYTES_PER_EVENT = 64
# What hosts' templates put around every message, and what a picture of usual size takes.
PER_MESSAGE = 4
PER_ATTACHMENT = 800

_PIECES = re.compile(
    r"(?P<word>[A-Z]?[a-z]+|[A-Z]+)|(?P<digits>[0-9]+)|(?P<ascii>[^\sA-Za-z0-9\x80-\U0010ffff]+)"
    r"|(?P<two>[\x80-\u07ff]+)|(?P<more>[\u0800-\U0010ffff]+)|(?P<lines>\n+)"
)
# Of a piece: so many tokens, and so many more for every character after so many.
_WEIGHTS = {
    "word": (1.0, 7, 0.2),
    "digits": (0.6, 1, 0.6),
    "ascii": (0.9, 1, 0.3),
    "two": (0.45, 1, 0.45),
    "more": (0.75, 1, 0.75),
    "lines": (0.7, 1, 0.1),
}
_ATTACHED = re.compile(rb'"data:[^"]{64,}"')
# Fields of a request that become part of the prompt.
_PROMPT = (
    "messages",
    "prompt",
    "input",
    "instructions",
    "system",
    "tools",
    "functions",
    "response_format",
    "suffix",
)
# Fields whose text is no part of the prompt's.
_ATTACHMENTS = frozenset(
    {"image_url", "input_audio", "file", "file_data", "video_url", "audio_url", "source"}
)
_LABELS = frozenset({"type", "role", "id", "tool_call_id", "call_id", "tool_use_id"})


class _Choices(msgspec.Struct):
    choices: Any = None


# Nothing is decoded but what is read: a number out of range elsewhere must not hide it.
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(Any).decode


def of_text(text: str) -> int:
    """Return the estimated tokens of a text."""
    if not text:
        return 0
    read = text[:MAX_TEXT]
    tokens = 0.0
    for piece in _PIECES.finditer(read):
        first, length, more = _WEIGHTS[piece.lastgroup or "word"]
        size = piece.end() - piece.start()
        tokens += first if size <= length else first + (size - length) * more
    return max(1, round(tokens * len(text) / len(read)))


def of_request(body: bytes) -> int:
    """Return the estimated tokens of a request's prompt, messages and tools included."""
    if len(body) <= MAX_BODY:
        try:
            envelope = _decode_envelope(body)
            return _of_values([_decode(envelope[name]) for name in _PROMPT if name in envelope])
        except UNREADABLE:
            # What cannot be read is counted by its length.
            pass
    texts, attached = _ATTACHED.subn(b"", body)
    return len(texts) // BYTES_PER_TOKEN + attached * PER_ATTACHMENT


def of_answer(body: bytes) -> int:
    """Return the estimated tokens of a whole answer's body; 0 for vectors."""
    return _of_choices(body)


def of_stream(tail: bytes, received: int) -> int:
    """Return the estimated tokens of a streamed answer from its last bytes.

    Args:
        tail: the last bytes; they may begin in the middle of an event.
        received: how many bytes the stream had in all.
    """
    tokens = with_text = 0
    try:
        events = sse.Parser(limit=len(tail) + 2).feed(tail + b"\n\n")
    except UpstreamProtocolError:
        events = []
    for event in events:
        count = _of_choices(event.data)
        if count:
            tokens += count
            with_text += len(event.data) + len(b"data: \n\n")
    before = max(0, received - len(tail))
    return tokens + (before * tokens // with_text if with_text else before // BYTES_PER_EVENT)


def _of_choices(data: bytes) -> int:
    try:
        choices = _decode_choices(data).choices
    except UNREADABLE:
        return 0
    tokens = 0
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            tokens += _of_values(
                [choice[name] for name in ("message", "delta", "text") if name in choice],
                template=False,
            )
    return tokens


def _of_values(values: list[Any], *, template: bool = True) -> int:
    tokens = 0
    texts: list[str] = []
    for value in _walk(values):
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            # A message has a template around it; an attachment is counted without being read.
            tokens += PER_MESSAGE if template and "role" in value else 0
            tokens += 0 if _ATTACHMENTS.isdisjoint(value) else PER_ATTACHMENT
        else:
            # A prompt given as token numbers.
            tokens += 1
    return tokens + of_text(" ".join(texts))


def _walk(values: list[Any]) -> Iterator[Any]:
    """Yield every object, text and whole number in any depth, without attachments and labels."""
    stack = values[::-1]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            inner = [
                item
                for name, item in value.items()
                if name not in _LABELS and name not in _ATTACHMENTS
            ]
            stack += inner[::-1]
        elif isinstance(value, list):
            stack += value[::-1]
        elif isinstance(value, str) or type(value) is int:
            yield value
