"""Where `evalrouter chat` sends its requests: a server that runs, or the app in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from providers.base import Secret
from providers.http.transport import Transport
from router.config.schema import Config
from router.services import Services

_PATH = "/v1/chat/completions"
_CONNECT_S = 10.0
# Chunks of an answer that wait to be printed.
_CHUNKS = 64


class BegunAnswer(NamedTuple):
    """An answer that has begun: its status, its headers (names in lower case), and its body."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class ChatServer(Protocol):
    """Something that answers chat requests.

    Attributes:
        advice: what to do where it cannot answer; "" if that is for others to find out.
    """

    advice: str

    @asynccontextmanager
    def answering(self, body: bytes) -> AsyncIterator[BegunAnswer]:
        """Send a request; leaving the context ends the work on it."""
        ...

    async def open(self) -> None:
        """Make ready for the first request."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class RemoteServer:
    """A server at an address.

    Args:
        root: its address, without /v1.
        key: a key of it; empty for none.
    """

    advice = ""

    def __init__(self, root: str, key: Secret) -> None:
        self._url = root + _PATH
        self._headers = {"content-type": "application/json", "user-agent": "evalrouter"}
        if key:
            self._headers["authorization"] = f"Bearer {key.reveal()}"
        self._transport = Transport()
        self._name = root

    async def open(self) -> None:
        """Make the connection pool."""
        await self._transport.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    @asynccontextmanager
    async def answering(self, body: bytes) -> AsyncIterator[BegunAnswer]:
        """Send a request. Raises UpstreamError when no answer comes."""
        reply = await self._transport.request(
            "POST",
            self._url,
            provider=self._name,
            headers=self._headers,
            body=body,
            connect_timeout=_CONNECT_S,
        )
        try:
            yield BegunAnswer(reply.status, reply.headers, reply.chunks())
        finally:
            await reply.aclose()


class InProcessServer:
    """The app in this process, without a socket and without keys: whoever starts it has them all.

    Args:
        config: the config.
        source: its file; None for the embedded default.
    """

    advice = "evalrouter doctor says what is wrong with a provider"

    def __init__(self, config: Config, source: Path | None) -> None:
        server = msgspec.structs.replace(config.server, require_keys=False)
        self._services = Services(msgspec.structs.replace(config, server=server), source)
        self._app: Any = None

    async def open(self) -> None:
        """Open the parts of a server."""
        from router.app import create_app  # noqa: PLC0415  # Litestar takes a while to import

        self._app = create_app(self._services)
        await self._services.__aenter__()

    async def close(self) -> None:
        """Close the parts of a server."""
        if self._app is not None:
            await self._services.__aexit__(None, None, None)

    @asynccontextmanager
    async def answering(self, body: bytes) -> AsyncIterator[BegunAnswer]:
        """Call the app with a request; leaving the context is the client that goes away."""
        messages: asyncio.Queue[Any] = asyncio.Queue(_CHUNKS)
        incoming = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(self._app(_scope(len(body)), receive, messages.put))
        try:
            start = await _next(messages, task)
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]
            }
            yield BegunAnswer(start["status"], headers, _body(messages, task))
        finally:
            gone.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _scope(length: int) -> dict[str, Any]:
    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(length),
        "user-agent": "evalrouter",
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": _PATH,
        "raw_path": _PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
        "extensions": {},
    }


async def _body(messages: asyncio.Queue[Any], task: asyncio.Task[None]) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await _next(messages, task)
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]


async def _next(messages: asyncio.Queue[Any], task: asyncio.Task[None]) -> Any:
    """Return the app's next message; raise what the app does where it ends without one."""
    getting = asyncio.ensure_future(messages.get())
    try:
        await asyncio.wait({getting, task}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        await task
        return messages.get_nowait()
    finally:
        getting.cancel()
