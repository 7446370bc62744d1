"""A model host that answers after a fixed delay and is never the bottleneck.

    python -m loadtests.upstream --port 9100 --delay 0 --chunks 100 --interval 20

`POST /v1/chat/completions` is answered with one fixed completion of about 1 KB, or, when the body
says `"stream": true`, with an SSE stream: `chunks` events of content `interval` ms apart, then the
finish reason, the usage and `[DONE]`. `PUT /pace` with a JSON object of `delay`, `chunks` and
`interval` changes them while it runs, so that one upstream, whose address every gateway was given
at its start, serves all scenarios. `GET /count` is the number of completions requested so far.

No framework: an asyncio protocol on uvloop, a C parser, and answers made once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import cast

import httptools
import msgspec
import uvloop

STREAM = re.compile(rb'"stream"\s*:\s*true')


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the upstream answers.

    Attributes:
        delay: ms before the answer, or before a stream's first event.
        chunks: events of content in a stream.
        interval: ms between two of them.
    """

    delay: float = 0.0
    chunks: int = 100
    interval: float = 20.0


class Host:
    """What the connections share.

    Attributes:
        pace: how to answer.
        requested: completions requested so far.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.requested = 0


def _answer(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def _completion() -> bytes:
    content = "The quick brown fox jumps over the lazy dog. " * 14
    message = {"role": "assistant", "content": content, "refusal": None}
    return _answer(
        "200 OK",
        json.dumps(
            {
                "id": "chatcmpl-load",
                "object": "chat.completion",
                "created": 1700000000,
                "model": "m",
                "choices": [
                    {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": 200, "completion_tokens": 140, "total_tokens": 340},
            }
        ).encode(),
    )


def _event(**fields: object) -> bytes:
    """Return one SSE event as one chunk of a chunked body."""
    common = {
        "id": "chatcmpl-load",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
    }
    return _framed(b"data: " + json.dumps(common | fields).encode() + b"\n\n")


def _framed(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def _delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


COMPLETION = _completion()
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
FIRST = _delta({"role": "assistant", "content": "fox "})
NEXT = _delta({"content": "fox "})
USAGE = {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300}
END = (
    _delta({}, "stop")
    + _event(choices=[], usage=USAGE)
    + _framed(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)
PACED = _answer("200 OK", b"{}")
NO_SUCH_PATH = _answer("404 Not Found", b'{"error": {"message": "no such path"}}')
BAD_PACE = _answer("400 Bad Request", b'{"error": {"message": "not a pace"}}')


class Connection(asyncio.Protocol):
    """One client connection. Answers one request at a time, as HTTP/1.1 without pipelining does."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in everything but ancestry.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url.endswith(b"/chat/completions"):
            self._host.requested += 1
            if self._host.pace.delay:
                self._timer = self._loop.call_later(self._host.pace.delay / 1000, self._reply)
            else:
                self._reply()
        elif self._url == b"/pace":
            self._transport.write(self._set_pace())
        elif self._url == b"/count":
            self._transport.write(_answer("200 OK", str(self._host.requested).encode()))
        else:
            self._transport.write(NO_SUCH_PATH)

    def _reply(self) -> None:
        if STREAM.search(self._body):
            pace = self._host.pace
            self._transport.write(HEAD + FIRST)
            self._continue(1, self._loop.time(), pace.chunks, pace.interval / 1000)
        else:
            self._transport.write(COMPLETION)

    def _continue(self, sent: int, started: float, chunks: int, interval: float) -> None:
        """Write event number `sent` when its time has come; times count from the first event."""
        if sent < chunks:
            due = started + sent * interval
            self._timer = self._loop.call_at(due, self._chunk, sent, started, chunks, interval)
        else:
            self._transport.write(END)

    def _chunk(self, sent: int, started: float, chunks: int, interval: float) -> None:
        self._transport.write(NEXT)
        self._continue(sent + 1, started, chunks, interval)

    def _set_pace(self) -> bytes:
        try:
            self._host.pace = msgspec.json.decode(self._body, type=Pace)
        except msgspec.DecodeError:
            return BAD_PACE
        return PACED


async def serve(port: int, pace: Pace) -> None:
    """Serve on 127.0.0.1 until cancelled."""
    loop = asyncio.get_running_loop()
    host = Host(pace)
    server = await loop.create_server(lambda: Connection(host), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fixed-delay model host for load tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0, help="ms before the answer")
    parser.add_argument("--chunks", type=int, default=100, help="events of content in a stream")
    parser.add_argument("--interval", type=float, default=20, help="ms between two of them")
    options = parser.parse_args()
    uvloop.run(serve(options.port, Pace(options.delay, options.chunks, options.interval)))


if __name__ == "__main__":
    main()
