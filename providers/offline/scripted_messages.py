"""Composes answers of `/v1/messages` for scripted models, whole or streamed. No IO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from providers import wire
from providers.http import sse
from providers.translation.compose import ComposedAnswer, TextRequest, count_tokens
from providers.translation.messages_terms import STOP_REASONS


class _Block(msgspec.Struct):
    text: str | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str | list[_Block] | None = None


class _Request(msgspec.Struct):
    messages: list[_Turn]
    system: str | list[_Block] | None = None
    max_tokens: int | None = None
    stream: bool | None = None


def read_turns(envelope: Mapping[str, msgspec.Raw]) -> TextRequest:
    """Read a request.

    Raises:
        RequestError: a field is missing or ill-typed; `param` names it.
    """
    request = wire.read_request(envelope, _Request)
    texts = [(turn.role, _text(turn.content)) for turn in request.messages]
    prompts = [text for role, text in texts if role == "user"]
    everything = [_text(request.system), *(text for _, text in texts)]
    return TextRequest(
        prompts=tuple(prompts[-1:]),
        prompt_tokens=sum(map(count_tokens, everything)),
        max_tokens=request.max_tokens,
        stream=bool(request.stream),
    )


def _text(content: str | list[_Block] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content if block.text)


def count(request: TextRequest) -> bytes:
    """Return the answer of `messages/count_tokens`."""
    return wire.encode({"input_tokens": request.prompt_tokens})


def whole(answer: ComposedAnswer) -> bytes:
    """Return the body of an answer that is not streamed."""
    [(text, reason), *_] = answer.choices
    ending = {"stop_reason": STOP_REASONS.get(reason, reason), "stop_sequence": None}
    content = [{"type": "text", "text": text}]
    return wire.encode(_message(answer, content) | ending | _usage(answer))


def events(answer: ComposedAnswer, cut: Callable[[str], Sequence[str]]) -> Iterator[bytes]:
    """Yield the events of a streamed answer; `cut` divides its text into pieces."""
    for kind, fields in _events(answer, cut):
        yield sse.encode(wire.encode({"type": kind, **fields}), kind)


def _events(
    answer: ComposedAnswer, cut: Callable[[str], Sequence[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    [(text, reason), *_] = answer.choices
    begun = _message(answer, []) | {"stop_reason": None, "stop_sequence": None}
    usage = _usage(answer)
    if usage:
        begun["usage"] = usage["usage"] | {"output_tokens": 0}
    yield "message_start", {"message": begun}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    yield "ping", {}
    for piece in cut(text):
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield "content_block_stop", {"index": 0}
    ending = {"stop_reason": STOP_REASONS.get(reason, reason), "stop_sequence": None}
    yield "message_delta", {"delta": ending, **usage}
    yield "message_stop", {}


def _message(answer: ComposedAnswer, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
    }


def _usage(answer: ComposedAnswer) -> dict[str, dict[str, Any]]:
    if answer.usage is None:
        return {}
    counts = {
        "input_tokens": answer.usage.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": answer.usage.completion_tokens,
    }
    return {"usage": counts}


# What the types of scripted errors are called by Anthropic.
_TYPES: Mapping[str, str] = {"server_error": "api_error"}


def error_body(error: Mapping[str, Any]) -> bytes:
    """Return an error as Anthropic's object."""
    kind = _TYPES.get(error["type"], error["type"])
    shown = {"type": kind, "message": error["message"]}
    return wire.encode({"type": "error", "error": shown})
