"""Anthropic's own Messages API, translated both ways. Answers: `anthropic_answers.py`.

    system and developer messages   -> `system`, in front of everything
    tool messages                   -> `tool_result` blocks of one user message
    an assistant's tool calls       -> `tool_use` blocks; its `thinking_blocks` go back as they came
    image_url, file                 -> `image` and `document` blocks
    response_format: json_schema    -> `output_config.format`
    reasoning_effort                -> `output_config.effort`
    parallel_tool_calls: false      -> `tool_choice.disable_parallel_tool_use`

`cache_control` on parts and tools, and Anthropic's own fields (`thinking`, `top_k`, `metadata`
with a `user_id`, `output_config`), pass as they came. Models from Claude Opus 4.7 on refuse
`temperature`, `top_p` and `top_k`; for them these count as lacking.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from providers import wire
from providers.anthropic_answers import MessagesRewriter, model_list
from providers.base import USUAL_PATHS, BytesReply, Call, OnUnsupported, Reply, Translation
from providers.compatible import COUNTED_MESSAGES, Compatible, CompatibleConfig, converted
from providers.errors import RequestError
from providers.http.transport import Transport
from providers.off_loop import off_loop
from providers.translation.compose import error_reply
from providers.translation.messages_input import has_unsigned, without_unsigned
from providers.translation.messages_terms import CHOICE_TYPES, EFFORTS
from providers.translation.rewrite import RewrittenReply
from providers.translation.translate import Edits, read

BASE_URL = "https://api.anthropic.com/v1"
API_VERSION = "2023-06-01"

# Models that still take sampling parameters: Claude 2 and 3, and the fourth generation up to 4.6.
_SAMPLES = re.compile(r"claude-(?:instant|2|3|(?:opus|sonnet|haiku)-4(?:-[0-6])?(?:[-@]\d{8}|$))")

# Models that take either `temperature` or `top_p`: Opus 4.1; Sonnet, Haiku and Opus from 4.5 on.
_ONE_OF_TWO = re.compile(r"claude-(?:opus|sonnet|haiku)-4-[1-9](?!\d)")

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class AnthropicConfig(CompatibleConfig, frozen=True, kw_only=True):
    """Anthropic's API; `api_key` is sent as `x-api-key`.

    Attributes:
        max_tokens: sent where the request sets no bound; the API insists on one.
    """

    max_tokens: wire.TokenBound = 4096


class Anthropic(Compatible):
    """Claude, by its native API.

    Attributes:
        takes_reasoning: whether thoughts of earlier answers are sent with a conversation that
            another API has; Claude needs those that belong to a call.
    """

    takes_reasoning = True

    def __init__(
        self,
        name: str,
        config: AnthropicConfig,
        transport: Transport,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, config, transport, default_url=BASE_URL, speaks=COUNTED_MESSAGES)
        self._headers.pop("authorization", None)
        if config.api_key:
            self._headers["x-api-key"] = config.api_key.reveal()
        # A client of the native paths may say another version; the config's own wins.
        self._with_version = {"anthropic-version": API_VERSION} | self._headers
        self._max_tokens = config.max_tokens
        self._clock = clock

    async def send(self, call: Call) -> Reply:
        """Translate, send, and translate back."""
        if call.path == "models":
            return await self._list(call)
        if call.path in self.speaks - USUAL_PATHS:
            if "anthropic-version" not in call.headers:
                headers = {**call.headers, "anthropic-version": API_VERSION}
                call = msgspec.structs.replace(call, headers=headers)
            return await super().send(call)
        if call.path != "chat/completions":
            return error_reply(
                RequestError(
                    f"{self.name} has chat models only, no {call.path}",
                    param="model",
                    code="unsupported_model",
                )
            )
        try:
            fields, translation = await off_loop(
                call.size,
                request_of,
                call,
                provider=self.name,
                policy=self.on_unsupported or call.on_unsupported,
                supported=self._supported,
                max_tokens=self._max_tokens,
            )
        except RequestError as error:
            return error_reply(error)
        return await self._post_message(call, fields, translation)

    def _translate(self, call: Call) -> tuple[dict[str, Any], Translation]:
        """Return a native request's fields, without thoughts of other models, which it refuses."""
        messages = call.envelope.get("messages")
        if messages is None or not has_unsigned(bytes(messages)):
            return super()._translate(call)
        edits = Edits("drop")
        fields, done = super()._translate(converted(call, "messages", without_unsigned, edits))
        return fields, msgspec.structs.replace(done, converted=edits.converted)

    async def _post_message(self, call: Call, fields: dict[str, Any], done: Translation) -> Reply:
        reply = await self._transport.request(
            "POST",
            f"{self._base}/messages",
            provider=self.name,
            headers=self._with_version,
            more={
                name: value
                for name, value in call.headers.items()
                # OpenAI's own headers mean nothing to Anthropic.
                if name not in self._with_version and not name.startswith("openai-")
            },
            body=wire.encode(fields),
            connect_timeout=call.connect_timeout,
            resend=self._resend,
        )
        rewriter = MessagesRewriter(
            self.name, created=int(self._clock()), include_usage=wire.wants_usage(call.envelope)
        )
        return RewrittenReply(reply, rewriter, done)

    async def _list(self, call: Call) -> Reply:
        reply = await self._transport.request(
            "GET",
            f"{self._base}/models?limit=1000",
            provider=self.name,
            headers=self._with_version,
            body=None,
            connect_timeout=call.connect_timeout,
        )
        if reply.status != 200:
            return reply
        try:
            return BytesReply(model_list(self.name, await reply.read()))
        finally:
            await reply.aclose()


