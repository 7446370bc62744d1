"""A small HTTP/1.1 client for relaying: pooled connections, bodies as they come, cancellable.

    pool = Pool(keepalive=30)
    response = await pool.send(origin, head, body, connect_timeout=5)
    response.status, response.headers          # the headers are here; then one of
    await response.read()                      # the whole body
    async for chunk in response.chunks(): ...  # one item per read from the socket
    response.close()                           # always: pools the connection or cuts it

httptools (Node's parser) reads the protocol; this file is what stands around it: connecting,
pooling, backpressure, and errors that say in which phase a connection was lost. It exists because
a relayed request costs a third of what it does through aiohttp; docs/decisions has the figures,
and why pyreqwest, as fast, was not taken. No redirects, cookies, proxies or decompression.

Cancelling `send` or a read closes the connection, which is how a target learns that nobody waits.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

# Unread bytes of a body at which the socket is no longer read, and at which it is again.
HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024


class Origin(NamedTuple):
    """Where connections go; the key of the pool."""

    secure: bool
    host: str
    port: int


class Lost(Exception):  # noqa: N818  # what happened, for one caller that gives it a meaning
    """The connection ended before the answer did.

    Attributes:
        begun: whether the answer's headers had come.
        reason: the operating system's word for it, "" for an orderly end.
        idle: whether a pooled connection ended before it brought any byte, so that the host had
            most likely closed it before the request came.
    """

    def __init__(self, *, begun: bool, reason: str = "", idle: bool = False) -> None:
        super().__init__(reason)
        self.begun = begun
        self.reason = reason
        self.idle = idle


class Malformed(Exception):  # noqa: N818  # likewise
    """What came is not HTTP, or its headers have no end."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


def origin_of(url: str) -> tuple[Origin, str]:
    """A URL's origin and the rest, path and query. The URL has been checked by the config."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    path = parts.path or "/"
    return Origin(secure, parts.hostname or "", port), path + (
        f"?{parts.query}" if parts.query else ""
    )


def host_header(origin: Origin) -> str:
    """The Host header of requests to an origin."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    usual = 443 if origin.secure else 80
    return host if origin.port == usual else f"{host}:{origin.port}"


class Response:
    """An answer whose headers have come. `close()` it, whatever happens.

    Attributes:
        status: HTTP status.
        headers: names in lower case; of a repeated one, the last.
    """

    __slots__ = ("_connection", "_room", "headers", "status")

    def __init__(self, connection: _Connection, room: asyncio.Semaphore | None) -> None:
        self.status: int = connection.status
        self.headers = connection.headers
        self._connection: _Connection | None = connection
        self._room = room

    async def read(self) -> bytes:
        """The whole body. Raises Lost or Malformed."""
        connection = self._connection
        parts: list[bytes] = []
        while connection is not None:
            # What has come is complete more often than not, and then nothing is waited for.
            parts.append(connection.take())
            if connection.complete:
                parts.append(connection.take())
                break
            await connection.wait()
        return b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Lost or Malformed."""
        connection = self._connection
        while connection is not None:
            chunk = connection.take()
            if not chunk:
                if connection.complete:
                    return
                await connection.wait()
                continue
            yield chunk

    def close(self) -> None:
        """Pool the connection if the body was read to its end, else cut it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()
            if self._room is not None:
                self._room.release()


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self._pool = pool
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Lost | Malformed | None = None
        self._body: list[bytes] = []
        self._unread = 0
        self._paused = False
        self._head_bytes = 0
        self._line_bytes = 0
        self._came = False
        self._reused = False
        self.begun = False
        self.complete = False
        self.keep_alive = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.idle_since = 0.0

    # an exchange

    async def exchange(self, head: bytes, body: bytes) -> None:
        """Send a request; return when the answer's headers are here."""
        self._parser = httptools.HttpResponseParser(self)
        self._error = None
        self._body = []
        self._unread = self._head_bytes = self._line_bytes = 0
        self._came = False
        self.begun = self.complete = self.keep_alive = False
        self.headers = {}
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Lost(begun=False, idle=self._reused)
        transport.write(head + body)
        try:
            while not self.begun:
                await self.wait()
        except BaseException:
            self.abort()
            raise

    async def wait(self) -> None:
        """Until something comes. Raises what ended the connection."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """What has come of the body since the last time; b"" when that is nothing."""
        if not self._body:
            return b""
        parts, self._body = self._body, []
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> None:
        """Back to the pool, if it can carry another exchange."""
        if self.complete and self.keep_alive and not self._body:
            self._reused = True
            self._pool.put(self._origin, self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """Whether the host has kept the connection open."""
        return self._transport is not None and not self._transport.is_closing()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.complete:
            # Bytes that nobody asked for: whatever they are, the next answer must not be these.
            self.abort()
            return
        self._came = True
        if not self.begun:
            self._line_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end(Malformed(begun=self.begun))
        except httptools.HttpParserError:
            self._end(Malformed(begun=self.begun))
        # A header line that does not end is not counted by the parser's callbacks.
        if not self.begun and self._line_bytes > self._pool.max_header_bytes:
            self._end(Malformed(begun=False))
        if self._unread > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self.begun:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self._origin, self)
        if self._parser is None or self.complete:
            return
        if self.begun and error is None and self._until_close():
            self.complete = True
            self._wake()
            return
        reason = getattr(error, "strerror", None) or (str(error) if error else "")
        idle = self._reused and not self._came and error is None
        self._end(Lost(begun=self.begun, reason=reason, idle=idle))

    def _until_close(self) -> bool:
        """Whether the body has no other end than the connection's."""
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def _end(self, error: Lost | Malformed) -> None:
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._pool.max_header_bytes:
            # httptools turns it into a parser error.
            raise Malformed(begun=False)
        if self.complete:
            return
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
            # A second answer that nobody asked for: it must not become the next request's.
            self.keep_alive = False
            return
        status = self._parser.get_status_code()
        if status < 200:
            # An interim answer (100, 103): the real one follows.
            self.headers = {}
            return
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()
        self.begun = True

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._body.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        if self.begun:
            self.complete = True


