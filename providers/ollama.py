"""Ollama, through its OpenAI endpoint, which ignores names it does not know.

Fields that it would ignore count as lacking. So does a prompt that does not fit: Ollama's context
is 4096 tokens unless its server or the model sets another, whatever the model could hold, and it
silently cuts the beginning of a longer prompt off. The OpenAI endpoint has no way to request more;
set `num_ctx` in a Modelfile or OLLAMA_CONTEXT_LENGTH at its server.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from providers import wire
from providers.base import USUAL_PATHS, Call, OnUnsupported, Reply, Translation
from providers.compatible import MESSAGES, RESPONSES, Compatible, CompatibleConfig
from providers.errors import RequestError, UpstreamError
from providers.gemini import ToolCallsRewriter
from providers.host_json import decode
from providers.http.transport import Transport
from providers.off_loop import off_loop
from providers.translation.compose import count_tokens, error_reply
from providers.translation.rewrite import Rewriter
from providers.translation.translate import Edits, Rules, translate
from providers.usage import ABSENT, count_of

BASE_URL = "http://127.0.0.1:11434/v1"
DEFAULT_CONTEXT = 4096

_CHAT = Rules(
    known=frozenset(
        """
        frequency_penalty logprobs max_tokens messages model presence_penalty reasoning
        reasoning_effort response_format seed stop stream stream_options temperature think
        tool_choice tools top_logprobs top_p
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    renamed={"max_completion_tokens": "max_tokens"},
    lacking={"n": "Ollama gives one choice only", "logit_bias": "Ollama ignores it"},
    neutral={
        "n": (1,),
        "logit_bias": ({},),
        "store": (False,),
        "parallel_tool_calls": (True,),
        "service_tier": ("auto", "default"),
    },
)
_COMPLETIONS = Rules(
    known=frozenset(
        """
        frequency_penalty logprobs max_tokens model presence_penalty prompt seed stop stream
        stream_options suffix temperature top_p
        """.split()  # noqa: SIM905  # a list would take a line for each word
    ),
    neutral={"n": (1,), "best_of": (1,), "echo": (False,), "logit_bias": ({},)},
)
_EMBEDDINGS = Rules(known=frozenset({"model", "input", "dimensions", "encoding_format"}))
_RULES = {"chat/completions": _CHAT, "completions": _COMPLETIONS, "embeddings": _EMBEDDINGS}


class _Running(msgspec.Struct):
    name: str = ""
    model: str = ""
    context_length: msgspec.Raw = ABSENT


class _Processes(msgspec.Struct):
    models: list[_Running] = []


class _Shown(msgspec.Struct):
    parameters: str = ""


_read_processes = msgspec.json.Decoder(_Processes).decode
_read_shown = msgspec.json.Decoder(_Shown).decode


class Ollama(Compatible):
    """Ollama's OpenAI endpoint."""

    def __init__(self, name: str, config: CompatibleConfig, transport: Transport) -> None:
        super().__init__(name, config, transport, default_url=BASE_URL, speaks=RESPONSES | MESSAGES)

    async def send(self, call: Call) -> Reply:
        """Send a call as to any host; a prompt that is certain not to fit counts as unsupported."""
        if call.path == "models" or call.path not in USUAL_PATHS:
            return await super().send(call)
        policy = self.on_unsupported or call.on_unsupported
        edits = Edits(policy, self._supported)
        try:
            await self._check_room(call, edits)
            fields, translation = await off_loop(call.size, self._fitted, call, policy, edits)
        except RequestError as error:
            return error_reply(error)
        return await self._post(call, fields, translation)

    def _fitted(
        self, call: Call, policy: OnUnsupported, edits: Edits
    ) -> tuple[dict[str, Any], Translation]:
        call = self.fit_nested(call, edits)
        return translate(_RULES[call.path], call, provider=self.name, policy=policy, edits=edits)

    def rewriter(self, call: Call) -> Rewriter | None:
        """Return a rewriter for requests with tools, as only these are answered with tool calls."""
        return ToolCallsRewriter() if "tools" in call.envelope else None

    async def _check_room(self, call: Call, edits: Edits) -> None:
        """Note a prompt with more words than the context has tokens: some of it will be cut."""
        what = {"chat/completions": "messages", "completions": "prompt"}.get(call.path)
        raw = call.envelope.get(what or "")
        # A word takes a byte and a space at least; most requests end here and cost nothing.
        if what is None or raw is None or len(raw) < 2 * DEFAULT_CONTEXT:
            return
        words = await off_loop(len(raw), _words, raw)
        if words <= DEFAULT_CONTEXT:
            return
        context = await self._context(call.model)
        if words > context:
            edits.drop(
                what,
                f"it has over {words} tokens and the model runs with a context of {context}: "
                "Ollama cuts its beginning off; set num_ctx in a Modelfile or "
                "OLLAMA_CONTEXT_LENGTH at its server",
            )

    async def _context(self, model: str) -> int:
        """Return the context that a model runs with, or would be started with."""
        processes = await self._ask("GET", "/api/ps", None)
        with suppress(*wire.UNREADABLE):
            for process in _read_processes(processes).models:
                if model in (process.name, process.model, process.model.removesuffix(":latest")):
                    return _count(process.context_length) or DEFAULT_CONTEXT
        shown = await self._ask("POST", "/api/show", wire.encode({"model": model}))
        with suppress(*wire.UNREADABLE):
            for line in _read_shown(shown).parameters.splitlines():
                name, _, value = line.strip().partition(" ")
                if name == "num_ctx" and (context := _count(value.strip().encode())):
                    return context
        return DEFAULT_CONTEXT

    async def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        """Return a body of Ollama's own API; b"" when it fails."""
        try:
            reply = await self._transport.request(
                method,
                self._base.removesuffix("/v1") + path,
                provider=self.name,
                headers=self._headers,
                body=body,
                connect_timeout=2.0,
            )
        except UpstreamError:
            return b""
        try:
            answer = await reply.read()
        finally:
            await reply.aclose()
        return answer if reply.status == 200 else b""


def _count(raw: bytes | msgspec.Raw) -> int | None:
    try:
        return count_of(decode(raw))
    except wire.UNREADABLE:
        return None


def _words(raw: msgspec.Raw) -> int:
    """Return how many words and punctuation marks messages or a prompt have."""
    try:
        content: Any = msgspec.json.decode(raw)
    except wire.UNREADABLE:
        return 0
    if isinstance(content, str):
        return count_tokens(content)
    try:
        messages = msgspec.convert(content, list[wire.Message])
    except msgspec.ValidationError:
        return 0
    return sum(count_tokens(wire.message_text(message.content)) for message in messages)
