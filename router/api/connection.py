"""The client's end of a raw ASGI request: its body, its answer, and whether it is still there."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from litestar.types import Receive, Scope, Send

from providers.errors import BodyTooLargeError, ClientGoneError

Headers = list[tuple[bytes, bytes]]

# An ASGI extension of our server: `scope["extensions"][WHOLE]["write"](status, headers,
# body)` writes a whole answer, or returns False where only messages will do.
WHOLE = "evalrouter.whole_answer"

# Most answers of a local target come sooner, and then no task is made to watch the client.
WATCH_AFTER_S = 0.02


async def read_body(receive: Receive, max_bytes: int, declared: bytes | None = None) -> bytes:
    """Return the whole body of a request.

    Args:
        receive: ASGI's.
        max_bytes: the size that the body may have.
        declared: the request's Content-Length; where it is too large, nothing is read, and a client
            that waits for `100 Continue` does not get it.

    Raises:
        BodyTooLargeError: it is larger than `max_bytes`.
        ClientGoneError: the client left before it was complete.
    """
    if declared is not None and int(declared) > max_bytes:
        raise BodyTooLargeError(f"The request body is larger than {max_bytes} bytes.")
    message: Any = await receive()
    body: bytes = message.get("body", b"")
    if (
        message["type"] == "http.request"
        and not message.get("more_body")
        and len(body) <= max_bytes
    ):
        return body
    parts = [body]
    size = len(body)
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client left before its request was complete")
        if size > max_bytes:
            raise BodyTooLargeError(f"The request body is larger than {max_bytes} bytes.")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
        chunk: bytes = message.get("body", b"")
        parts.append(chunk)
        size += len(chunk)


async def answer(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer, its length added to the headers."""
    headers.append((b"content-length", b"%d" % len(body)))
    whole: Any = (scope.get("extensions") or {}).get(WHOLE)
    if whole is None or not whole["write"](status, headers, body):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class ClientWatch:
    """Cancels the task it is entered in when the client goes away.

        with ClientWatch(receive, loop):
            ...             # raises ClientGoneError here instead of going on in vain

    Enter it after the body was read: from then on `receive` has only the disconnect to tell.
    """

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._loop = loop
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._start)

    def _start(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            message: Any = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                self._task.cancel()
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGoneError("the client left before the answer was complete") from None
