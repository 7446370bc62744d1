"""Describes the tools that coding agents get over MCP."""

from __future__ import annotations

from typing import Any, get_args

from router.api.access import reach_of
from router.mcp.tool import Tool
from router.mcp.tools import TOOLS, schema_of
from router.store.keys import Role
from tooling.markdown import Row, table


def overview() -> str:
    """Return a table of the tools, what they do, and whose keys have them."""
    rows: list[Row] = [
        (
            f"`{tool.name}`",
            tool.title,
            "reads" if tool.reads else "**changes or ends something**" if tool.destroys else "adds",
            ", ".join(role for role in get_args(Role) if _may_use(role, tool)),
        )
        for tool in TOOLS.values()
    ]
    return table(("tool", "what it does", "", "for keys of the role"), rows) + "\n"


def arguments() -> str:
    """Return a section for each tool: its description for agents, and a table of its arguments."""
    return "\n".join(_section(tool) for tool in TOOLS.values())


def _may_use(role: Role, tool: Tool) -> bool:
    return all(reach_of(operation, role) != "no" for operation in tool.operations)


def _section(tool: Tool) -> str:
    schema = schema_of(tool.arguments)
    required = schema.get("required", ())
    rows: list[Row] = [
        (
            f"`{name}`",
            _kind(each),
            "required" if name in required else f"`{_shown(each.get('default'))}`",
            each.get("description", ""),
        )
        for name, each in schema["properties"].items()
    ]
    described = table(("argument", "kind", "default", "what it is"), rows)
    return f"### {tool.name}\n\n{tool.description}\n\n{described}\n"


def _shown(default: Any) -> str:
    return '""' if default == "" else "none" if default is None else str(default)


def _kind(schema: dict[str, Any]) -> str:
    """Return the values that an argument may have."""
    if "anyOf" in schema:
        kinds = [_kind(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    low, high = schema.get("minimum"), schema.get("maximum")
    kind: str = schema.get("type", "object")
    name = {"integer": "whole number", "string": "text", "array": "list"}.get(kind, kind)
    if low is not None and high is not None:
        return f"{name}, {low:g} to {high:g}"
    if low is not None:
        return f"{name} ≥ {low:g}"
    if "maxItems" in schema:
        return f"{name}, {schema.get('minItems', 0)} to {schema['maxItems']}"
    return name