_LACKING = {
    "audio": "Claude does not speak",
    "frequency_penalty": "the Messages API has no such parameter",
    "functions": "replaced by tools",
    "function_call": "replaced by tool_choice",
    "logit_bias": "the Messages API has no such parameter",
    "logprobs": "the Messages API has no log probabilities",
    "n": "the Messages API gives one answer only",
    "presence_penalty": "the Messages API has no such parameter",
    "seed": "the Messages API has no such parameter",
    "top_logprobs": "the Messages API has no log probabilities",
}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "service_tier": ("default",),
    "store": (False,),
    "top_logprobs": (0,),
    "temperature": (1,),
    "top_p": (1,),
}
_NATIVE_FIELDS = frozenset(
    {"cache_control", "container", "inference_geo", "output_config", "speed", "system", "thinking"}
)
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})


def request_of(
    call: Call,
    *,
    provider: str,
    policy: OnUnsupported,
    supported: frozenset[str] = frozenset(),
    max_tokens: int = 4096,
) -> tuple[dict[str, Any], Translation]:
    """Return the Messages request for a chat request, and the record of what was done.

    Raises:
        RequestError: the policy is to refuse and something cannot be expressed; or a field that
            has to be converted does not have the form of OpenAI's API.
    """
    edits = Edits(policy, supported)
    sent: dict[str, Any] = {"model": call.model}
    for name, raw in call.envelope.items():
        if name in ("model", "stream_options"):
            continue
        if (
            name == "stream"
            or name in _NATIVE_FIELDS
            or (name in _SAMPLING and _SAMPLES.match(call.model))
        ):
            if name == "temperature" and _too_hot(raw):
                _lack(name, raw, "Claude takes temperatures from 0 to 1", sent, edits)
            else:
                sent[name] = raw
                edits.passed.append(name)
        elif name in _CONVERTERS:
            _CONVERTERS[name](read(raw, name), sent, edits)
        elif name in _SAMPLING:
            _lack(name, raw, "Claude from Opus 4.7 on refuses it", sent, edits)
        else:
            _lack(name, raw, _LACKING.get(name, "the Messages API has no such field"), sent, edits)
    if "temperature" in sent and "top_p" in sent and _ONE_OF_TWO.search(call.model):
        _leave_one(sent, edits)
    if "max_tokens" not in sent:
        sent["max_tokens"] = max_tokens
        edits.convert("max_tokens", f"set to {max_tokens}: the API insists on a bound")
    return sent, edits.finish(provider)


def _leave_one(sent: dict[str, Any], edits: Edits) -> None:
    """Leave `temperature` or `top_p` out, for a model that refuses the two together."""
    for name in ("temperature", "top_p"):
        if read(sent[name], name) in (1, None):
            edits.convert(name, "left out: the host does this anyway")
            break
    else:
        name = "top_p"
        if not edits.drop(name, "this model takes temperature or top_p, not both"):
            return
    del sent[name]
    edits.passed.remove(name)


def _too_hot(raw: msgspec.Raw) -> bool:
    value = read(raw, "temperature")
    return isinstance(value, int | float) and value > 1


def _lack(name: str, raw: msgspec.Raw, why: str, sent: dict[str, Any], edits: Edits) -> None:
    value = read(raw, name)
    if value is None or value in _NEUTRAL.get(name, ()):
        edits.convert(name, "left out: the host does this anyway")
    else:
        _drop(name, raw, why, sent, edits)


def _drop(name: str, value: Any, why: str, sent: dict[str, Any], edits: Edits) -> None:
    """Leave a field out, unless the policy is to send it all the same."""
    if not edits.drop(name, why):
        sent[name] = value
        edits.passed.append(name)


# The converters: each takes a field's value and puts its translation into the request.


def _bad(path: str, what: str) -> RequestError:
    return RequestError(
        f"{path} must be {what}", param=path.split(".", maxsplit=1)[0], code="invalid_type"
    )


