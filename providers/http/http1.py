"""A small HTTP/1.1 client for relaying: pooled connections, bodies as they come, cancellable.

    pool = ConnectionPool(keepalive=30)
    response = await pool.send(origin, head, body, connect_timeout=5)
    response.status, response.headers          # the headers are here; then one of
    await response.read()                      # the whole body
    async for chunk in response.chunks(): ...  # one item per read from the socket
    response.close()                           # always: pools the connection or cuts it

httptools (Node's parser) reads the protocol; this file does the rest: connecting, pooling,
backpressure, and errors that tell in which phase a connection was lost. It exists because a relayed
request costs a third of what it does through aiohttp; docs/decisions has the figures, and why
pyreqwest, as fast, was not taken. No redirects, cookies, proxies or decompression.

Whatever a host sends, what it costs is bounded: headers and trailers by `max_header_bytes`, what is
read whole by `max_answer_bytes`, and the work in one turn of the event loop by how much is parsed
before the others have theirs (SLICE, MAX_PARTS).

Cancelling `send` or a read closes the connection, from which a target learns that its client left.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

# Unread bytes of a body at which the socket is no longer read until they are taken.
HIGH_WATER = 256 * 1024
# Bytes parsed at once of parts that may call back for every few bytes (headers, chunks), and the
# callbacks after which the rest waits for the loop's next turn.
SLICE = 16 * 1024
MAX_PARTS = 1000
# What a header counts for beyond its name and value, as in HTTP/2 (RFC 9113, 10.5.1): a name of one
# byte without a value costs us more than its bytes.
HEADER_COST = 32
# Bytes of framing per byte of body that a chunked body may have; a chunk of one byte has five.
MAX_FRAMING = 16
# Of content-length: what does not fit into 63 bits is no length, for llhttp that counts in 64.
MAX_LENGTH_DIGITS = 18


class Origin(NamedTuple):
    """Where connections go; the key of the pool."""

    secure: bool
    host: str
    port: int


class Lost(Exception):  # noqa: N818  # what happened, for one caller that gives it a meaning
    """The connection ended before the answer did.

    Attributes:
        begun: whether the answer's headers had come.
        reason: the operating system's message; "" for an orderly end.
        stale: whether a pooled connection ended before it brought any byte, so that the host had
            most likely closed it before the request came.
        unsent: whether the host cannot have received the whole request.
    """

    def __init__(
        self, *, begun: bool, reason: str = "", stale: bool = False, unsent: bool = False
    ) -> None:
        super().__init__(reason)
        self.begun = begun
        self.reason = reason
        self.stale = stale
        self.unsent = unsent


class Malformed(Exception):  # noqa: N818  # likewise
    """The answer is not HTTP, or its headers have no end."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class TooLarge(Exception):  # noqa: N818  # likewise
    """A body that is read whole has more than `max_answer_bytes`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


def origin_of(url: str) -> tuple[Origin, str]:
    """Return a URL's origin, and the rest: path and query. The config has checked the URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    path = parts.path or "/"
    return Origin(secure, parts.hostname or "", port), path + (
        f"?{parts.query}" if parts.query else ""
    )


