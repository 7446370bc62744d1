"""The floor: the least that a Python gateway on this stack can do.

    python -m loadtests.floor --port 9200 --upstream http://127.0.0.1:9100/v1

Raw ASGI on uvicorn (httptools, uvloop), aiohttp towards the upstream. It reads the request's
envelope, replaces `model`, sends, and relays the answer's bytes, a stream chunk by chunk. No
routes, keys, limits, retries, records, errors or time-outs of its own: what a gateway costs more
than this is the price of what it does more.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import msgspec
import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

MODEL = msgspec.Raw(b'"m"')
HEADERS = {"content-type": "application/json", "authorization": "Bearer upstream"}


class Relay:
    """The ASGI app."""

    def __init__(self, upstream: str) -> None:
        self._url = f"{upstream}/chat/completions"
        self._session: aiohttp.ClientSession

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._relay(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _relay(self, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        envelope = _decode(body)
        envelope["model"] = MODEL
        async with self._session.post(
            self._url, data=_encode(envelope), headers=HEADERS
        ) as response:
            kind = response.headers["content-type"].encode()
            headers = [(b"content-type", kind)]
            start = {"type": "http.response.start", "status": response.status, "headers": headers}
            if kind != b"text/event-stream":
                content = await response.read()
                headers.append((b"content-length", str(len(content)).encode()))
                await send(start)
                await send({"type": "http.response.body", "body": content})
                return
            await send(start)
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def main() -> None:
    parser = argparse.ArgumentParser(description="A bare relay: the floor of the load tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL up to and including /v1")
    options = parser.parse_args()
    uvicorn.run(
        Relay(options.upstream),
        port=options.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="error",
        backlog=4096,
        # Streams whose clients have left would go on to their end.
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
