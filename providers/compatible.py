"""Hosts that speak OpenAI's API: a base URL, a key, and where needed a table of what differs.

A new one is a row in `HOSTS`. A host whose answers have to be rewritten, or that needs more than
one POST, gets a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from providers.base import (
    AS_IT_CAME,
    USUAL_PATHS,
    Call,
    Path,
    ProviderConfig,
    Reply,
    Secret,
    Translation,
)
from providers.errors import RequestError
from providers.http.transport import Transport
from providers.off_loop import LARGE_BYTES, off_loop
from providers.translation import reasoning
from providers.translation.compose import error_reply
from providers.translation.nested import Nested, text_for_parts
from providers.translation.rewrite import Rewriter, RewrittenReply
from providers.translation.translate import Converter, Edits, Rules, read, translate, without_names

_encode = msgspec.json.Encoder().encode


class HostRow(NamedTuple):
    """A host: what its users need not write in the config, and how its fields differ.

    `key_path` is a path below the base URL that needs the key, where the list of models does not.
    `speaks` has the host's paths beside the usual ones, as its documentation has them.
    """

    kind: str
    base_url: str
    title: str
    rules: Rules | None = None
    key_path: str = "models"
    speaks: frozenset[Path] = frozenset()


# The paths of other APIs than chat completions: requests to them are relayed as they come.
OtherPath = Literal["responses", "messages", "messages/count_tokens"]
RESPONSES: frozenset[Path] = frozenset({"responses"})
MESSAGES: frozenset[Path] = frozenset({"messages"})
COUNTED_MESSAGES: frozenset[Path] = frozenset({"messages", "messages/count_tokens"})

_GROQ_NESTED = Nested(
    messages={
        "assistant": frozenset({"role", "content", "tool_calls", "function_call", "reasoning"}),
        "tool": frozenset({"role", "content", "tool_call_id", "name"}),
        "function": frozenset({"role", "content", "name"}),
        "": frozenset({"role", "content"}),
    },
    why="Groq answers 400 to it",
)


def _groq_messages(messages: Any, edits: Edits) -> Any:
    named = without_names(messages, edits, "Groq answers 400 to a name")
    return _GROQ_NESTED.fit_messages(named, edits)


_GROQ = Rules(
    lacking={
        "logprobs": "Groq answers 400 to it",
        "top_logprobs": "Groq answers 400 to it",
        "logit_bias": "Groq answers 400 to it",
        "n": "Groq gives one choice only",
        "top_k": "Groq answers 400 to it",
    },
    neutral={"logprobs": (False,), "logit_bias": ({},), "n": (1,)},
    convert={"messages": _groq_messages, "tools": _GROQ_NESTED.fit_tools},
)

HOSTS = (
    HostRow("compatible", "", "any host with OpenAI's API"),
    HostRow("groq", "https://api.groq.com/openai/v1", "Groq", _GROQ, speaks=RESPONSES),
    HostRow(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OpenRouter",
        key_path="key",
        speaks=RESPONSES | MESSAGES,
    ),
    HostRow("together", "https://api.together.xyz/v1", "Together AI"),
    HostRow(
        "vllm", "http://127.0.0.1:8000/v1", "vLLM's OpenAI server", speaks=RESPONSES | MESSAGES
    ),
)


_NO_RULES = Rules()

# Kinds of host where a request costs time and no money.
_LOCAL_KINDS = frozenset({"huggingface", "llama_cpp", "llamafile", "ollama", "ray_serve", "vllm"})


class CompatibleConfig(ProviderConfig, frozen=True, kw_only=True):
    """A host reached over HTTP.

    Attributes:
        base_url: the URL up to and including `/v1`; "" means the kind's own.
        api_key: sent as a bearer token when it is not empty.
        headers: sent with every request; no log shows their values.
        supported: request fields to send although this kind's rules say that the host lacks them,
            for a host that has learnt them since.
        stream_usage: whether a stream's usage is requested where the client does not. False for a
            host that refuses `stream_options`: its streams are charged by an estimate.
        content_parts: whether a message's content may be a list of parts. False for a host that
            takes strings only: texts are joined, other parts count as unsupported.
        reasoning: whether the models refuse what OpenAI's reasoning models refuse (`max_tokens`,
            sampling parameters): true or false for all of them, or a list of those that do. Without
            it the kinds `openai` and `azure` go by the model's name, and others send what came. The
            `reasoning` of a route's target wins over it. Kinds with rules of their own
            (`anthropic`, `gemini`, `llama_cpp`, `llamafile`, `mistral`, `ollama`) do not take it.
        resend_on_stale: whether a request is sent once more, within one attempt, where a pooled
            connection ends after the request was written and before any byte of an answer came: the
            host may then have received it twice. None means yes for the kinds that run on one's own
            machines (`huggingface`, `llama_cpp`, `llamafile`, `ollama`, `ray_serve`, `vllm`), no
            for others. A request that the host cannot have received whole is always sent once more.
        speaks: the paths that the host has beside those of chat completions, text completions and
            embeddings: requests to them are relayed byte for byte but for `model`. Without it,
            those that the kind is known for; an empty list says that the host has none of them.
        keeps_responses: whether the host keeps responses, so that a follow-up
            (`previous_response_id`) is sent to it as it came. Otherwise the server keeps them, and
            a follow-up is sent with its history. Without it, OpenAI and Azure do.
    """

    base_url: str = ""
    api_key: Secret = Secret("")
    headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    supported: tuple[str, ...] = ()
    stream_usage: bool = True
    content_parts: bool = True
    reasoning: bool | tuple[str, ...] | None = None
    resend_on_stale: bool | None = None
    speaks: tuple[OtherPath, ...] | None = None
    keeps_responses: bool | None = None

    def resends(self) -> bool:
        """Return whether `resend_on_stale` holds; by default it depends on the kind."""
        if self.resend_on_stale is None:
            return self.kind in _LOCAL_KINDS
        return self.resend_on_stale


class Compatible:
    """A provider whose wire is OpenAI's; without rules, byte for byte but for `model`.

    A kind with behaviour overrides `rules` (what differs in requests) and `rewriter` (in answers).
    """

    def __init__(
        self,
        name: str,
        config: CompatibleConfig,
        transport: Transport,
        *,
        default_url: str = "",
        rules: Rules | None = None,
        key_path: str = "models",
        speaks: frozenset[Path] = frozenset(),
        keeps_responses: bool = False,
    ) -> None:
        self.name = name
        self._transport = transport
        self.takes_stream_usage = config.stream_usage
        self.on_unsupported = config.on_unsupported
        self._supported = frozenset(config.supported)
        self._resend = config.resends()
        self._content_parts = config.content_parts
        self._reasoning = config.reasoning
        self._rules = rules
        self._base = (config.base_url or default_url).rstrip("/")
        others = speaks if config.speaks is None else frozenset(config.speaks)
        self.speaks: frozenset[Path] = USUAL_PATHS | others
        if config.keeps_responses is not None:
            keeps_responses = config.keeps_responses
        self.keeps_responses = keeps_responses and "responses" in self.speaks
        self._urls = {path: f"{self._base}/{path}" for path in self.speaks}
        self._key_path = key_path
        self._headers = self._make_headers(config)

    @property
    def base_url(self) -> str:
        """Return the host's address, up to and including `/v1`."""
        return self._base

    def _make_headers(self, config: CompatibleConfig) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "evalrouter"}
        if config.api_key:
            headers["authorization"] = f"Bearer {config.api_key.reveal()}"
        headers |= {name.lower(): value.reveal() for name, value in config.headers.items()}
        return headers

    def rules(self, call: Call) -> Rules | None:
        """Return how this call's fields have to change; None sends them as they came."""
        if call.path == "chat/completions" and self.configured_reasoning(call):
            rules = reasoning.rules_of(call)
            return rules if self._rules is None else self._rules.with_more(rules)
        return self._rules

    def configured_reasoning(self, call: Call) -> bool | None:
        """Return whether a call's model reasons: as its target says, else as the provider does."""
        if call.reasoning is not None:
            return call.reasoning
        if isinstance(self._reasoning, tuple):
            return call.model in self._reasoning or None
        return self._reasoning

    def fit_nested(self, call: Call, edits: Edits) -> Call:
        """Return the call with its nested fields as the host takes them; the same if they fit."""
        if self._content_parts or "messages" not in call.envelope:
            return call
        return converted(call, "messages", text_for_parts, edits)

    def rewriter(self, call: Call) -> Rewriter | None:
        """Return what rewrites this call's answer; None relays it as it comes."""
        del call
        return None

    async def send(self, call: Call) -> Reply:
        """Send the client's fields with the host's name for the model.

        What the host cannot express is treated as the config or the call says; a refusal is a
        Reply with status 400, and nothing is sent.
        """
        if call.path == "models":
            return await self._post(call, {}, AS_IT_CAME)
        size = call.size
        try:
            if size > LARGE_BYTES:
                fields, translation = await off_loop(size, self._translate, call)
            else:
                fields, translation = self._translate(call)
        except RequestError as error:
            return error_reply(error)
        return await self._post(call, fields, translation)

    def _translate(self, call: Call) -> tuple[dict[str, Any], Translation]:
        """Return the fields to send, and what became of the client's."""
        if call.path not in USUAL_PATHS:
            return {**call.envelope, "model": call.model}, AS_IT_CAME
        policy = self.on_unsupported or call.on_unsupported
        edits = Edits(policy, self._supported)
        fitted = self.fit_nested(call, edits)
        rules = self.rules(fitted)
        if rules is None and fitted is call:
            return {**call.envelope, "model": call.model}, AS_IT_CAME
        return translate(
            rules or _NO_RULES,
            fitted,
            provider=self.name,
            policy=policy,
            supported=self._supported,
            edits=edits,
        )

    async def _post(self, call: Call, fields: Mapping[str, Any], done: Translation) -> Reply:
        more = {"x-request-id": call.request_id} if call.request_id else {}
        if call.headers:
            more |= {
                name: value for name, value in call.headers.items() if name not in self._headers
            }
        if call.traceparent:
            more["traceparent"] = call.traceparent
        listing = call.path == "models"
        reply = await self._transport.request(
            "GET" if listing else "POST",
            self.url(call),
            provider=self.name,
            headers=self._headers,
            more=more,
            body=None if listing else _encode(fields),
            connect_timeout=call.connect_timeout,
            resend=self._resend,
        )
        rewriter = None
        if not listing and call.path in USUAL_PATHS:
            rewriter = self.rewriter(call)
        if rewriter is not None:
            return RewrittenReply(reply, rewriter, done)
        reply.translation = done
        return reply

    async def check_key(self) -> Reply | None:
        """Send a request that needs the key; None where the list of models does."""
        if self._key_path == "models":
            return None
        return await self._transport.request(
            "GET",
            f"{self._base}/{self._key_path}",
            provider=self.name,
            headers=self._headers,
            body=None,
            connect_timeout=10.0,
        )

    async def response(self, method: str, path: str) -> Reply:
        """Send a request about a response that the host keeps.

        Args:
            method: GET, DELETE or POST.
            path: below `responses/`.
        """
        return await self._transport.request(
            method,
            self.response_url(path),
            provider=self.name,
            headers=self._headers,
            body=b"{}" if method == "POST" else None,
            connect_timeout=10.0,
        )

    def response_url(self, path: str) -> str:
        """Return the address of what is `path` below `responses/`."""
        return f"{self._base}/responses/{path}"

    def url(self, call: Call) -> str:
        """Return where the call goes."""
        return self._urls[call.path]


def converted(call: Call, name: str, converter: Converter, edits: Edits) -> Call:
    """Return the call with a field as the converter makes it; the call itself if it is the same.

    Raises:
        RequestError: the field is not JSON.
    """
    value = read(call.envelope[name], name)
    before = len(edits.converted) + len(edits.dropped)
    fitted = converter(value, edits)
    if len(edits.converted) + len(edits.dropped) == before:
        return call
    envelope = {**call.envelope, name: msgspec.Raw(_encode(fitted))}
    return msgspec.structs.replace(call, envelope=envelope)
