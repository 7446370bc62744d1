"""Tools of OpenAI's Responses API, and which of them to call, as those of a chat. No IO.

function        -> a function
custom          -> a function with one text, `input`; its grammar goes into the description
allowed_tools   -> the others are left out
web_search ...  -> unsupported: OpenAI itself runs them
"""

from __future__ import annotations

from typing import Any

from providers.base import OnUnsupported
from providers.errors import RequestError
from providers.translation import field_checks
from providers.translation.translate import Edits

_Object = dict[str, Any]

# The types that OpenAI documents besides those that are translated.
_UNSUPPORTED = (
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "namespace",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
)
_WHY = "chat completions have functions only"
_MODES = ("none", "auto", "required")
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's whole input."}},
    "required": ["input"],
    "additionalProperties": False,
}


class Tools:
    """The tools of a request.

    Args:
        tools: the request's `tools`, decoded; None for none.
        policy: what to do with tools that a chat request cannot have.
        edits: where to note what was converted and left out.

    Raises:
        RequestError: they do not have the form of OpenAI's API.

    Attributes:
        custom: the names of the functions that stand for custom tools.
    """

    def __init__(self, tools: Any, policy: OnUnsupported, edits: Edits) -> None:
        self.custom: set[str] = set()
        self._policy = policy
        self._edits = edits
        # By name, and those without one as they came.
        self._functions: dict[str, _Object] = {}
        self._others: list[_Object] = []
        given = [] if tools is None else field_checks.objects(tools, "tools")
        for index, tool in enumerate(given):
            self._add(tool, f"tools[{index}]")

    def __bool__(self) -> bool:
        return bool(self._functions or self._others)

    def in_chat(self) -> list[_Object]:
        """Return the tools of the chat request."""
        return [*self._functions.values(), *self._others]

    def _add(self, tool: _Object, path: str) -> None:
        kind = field_checks.text(tool, "type", path)
        if kind == "function":
            self._add_function(tool, path)
        elif kind == "custom":
            self._add_custom(tool, path)
        elif kind not in _UNSUPPORTED:
            supported = ("function", "custom", *_UNSUPPORTED)
            raise field_checks.wrong_value(f"{path}.type", kind, supported)
        elif self._edits.drop(f"tools.{kind}", _WHY):
            return
        else:
            self._others.append(tool)

    def _add_function(self, tool: _Object, path: str) -> None:
        name = field_checks.text(tool, "name", path)
        function: _Object = {"name": name}
        for field, kind in (("description", str), ("parameters", dict), ("strict", bool)):
            value = field_checks.optional(tool, field, path, kind)
            if value is not None:
                function[field] = value
        self._note_others(tool, function)
        self._functions[name] = {"type": "function", "function": function}

    def _add_custom(self, tool: _Object, path: str) -> None:
        name = field_checks.text(tool, "name", path)
        description = field_checks.optional(tool, "description", path, str) or ""
        given = field_checks.optional(tool, "format", path, dict) or {"type": "text"}
        inner = f"{path}.format"
        kind = field_checks.one_of(
            field_checks.text(given, "type", inner), ("text", "grammar"), f"{inner}.type"
        )
        if kind == "grammar":
            syntax = field_checks.text(given, "syntax", inner)
            grammar = field_checks.text(given, "definition", inner)
            rule = f"The input has to match this grammar ({syntax}):\n{grammar}"
            description = f"{description}\n\n{rule}" if description else rule
            self._edits.leave_out("tools.custom.format", "no host holds functions to a grammar")
        self._edits.convert("tools.custom", "to a function with one text, `input`")
        self._note_others(tool, ("name", "description", "format"))
        function = {"name": name, "description": description, "parameters": _INPUT}
        if not description:
            del function["description"]
        self._functions[name] = {"type": "function", "function": function}
        self.custom.add(name)

    def _note_others(self, tool: _Object, known: Any) -> None:
        for name, value in tool.items():
            if name == "type" or name in known or value is None or value is False:
                continue
            if name == "allowed_callers" and value == ["direct"]:
                continue
            self._edits.leave_out(f"tools.{name}", "chat completions have no such field there")

    def choice(self, value: Any) -> Any:
        """Return the chat request's `tool_choice`; None leaves it out.

        Tools that the choice does not allow are no longer part of the chat request.

        Raises:
            RequestError: it does not have the form of OpenAI's API, or names a tool that the
                request does not have.
        """
        path = "tool_choice"
        if isinstance(value, str):
            mode = field_checks.one_of(value, _MODES, path)
            return self._mode(mode)
        if not isinstance(value, dict):
            raise field_checks.wrong_type(path, "one of a string or an object", value)
        kind = field_checks.text(value, "type", path)
        if kind in ("function", "custom"):
            name = field_checks.text(value, "name", path)
            if name not in self._functions:
                raise RequestError(
                    f"Tool choice '{name}' not found in 'tools' parameter.", param=path
                )
            self._edits.convert(path, "to a function")
            return {"type": "function", "function": {"name": name}}
        if kind == "allowed_tools":
            return self._allow(value)
        if kind not in _UNSUPPORTED:
            supported = ("function", "custom", "allowed_tools", *_UNSUPPORTED)
            raise field_checks.wrong_value(f"{path}.type", kind, supported)
        return None if self._edits.drop(f"{path}.{kind}", _WHY) else value

    def _mode(self, mode: str) -> str | None:
        if self:
            return mode
        if mode == "required":
            self._edits.leave_out("tool_choice", "no tool is left to be called")
        return None

    def _allow(self, value: _Object) -> str | None:
        path = "tool_choice"
        mode = field_checks.one_of(
            field_checks.text(value, "mode", path), ("auto", "required"), f"{path}.mode"
        )
        allowed = field_checks.objects(
            field_checks.required(value, "tools", path, list), f"{path}.tools"
        )
        names = set()
        for index, tool in enumerate(allowed):
            inner = f"{path}.tools[{index}]"
            if field_checks.text(tool, "type", inner) in ("function", "custom"):
                names.add(field_checks.text(tool, "name", inner))
        if unknown := sorted(names - self._functions.keys()):
            raise RequestError(
                f"Tool choice '{unknown[0]}' not found in 'tools' parameter.",
                param=f"{path}.tools",
            )
        kinds = {tool["type"] for tool in allowed}
        self._functions = {name: tool for name, tool in self._functions.items() if name in names}
        self._others = [tool for tool in self._others if tool["type"] in kinds]
        self._edits.convert(path, "the tools that it does not allow are left out")
        return self._mode(mode)
