"""Mistral: OpenAI's wire with other names for a few fields, and 422 for names it does not know.

Requests: fields are renamed or left out by table; developer messages become system messages; tool
calls get ids of nine letters and digits, always the same one for the same id of the client's, and
an id of ours that comes back is turned into the client's again.

Answers: content given as a list becomes text, with the thinking beside it as `reasoning_content`;
`model_length` becomes `length`; the finish reason `error` becomes an error.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from typing import Any

import msgspec

from providers import wire
from providers.base import Call
from providers.compatible import Compatible, CompatibleConfig
from providers.errors import UpstreamProtocolError
from providers.host_json import decode_object
from providers.http import sse
from providers.http.transport import Transport
from providers.translation.nested import Nested, ToolCallIndexes
from providers.translation.rewrite import Rewriter
from providers.translation.translate import Edits, Rules, system_for_developer, without_names
from providers.usage import count_of

BASE_URL = "https://api.mistral.ai/v1"

_ID = re.compile(r"[A-Za-z0-9]{9}")
_ALPHABET = string.digits + string.ascii_letters


def tool_call_id(client_id: str) -> str:
    """Return the id that Mistral gets for a client's: itself if it fits, else a hash of it."""
    if _ID.fullmatch(client_id):
        return client_id
    number = int.from_bytes(hashlib.sha256(client_id.encode()).digest()[:8])
    letters = []
    for _ in range(9):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


# Mistral answers 422 to any other name.
_NESTED = Nested(
    messages={
        "system": frozenset({"role", "content"}),
        "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
        "tool": frozenset({"role", "content", "tool_call_id", "name"}),
        "": frozenset({"role", "content"}),
    },
    parts=frozenset({"document_name", "reference_ids", "closed"}),
    why="Mistral answers 422 to it",
)


def _messages(messages: Any, edits: Edits) -> Any:
    messages = without_names(
        system_for_developer(messages, edits), edits, "Mistral's messages have no names"
    )
    messages = _NESTED.fit_messages(messages, edits)
    if not isinstance(messages, list):
        return messages
    return [
        _with_ids(message, edits) if isinstance(message, dict) else message for message in messages
    ]


def _with_ids(message: dict[str, Any], edits: Edits) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        changed["tool_calls"] = [
            {**call, "id": tool_call_id(call["id"])}
            if isinstance(call, dict) and isinstance(call.get("id"), str)
            else call
            for call in calls
        ]
    if isinstance(message.get("tool_call_id"), str):
        changed["tool_call_id"] = tool_call_id(message["tool_call_id"])
    if any(changed[name] != message.get(name) for name in changed):
        edits.convert("messages.tool_calls.id", "to nine letters and digits, by hash")
    return {**message, **changed}


def _tool_choice(choice: Any, edits: Edits) -> Any:
    if choice != "required":
        return choice
    edits.convert("tool_choice", "required to any, its name there")
    return "any"


