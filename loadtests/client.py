"""The HTTP client of the load generators: one connection, one request at a time, hardly any cost.

    connection = await connect(urlsplit(url))
    answer = await connection.send(request(url, headers, stream=False))

An ordinary client spends more per request than the gateways being measured, and sits on the core
that the upstream needs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from time import perf_counter
from typing import NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

import httptools

MODEL = "bench"


class RequestFailed(Exception):  # noqa: N818  # reads as what happened
    """A request was not answered with 200 and a whole body."""


class NotSustained(Exception):  # noqa: N818  # reads as what happened
    """The gateway falls behind, so that what it was to be measured by has no value."""


# The exit code of a generator that says so.
NOT_SUSTAINED = 3


class Answer(NamedTuple):
    """An answer, complete.

    Attributes:
        first_byte: perf_counter() at the body's first byte (uvloop's own clock is too coarse).
        done: perf_counter() at its last.
        reads: how many reads from the socket it took.
        body: all of it.
    """

    first_byte: float
    done: float
    reads: int
    body: bytes


def body(*, stream: bool) -> bytes:
    """Return the JSON of a chat request, about 1 KB."""
    fields: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Summarize the text in one to three sentences."},
            {"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 19},
        ],
        "temperature": 0,
        "max_tokens": 200,
    }
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(fields, separators=(",", ":")).encode()


def request(url: str, headers: Mapping[str, str], *, stream: bool) -> bytes:
    """Return the bytes of a POST of `body()` to `url`."""
    parts = urlsplit(url)
    content = body(stream=stream)
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Connection(asyncio.Protocol):
    """A keep-alive connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiting: asyncio.Future[Answer] | None = None
        self._begun: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._first_byte = 0.0
        self._reads = 0
        self.open = True

    async def send(self, request: bytes, begun: asyncio.Future[None] | None = None) -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            request: its bytes.
            begun: resolved at the first byte of the body, for who cannot wait for the last.

        Raises:
            RequestFailed: another status than 200, or the connection ended before the answer did.
        """
        assert self._waiting is None, "one request at a time"
        if not self.open:
            raise RequestFailed("the connection is closed")
        self._reads = 0
        self._waiting = self._loop.create_future()
        self._begun = begun
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in everything but ancestry.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._fail(f"connection lost before the answer was whole: {exc or 'closed'}")

    def data_received(self, data: bytes) -> None:
        self._reads += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self._transport.close()

    def on_message_begin(self) -> None:
        self._pieces = []

    def on_body(self, piece: bytes) -> None:
        if not self._pieces:
            self._first_byte = perf_counter()
            if self._begun is not None and not self._begun.done():
                self._begun.set_result(None)
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        content = b"".join(self._pieces)
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.open = False
            self._transport.close()
        if status != 200:
            self._fail(f"status {status}: {content[:300].decode(errors='replace')}")
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(self._first_byte, perf_counter(), self._reads, content))

    def _fail(self, why: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(RequestFailed(why))


async def connect(parts: SplitResult) -> Connection:
    """Open a connection.

    Raises:
        RequestFailed: it was refused.
    """
    loop = asyncio.get_running_loop()
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    try:
        _, connection = await loop.create_connection(Connection, host, port)
    except OSError as error:
        raise RequestFailed(f"cannot connect: {error.strerror}") from None
    return connection


def parse_header(text: str) -> tuple[str, str]:
    """Return the name and the value of an argument of `--header`."""
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(text)
    return name.strip(), value.strip()
