"""Anthropic's Messages API as chat completions: requests. Answers: `messages_answers.py`. No IO.

    system                    -> a system message in front
    messages                  -> messages (`messages_input.py`)
    tools, tool_choice        -> functions, tool_choice, parallel_tool_calls
    stop_sequences            -> stop
    thinking.budget_tokens    -> reasoning_effort, by the table in `messages_terms.py`
    output_config             -> reasoning_effort, which wins over a budget; response_format
    metadata.user_id          -> user

`max_tokens`, `temperature`, `top_p`, `top_k` and `stream` pass as they came; a message's stream has
its usage, which is for the sender to request (`stream_options`) where the host takes that.

What has no effect on the answer elsewhere (`cache_control`, `betas`) is left out, and the record
says so. A field that is new to us counts as unsupported: the API gains some with every release of
Claude Code, and hosts refuse what they do not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from providers import wire
from providers.base import OnUnsupported
from providers.translation.dialect import ChatRequest
from providers.translation.messages_answers import AnswerFacts, MessageAnswers
from providers.translation.messages_checks import invalid, missing, objects, read_object, text_of
from providers.translation.messages_input import MessageTurns, system_text
from providers.translation.messages_terms import CHOICE_WORDS, EFFORTS, effort_of_budget
from providers.translation.messages_tools import ToolNames, client_tool, takes_strict
from providers.translation.translate import Edits, read

_Fields = Mapping[str, msgspec.Raw]

# OpenAI takes as many characters for a user.
MAX_USER_CHARS = 64
MIN_BUDGET = 1024

_TRUE, _NULL = b"true", b"null"

# Why leaving a field out loses nothing.
_IMPLIED: Mapping[str, str] = {
    "anthropic_beta": "it names features of Anthropic's API",
    "anthropic_version": "it names a version of Anthropic's API",
    "betas": "it names features of Anthropic's API",
    "cache_control": "it has no effect on the answer",
    "diagnostics": "it has no effect on the answer",
}
_LACKING: Mapping[str, str] = {
    "container": "containers are Anthropic's",
    "context_management": "chat completions edit no context",
    "inference_geo": "chat completions name no place",
    "mcp_servers": "chat completions call no MCP servers",
    "speed": "chat completions have no such choice",
    "user_profile_id": "profiles of users are Anthropic's",
}
# Values that request what the host does anyway, as null does.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "context_management": ({}, {"edits": []}),
    "mcp_servers": ([],),
    "speed": ("standard",),
}
_SHOWN_THINKING = frozenset({"adaptive", "between_tools", "enabled"})


def to_chat(
    envelope: _Fields,
    *,
    policy: OnUnsupported,
    host: str,
    takes_reasoning: bool = False,
    counting: bool = False,
) -> ChatRequest:
    """Return a request to `messages` as a chat request.

    Args:
        envelope: the request's fields.
        policy: what to do with what chat completions do not have.
        host: the provider's name, for errors.
        takes_reasoning: whether the host takes a model's earlier thoughts: signed ones as
            `thinking_blocks`, others as `reasoning_content`.
        counting: whether it is a request to `messages/count_tokens`, which has no `max_tokens`.

    Raises:
        RequestError: the policy is to refuse and something cannot be expressed; or a field does not
            have the form of Anthropic's API. The message begins with its place.
    """
    edits = Edits(policy)
    request = _Request(edits, takes_reasoning=takes_reasoning or policy == "pass")
    if "messages" not in envelope:
        raise missing("messages")
    if "max_tokens" not in envelope and not counting:
        raise missing("max_tokens")
    for name, raw in envelope.items():
        if name in _CONVERTERS:
            _CONVERTERS[name](raw, request)
        elif name in _IMPLIED:
            edits.convert(name, f"left out: {_IMPLIED[name]}")
        else:
            _lack(name, raw, request)
    request.complete()
    facts = AnswerFacts(
        model=request.model,
        stop_sequences=request.stop_sequences,
        names=request.names.whole,
        shows_thoughts=request.shows_thoughts,
    )
    fields = {
        name: value if isinstance(value, msgspec.Raw) else msgspec.Raw(wire.encode(value))
        for name, value in request.sent.items()
    }
    return ChatRequest(
        fields=fields, translation=edits.finish(host), answers=partial(MessageAnswers, facts)
    )


class _Request:
    """One request on its way to a chat request.

    Attributes:
        edits: the record.
        sent: the chat request's fields.
        names: of tools.
        model, stop_sequences, shows_thoughts: what the answer depends on.
        takes_reasoning: see `to_chat`.
        efforts: the effort that `output_config` names, and that of a budget of thinking.
    """

    def __init__(self, edits: Edits, *, takes_reasoning: bool) -> None:
        self.edits = edits
        self.sent: dict[str, Any] = {}
        self.names = ToolNames(edits)
        self.takes_reasoning = takes_reasoning
        self.model = ""
        self.stop_sequences: tuple[str, ...] = ()
        self.shows_thoughts = False
        self.efforts = ["", ""]
        self.system = ""

    def complete(self) -> None:
        """Put together what depends on several fields."""
        if self.system:
            self.sent["messages"].insert(0, {"role": "system", "content": self.system})
        effort = self.efforts[0] or self.efforts[1]
        if effort:
            self.sent["reasoning_effort"] = effort
        if "tool_choice" not in self.sent:
            return
        if "tools" not in self.sent:
            # OpenAI's API refuses it where there are no tools.
            del self.sent["tool_choice"]
            self.sent.pop("parallel_tool_calls", None)
            self.edits.convert("tool_choice", "left out: the request has no tools")
            return
        self.edits.convert("tool_choice", "to tool_choice of chat completions")
        if "parallel_tool_calls" in self.sent:
            self.edits.convert("tool_choice.disable_parallel_tool_use", "to parallel_tool_calls")

    def pass_on(self, name: str, raw: msgspec.Raw) -> None:
        """Send a field as it came."""
        self.sent[name] = raw
        self.edits.passed.append(name)


def _lack(name: str, raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, name)
    if value is None or value in _NEUTRAL.get(name, ()):
        request.edits.convert(name, "left out: the host does this anyway")
    elif not request.edits.drop(name, _LACKING.get(name, "chat completions have no such field")):
        request.pass_on(name, raw)


# The converters: each reads a field and puts its translation into the request.


def _model(raw: msgspec.Raw, request: _Request) -> None:
    request.model = text_of(read(raw, "model"), "model")
    request.sent["model"] = raw


def _messages(raw: msgspec.Raw, request: _Request) -> None:
    turns = MessageTurns(request.edits, request.names, takes_reasoning=request.takes_reasoning)
    request.sent["messages"] = turns.translate(read(raw, "messages"))


def _system(raw: msgspec.Raw, request: _Request) -> None:
    request.system = system_text(read(raw, "system"), "system", request.edits)
    request.edits.convert("system", "to a system message")


def _max_tokens(raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, "max_tokens")
    if type(value) is not int:
        raise invalid("max_tokens", "Input should be a valid integer")
    if value < 0:
        raise invalid("max_tokens", "Input should be greater than or equal to 0")
    if value == 0 and request.edits.drop("max_tokens", "0 fills Anthropic's prompt cache only"):
        return
    request.pass_on("max_tokens", raw)


def _number(name: str, limit: float | None, raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, "Input should be a valid number")
    if value < 0 or (limit is not None and value > limit):
        raise invalid(name, f"range: 0..{limit:g}" if limit else "Input should be at least 0")
    request.pass_on(name, raw)


def _stream(raw: msgspec.Raw, request: _Request) -> None:
    if bytes(raw) not in (_TRUE, b"false"):
        raise invalid("stream", "Input should be a valid boolean")
    request.pass_on("stream", raw)


def _stop_sequences(raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, "stop_sequences")
    if not value and value in (None, []):
        return
    if not isinstance(value, list):
        raise invalid("stop_sequences", "Input should be a valid list")
    for index, text in enumerate(value):
        text_of(text, f"stop_sequences.{index}")
    request.stop_sequences = tuple(value)
    request.sent["stop"] = raw
    request.edits.renamed["stop_sequences"] = "stop"


def _object_or_null(raw: msgspec.Raw, name: str) -> dict[str, Any]:
    value = read(raw, name)
    return {} if value is None else read_object(value, name)


def _metadata(raw: msgspec.Raw, request: _Request) -> None:
    for name, value in _object_or_null(raw, "metadata").items():
        if name != "user_id":
            request.edits.drop(f"metadata.{name}", "the Messages API has user_id only")
        elif value is not None:
            user = text_of(value, "metadata.user_id")
            if len(user) > MAX_USER_CHARS:
                # Claude Code's are longer; a digest tells users apart as well.
                user = hashlib.sha256(user.encode()).hexdigest()
                request.edits.convert("metadata.user_id", "to user, its SHA-256: it is too long")
            else:
                request.edits.renamed["metadata.user_id"] = "user"
            request.sent["user"] = user


def _service_tier(raw: msgspec.Raw, request: _Request) -> None:
    if read(raw, "service_tier") not in (None, "auto", "standard_only"):
        raise invalid("service_tier", "Input should be 'auto' or 'standard_only'")
    request.edits.convert("service_tier", "left out: it concerns Anthropic's own capacity")


def _thinking(raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, "thinking")
    if value is None:
        return
    fields = read_object(value, "thinking")
    kind = _kind(fields, "thinking")
    if kind not in ("disabled", *_SHOWN_THINKING):
        raise invalid(
            "thinking",
            f"Input tag '{kind[:64]}' found using 'type' does not match any of the expected tags: "
            "'enabled', 'disabled', 'between_tools', 'adaptive'",
        )
    request.shows_thoughts = kind != "disabled" and fields.get("display") != "omitted"
    if kind != "enabled":
        request.edits.convert("thinking", "left out: the host decides how much its model thinks")
        return
    budget = fields.get("budget_tokens")
    if budget is None:
        raise missing("thinking.budget_tokens")
    if type(budget) is not int:
        raise invalid("thinking.budget_tokens", "Input should be a valid integer")
    if budget < MIN_BUDGET:
        raise invalid(
            "thinking.budget_tokens", f"Input should be greater than or equal to {MIN_BUDGET}"
        )
    request.efforts[1] = effort_of_budget(budget)
    request.edits.convert("thinking", f"to reasoning_effort {request.efforts[1]}")


def _kind(fields: Mapping[str, Any], path: str) -> str:
    if "type" not in fields:
        raise missing(f"{path}.type")
    return text_of(fields["type"], f"{path}.type")


def _output_config(raw: msgspec.Raw, request: _Request) -> None:
    for name, value in _object_or_null(raw, "output_config").items():
        path = f"output_config.{name}"
        if value is None:
            continue
        if name == "effort":
            if value not in EFFORTS:
                names = ", ".join(f"'{effort}'" for effort in EFFORTS[:-1])
                raise invalid(path, f"Input should be {names} or '{EFFORTS[-1]}'")
            request.efforts[0] = value
            request.edits.convert(path, "to reasoning_effort")
        elif name == "format":
            _format(value, path, request)
        else:
            request.edits.drop(path, "chat completions have no such choice")


def _output_format(raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, "output_format")
    if value is not None:
        _format(value, "output_format", request)


def _format(value: Any, path: str, request: _Request) -> None:
    fields = read_object(value, path)
    if _kind(fields, path) != "json_schema":
        raise invalid(f"{path}.type", "Input should be 'json_schema'")
    if "schema" not in fields:
        raise missing(f"{path}.schema")
    schema = read_object(fields["schema"], f"{path}.schema")
    form: dict[str, Any] = {"name": "answer", "schema": schema}
    if takes_strict(schema):
        form["strict"] = True
    request.sent["response_format"] = {"type": "json_schema", "json_schema": form}
    request.edits.convert(path, "to response_format")


_decode_tools = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


def _tools(raw: msgspec.Raw, request: _Request) -> None:
    try:
        # Schemas stay bytes: they are most of what an agent sends.
        tools = _decode_tools(raw)
    except wire.UNREADABLE:
        value = read(raw, "tools")
        if value is None:
            return
        # Raises; what is left is text that cannot be decoded.
        objects(value, "tools")
        raise invalid("tools", "Input should be a valid list") from None
    sent = []
    for index, tool in enumerate(tools):
        converted = _tool(tool, f"tools.{index}", request)
        if converted is not None:
            sent.append(converted)
    if sent:
        request.sent["tools"] = sent
        request.edits.convert("tools", "to functions")


def _tool(tool: _Fields, path: str, request: _Request) -> Any:
    """Return a tool as a function; None where it is left out."""
    kind = read(tool["type"], "tools") if "type" in tool else None
    kind = "custom" if kind is None else text_of(kind, f"{path}.type")
    known = client_tool(kind)
    if kind != "custom" and known is None:
        why = "Anthropic runs this tool, or knows alone how it is used"
        return None if request.edits.drop(f"tools.{kind}", why) else tool
    if "name" not in tool:
        raise missing(f"{path}.name")
    name = text_of(read(tool["name"], "tools"), f"{path}.name")
    function: dict[str, Any] = {"name": request.names.short(name)}
    if known is not None:
        request.edits.convert(f"tools.{kind}", "to a function with the input of Anthropic's tool")
        function["description"] = known.description
        function["parameters"] = known.parameters
    else:
        _describe(tool, path, function, request)
    for other in sorted(tool.keys() - _TOOL_FIELDS):
        _leave_out_of_tool(other, tool[other], request)
    return {"type": "function", "function": function}


_TOOL_FIELDS = frozenset({"description", "input_schema", "name", "strict", "type"})
_TOOL_IMPLIED: Mapping[str, str] = {
    "cache_control": "it has no effect on the answer",
    "defer_loading": "every tool is sent at once",
    "eager_input_streaming": "input is streamed as it comes",
}
_DIRECT = b'["direct"]'


def _describe(tool: _Fields, path: str, function: dict[str, Any], request: _Request) -> None:
    """Add a custom tool's description and schema to its function."""
    description, schema = tool.get("description"), tool.get("input_schema")
    if description is not None and bytes(description) != _NULL:
        if not bytes(description).startswith(b'"'):
            raise invalid(f"{path}.description", "Input should be a valid string")
        function["description"] = description
    if schema is None:
        raise missing(f"{path}.input_schema")
    if not bytes(schema).startswith(b"{"):
        raise invalid(f"{path}.input_schema", "Input should be an object")
    function["parameters"] = schema
    if bytes(tool.get("strict", b"null")) == _TRUE:
        if takes_strict(read(schema, "tools")):
            function["strict"] = True
        else:
            request.edits.convert("tools.strict", "left out: OpenAI's form of it needs every field")


