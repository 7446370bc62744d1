"""Clients of the package `mcp` for tests: over HTTP and over standard input and output."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from router_process import router_command


@asynccontextmanager
async def over_http(
    url: str, key: str | None = None, *, headers: Mapping[str, str] = {}, mode: str = "auto"
) -> AsyncIterator[Client]:
    """A client of a server's `/mcp`; `mode` is `auto` (the newest protocol) or `legacy`."""
    own = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers={**own, **headers}, timeout=60) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@asynccontextmanager
async def over_stdio(
    url: str, key: str | None = None, *options: str, mode: str = "auto"
) -> AsyncIterator[Client]:
    """A client that starts `evalrouter mcp` in a process of its own."""
    command, *arguments = router_command("mcp", "--url", url, *options)
    environ = dict(os.environ) | ({} if key is None else {"EVALROUTER_API_KEY": key})
    server = StdioServerParameters(command=command, args=arguments, env=environ)
    async with Client(server, mode=mode) as client:
        yield client


async def called(client: Client, name: str, /, **arguments: Any) -> dict[str, Any]:
    """What a tool answers, whose structure the client has compared with the tool's schema."""
    answer = await client.call_tool(name, arguments)
    assert not answer.is_error, text_of(answer)
    structure: dict[str, Any] = answer.structured_content
    assert text_of(answer).startswith(structure["summary"])
    return structure


async def refused(client: Client, name: str, /, **arguments: Any) -> str:
    """The text of a tool's error."""
    answer = await client.call_tool(name, arguments)
    assert answer.is_error, text_of(answer)
    assert answer.structured_content is None
    return text_of(answer)


def text_of(answer: CallToolResult) -> str:
    """The text of an answer."""
    [content] = answer.content
    return content.text
