"""Tools of Anthropic's Messages API as functions. No IO.

Of Anthropic's own tools, clients run some: they send a type and a name, and Claude knows the input.
`client_tool` has that input, from Anthropic's documentation of each tool, for other models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from providers.translation.translate import Edits

_Schema = Mapping[str, Any]

_TEXT: _Schema = {"type": "string"}
_NUMBER: _Schema = {"type": "integer"}
_POINT: _Schema = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}


def _one_of(*values: str) -> _Schema:
    return {"type": "string", "enum": list(values)}


def _object(required: tuple[str, ...], **properties: _Schema) -> _Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


class ClientTool(NamedTuple):
    """A tool as a function.

    Attributes:
        description: for the model.
        parameters: the schema of its input.
    """

    description: str
    parameters: _Schema


_EDITS = {
    "path": _TEXT,
    "file_text": _TEXT,
    "old_str": _TEXT,
    "new_str": _TEXT,
    "insert_line": _NUMBER,
    "insert_text": _TEXT,
    "view_range": _POINT,
}

# By the beginning of the type; what follows is the date of a version.
_TOOLS: Mapping[str, ClientTool] = {
    "bash_": ClientTool(
        "Run a command in a Bash session that lasts; `restart` starts a new one.",
        _object((), command=_TEXT, restart={"type": "boolean"}),
    ),
    "text_editor_": ClientTool(
        "View, create and edit text files: `view` a file (lines `view_range`) or folder, `create` "
        "a file with `file_text`, replace the one place that has `old_str` by `new_str` "
        "(`str_replace`), or `insert` the text `insert_text` after the line `insert_line`.",
        _object(
            ("command", "path"),
            command=_one_of("view", "create", "str_replace", "insert"),
            **_EDITS,
        ),
    ),
    "memory_": ClientTool(
        "Keep notes in files under /memories that last beyond the conversation. The commands are "
        "those of a text editor, `delete` (`path`) and `rename` (`old_path`, `new_path`).",
        _object(
            ("command",),
            command=_one_of("view", "create", "str_replace", "insert", "delete", "rename"),
            **_EDITS,
            old_path=_TEXT,
            new_path=_TEXT,
        ),
    ),
    "computer_2": ClientTool(
        "Use the mouse, the keyboard and the screen of a computer. `coordinate` is [x, y] in "
        "pixels from the top left; `screenshot` shows what is there.",
        _object(
            ("action",),
            action=_one_of(
                *("key", "type", "mouse_move", "left_click", "left_click_drag", "right_click"),
                *("middle_click", "double_click", "triple_click", "screenshot", "scroll", "wait"),
                *("cursor_position", "left_mouse_down", "left_mouse_up", "hold_key"),
            ),
            coordinate=_POINT,
            start_coordinate=_POINT,
            text=_TEXT,
            scroll_direction=_one_of("up", "down", "left", "right"),
            scroll_amount=_NUMBER,
            duration={"type": "number"},
        ),
    ),
}


def client_tool(kind: str) -> ClientTool | None:
    """Return a tool of Anthropic's by its type, such as `bash_20250124`; None for any other."""
    return next((tool for start, tool in _TOOLS.items() if kind.startswith(start)), None)


# As many characters as OpenAI takes; Anthropic takes twice as many.
MAX_NAME_CHARS = 64


class ToolNames:
    """Shortens names of tools that are too long, such as those that Claude Code gives MCP's.

    Attributes:
        whole: the whole names, by the short ones.
    """

    def __init__(self, edits: Edits) -> None:
        self.whole: dict[str, str] = {}
        self._edits = edits

    def short(self, name: str) -> str:
        """Return the name to send: the same for the same name in every request."""
        if len(name) <= MAX_NAME_CHARS:
            return name
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        short = f"{name[: MAX_NAME_CHARS - 9]}_{digest}"
        self.whole[short] = name
        self._edits.convert("tools.name", "shortened where it is too long; answers have it whole")
        return short


def takes_strict(schema: Any) -> bool:
    """Return whether OpenAI's strict mode takes a schema: every object lists and requires all."""
    if isinstance(schema, list):
        return all(takes_strict(inner) for inner in schema)
    if not isinstance(schema, dict):
        return True
    properties, required = schema.get("properties"), schema.get("required")
    if schema.get("type") == "object" or isinstance(properties, dict):
        names = list(properties) if isinstance(properties, dict) else []
        listed = required if isinstance(required, list) else []
        if schema.get("additionalProperties") is not False or any(
            name not in listed for name in names
        ):
            return False
    return all(takes_strict(inner) for inner in schema.values())
