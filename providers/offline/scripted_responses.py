"""Composes answers of `/v1/responses` for scripted models, whole or streamed. No IO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from providers import wire
from providers.http import sse
from providers.translation.compose import ComposedAnswer, TextRequest, count_tokens


class _Part(msgspec.Struct):
    text: str | None = None


class _Item(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None


class _Request(msgspec.Struct):
    input: str | list[_Item] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None


def read_input(envelope: Mapping[str, msgspec.Raw]) -> TextRequest:
    """Read a request.

    Raises:
        RequestError: a field is ill-typed; `param` names it.
    """
    request = wire.read_request(envelope, _Request)
    items = request.input
    if isinstance(items, str):
        items = [_Item("user", items)]
    texts = [(item.role, _text(item)) for item in items or ()]
    prompts = [text for role, text in texts if role == "user"]
    everything = [request.instructions or "", *(text for _, text in texts)]
    return TextRequest(
        prompts=tuple(prompts[-1:]),
        prompt_tokens=sum(map(count_tokens, everything)),
        max_tokens=request.max_output_tokens,
        stream=bool(request.stream),
    )


def _text(item: _Item) -> str:
    if item.content is None or isinstance(item.content, str):
        return item.content or ""
    return "\n".join(part.text for part in item.content if part.text)


def whole(answer: ComposedAnswer) -> bytes:
    """Return the body of an answer that is not streamed."""
    return wire.encode(_response(answer, [_message(answer, answer.choices[0][0])]))


def events(answer: ComposedAnswer, cut: Callable[[str], Sequence[str]]) -> Iterator[bytes]:
    """Yield the events of a streamed answer; `cut` divides its text into pieces."""
    for number, (kind, fields) in enumerate(_events(answer, cut)):
        event = {"type": f"response.{kind}", "sequence_number": number, **fields}
        yield sse.encode(wire.encode(event), f"response.{kind}")


def _events(
    answer: ComposedAnswer, cut: Callable[[str], Sequence[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    [(text, _), *_] = answer.choices
    begun = _response(answer, []) | {"status": "in_progress", "incomplete_details": None}
    begun["usage"] = None
    message = _message(answer, text)
    place: dict[str, Any] = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    added = {**message, "status": "in_progress", "content": []}
    yield "created", {"response": begun}
    yield "in_progress", {"response": begun}
    yield "output_item.added", {"output_index": 0, "item": added}
    yield "content_part.added", {**place, "part": empty}
    for piece in cut(text):
        yield "output_text.delta", {**place, "delta": piece, "logprobs": []}
    yield "output_text.done", {**place, "text": text, "logprobs": []}
    yield "content_part.done", {**place, "part": message["content"][0]}
    yield "output_item.done", {"output_index": 0, "item": message}
    response = _response(answer, [message])
    yield response["status"], {"response": response}


def _message(answer: ComposedAnswer, text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": answer.id.replace("resp_", "msg_", 1),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _response(answer: ComposedAnswer, output: list[dict[str, Any]]) -> dict[str, Any]:
    _, reason = answer.choices[0]
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    cut_off = reasons.get(reason)
    return {
        "id": answer.id,
        "object": "response",
        "created_at": answer.created,
        "status": "incomplete" if cut_off else "completed",
        "error": None,
        "incomplete_details": {"reason": cut_off} if cut_off else None,
        "instructions": None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _usage(answer.usage),
        "metadata": {},
    }


def _usage(usage: wire.CompletionUsage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def error_event(error: Mapping[str, Any]) -> bytes:
    """Return the event of an error in mid-stream."""
    shown = {name: error[name] for name in ("code", "message", "param")}
    return sse.encode(wire.encode({"type": "error", "sequence_number": 0, **shown}), "error")
