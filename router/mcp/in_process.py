"""Sends the SDK's requests to an ASGI app of this process, and reads answers as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from litestar.types import ASGIApp

log = logging.getLogger("evalrouter")

# Parts of an answer that may wait for the SDK to read them.
_WAITING = 8


class InProcessTransport(httpx.AsyncBaseTransport):
    """An HTTP client's transport whose server is an app of this process.

    Args:
        app: the server.
        scope: that of the request which the client's requests are made for; theirs have the same
            client's address.
    """

    def __init__(self, app: ASGIApp, scope: Mapping[str, Any]) -> None:
        self._app = app
        self._scope = scope

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer once its head is there."""
        body = await request.aread()
        exchange = _Exchange(body, request.extensions.get("timeout", {}).get("read"))
        scope: Any = {
            **self._scope,
            "method": request.method,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            # Those of the request that this one is made for are about its own connection.
            "extensions": {},
        }
        exchange.begin(self._app, scope)
        try:
            head = await exchange.next()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(head["status"], headers=head["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """A request and its answer.

    Args:
        body: the request's.
        timeout_s: how long the app may send nothing; None for as long as it likes.
    """

    def __init__(self, body: bytes, timeout_s: float | None) -> None:
        self._body: bytes | None = body
        self._timeout_s = timeout_s
        self._sent: asyncio.Queue[Any] = asyncio.Queue(_WAITING)
        self._left = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, app: ASGIApp, scope: Any) -> None:
        self._task = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: Any) -> None:
        try:
            await app(scope, self._receive, self._sent.put)
        finally:
            # Also where the app has failed: the reader must not wait for more.
            if not self._left.is_set():
                await self._sent.put(None)

    async def _receive(self) -> Any:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> Any:
        """Return the app's next message.

        Raises:
            httpx.ReadTimeout: it sends nothing for too long.
            httpx.RemoteProtocolError: it has ended before its answer.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._sent.get()
        except TimeoutError:
            raise httpx.ReadTimeout("the server sends nothing") from None
        if message is None:
            raise httpx.RemoteProtocolError("the server has ended its answer early")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            message = await self.next()
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return

    async def aclose(self) -> None:
        """Have the app end, which may still be answering."""
        self._left.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            [result] = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, Exception):
                log.error("unforeseen error on a request of a tool", exc_info=result)
