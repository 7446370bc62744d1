"""Comes before every resource: chooses the app for a path, answers preflights and HEAD, decodes.

Requests to the model paths go straight to `completions.py`. Everything else goes by `guard.py`
to Litestar.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from providers.errors import EvalrouterError, RequestError
from router.api.addresses import canonical, naming_model
from router.api.content_codings import decoded
from router.api.errors import refuse
from router.api.origins import PREFLIGHT, Origins
from router.api.request_parsing import PATHS


class StartFailure:
    """The reason why the app did not start.

    Attributes:
        error: a reason that the operator can mend; None otherwise.
    """

    error: EvalrouterError | None = None


class Front:
    """The ASGI app of the process.

    Args:
        models: answers the model paths.
        others: answers everything else.
        origins: the sites whose pages may call the server.
        max_body_bytes: the size that a body may have as it comes.
        start: has the reason why the app did not start.
    """

    def __init__(
        self,
        models: ASGIApp,
        others: ASGIApp,
        origins: Origins,
        max_body_bytes: int,
        start: StartFailure,
    ) -> None:
        self._start = start
        self._models = models
        self._others = others
        self._origins = origins
        self._max_body_bytes = max_body_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request; not async itself, which saves a coroutine."""
        # A lifespan scope has no path.
        if scope.get("path") in PATHS and scope.get("method") != "OPTIONS":
            return self._models(scope, receive, send)
        return self._answer(scope, receive, send)

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._others(scope, receive, self._briefly(send))
            return
        path, model = canonical(scope["path"])
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        method = scope["method"]
        headers = dict(scope["headers"])
        if method == "OPTIONS" and PREFLIGHT in headers:
            await self._preflight(headers, send)
        elif model:
            await self._named(scope, headers, receive, send, model)
        elif path in PATHS:
            await self._models(scope, receive, send)
        elif method == "HEAD":
            await _head(self._others, scope, receive, send)
        elif b"content-encoding" in headers:
            await self._decoded(scope, headers, receive, send)
        else:
            await self._others(scope, receive, send)

    def _briefly(self, send: Send) -> Send:
        """Return a `send` that says why the app did not start in a line, without a traceback."""

        async def send_briefly(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed" and self._start.error is not None:
                message = {**message, "message": f"cannot start: {self._start.error.message}"}
            await send(message)

        return send_briefly

    async def _preflight(self, headers: dict[bytes, bytes], send: Send) -> None:
        """Answer a browser that asks what a page may send; needs no key."""
        try:
            answer = self._origins.preflight(headers)
        except RequestError as error:
            await refuse(error, send)
            return
        await send({"type": "http.response.start", "status": 204, "headers": answer})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _named(
        self, scope: Any, headers: dict[bytes, bytes], receive: Receive, send: Send, model: str
    ) -> None:
        """Pass a request on whose address names its model, with that model in its body."""
        if b"content-encoding" in headers:
            try:
                receive = decoded(headers, receive, self._max_body_bytes)
            except RequestError as error:
                await refuse(error, send)
                return
            scope = _without_coding(scope)
        await self._models(scope, naming_model(receive, model, self._max_body_bytes), send)

    async def _decoded(
        self, scope: Any, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Pass a request with a compressed body on with the decoded one."""
        try:
            body = decoded(headers, receive, self._max_body_bytes)
        except RequestError as error:
            await refuse(error, send)
            return
        await self._others(_without_coding(scope), body, send)


def _without_coding(scope: Any) -> Any:
    """Return the scope of a request whose body is decoded by now."""
    of_the_coding = (b"content-encoding", b"content-length")
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in of_the_coding]}


async def _head(app: ASGIApp, scope: Any, receive: Receive, send: Send) -> None:
    """Answer HEAD as GET is answered, without the body; a stream ends with its headers."""
    begun = False

    async def receive_until_begun() -> Any:
        return {"type": "http.disconnect"} if begun else await receive()

    async def send_head(message: Any) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = True
            if scope["path"] == "/" and message["status"] == 401:
                # So Claude Code finds out whether a server is there, without a key.
                message = {**message, "status": 200, "headers": []}
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    scope = {**scope, "method": "GET"}
    await app(scope, receive_until_begun, send_head)