def _object(value: Any, path: str) -> Mapping[str, Any]:
    """Return the object at a path of the request; an empty one where nothing stands."""
    if value and not isinstance(value, dict):
        raise _bad(path, "an object")
    return value or {}


def _list(value: Any, path: str) -> list[Any]:
    """Return the list at a path of the request; an empty one where nothing stands."""
    if value and not isinstance(value, list):
        raise _bad(path, "a list")
    return value or []


def _messages(messages: Any, sent: dict[str, Any], edits: Edits) -> None:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _bad("messages", "a list of objects")
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if message.get("name") and role != "tool":
            edits.drop("messages.name", "the Messages API has no names")
        if role in ("system", "developer"):
            if turns:
                edits.convert("messages.role", "later system messages moved to the front")
            system += _blocks(message, edits)
        elif role == "assistant":
            _append(turns, "assistant", _assistant_blocks(message, edits))
        elif role == "tool":
            _append(turns, "user", [_tool_result(message, edits)])
        elif role == "user":
            _append(turns, "user", _blocks(message, edits))
        else:
            raise _bad("messages.role", "system, developer, user, assistant or tool")
    edits.convert("messages", "to the blocks of the Messages API")
    if system:
        sent["system"] = system
    sent["messages"] = turns


def _append(turns: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    """Add blocks; two messages of one role become one, as the answers to parallel calls must."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _blocks(message: Mapping[str, Any], edits: Edits) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        # The API refuses empty text.
        return [_cached(message, {"type": "text", "text": content})] if content else []
    if not isinstance(content, list):
        raise _bad("messages.content", "a string or a list of parts")
    return [block for part in content if (block := _block(part, edits)) is not None]


def _block(part: Any, edits: Edits) -> dict[str, Any] | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        text = part.get(kind) or ""
        return _cached(part, {"type": "text", "text": text}) if text else None
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(image, dict) and image.get("detail") not in (None, "auto"):
            edits.drop("messages.content.image_url.detail", "the Messages API has no such choice")
        return _cached(part, {"type": "image", "source": _source(url, "image_url")})
    if kind == "file":
        data = _object(part.get("file"), "messages.content.file").get("file_data")
        return _cached(part, {"type": "document", "source": _source(data, "file")})
    if kind in ("image", "document", "search_result"):
        return dict(part)
    edits.drop(f"messages.content.{kind}", "the Messages API has no such part")
    return None


def _source(url: Any, kind: str) -> dict[str, Any]:
    if not isinstance(url, str):
        raise _bad(f"messages.content.{kind}", "a URL or a data: URL")
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        return {"type": "url", "url": url}
    if not comma or not head.endswith(";base64"):
        raise _bad(f"messages.content.{kind}", "a data: URL in base64")
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error:
        raise _bad(f"messages.content.{kind}", "valid base64") from None
    media_type = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "base64", "media_type": media_type, "data": data}


def _cached(part: Mapping[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    """Return the block with the part's mark for the prompt cache, if it has one."""
    if part.get("cache_control") is not None:
        block["cache_control"] = part["cache_control"]
    return block


def _assistant_blocks(message: Mapping[str, Any], edits: Edits) -> list[dict[str, Any]]:
    thinking = _list(message.get("thinking_blocks"), "messages.thinking_blocks")
    if not thinking and (message.get("reasoning_content") or message.get("reasoning")):
        # Without its signature the API refuses a thought; it needs none.
        edits.convert(
            "messages.reasoning_content", "left out: thoughts return signed or not at all"
        )
    blocks = [*thinking, *_blocks(message, edits)]
    calls = _list(message.get("tool_calls"), "messages.tool_calls")
    return blocks + [_tool_use(_object(call, "messages.tool_calls")) for call in calls]


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _object(call.get("function"), "messages.tool_calls.function")
    arguments = function.get("arguments") or "{}"
    try:
        read_arguments = _decode_object(arguments) if isinstance(arguments, str) else None
    except wire.UNREADABLE:
        read_arguments = None
    if read_arguments is None:
        raise _bad("messages.tool_calls.function.arguments", "a JSON object")
    return {
        "type": "tool_use",
        "id": call.get("id"),
        "name": function.get("name"),
        "input": read_arguments,
    }


def _tool_result(message: Mapping[str, Any], edits: Edits) -> dict[str, Any]:
    content = message.get("content")
    return _cached(
        message,
        {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id"),
            "content": content if isinstance(content, str) else _blocks(message, edits),
        },
    )


def _max_tokens(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value is None:
        return
    if "max_tokens" in sent:
        edits.convert("max_tokens", "left out: the request says max_completion_tokens as well")
    else:
        sent["max_tokens"] = value
        edits.passed.append("max_tokens")


def _max_completion_tokens(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value is not None:
        sent["max_tokens"] = value
        edits.renamed["max_completion_tokens"] = "max_tokens"


def _stop(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value is None:
        return
    sequences = [value] if isinstance(value, str) else value
    if not isinstance(sequences, list) or not all(isinstance(text, str) for text in sequences):
        raise _bad("stop", "a string or a list of strings")
    accepted = [
        text
        for text in sequences
        if text.strip() or not edits.drop("stop", "the Messages API refuses a stop of white space")
    ]
    if accepted:
        sent["stop_sequences"] = accepted
        edits.renamed["stop"] = "stop_sequences"


def _tools(tools: Any, sent: dict[str, Any], edits: Edits) -> None:
    if not tools:
        return
    if not isinstance(tools, list):
        raise _bad("tools", "a list")
    sent["tools"] = [_tool(tool) for tool in tools]
    edits.convert("tools", "to the tools of the Messages API")


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        # Anthropic's own tools are named by their type.
        return tool
    function = _object(tool.get("function"), "tools.function")
    ours: dict[str, Any] = {
        "name": function.get("name"),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    for name in ("description", "strict"):
        if function.get(name) is not None:
            ours[name] = function[name]
    return _cached(tool, ours)


def _tool_choice(choice: Any, sent: dict[str, Any], edits: Edits) -> None:
    if isinstance(choice, str) and choice in CHOICE_TYPES:
        native: dict[str, Any] = {"type": CHOICE_TYPES[choice]}
    elif isinstance(choice, dict) and choice.get("type") == "function":
        function = _object(choice.get("function"), "tool_choice.function")
        native = {"type": "tool", "name": function.get("name")}
    elif choice is None:
        return
    else:
        raise _bad("tool_choice", "auto, none, required or a function")
    sent["tool_choice"] = native | sent.get("tool_choice", {}) | native
    edits.convert("tool_choice", f"to type {native['type']}")


def _parallel(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value is not False:
        edits.convert("parallel_tool_calls", "left out: the host does this anyway")
        return
    sent.setdefault("tool_choice", {"type": "auto"})["disable_parallel_tool_use"] = True
    edits.convert("parallel_tool_calls", "to tool_choice.disable_parallel_tool_use")


def _response_format(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind == "text":
        edits.convert("response_format", "left out: the host does this anyway")
    elif kind == "json_schema":
        schema = _object(value.get("json_schema"), "response_format.json_schema").get("schema")
        _output_config(sent)["format"] = {"type": "json_schema", "schema": schema}
        edits.convert("response_format", "to output_config.format")
    else:
        _drop("response_format", value, f"the Messages API has no {kind}", sent, edits)


def _reasoning_effort(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value is None:
        return
    if value == "none":
        sent.setdefault("thinking", {"type": "disabled"})
        edits.convert("reasoning_effort", "none to thinking disabled")
    elif value in EFFORTS:
        _output_config(sent)["effort"] = value
        edits.convert("reasoning_effort", "to output_config.effort")
    elif value == "minimal":
        _output_config(sent)["effort"] = "low"
        edits.convert("reasoning_effort", "minimal to output_config.effort low, the least there is")
    else:
        _drop("reasoning_effort", value, f"the Messages API has no effort {value!r}", sent, edits)


def _output_config(sent: dict[str, Any]) -> dict[str, Any]:
    """Return the request's `output_config` to add to; what the client sent in it stays."""
    value = sent.get("output_config", {})
    if isinstance(value, msgspec.Raw):
        value = read(value, "output_config")
    config = dict(_object(value, "output_config"))
    sent["output_config"] = config
    return config


def _user(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value:
        sent.setdefault("metadata", {})["user_id"] = value
        edits.renamed["user"] = "metadata.user_id"


def _metadata(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if not value:
        return
    others = sorted(set(value) - {"user_id"}) if isinstance(value, dict) else ["metadata"]
    if isinstance(value, dict) and "user_id" in value:
        sent.setdefault("metadata", {})["user_id"] = value["user_id"]
        edits.passed.append("metadata.user_id")
    for other in others:
        edits.drop(f"metadata.{other}", "the Messages API keeps user_id only")


def _service_tier(value: Any, sent: dict[str, Any], edits: Edits) -> None:
    if value in ("auto", "standard_only"):
        sent["service_tier"] = value
        edits.passed.append("service_tier")
    elif value not in (None, "default"):
        _drop("service_tier", value, f"the Messages API has no tier {value!r}", sent, edits)


_CONVERTERS: Mapping[str, Callable[[Any, dict[str, Any], Edits], None]] = {
    "messages": _messages,
    "max_tokens": _max_tokens,
    "max_completion_tokens": _max_completion_tokens,
    "stop": _stop,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _parallel,
    "response_format": _response_format,
    "reasoning_effort": _reasoning_effort,
    "user": _user,
    "metadata": _metadata,
    "service_tier": _service_tier,
}