def host_in_url(host: str) -> str:
    """Return a name or an address as URLs have it: addresses of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def host_header(origin: Origin) -> str:
    """Return the Host header of requests to an origin."""
    host = host_in_url(origin.host)
    usual = 443 if origin.secure else 80
    return host if origin.port == usual else f"{host}:{origin.port}"


# Headers whose lines make one list and which must be known in full.
_LISTS = frozenset({"content-encoding", "transfer-encoding"})
# Header names as they came to lower case: hosts send the same few with every answer.
_names: dict[bytes, str] = {}
_MAX_NAMES = 1000


def _name(name: bytes) -> str:
    lower = name.decode("ascii").lower()
    if len(_names) < _MAX_NAMES and len(name) <= 100:
        _names[name] = lower
    return lower


class Response:
    """An answer whose headers have come. `close()` it, whatever happens.

    Attributes:
        status: HTTP status.
        headers: names in lower case; of a repeated one, the last. Values are ASCII without control
            characters, so that one can be sent on: other bytes are written as Python escapes.
        max_bytes: bytes that `read` takes at most.
    """

    __slots__ = ("_connection", "_room", "headers", "max_bytes", "status")

    def __init__(
        self, connection: _Connection, room: asyncio.Semaphore | None, max_bytes: int
    ) -> None:
        self.status: int = connection.status
        self.headers = connection.headers
        self.max_bytes = max_bytes
        self._connection: _Connection | None = connection
        self._room = room

    async def read(self) -> bytes:
        """Return the whole body. Raises Lost, Malformed or TooLarge."""
        connection = self._connection
        if connection is None:
            return b""
        part = connection.take()
        if connection.complete and len(part) <= self.max_bytes:
            # Mostly the whole body has come with the headers, and nothing has to be waited for.
            return part
        if int(self.headers.get("content-length", 0)) > self.max_bytes:
            raise TooLarge(self.max_bytes)
        parts = [part]
        size = len(part)
        while size <= self.max_bytes:
            if connection.complete:
                return b"".join(parts)
            await connection.wait()
            part = connection.take()
            parts.append(part)
            size += len(part)
        # The error's traceback has this frame, which may live on for a while.
        parts.clear()
        part = b""
        raise TooLarge(self.max_bytes)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises Lost or Malformed."""
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

    def __init__(self, pool: ConnectionPool, origin: Origin) -> None:
        self._pool = pool
        self._max_header_bytes = pool.max_header_bytes
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Lost | Malformed | None = None
        self._body: list[bytes] = []
        self._unread = 0
        self._paused = False
        # Bytes that have been read and not yet parsed.
        self._backlog = b""
        self._head_bytes = 0
        self._line_bytes = 0
        self._framing = 0
        self._chunked = False
        self._came = False
        self._reused = False
        # Whether part of a request waits for room in the socket's buffer.
        self._sending = False
        self._aborted = False
        self._poll = select.poll()
        self.begun = False
        self.complete = False
        self.keep_alive = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.idle_since = 0.0

    # One exchange

    async def exchange(self, head: bytes, body: bytes) -> None:
        """Send a request; return when the answer's headers are here."""
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._error = None
        self._body = []
        self._unread = self._head_bytes = self._line_bytes = self._framing = 0
        self._came = self._chunked = False
        self.begun = self.complete = self.keep_alive = False
        self.headers = {}
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Lost(begun=False, stale=self._reused, unsent=True)
        transport.write(head + body)
        try:
            while not self.begun:
                await self.wait()
        except BaseException:
            self.abort()
            raise

    async def wait(self) -> None:
        """Wait until something comes. Raises what ended the connection."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """Return what has come of the body since the last time; b"" when that is nothing."""
        if not self._body:
            return b""
        parts, self._body = self._body, []
        self._unread = 0
        if self._paused and not self._backlog:
            self._resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> None:
        """Put the connection back into the pool, if it can carry another exchange."""
        if self.complete and self.keep_alive and not self._body:
            self._reused = True
            self._pool.put(self._origin, self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """Whether the host has left an idle connection open, as far as this machine knows.

        The event loop learns of a close when it next reads, which may be after a request has been
        written; the kernel knows already. An idle connection with anything to read is of no use,
        be it an end, a reset, or bytes that answer nothing. Costs half a microsecond.
        """
        transport = self._transport
        return transport is not None and not transport.is_closing() and not self._poll.poll(0)

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def pause_writing(self) -> None:
        self._sending = True

    def resume_writing(self) -> None:
        self._sending = False

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.complete:
            # Bytes that answer nothing must not be taken for the next answer.
            self.abort()
        elif self._backlog:
            self._backlog += data
        elif len(data) > SLICE and (self._chunked or not self.begun):
            self._backlog = data
            self._work_off()
        else:
            self._feed(data)

    def _work_off(self) -> None:
        """Parse the backlog slice by slice; after some work, leave the rest to the next turn."""
        parts = len(self._body)
        while self._backlog and self._error is None and not self.complete:
            if len(self._body) - parts > MAX_PARTS:
                if not self._paused and self._transport is not None:
                    self._paused = True
                    self._transport.pause_reading()
                self._loop.call_soon(self._work_off)
                return
            # Only headers and chunks can make much work of few bytes.
            size = SLICE if self._chunked or not self.begun else len(self._backlog)
            data, self._backlog = self._backlog[:size], self._backlog[size:]
            self._feed(data)
        if self._backlog:
            # The answer is over, one way or the other.
            self._backlog = b""
            self.keep_alive = False
        if self._paused and self._unread <= HIGH_WATER:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        unread = self._unread
        if not self._came:
            self._came = True
            # llhttp reads RTSP's and ICE's answers as well.
            if data[0] not in b"H\r\n":
                self._end(Malformed(begun=False))
                return
        if not self.begun:
            self._line_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:
                self._end(Malformed(begun=self.begun))
                return
            # The answer is complete; the bytes after it answer nothing.
            self.keep_alive = False
        if not self.begun:
            # A header line that does not end is not counted by the parser's callbacks.
            if self._line_bytes > self._max_header_bytes:
                self._end(Malformed(begun=False))
            return
        if self.complete:
            self.keep_alive = self.keep_alive and self._ends_with(data)
        elif self._chunked:
            # Chunk extensions and a trailer line without an end have no callbacks either.
            framing = self._framing + len(data) - MAX_FRAMING * (self._unread - unread)
            self._framing = framing if framing > 0 else 0
            if framing > self._max_header_bytes + SLICE:
                self._end(Malformed(begun=True))
                return
        if self._unread > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _ends_with(self, data: bytes) -> bool:
        """Return whether a complete answer ends where the data does, so that nothing follows it.

        The parser does not say where it ended. A body with a length ends with the bytes that came
        of it, any other answer with an empty line.
        """
        body = len(self._body[-1]) if self._body and not self._chunked else 0
        before = len(data) - body
        if before < 4:
            return before == 0 or (not body and b"\r\n\r\n".endswith(data))
        return data.startswith(b"\r\n\r\n", before - 4)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self._origin, self)
        data, self._backlog = self._backlog, b""
        if data and not self._aborted:
            self._feed(data)
        if self._parser is None or self.complete:
            return
        if self.begun and error is None and not self._aborted and self._until_close():
            self.complete = True
            self._wake()
            return
        reason = getattr(error, "strerror", None) or (str(error) if error else "")
        # A write that meets a connection which is already broken has sent nothing.
        unsent = self._sending or isinstance(error, BrokenPipeError)
        stale = self._reused and not self._came
        self._end(Lost(begun=self.begun, reason=reason, stale=stale, unsent=unsent))

    def _until_close(self) -> bool:
        """Return whether the body ends only with the connection."""
        return "content-length" not in self.headers and not self._chunked

    def _end(self, error: Lost | Malformed) -> None:
        self._error = self._error or error
        self.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by httptools

    # An exception in any of these stops the parser, which raises an error of its own.

    def on_header(self, name: bytes, value: bytes) -> None:
        size = self._head_bytes + len(name) + len(value) + HEADER_COST
        self._head_bytes = size
        if size > self._max_header_bytes:
            raise Malformed(begun=self.begun)
        if self.begun:
            # A trailer: counted, and not a header.
            return
        key = _names.get(name) or _name(name)
        try:
            text = value.decode("ascii")
        except UnicodeDecodeError:
            text = value.decode("ascii", "backslashreplace")
        headers = self.headers
        if key in headers and key in _LISTS:
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.complete:
            # A second answer, to nothing: it must not become the next request's.
            raise Malformed(begun=True)
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100:
                raise Malformed(begun=False)
            # An interim answer (100, 103): the real one follows.
            self.headers = {}
            return
        if status > 599:
            raise Malformed(begun=False)
        headers = self.headers
        coding = headers.get("transfer-encoding")
        if coding is not None:
            coding = coding.lower()
            self._chunked = coding == "chunked"
            if not self._chunked and coding != "identity":
                raise Malformed(begun=False)
        elif len(headers.get("content-length", "")) > MAX_LENGTH_DIGITS:
            raise Malformed(begun=False)
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()
        self.begun = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        if self.begun:
            self.complete = True


class ConnectionPool:
    """Connections by origin; the most recently used one is used again first.

    Made in the loop that it is used in.

    Args:
        connections: exchanges at a time, each on a connection of its own; None for no bound.
        keepalive: seconds an idle connection stays open.
        max_header_bytes: bytes of an answer's headers at most, trailers and interim answers
            included.
        max_answer_bytes: bytes of a body at most that is read whole.
    """

    def __init__(
        self,
        *,
        connections: int | None = None,
        keepalive: float = 30.0,
        max_header_bytes: int = 65_536,
        max_answer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.max_header_bytes = max_header_bytes
        self._max_answer_bytes = max_answer_bytes
        self._loop = asyncio.get_running_loop()
        self._keepalive = keepalive
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._room = asyncio.Semaphore(connections) if connections else None
        self._tls: ssl.SSLContext | None = None

    async def send(
        self,
        origin: Origin,
        head: bytes,
        body: bytes,
        *,
        connect_timeout: float,
        resend: bool = False,
    ) -> Response:
        """Send a request; return when the answer's headers are here.

        A pooled connection that the host has closed in the meantime is replaced by a fresh one. One
        that ends after the request was written, without a byte of an answer, may have brought the
        host the request: it is sent once more if part of it had not left yet, or with `resend`.

        Args:
            origin: where to send the request.
            head: the request line and headers, with the empty line at their end.
            body: the body; its length stands in the head.
            connect_timeout: seconds to connect, TLS included.
            resend: whether the host may get the request twice.

        Raises:
            TimeoutError: the connection took too long.
            OSError: the connection failed (socket.gaierror: no such host, ssl.SSLError: TLS).
            Lost, Malformed: the answer did not come, or is not HTTP.
        """
        room = self._room
        if room is not None:
            await room.acquire()
        try:
            connection = await self._exchange(origin, head, body, connect_timeout, resend)
        except BaseException:
            if room is not None:
                room.release()
            raise
        return Response(connection, room, self._max_answer_bytes)

    async def _exchange(
        self, origin: Origin, head: bytes, body: bytes, connect_timeout: float, resend: bool
    ) -> _Connection:
        if (connection := self._pooled(origin)) is not None:
            try:
                await connection.exchange(head, body)
            except Lost as lost:
                if not (lost.stale and (lost.unsent or resend)):
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
            connection.abort()
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
        """Drop a connection that has ended."""
        self._open.discard(connection)
        idle = self._idle.get(origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Close every connection, idle or not."""
        for connection in list(self._open):
            connection.abort()
