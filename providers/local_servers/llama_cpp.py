"""llama-cpp-python's own server, `python -m llama_cpp.server`: one model, one request at a time.

Its peculiarities, and how they are handled:

- A second request cuts the answer to the first one short, unless the server was started with
  `--interrupt_requests False`. We send one request at a time; an answer that another client's
  request cut short has no finish reason and is an error.
- A model it does not have is answered by the one it has: we fetch its list first.
- `n`, `tool_choice: required` and names it does not know are ignored: they count as lacking.
- It takes a schema for JSON beside `json_object`, and no `json_schema`. An assistant's content
  beside tool calls must not be null. A chat without messages is answered.
- A request that it cannot read is answered with 500, which would be tried again: we answer 400.
- A stream has no usage: where the client wants it, the texts are counted by the server's tokenizer
  and marked `"estimated": true`, because the chat template's own tokens are not in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from providers import wire
from providers.base import USUAL_PATHS, BytesReply, Call, Reply
from providers.errors import (
    ModelNotFoundError,
    RequestError,
    UpstreamError,
    UpstreamProtocolError,
    closest,
)
from providers.host_json import decode_object
from providers.http import sse
from providers.http.transport import Transport
from providers.local_servers.llamafile import Llamafile, LlamafileConfig
from providers.translation.compose import error_reply
from providers.translation.translate import Edits, Rules, system_for_developer
from providers.usage import count_of

_LISTING_S = 5.0

# The form in which its validation errors name a field of the request.
_UNREADABLE_REQUEST = b"'loc': ('body'"


def _messages(messages: Any, edits: Edits) -> Any:
    """Return the messages with system for developer, and empty text for null content."""
    messages = system_for_developer(messages, edits)
    if not isinstance(messages, list):
        return messages
    whole = []
    for message in messages:
        if isinstance(message, dict) and message.get("content", "") is None:
            edits.convert("messages.content", "null to empty text")
            whole.append({**message, "content": ""})
        else:
            whole.append(message)
    return whole


def _tool_choice(choice: Any, edits: Edits) -> Any:
    if choice != "required" or not edits.drop(
        "tool_choice", "it knows none, auto and a named tool"
    ):
        return choice
    return "auto"


def _response_format(value: Any, edits: Edits) -> Any:
    if not isinstance(value, dict) or value.get("type") != "json_schema":
        return value
    named = value.get("json_schema") or {}
    if not isinstance(named, dict):
        return value
    edits.convert("response_format", "json_schema to json_object with a schema")
    return {"type": "json_object", "schema": named.get("schema")}


_CHAT = Rules(
    known=frozenset(
        """
        frequency_penalty function_call functions grammar logit_bias logit_bias_type logprobs
        max_tokens messages min_p min_tokens mirostat_eta mirostat_mode mirostat_tau model
        presence_penalty repeat_penalty response_format seed stop stream temperature tool_choice
        tools top_k top_logprobs top_p
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    renamed={"max_completion_tokens": "max_tokens"},
    lacking={"n": "llama_cpp.server gives one choice only"},
    neutral={
        "n": (1,),
        "parallel_tool_calls": (True,),
        "store": (False,),
        "service_tier": ("auto", "default"),
    },
    implied={"stream_options": "usage is counted by its tokenizer"},
    convert={
        "messages": _messages,
        "response_format": _response_format,
        "tool_choice": _tool_choice,
    },
)
_COMPLETIONS = Rules(
    known=frozenset(
        """
        echo frequency_penalty grammar logit_bias logit_bias_type logprobs max_tokens min_p
        min_tokens mirostat_eta mirostat_mode mirostat_tau model presence_penalty prompt
        repeat_penalty seed stop stream suffix temperature top_k top_p
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    lacking={
        "n": "llama_cpp.server gives one choice only",
        "best_of": "llama_cpp.server gives one choice only",
    },
    neutral={"n": (1,), "best_of": (1,)},
    implied={"stream_options": "usage is counted by its tokenizer"},
)
_EMBEDDINGS = Rules(
    known=frozenset({"model", "input", "user"}), neutral={"encoding_format": ("float",)}
)
_RULES = {"chat/completions": _CHAT, "completions": _COMPLETIONS, "embeddings": _EMBEDDINGS}


class _Count(msgspec.Struct):
    count: Any


_read_count = msgspec.json.Decoder(_Count).decode


class LlamaCpp(Llamafile):
    """`python -m llama_cpp.server`, running or started by us."""

    # Any request at all cuts a running answer short, a list of models too.
    _listing_takes_a_slot = True
    _other_paths = frozenset()

    def __init__(self, name: str, config: LlamafileConfig, transport: Transport) -> None:
        super().__init__(name, msgspec.structs.replace(config, slots=config.slots or 1), transport)
        self._models: tuple[str, ...] = ()

    def rules(self, call: Call) -> Rules | None:
        """Return the rules of the call's path."""
        return _RULES[call.path]

    async def send(self, call: Call) -> Reply:
        """Send a call as to a llamafile; refuse a model that the server does not have."""
        if call.path == "models" or call.path not in USUAL_PATHS:
            return await super().send(call)
        if call.model not in self._models:
            self._models = await self._list()
        if self._models and call.model not in self._models:
            return error_reply(
                ModelNotFoundError(
                    f"{self.name} has no model {call.model!r}.{closest(call.model, self._models)}",
                    param="model",
                )
            )
        if call.path == "chat/completions" and "messages" not in call.envelope:
            return error_reply(
                RequestError(
                    "messages is required", param="messages", code="missing_required_parameter"
                )
            )
        reply = await super().send(call)
        if reply.status == 500:
            return await _as_refusal(reply)
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            return reply
        return _WholeStream(reply, self, call)

    async def _list(self) -> tuple[str, ...]:
        call = Call(path="models", model="", envelope={}, connect_timeout=_LISTING_S)
        reply = await super().send(call)
        try:
            body = await reply.read()
        finally:
            await reply.aclose()
        try:
            return tuple(wire.read_models(body))
        except wire.UNREADABLE:
            return ()

    async def count(self, text: str) -> int | None:
        """Return how many tokens the server's tokenizer makes of a text; None when it fails."""
        body = wire.encode({"input": text})
        for path in ("/tokenize/count", "/extras/tokenize/count"):
            try:
                reply = await self._transport.request(
                    "POST",
                    self._base.removesuffix("/v1") + path,
                    provider=self.name,
                    headers=self._headers,
                    body=body,
                    connect_timeout=_LISTING_S,
                    resend=True,
                )
            except UpstreamError:
                return None
            try:
                answer = await reply.read()
            finally:
                await reply.aclose()
            if reply.status == 200:
                with contextlib.suppress(*wire.UNREADABLE):
                    return count_of(_read_count(answer).count)
        return None


async def _as_refusal(reply: Reply) -> Reply:
    """Return a 500 as a 400 where the request could not be read."""
    try:
        body = await reply.read()
    finally:
        await reply.aclose()
    status = 400 if _UNREADABLE_REQUEST in body else reply.status
    return BytesReply(body, status=status, translation=reply.translation)


class _WholeStream:
    """A stream whose end is checked, and given a usage where the client wants one."""

    def __init__(self, reply: Reply, provider: LlamaCpp, call: Call) -> None:
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers
        self.translation = reply.translation
        self._reply = reply
        self._provider = provider
        self._call = call

    async def read(self) -> bytes:
        """Return the whole stream."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the events as they come, then the usage, then the end."""
        parser = sse.Parser()
        texts: list[str] = []
        last: dict[str, Any] = {}
        finished = False
        async for chunk in self._reply.chunks():
            for event in parser.feed(chunk):
                if event.data == b"[DONE]":
                    # Before the stream's last byte, so that the server is still ours.
                    yield await self._end(last, "".join(texts), finished=finished)
                    return
                with contextlib.suppress(*wire.UNREADABLE):
                    last = decode_object(event.data)
                    finished |= _take(last, texts)
                yield sse.encode(event.data)
        raise UpstreamProtocolError(f"{self._provider.name}: the stream ended without [DONE]")

    async def _end(self, last: Mapping[str, Any], text: str, *, finished: bool) -> bytes:
        if not finished:
            raise UpstreamProtocolError(
                f"{self._provider.name}: another request cut this answer short; start the server "
                "with --interrupt_requests False"
            )
        if not wire.wants_usage(self._call.envelope):
            return sse.DONE
        usage = await self._usage(text)
        if usage is None:
            return sse.DONE
        head = {name: last.get(name) for name in ("id", "object", "created", "model")}
        return sse.encode(wire.encode({**head, "choices": [], "usage": usage})) + sse.DONE

    async def _usage(self, text: str) -> dict[str, Any] | None:
        prompt = await self._provider.count(_prompt_text(self._call))
        completion = await self._provider.count(text)
        if prompt is None or completion is None:
            return None
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "estimated": True,
        }

    async def aclose(self) -> None:
        """Free the server for the next request."""
        await self._reply.aclose()


def _take(chunk: Mapping[str, Any], texts: list[str]) -> bool:
    """Keep a chunk's text; whether it has a finish reason."""
    finished = False
    for choice in chunk.get("choices") or ():
        text = choice.get("text") or (choice.get("delta") or {}).get("content")
        if text:
            texts.append(text)
        finished |= choice.get("finish_reason") is not None
    return finished


def _prompt_text(call: Call) -> str:
    """Return the text of the prompt, without the template around it."""
    raw = call.envelope.get("messages") or call.envelope.get("prompt") or msgspec.Raw(b"null")
    try:
        content: Any = msgspec.json.decode(raw)
        if isinstance(content, str):
            return content
        messages = msgspec.convert(content, list[wire.Message])
    except wire.UNREADABLE:
        return ""
    return "\n".join(wire.message_text(message.content) for message in messages)
