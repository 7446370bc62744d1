"""OpenAI's Responses API as chat completions: the requests. Answers: `responses_answers.py`. No IO.

    input, instructions       -> messages (`responses_input.py`)
    tools, tool_choice        -> functions (`responses_tools.py`)
    text                      -> response_format, verbosity
    reasoning.effort          -> reasoning_effort
    max_output_tokens         -> max_tokens
    include, top_logprobs     -> logprobs, top_logprobs

What names state of a server (`previous_response_id`, `conversation`, `background`) has to be
resolved before. A field that OpenAI's API does not have passes as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from providers import wire
from providers.base import OnUnsupported
from providers.errors import RequestError
from providers.translation import field_checks
from providers.translation.dialect import ChatRequest
from providers.translation.responses_answers import AnswerPlan, ResponseAnswers, echo_of
from providers.translation.responses_input import InputReader
from providers.translation.responses_tools import Tools
from providers.translation.translate import Edits, read

_Object = dict[str, Any]

MAX_TOP_LOGPROBS = 20

# Names of chat completions, and where OpenAI's Responses API has them.
_MOVED: Mapping[str, str] = {
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
# What has a meaning only where the conversation, or a template of it, is stored.
_STATEFUL: Mapping[str, str] = {
    "conversation": "the conversation is not stored for this model",
    "previous_response_id": "the response is not stored for this model",
    "prompt": "templates of prompts are stored at OpenAI",
}
_LACKING = (
    "access_programs",
    "context_management",
    "image",
    "moderation",
    "prompt_cache_options",
)
_INCLUDED = "message.output_text.logprobs"
_INCLUDABLE: Mapping[str, str] = {
    "code_interpreter_call.outputs": "left out: no such tool is called",
    "computer_call_output.output.image_url": "left out: no such tool is called",
    "file_search_call.results": "left out: no such tool is called",
    _INCLUDED: "to logprobs",
    "message.input_image.image_url": "left out: it concerns stored input",
    "reasoning.encrypted_content": "left out: thoughts return in plain text, or signed",
    "web_search_call.action.sources": "left out: no such tool is called",
    "web_search_call.results": "left out: no such tool is called",
}
_SUMMARIES = ("auto", "concise", "detailed")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_VERBOSITIES = ("low", "medium", "high")
_FORMATS = ("text", "json_schema", "json_object")


def to_chat(
    envelope: Mapping[str, msgspec.Raw],
    *,
    policy: OnUnsupported,
    host: str,
    takes_reasoning: bool = False,
    echo: Mapping[str, msgspec.Raw] | None = None,
) -> ChatRequest:
    """Return a request to `responses` as a chat request.

    Args:
        envelope: the request's fields.
        policy: what to do with what chat completions do not have.
        host: the provider's name, for errors.
        takes_reasoning: whether the host takes a model's earlier thoughts.
        echo: fields that the answer shows in place of the request's own, such as a
            `previous_response_id` that was resolved.

    Raises:
        RequestError: the policy is to refuse and something cannot be expressed; or a field does not
            have the form of OpenAI's API; `param` names the place.
    """
    request = _Request(envelope, policy, takes_reasoning=takes_reasoning or policy == "pass")
    request.translate()
    plan = AnswerPlan(
        echo=echo_of({**envelope, **(echo or {})}),
        logprobs="logprobs" in request.sent,
        summaries=request.summaries,
        custom_tools=frozenset(request.custom_tools),
    )
    fields = {
        name: value if isinstance(value, msgspec.Raw) else msgspec.Raw(wire.encode(value))
        for name, value in request.sent.items()
    }
    return ChatRequest(
        fields=fields,
        translation=request.edits.finish(host),
        answers=partial(ResponseAnswers, plan),
    )


class _Request:
    """One request on its way to a chat request."""

    def __init__(
        self, envelope: Mapping[str, msgspec.Raw], policy: OnUnsupported, *, takes_reasoning: bool
    ) -> None:
        self.edits = Edits(policy)
        self.sent: _Object = {}
        self.summaries = False
        self.custom_tools: set[str] = set()
        self._envelope = envelope
        self._policy = policy
        self._takes_reasoning = takes_reasoning

    def translate(self) -> None:
        """Read all fields. Raises RequestError."""
        for name, place in _MOVED.items():
            if name in self._envelope:
                raise RequestError(
                    f"Unsupported parameter: '{name}'. In the Responses API, this parameter has "
                    f"moved to '{place}'.",
                    param=name,
                    code="unsupported_parameter",
                )
        if self._value("n") not in (None, 1):
            raise RequestError("Unknown parameter: 'n'.", param="n", code="unknown_parameter")
        self._messages()
        for name, raw in self._envelope.items():
            reader = _READERS.get(name)
            if name == "model":
                self.sent[name] = raw
            elif reader is not None:
                value = read(raw, name)
                if value is not None:
                    reader(self, value, name, raw)
            elif name not in _READ_TOGETHER:
                self.passes(name, raw)
        self._tools()

    def passes(self, name: str, raw: msgspec.Raw) -> None:
        """Send a field as it came."""
        self.sent[name] = raw
        self.edits.passed.append(name)

    def lacks(self, name: str, raw: msgspec.Raw, why: str) -> None:
        """Leave out what chat completions do not have, unless the policy is to send it."""
        if not self.edits.drop(name, why):
            self.passes(name, raw)

    def _value(self, name: str) -> Any:
        raw = self._envelope.get(name)
        return None if raw is None else read(raw, name)

    def _messages(self) -> None:
        reader = InputReader(self.edits, takes_reasoning=self._takes_reasoning)
        instructions = self._value("instructions")
        if instructions is not None:
            reader.instruct(field_checks.checked(instructions, str, "instructions"))
            self.edits.convert("instructions", "to a system message")
        given = self._value("input")
        if given is None:
            raise field_checks.missing("input")
        reader.read(given)
        messages = reader.messages()
        if not messages:
            raise RequestError(
                "Invalid 'input': it has no message, and the request has no instructions.",
                param="input",
                code="empty_array",
            )
        self.sent["messages"] = messages
        self.edits.convert("input", "to messages")

    def _tools(self) -> None:
        tools = Tools(self._value("tools"), self._policy, self.edits)
        self.custom_tools = tools.custom
        choice = self._value("tool_choice")
        chosen = None if choice is None else tools.choice(choice)
        parallel = self._value("parallel_tool_calls")
        if parallel is not None:
            field_checks.checked(parallel, bool, "parallel_tool_calls")
        if tools:
            self.sent["tools"] = tools.in_chat()
            self.edits.convert("tools", "to functions of a chat")
            if parallel is not None:
                self.passes("parallel_tool_calls", self._envelope["parallel_tool_calls"])
        elif parallel is not None:
            self.edits.convert("parallel_tool_calls", "left out: the request has no tools")
        if chosen is not None:
            self.sent["tool_choice"] = chosen
            if chosen == choice:
                self.edits.passed.append("tool_choice")
        elif choice is not None:
            self.edits.convert("tool_choice", "left out: the request has no tools")


# Each takes the request, the field's value (not null), its name, and its bytes.
_Reader = Callable[[_Request, Any, str, msgspec.Raw], None]


def _text(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    field_checks.checked(value, str, name)
    request.passes(name, raw)


def _flag(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    field_checks.checked(value, bool, name)
    request.passes(name, raw)


def _number(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    field_checks.number(value, name)
    request.passes(name, raw)


def _max_output_tokens(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    field_checks.integer(value, name, at_least=1, at_most=wire.MAX_COUNT)
    request.sent["max_tokens"] = raw
    request.edits.renamed[name] = "max_tokens"


def _max_tool_calls(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    field_checks.integer(value, name, at_least=1, at_most=wire.MAX_COUNT)
    request.edits.convert(name, "left out: it bounds calls of tools that OpenAI runs")


def _top_logprobs(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    if field_checks.integer(value, name, at_least=0, at_most=MAX_TOP_LOGPROBS):
        request.sent["logprobs"] = True
        request.passes(name, raw)
    else:
        request.edits.convert(name, "left out: the host does this anyway")


def _include(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    for index, given in enumerate(field_checks.checked(value, list, name)):
        path = f"{name}[{index}]"
        included = field_checks.checked(given, str, path)
        how = _INCLUDABLE.get(included)
        if how is None:
            raise field_checks.wrong_value(path, included, _INCLUDABLE)
        if included == _INCLUDED:
            request.sent["logprobs"] = True
        request.edits.convert(f"{name}.{included}", how)


def _format(request: _Request, text: _Object) -> None:
    path = "text.format"
    given = field_checks.optional(text, "format", "text", dict)
    if given is None:
        return
    kind = field_checks.one_of(field_checks.text(given, "type", path), _FORMATS, f"{path}.type")
    if kind == "text":
        return
    sent: _Object = {"type": kind}
    if kind == "json_schema":
        schema = {
            "name": field_checks.text(given, "name", path),
            "schema": field_checks.required(given, "schema", path, dict),
        }
        for name, expected in (("description", str), ("strict", bool)):
            value = field_checks.optional(given, name, path, expected)
            if value is not None:
                schema[name] = value
        sent["json_schema"] = schema
    request.sent["response_format"] = sent
    request.edits.convert("text.format", "to response_format")


def _text_options(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    text = field_checks.checked(value, dict, name)
    _format(request, text)
    verbosity = field_checks.optional(text, "verbosity", name, str)
    if verbosity is not None:
        field_checks.one_of(verbosity, _VERBOSITIES, "text.verbosity")
        if verbosity == "medium":
            request.edits.convert("text.verbosity", "left out: the host does this anyway")
        else:
            request.sent["verbosity"] = verbosity
            request.edits.renamed["text.verbosity"] = "verbosity"
    _note_others(request, text, name, ("format", "verbosity"))


def _reasoning(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    reasoning = field_checks.checked(value, dict, name)
    effort = field_checks.optional(reasoning, "effort", name, str)
    if effort is not None:
        request.sent["reasoning_effort"] = field_checks.one_of(effort, _EFFORTS, "reasoning.effort")
        request.edits.renamed["reasoning.effort"] = "reasoning_effort"
    for option in ("summary", "generate_summary"):
        summary = field_checks.optional(reasoning, option, name, str)
        if summary is not None:
            field_checks.one_of(summary, _SUMMARIES, f"{name}.{option}")
            request.summaries = True
            request.edits.convert(f"{name}.{option}", "the thoughts themselves, unabridged")
    for option, neutral in (("context", "auto"), ("mode", "standard")):
        given = field_checks.optional(reasoning, option, name, str)
        if given not in (None, neutral):
            request.edits.leave_out(f"{name}.{option}", "chat completions have no such choice")
    _note_others(
        request, reasoning, name, ("effort", "summary", "generate_summary", "context", "mode")
    )


def _note_others(request: _Request, holder: _Object, place: str, known: tuple[str, ...]) -> None:
    for name, value in holder.items():
        if name not in known and value is not None:
            request.edits.leave_out(f"{place}.{name}", "chat completions have no such field")


def _truncation(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    if field_checks.one_of(value, ("auto", "disabled"), name) == "auto":
        request.lacks(name, raw, "the host shortens no conversation")
    else:
        request.edits.convert(name, "left out: the host does this anyway")


def _metadata(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    for key, text in field_checks.checked(value, dict, name).items():
        field_checks.checked(text, str, f"{name}.{key}")
    request.edits.convert(name, "left out: the answer has it")


def _store(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    field_checks.checked(value, bool, name)
    request.edits.convert(name, "left out: responses are stored here, not at the host")


def _stream_options(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del raw
    options = field_checks.checked(value, dict, name)
    padded = field_checks.optional(options, "include_obfuscation", name, bool)
    if padded:
        request.edits.leave_out(f"{name}.include_obfuscation", "events are not padded")
    _note_others(request, options, name, ("include_obfuscation", "include_usage"))


def _background(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del request, raw
    if field_checks.checked(value, bool, name):
        raise RequestError(
            "background: this model answers while the request waits.",
            param=name,
            code="unsupported_parameter",
        )


def _stateful(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del request, value, raw
    raise RequestError(f"{name}: {_STATEFUL[name]}.", param=name, code="unsupported_parameter")


def _lacking(request: _Request, value: Any, name: str, raw: msgspec.Raw) -> None:
    del value
    request.lacks(name, raw, "chat completions have no such field")


_READERS: Mapping[str, _Reader] = {
    "background": _background,
    "include": _include,
    "max_output_tokens": _max_output_tokens,
    "max_tool_calls": _max_tool_calls,
    "metadata": _metadata,
    "prompt_cache_key": _text,
    "prompt_cache_retention": _text,
    "reasoning": _reasoning,
    "safety_identifier": _text,
    "service_tier": _text,
    "store": _store,
    "stream": _flag,
    "stream_options": _stream_options,
    "temperature": _number,
    "text": _text_options,
    "top_logprobs": _top_logprobs,
    "top_p": _number,
    "truncation": _truncation,
    "user": _text,
    **dict.fromkeys(_STATEFUL, _stateful),
    **dict.fromkeys(_LACKING, _lacking),
}
# Fields that are read with others.
_READ_TOGETHER = frozenset(
    {"input", "instructions", "n", "parallel_tool_calls", "tool_choice", "tools"}
)
