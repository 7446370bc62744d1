"""Google Gemini through its OpenAI endpoint, which refuses names it does not know with 400.

It says `stop` where OpenAI says `tool_calls`; a client that waits for that word would never run its
tools. Its errors come as an array, which `errors.py` unpacks.
"""

from __future__ import annotations

from typing import Any

from providers import wire
from providers.base import Call
from providers.compatible import Compatible, CompatibleConfig
from providers.host_json import decode_object
from providers.http import sse
from providers.http.transport import Transport
from providers.translation.nested import Nested, ToolCallIndexes
from providers.translation.rewrite import Rewriter
from providers.translation.translate import Rules
from providers.usage import count_of

BASE_URL = "https://generativelanguage.googleapis.com/v1beta/openai"

# The signatures of Gemini's own thoughts go back in `extra_content`.
_NESTED = Nested(
    messages={
        "assistant": frozenset({"role", "content", "name", "tool_calls", "extra_content"}),
        "tool": frozenset({"role", "content", "tool_call_id", "name"}),
        "": frozenset({"role", "content", "name"}),
    },
    calls=frozenset({"id", "type", "function", "extra_content"}),
    why="Gemini answers 400 to it",
)

_CHAT = Rules(
    known=frozenset(
        """
        audio extra_body frequency_penalty function_call functions logprobs max_completion_tokens
        max_tokens messages modalities model n parallel_tool_calls presence_penalty
        reasoning_effort response_format seed stop stream stream_options temperature tool_choice
        tools top_logprobs top_p user
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    neutral={"store": (False,), "logit_bias": ({},), "service_tier": ("auto", "default")},
    convert={"messages": _NESTED.fit_messages, "tools": _NESTED.fit_tools},
)
_EMBEDDINGS = Rules(known=frozenset({"model", "input", "dimensions", "encoding_format"}))


class Gemini(Compatible):
    """Gemini's OpenAI endpoint."""

    def __init__(self, name: str, config: CompatibleConfig, transport: Transport) -> None:
        super().__init__(name, config, transport, default_url=BASE_URL)

    def rules(self, call: Call) -> Rules | None:
        """Return the names that the endpoint knows."""
        return _EMBEDDINGS if call.path == "embeddings" else _CHAT

    def rewriter(self, call: Call) -> Rewriter | None:
        """Return a rewriter for requests with tools, as only these are answered with tool calls."""
        return ToolCallsRewriter() if "tools" in call.envelope else None


class ToolCallsRewriter:
    """Numbers streamed tool calls; a choice that has some ends with `tool_calls`, not `stop`."""

    def __init__(self) -> None:
        self._called: set[int] = set()
        self._indexes = ToolCallIndexes()

    def whole(self, body: bytes) -> bytes:
        """Return a complete answer, rewritten; what is no chat completion stays unchanged."""
        try:
            answer = decode_object(body)
        except wire.UNREADABLE:
            return body
        return wire.encode(answer) if self._fix(answer, "message") else body

    def event(self, event: sse.Event) -> bytes:
        """Return what an event of a stream becomes."""
        if event.data == b"[DONE]":
            return sse.DONE
        try:
            chunk = decode_object(event.data)
        except wire.UNREADABLE:
            return sse.encode(event.data)
        return sse.encode(wire.encode(chunk) if self._fix(chunk, "delta") else event.data)

    def end(self) -> bytes:
        """Return b"", as nothing follows."""
        return b""

    def _fix(self, answer: dict[str, Any], part: str) -> bool:
        """Correct an answer or a chunk in place; return whether anything had to be changed."""
        changed = False
        for choice in answer.get("choices") or ():
            index = count_of(choice.get("index")) or 0
            if calls := (choice.get(part) or {}).get("tool_calls"):
                self._called.add(index)
                if part == "delta":
                    changed |= self._indexes.fix(index, calls)
            if choice.get("finish_reason") == "stop" and index in self._called:
                choice["finish_reason"] = "tool_calls"
                changed = True
        return changed