class Pool:
    """Connections by origin; the most recently used one is used again first.

    Made in the loop that it is used in.

    Args:
        connections: exchanges at a time, each on a connection of its own; None for no bound.
        keepalive: seconds an idle connection is kept.
        max_header_bytes: most an answer's headers may have.
    """

    def __init__(
        self,
        *,
        connections: int | None = None,
        keepalive: float = 30.0,
        max_header_bytes: int = 65_536,
    ) -> None:
        self.max_header_bytes = max_header_bytes
        self._loop = asyncio.get_running_loop()
        self._keepalive = keepalive
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._room = asyncio.Semaphore(connections) if connections else None
        self._tls: ssl.SSLContext | None = None

    async def send(
        self, origin: Origin, head: bytes, body: bytes, *, connect_timeout: float
    ) -> Response:
        """Send a request; return when the answer's headers are here.

        A pooled connection that the host had closed in the meantime is replaced by a fresh one.

        Args:
            origin: where to.
            head: the request line and headers, with the empty line at their end.
            body: the body; its length stands in the head.
            connect_timeout: seconds to connect, TLS included.

        Raises:
            TimeoutError: no connection in time.
            OSError: no connection (socket.gaierror: no such host, ssl.SSLError: TLS).
            Lost, Malformed: no answer.
        """
        if self._room is not None:
            await self._room.acquire()
        try:
            connection = await self._exchange(origin, head, body, connect_timeout)
        except BaseException:
            if self._room is not None:
                self._room.release()
            raise
        return Response(connection, self._room)

    async def _exchange(
        self, origin: Origin, head: bytes, body: bytes, connect_timeout: float
    ) -> _Connection:
        while (connection := self._pooled(origin)) is not None:
            try:
                await connection.exchange(head, body)
            except Lost as lost:
                if not lost.idle:
                    raise
            else:
                return connection
        connection = await self._connect(origin, connect_timeout)
        await connection.exchange(head, body)
        return connection

    def _pooled(self, origin: Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        if not idle:
            return None
        oldest = self._loop.time() - self._keepalive
        while idle and idle[0].idle_since < oldest:
            idle.popleft().abort()
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, origin: Origin, seconds: float) -> _Connection:
        context = self._context() if origin.secure else None
        async with asyncio.timeout(seconds):
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self, origin), origin.host, origin.port, ssl=context
            )
        self._open.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        # Reading the certificates takes tens of milliseconds, so not before they are needed.
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def put(self, origin: Origin, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since = self._loop.time()
        self._idle.setdefault(origin, deque()).append(connection)

    def forget(self, origin: Origin, connection: _Connection) -> None:
        """A connection is no more."""
        self._open.discard(connection)
        idle = self._idle.get(origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Close every connection, idle or not."""
        for connection in list(self._open):
            connection.abort()