_LACKING = {
    "logprobs": "Mistral's API has no log probabilities",
    "top_logprobs": "Mistral's API has no log probabilities",
    "logit_bias": "Mistral's API has no such parameter",
}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
}
_CHAT = Rules(
    known=frozenset(
        """
        frequency_penalty guardrails max_tokens messages metadata min_tokens model n
        parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_mode random_seed
        reasoning_effort repetition_penalty response_format safe_prompt stop stream temperature
        tool_choice tools top_k top_p
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    renamed={"seed": "random_seed", "max_completion_tokens": "max_tokens"},
    lacking=_LACKING,
    neutral=_NEUTRAL,
    implied={"stream_options": "usage always comes with the last chunk"},
    convert={
        "messages": _messages,
        "tool_choice": _tool_choice,
        "tools": _NESTED.fit_tools,
    },
)
_COMPLETIONS = Rules(
    known=frozenset(
        """
        max_tokens metadata min_tokens model prompt random_seed stop stream suffix temperature top_p
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    renamed={"seed": "random_seed", "max_completion_tokens": "max_tokens"},
    neutral={**_NEUTRAL, "n": (1,), "best_of": (1,), "echo": (False,)},
    implied={"stream_options": "usage always comes with the last chunk"},
)
_EMBEDDINGS = Rules(
    known=frozenset(
        {"model", "input", "metadata", "output_dimension", "output_dtype", "encoding_format"}
    ),
    renamed={"dimensions": "output_dimension"},
)


class MistralConfig(CompatibleConfig, frozen=True, kw_only=True):
    """Mistral's API.

    Attributes:
        safe_prompt: whether to request Mistral's safety prompt where the request does not decide.
    """

    safe_prompt: bool = False


class Mistral(Compatible):
    """Mistral's API (`api.mistral.ai`). Text completions go to its fill-in-the-middle path."""

    def __init__(self, name: str, config: MistralConfig, transport: Transport) -> None:
        super().__init__(name, config, transport, default_url=BASE_URL)
        self._urls["completions"] = f"{self._base}/fim/completions"
        self._safe_prompt = config.safe_prompt

    def rules(self, call: Call) -> Rules | None:
        """Return the rules of the call's path."""
        if call.path == "embeddings":
            return _EMBEDDINGS
        return _COMPLETIONS if call.path == "completions" else _CHAT

    async def send(self, call: Call) -> Any:
        """Send a call as to any host, with `safe_prompt` where the config sets it."""
        if self._safe_prompt and call.path == "chat/completions":
            envelope = {"safe_prompt": msgspec.Raw(b"true"), **call.envelope}
            call = msgspec.structs.replace(call, envelope=envelope)
        return await super().send(call)

    def rewriter(self, call: Call) -> Rewriter | None:
        """Return a rewriter for chats, and for text completions, which come as chats."""
        return None if call.path == "embeddings" else _Answers(self.name, call)


class _Answers:
    """Turns Mistral's answers into OpenAI's; bytes that need no change pass unchanged."""

    def __init__(self, provider: str, call: Call) -> None:
        self._provider = provider
        self._text = call.path == "completions"
        self._ids = _client_ids(call)
        self._wants_usage = wire.wants_usage(call.envelope)
        self._usage: dict[str, Any] | None = None
        self._indexes = ToolCallIndexes()

    def whole(self, body: bytes) -> bytes:
        """Return a complete answer, rewritten."""
        try:
            answer = decode_object(body)
        except wire.UNREADABLE as error:
            raise UpstreamProtocolError(f"{self._provider}: the answer is not JSON") from error
        return wire.encode(answer) if self._fix(answer, "message") else body

    def event(self, event: sse.Event) -> bytes:
        """Return what an event of a stream becomes."""
        if event.data == b"[DONE]":
            usage = self._usage
            return sse.DONE if usage is None else sse.encode(wire.encode(usage)) + sse.DONE
        try:
            chunk = decode_object(event.data)
        except wire.UNREADABLE:
            return sse.encode(event.data)
        changed = self._fix(chunk, "delta") | self._move_usage(chunk)
        return sse.encode(wire.encode(chunk) if changed else event.data)

    def end(self) -> bytes:
        """Return b"", as nothing follows."""
        return b""

    def _move_usage(self, chunk: dict[str, Any]) -> bool:
        """Keep usage for a chunk of its own, as OpenAI sends it to a client that requests it."""
        if not self._wants_usage or not chunk.get("usage") or not chunk.get("choices"):
            return False
        self._usage = {**chunk, "choices": []}
        del chunk["usage"]
        return True

    def _fix(self, answer: dict[str, Any], part: str) -> bool:
        changed = False
        for choice in answer.get("choices") or ():
            message = choice.get(part) or {}
            changed |= self._fix_content(message) | self._fix_calls(message)
            if part == "delta":
                index = count_of(choice.get("index")) or 0
                changed |= self._indexes.fix(index, message.get("tool_calls"))
            reason = choice.get("finish_reason")
            if reason == "error":
                raise UpstreamProtocolError(f"{self._provider}: the model ended with an error")
            if reason == "model_length":
                choice["finish_reason"] = "length"
                changed = True
            if self._text:
                choice["text"] = message.get("content") or ""
                choice.pop(part, None)
                changed = True
        if self._text and "choices" in answer:
            answer["object"] = "text_completion"
        return changed

    @staticmethod
    def _fix_content(message: dict[str, Any]) -> bool:
        """Turn content that is a list into text, with its thinking beside it."""
        content = message.get("content")
        if not isinstance(content, list):
            return False
        texts: list[str] = []
        thoughts: list[str] = []
        others: list[Any] = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                texts.append(part.get("text") or "")
            elif kind == "thinking":
                thoughts += [bit.get("text") or "" for bit in part.get("thinking") or ()]
            else:
                others.append(part)
        message["content"] = "".join(texts)
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if others:
            # References and the like: OpenAI has no place for them, but the client gets them.
            message["content_parts"] = others
        return True

    def _fix_calls(self, message: dict[str, Any]) -> bool:
        changed = False
        for call in message.get("tool_calls") or ():
            if call.get("id") in self._ids:
                call["id"] = self._ids[call["id"]]
                changed = True
            if call.get("type") != "function":
                call["type"] = "function"
                changed = True
            function = call.get("function") or {}
            if isinstance(function.get("arguments"), dict):
                function["arguments"] = wire.encode(function["arguments"]).decode()
                changed = True
        return changed


class _Call(msgspec.Struct):
    id: str | None = None


class _Message(msgspec.Struct):
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


_decode_messages = msgspec.json.Decoder(list[_Message]).decode


def _client_ids(call: Call) -> dict[str, str]:
    """Return the ids made for this call's tool calls, and the client's ids behind them."""
    raw = call.envelope.get("messages")
    if raw is None or b"tool_call" not in bytes(raw):
        return {}
    try:
        messages = _decode_messages(raw)
    except wire.UNREADABLE:
        return {}
    ids = [message.tool_call_id for message in messages]
    ids += [made.id for message in messages for made in message.tool_calls or ()]
    changed = [identifier for identifier in ids if identifier and not _ID.fullmatch(identifier)]
    return {tool_call_id(identifier): identifier for identifier in changed}
