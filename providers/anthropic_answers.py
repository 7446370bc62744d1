"""Anthropic's answers as OpenAI's: a message, or a stream of message events. No IO.

    text blocks       -> content
    thinking blocks   -> `reasoning_content`; whole and signed as `thinking_blocks`, to be sent back
    tool_use blocks   -> tool calls
    usage             -> prompt tokens with the cached ones in them, and beside them how many

A stream's text, thoughts and tool arguments are passed on as they come. A signed block comes as a
whole once it has ended, before what follows it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from providers import wire
from providers.errors import UpstreamProtocolError
from providers.host_json import decode_object
from providers.http import sse
from providers.translation.messages_terms import FINISH_REASONS
from providers.usage import TokenCounts, count_of, tokens_of


class MessagesRewriter:
    """Rewrites one answer, whole or streamed.

    Args:
        provider: the provider's name, for errors.
        created: Unix seconds, which Anthropic's answers lack.
        include_usage: whether a stream's client requested its usage.
    """

    def __init__(self, provider: str, *, created: int, include_usage: bool) -> None:
        self._provider = provider
        self._created = created
        self._include_usage = include_usage
        self._id = ""
        self._model = ""
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._calls = 0
        self._finished = False

    def whole(self, body: bytes) -> bytes:
        """Return a message as a chat completion."""
        try:
            message = decode_object(body)
        except wire.UNREADABLE as error:
            raise UpstreamProtocolError(f"{self._provider}: the answer is not JSON") from error
        if message.get("type") != "message" or not isinstance(message.get("content"), list):
            raise UpstreamProtocolError(f"{self._provider}: the answer is not a message")
        texts, thoughts, calls, signed = [], [], [], []
        for block in message["content"]:
            kind = block.get("type")
            if kind == "text":
                texts.append(block.get("text") or "")
            elif kind == "thinking":
                thoughts.append(block.get("thinking") or "")
                signed.append(block)
            elif kind == "redacted_thinking":
                signed.append(block)
            elif kind == "tool_use":
                calls.append(_tool_call(block))
        answer: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if calls and not texts:
            answer["content"] = None
        if thoughts:
            answer["reasoning_content"] = "".join(thoughts)
        if signed:
            answer["thinking_blocks"] = signed
        if calls:
            answer["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": answer,
            "logprobs": None,
            "finish_reason": _finish(message.get("stop_reason")),
        }
        return wire.encode(
            {
                "id": message.get("id"),
                "object": "chat.completion",
                "created": self._created,
                "model": message.get("model"),
                "choices": [choice],
                "usage": usage_of(_object(message.get("usage"))),
            }
        )

    def event(self, event: sse.Event) -> bytes:
        """Return what an event of a stream becomes; most become one chunk."""
        try:
            content = decode_object(event.data)
        except wire.UNREADABLE as error:
            raise UpstreamProtocolError(f"{self._provider}: an event is not JSON") from error
        kind = content.get("type")
        if kind == "message_start":
            return self._start(content.get("message") or {})
        if kind == "content_block_start":
            return self._start_block(content)
        if kind == "content_block_delta":
            return self._delta(content)
        if kind == "content_block_stop":
            return self._signed([self._blocks.pop(count_of(content.get("index")) or 0, {})])
        if kind == "message_delta":
            return self._end_message(content)
        if kind == "message_stop":
            return self._stop()
        if kind == "error":
            why = (content.get("error") or {}).get("message") or "an error without a message"
            raise UpstreamProtocolError(f"{self._provider}: {why}")
        # `ping` keeps the connection alive.
        return b": ping\n\n" if kind == "ping" else b""

    def end(self) -> bytes:
        """Return b"", as nothing follows a complete stream; refuse an incomplete one."""
        if not self._finished:
            raise UpstreamProtocolError(f"{self._provider}: the stream ended before its message")
        return b""

    def _start(self, message: dict[str, Any]) -> bytes:
        self._id = message.get("id") or ""
        self._model = message.get("model") or ""
        self._usage = dict(_object(message.get("usage")))
        return self._chunk({"role": "assistant", "content": ""})

    def _start_block(self, event: dict[str, Any]) -> bytes:
        block = dict(event.get("content_block") or {})
        self._blocks[count_of(event.get("index")) or 0] = block
        if block.get("type") == "tool_use":
            block["index"] = self._calls
            self._calls += 1
            call = {**_tool_call({**block, "input": None}), "index": block["index"]}
            return self._chunk({"tool_calls": [call]})
        if block.get("type") == "text" and block.get("text"):
            return self._chunk({"content": block["text"]})
        return b""

    def _delta(self, event: dict[str, Any]) -> bytes:
        block = self._blocks.setdefault(count_of(event.get("index")) or 0, {})
        delta = event.get("delta") or {}
        kind = delta.get("type")
        if kind == "text_delta":
            return self._chunk({"content": delta.get("text") or ""})
        if kind == "input_json_delta":
            function = {"arguments": delta.get("partial_json") or ""}
            call = {"index": block.get("index", 0), "function": function}
            return self._chunk({"tool_calls": [call]})
        if kind == "thinking_delta":
            thought = delta.get("thinking") or ""
            block["thinking"] = (block.get("thinking") or "") + thought
            return self._chunk({"reasoning_content": thought})
        if kind == "signature_delta":
            block["signature"] = (block.get("signature") or "") + (delta.get("signature") or "")
        return b""

    def _end_message(self, event: dict[str, Any]) -> bytes:
        self._usage |= {
            name: value for name, value in _object(event.get("usage")).items() if value is not None
        }
        reason = (event.get("delta") or {}).get("stop_reason")
        if reason is None:
            return b""
        # Of a host that does not say where blocks end.
        last = self._signed([block for _, block in sorted(self._blocks.items())])
        return last + self._chunk({}, _finish(reason))

    def _signed(self, blocks: list[dict[str, Any]]) -> bytes:
        """Return a chunk with the blocks that are thoughts; b"" where none is."""
        signed = [
            block for block in blocks if block.get("type") in ("thinking", "redacted_thinking")
        ]
        return self._chunk({"thinking_blocks": signed}) if signed else b""

    def _stop(self) -> bytes:
        self._finished = True
        if not self._include_usage:
            return sse.DONE
        last = {**self._head(), "choices": [], "usage": usage_of(self._usage)}
        return sse.encode(wire.encode(last)) + sse.DONE

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head(), "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return sse.encode(wire.encode(chunk))

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }


def _finish(reason: Any) -> str | None:
    """Return OpenAI's finish reason; one that is new to us passes unchanged."""
    return None if reason is None else FINISH_REASONS.get(reason, str(reason))


def _tool_call(block: dict[str, Any]) -> dict[str, Any]:
    given = block.get("input")
    arguments = "" if given is None else wire.encode(given).decode()
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAI's usage. Anthropic counts cached tokens apart from `input_tokens`."""
    prompt, completion, _, read, written = tokens_of(usage) or TokenCounts()
    prompt, completion = prompt or 0, completion or 0
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read, "cache_creation_tokens": written},
    }
    thinking = count_of(_object(usage.get("output_tokens_details")).get("thinking_tokens"))
    if thinking is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return counts


def model_list(provider: str, body: bytes) -> bytes:
    """Return Anthropic's list of models as OpenAI's."""
    try:
        rows = decode_object(body)["data"]
        models = [
            wire.Model(row["id"], created=_seconds(row), owned_by="anthropic") for row in rows
        ]
    except (KeyError, TypeError, *wire.UNREADABLE) as error:
        raise UpstreamProtocolError(f"{provider}: its list of models cannot be read") from error
    return wire.encode(wire.ModelList(models))


def _seconds(row: dict[str, Any]) -> int:
    try:
        return int(datetime.fromisoformat(row["created_at"]).timestamp())
    except (KeyError, ValueError, TypeError):
        return 0
