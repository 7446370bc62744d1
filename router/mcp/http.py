"""Answers one request to `/mcp` with the package `mcp`.

No request needs another one's state, so that any process on the same database can answer the next
one, and nothing has to be forgotten when a client leaves: its request ends with its connection, and
what a tool does for it is cancelled.
"""

from __future__ import annotations

from typing import Any

import httpx
from litestar.types import ASGIApp, Receive, Send
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from router.client import AsyncClient
from router.mcp.in_process import InProcessTransport
from router.mcp.protocol import server_over

# `router/api/mcp_requests.py` has checked `Host` and `Origin`, as for all paths.
_CHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)


async def answer(
    app: ASGIApp,
    scope: Any,
    receive: Receive,
    send: Send,
    *,
    key: str | None,
    max_body_bytes: int,
) -> None:
    """Answer a request.

    Args:
        app: the server's own HTTP API, which the tools call.
        scope: the request's.
        receive: has its body.
        send: takes the answer.
        key: whose tools they are; None while no key is needed.
        max_body_bytes: the size that the request's body may have.
    """
    http = httpx.AsyncClient(transport=InProcessTransport(app, scope))
    async with http, AsyncClient("http://localhost", api_key=key, http=http) as client:
        manager = StreamableHTTPSessionManager(
            server_over(client),
            stateless=True,
            security_settings=_CHECKED,
            max_request_body_size=max_body_bytes,
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)