def _leave_out_of_tool(name: str, raw: msgspec.Raw, request: _Request) -> None:
    if name in _TOOL_IMPLIED:
        request.edits.convert(f"tools.{name}", f"left out: {_TOOL_IMPLIED[name]}")
    elif bytes(raw) not in (_NULL, _DIRECT):
        request.edits.drop(f"tools.{name}", "functions have no such field")


def _tool_choice(raw: msgspec.Raw, request: _Request) -> None:
    value = read(raw, "tool_choice")
    if value is None:
        return
    fields = read_object(value, "tool_choice")
    kind = _kind(fields, "tool_choice")
    if kind == "tool":
        if "name" not in fields:
            raise missing("tool_choice.name")
        name = request.names.short(text_of(fields["name"], "tool_choice.name"))
        request.sent["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in CHOICE_WORDS:
        request.sent["tool_choice"] = CHOICE_WORDS[kind]
    else:
        raise invalid(
            "tool_choice",
            f"Input tag '{kind[:64]}' found using 'type' does not match any of the expected tags: "
            "'auto', 'any', 'tool', 'none'",
        )
    parallel = fields.get("disable_parallel_tool_use")
    if parallel not in (None, True, False):
        raise invalid("tool_choice.disable_parallel_tool_use", "Input should be a valid boolean")
    if parallel:
        request.sent["parallel_tool_calls"] = False


_CONVERTERS: Mapping[str, Callable[[msgspec.Raw, _Request], None]] = {
    "model": _model,
    "messages": _messages,
    "system": _system,
    "max_tokens": _max_tokens,
    "temperature": partial(_number, "temperature", 1),
    "top_p": partial(_number, "top_p", 1),
    "top_k": partial(_number, "top_k", None),
    "stream": _stream,
    "stop_sequences": _stop_sequences,
    "metadata": _metadata,
    "service_tier": _service_tier,
    "thinking": _thinking,
    "output_config": _output_config,
    "output_format": _output_format,
    "tools": _tools,
    "tool_choice": _tool_choice,
}
