"""All tools, which of them a key may use, and how one is called.

    tools_for(access["operations"])  # those of a key, as `GET /key` has it
    await call_tool(client, "list_runs", {"limit": 5}, progress)

A tool that fails answers with the error and what to do about it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache
from typing import Any

import msgspec

from providers.errors import (
    AuthenticationError,
    EvalrouterError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UpstreamConnectError,
    UpstreamTimeoutError,
)
from router.client import AsyncClient
from router.mcp import catalogue, proposals, requests, runs
from router.mcp.answers import ToolReply
from router.mcp.fencing import Fence
from router.mcp.tool import Tool, ToolCall

TOOLS: Mapping[str, Tool] = {
    tool.name: tool for module in (catalogue, runs, requests, proposals) for tool in module.TOOLS
}


class ToolAnswer(msgspec.Struct, frozen=True):
    """What a tool answered: the structure, and the same as text; or why it could not be called."""

    text: str
    structure: dict[str, Any] | None = None


def tools_for(operations: Collection[str]) -> list[Tool]:
    """Return the tools that a key may use, by what it may request of the server."""
    return [tool for tool in TOOLS.values() if set(tool.operations) <= set(operations)]


async def call_tool(
    client: AsyncClient,
    name: str,
    arguments: Mapping[str, Any],
    progress: Callable[[float, float, str], Awaitable[None]],
) -> ToolAnswer:
    """Call a tool, and return its answer, or the error as text with what to do about it.

    Raises:
        KeyError: there is no such tool.
    """
    tool = TOOLS[name]
    fence = Fence()
    try:
        read = msgspec.convert(dict(arguments), tool.arguments)
    except msgspec.ValidationError as error:
        problem = str(error).replace("`$.", "`").replace("`$`", "the arguments")
        return ToolAnswer(f"The arguments of {name} are wrong: {problem}.")
    try:
        reply = await tool.call(ToolCall(client, fence, progress), read)
    except EvalrouterError as error:
        return ToolAnswer(_explained(error, tool))
    reply.notice = fence.notice
    structure = _rounded(msgspec.to_builtins(reply))
    return ToolAnswer(_as_text(structure), structure)


def _as_text(structure: Mapping[str, Any]) -> str:
    """Return an answer for clients that read no structures: its summary, then the rest as JSON."""
    lines = [structure["summary"], structure["notice"]]
    rest = {
        name: value for name, value in structure.items() if name not in ToolReply.__struct_fields__
    }
    return "\n".join(filter(None, [*lines, msgspec.json.encode(rest).decode()]))


def _rounded(value: Any) -> Any:
    """Return a JSON value whose numbers have six digits, which is what an agent has use for."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value


def _explained(error: EvalrouterError, tool: Tool) -> str:
    """Return an error and what to do about it."""
    return f"{error.message} {_remedy(error, tool)}".rstrip()


def _remedy(error: EvalrouterError, tool: Tool) -> str:
    match error:
        case AuthenticationError():
            return (
                "Ask the user for a key of the server: evalrouter key create NAME --role viewer "
                "makes one that may read."
            )
        case PermissionDeniedError():
            return f"{tool.name} is not for this key; the list of tools has those that are."
        case UpstreamConnectError():
            return "Ask the user whether the server runs, and whether --url is its address."
        case UpstreamTimeoutError():
            return "Try again, with a smaller limit if the tool has one."
        case RateLimitError():
            return "Wait some seconds before you call it again."
        case NotFoundError():
            return _FINDERS.get(tool.name, "")
        case _:
            return ""


_FINDERS = {
    **dict.fromkeys(
        ("follow_run", "show_run", "compare_runs", "read_samples", "cancel_run"),
        "list_runs has the ids of runs.",
    ),
    "read_dataset": "list_datasets has the names of datasets.",
    "read_request": "list_traffic has the ids of requests.",
}


@cache
def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a structure's JSON Schema, whose root is an object and no reference."""
    (root,), definitions = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    name = root["$ref"].rpartition("/")[2]
    schema = definitions.pop(name)
    for each in (schema, *definitions.values()):
        # They are about how the code is written.
        each.pop("title", None)
    schema.pop("description", None)
    return {**schema, "$defs": definitions} if definitions else dict(schema)
