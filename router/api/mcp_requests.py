"""`/mcp`: the tools of `router/mcp`, over MCP's streamable HTTP.

It is no handler of Litestar's: the package `mcp` answers, which is imported at the first request.
The tools call this server's own API with the request's key, so `access.py` decides what they may
do; here only requests are let through that the API would let through as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from litestar.types import ASGIApp, Receive, Send

from providers.errors import (
    MethodNotAllowedError,
    MissingExtraError,
    RateLimitError,
    RequestError,
)
from router.api.errors import refuse
from router.api.origins import Hosts, Origins
from router.gateway.keys import Keys, presented
from router.mcp.loading import load

PATH = "/mcp"
# Requests that a process answers at a time, of which a tool may take minutes.
MAX_REQUESTS = 200
# An agent's arguments are short; a dataset's rows are the longest of them.
MAX_BODY_BYTES = 4 * 1024 * 1024


class McpRequests:
    """An ASGI app in front of another one: it answers `/mcp` itself.

    Args:
        app: answers everything else, and what the tools request.
        keys: the clients' keys.
        hosts: the names that the server goes by.
        origins: the sites whose pages may call it.
        max_body_bytes: the size that a body may have.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Keys, hosts: Hosts, origins: Origins, max_body_bytes: int
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._origins = origins
        self._max_body_bytes = min(max_body_bytes, MAX_BODY_BYTES)
        self._requests = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request to `/mcp`, or pass another one on."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        try:
            key = self._check(scope["method"], dict(scope["headers"]))
            respond = await _responder()
        except RequestError as error:
            await refuse(error, send)
            return
        self._requests += 1
        try:
            await respond(
                self._app,
                scope,
                receive,
                send,
                key=key,
                max_body_bytes=self._max_body_bytes,
            )
        finally:
            self._requests -= 1

    def _check(self, method: str, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the request's key; None while none is needed. Raises where it may not go on."""
        # MCP wants it checked of every request: a page may know a key, and reach another server.
        self._origins.check(headers)
        key = None
        if self._keys.required:
            secret = presented(headers)
            self._keys.identify(secret)
            assert secret is not None
            key = secret.decode("latin-1")
        else:
            self._hosts.check(headers.get(b"host"))
        if method != "POST":
            raise MethodNotAllowedError(
                f"{method} is not allowed on {PATH}: each request is a POST with its own answer, "
                "and there are no sessions.",
                allowed=["POST", "OPTIONS"],
            )
        if self._requests >= MAX_REQUESTS:
            raise RateLimitError(
                f"This process answers {MAX_REQUESTS} requests to {PATH} already.",
                retry_after=5,
            )
        return key


async def _responder() -> Any:
    """Return the function that answers, imported on a thread: that takes a second or two.

    Raises:
        RequestError: 501, the package is not installed.
    """
    try:
        module = await asyncio.to_thread(load, "http", PATH)
    except MissingExtraError as error:
        missing = RequestError(error.message, code=error.code)
        missing.status = 501
        raise missing from None
    return module.answer
