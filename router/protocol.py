"""HTTP/1.1 on the server's side: connections, the requests on them, and their limits.

httptools parses, uvicorn owns the listening sockets and the event loop. What is here reads
requests, runs the app for each, and writes its responses in order. It also refuses what is
malformed, too large or too slow, with OpenAI's error object and so that the client can read it.

    Connections     all connections: bounds their number, and enforces time limits in one walk
    Protocol        one connection
    Exchange        one request on it and the response to it

An `Upgrade` that is not performed is ignored, as RFC 9110 section 7.8 wants it: httptools stops
parsing there, so the request's head is parsed once more without that header.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import re
import resource
import sys
import termios
from collections import deque
from http import HTTPStatus
from typing import Any, Literal, cast
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from providers.errors import EvalrouterError, ProtocolError, UnavailableError
from router.api.connection import WHOLE, Headers
from router.api.request_parsing import PATHS
from router.config.server import Server
from router.gateway.dialects import CHAT, DIALECTS, Dialect
from router.gateway.error_bodies import body_of

log = logging.getLogger("evalrouter")

# nginx and most other servers take less.
MAX_HEAD_BYTES = 64 * 1024
MAX_TARGET_BYTES = 16 * 1024
MAX_HEADERS = 256
# Bytes that are parsed at once: a read full of one-byte chunks must not delay other clients.
SLICE_BYTES = 16 * 1024
# Pieces of bodies in one turn of the event loop; beyond it, the rest of a read waits for the next.
MAX_PIECES = 64
# Requests that may wait behind the one that is being answered; further ones are not read yet.
MAX_PIPELINED = 32
# Bytes of a request's body that the app has not taken, above which no more are read.
HIGH_WATER_BYTES = 64 * 1024
# Bytes of a body that have to come within `body_seconds`.
BODY_STEP_BYTES = 16 * 1024
# A refused client may still be sending. Closing at once would reset the connection, and with it
# the response that says why, so what comes is read and dropped for a while.
LINGER_S = 5.0
MAX_LINGER_BYTES = 64 * 1024 * 1024
# Connections beyond `max_connections` that are answered with 503; yet more are closed unanswered.
MAX_REFUSED = 64
# Descriptors that are left for files, databases and other servers.
SPARE_DESCRIPTORS = 16
# Seconds that an idle connection may stay while connections are running out.
SHED_IDLE_S = 1.0
SWEEP_S = 1.0

# Bytes that a header may consist of: a line's end within one would begin another.
_IN_HEADERS = bytes([9, *range(32, 127), *range(128, 256)])
_WATCHED = frozenset({b"host", b"expect", b"transfer-encoding"})
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([^#]*)", re.IGNORECASE)
_NO_BODY = frozenset({204, 304})

ConnectionState = Literal["reading", "lingering", "head", "body", "idle", "busy"]


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _status_line(status) for status in range(100, 1000)}


class Connections(ServerState):
    """Every connection of a process; uvicorn's server has it as its state.

    Args:
        limits: the config's section `server`.

    Attributes:
        limits: the config's section `server`.
        max_connections: the number of connections that are answered; above it, with 503.
        refused: connections beyond that number, until they have been answered.
        max_refused: the number of those; yet more are closed unanswered.
        stopping: whether the server is being stopped: nothing is worth waiting for any more.
    """

    def __init__(self, limits: Server) -> None:
        super().__init__()
        self.limits = limits
        self.max_connections = limits.max_connections or 0
        self.max_refused = MAX_REFUSED
        self.refused: set[Protocol] = set()
        self.stopping = False
        self._full = False
        self._out_of_descriptors = False

    def open(self) -> None:
        """Begin to enforce the limits; call it on the event loop, before the first connection."""
        room, self.max_refused = _room_for_connections()
        if not self.max_connections:
            self.max_connections = room
        elif self.max_connections > room:
            log.warning(
                "server.max_connections is %d, but the limit of open files leaves room for %d: "
                "each connection may need a second one to a target (ulimit -n)",
                self.max_connections,
                room,
            )
        shortest = min(
            self.limits.head_seconds,
            self.limits.body_seconds,
            self.limits.send_seconds,
            self.limits.idle_seconds,
        )
        self._period = min(SWEEP_S, shortest / 4)
        self._loop = asyncio.get_running_loop()
        self._loop.call_later(self._period, self._sweep)

    def admits(self, connection: Protocol) -> bool:
        """Return whether there is room for a new connection; the log says once where it is not."""
        if len(self.connections) < self.max_connections:
            self.connections.add(cast(Any, connection))
            return True
        if not self._full:
            self._full = True
            log.error(
                "all %d connections are in use; new ones are answered with 503 "
                "(server.max_connections)",
                self.max_connections,
            )
        self.refused.add(connection)
        return False

    @property
    def scarce(self) -> bool:
        """Whether idle connections have to make room for others."""
        return self._out_of_descriptors or len(self.connections) * 4 >= self.max_connections * 3

    def all_connections(self) -> list[Protocol]:
        """Return all connections, the refused ones included."""
        return [*cast(set[Protocol], self.connections), *self.refused]

    def _sweep(self) -> None:
        """Enforce the time limits of every connection.

        One walk a second costs less than a timer per request, and it sees the same.
        """
        self._loop.call_later(self._period, self._sweep)
        now = self._loop.time()
        self._probe_descriptors()
        if self._full and len(self.connections) * 10 < self.max_connections * 9:
            self._full = False
            log.warning("there is room for new connections again")
        idle = min(SHED_IDLE_S, self.limits.idle_seconds) if self.scarce else 0.0
        for connection in self.all_connections():
            connection.check(now, idle or self.limits.idle_seconds)

    def _probe_descriptors(self) -> None:
        # The event loop itself closes what it cannot accept, and says nothing.
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as problem:
            if problem.errno not in (errno.EMFILE, errno.ENFILE):
                return
            if not self._out_of_descriptors:
                self._out_of_descriptors = True
                log.error(
                    "out of file descriptors (%s): idle connections are closed; raise the limit "
                    "(ulimit -n) or lower server.max_connections",
                    problem.strerror,
                )
        else:
            if self._out_of_descriptors:
                self._out_of_descriptors = False
                log.warning("there are file descriptors again")


def _room_for_connections() -> tuple[int, int]:
    """Return how many connections fit the limit of open files, and how many to refuse with them.

    Each of the first needs a second descriptor, for the connection to a target.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1_000_000, MAX_REFUSED
    # A new descriptor gets the lowest free number, so this is about how many are in use.
    used = os.open(os.devnull, os.O_RDONLY)
    os.close(used)
    free = max(0, soft - used - SPARE_DESCRIPTORS)
    refused = min(MAX_REFUSED, free // 4)
    return max(8, (free - refused) // 2), refused


class Protocol(asyncio.Protocol):
    """One connection. uvicorn makes one for each that it accepts.

    Attributes:
        shared: all connections of the process, and their limits.
        transport: the connection's transport.
        write_paused: whether responses have to wait until the client has read more.
    """

    def __init__(
        self,
        config: UvicornConfig,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._app_state = app_state
        self.shared = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._asgi = {"version": config.asgi_version, "spec_version": "2.3"}
        self.transport: asyncio.Transport = cast(Any, None)
        self._new_parser()
        # The request that is read, the one that is answered, and those that wait for their turn.
        self._incoming: Exchange | None = None
        self._current: Exchange | None = None
        self._pipeline: deque[Exchange] = deque()
        # A refusal that waits for the responses before it.
        self._last_words = b""
        # The fault that the parser's callbacks have seen.
        self._fault: EvalrouterError | None = None
        # Bytes that were read and not parsed yet.
        self._rest: memoryview | None = None
        self._continuing = False
        # Whether a request has begun that is not complete, and whether its head is.
        self._begun = self._in_body = False
        # Whether the head was only parsed to find an `Upgrade` in it.
        self._again = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._pieces = 0
        self._empty_bytes = 0
        self._reading_paused = False
        self.write_paused = False
        self._writable: asyncio.Event | None = None
        # Nothing that comes is parsed any more.
        self._deaf = False
        # The connection is one more than the limit allows.
        self._refused = False
        self._dropped_bytes = 0
        # The state that the last sweep saw, and since when it has been so.
        self._seen: tuple[ConnectionState, object, int] | None = None
        self._since = 0.0
        self._unsent = 0

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # The response to the last of pipelined requests may already close the connection.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, or make ready to refuse."""
        self.transport = cast(asyncio.Transport, transport)
        self._server = get_local_addr(self.transport)
        self._client = get_remote_addr(self.transport)
        if not self.shared.admits(self):
            self._deaf = self._refused = True
            if len(self.shared.refused) > self.shared.max_refused:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the requests that are still read or answered."""
        self.shared.connections.discard(cast(Any, self))
        self.shared.refused.discard(self)
        self._deaf = True
        self._rest = None
        self._pipeline.clear()
        for exchange in (self._incoming, self._current):
            if exchange is not None and not exchange.complete:
                exchange.gone = True
                exchange.wake()
        self.resume_writing()
        # The parser refers to its owner.
        self._parser = cast(Any, None)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that came, or the first of them."""
        if self._deaf:
            self._drop(data)
        elif self._rest is not None:
            self._rest = memoryview(bytes(self._rest) + data)
        elif len(data) <= SLICE_BYTES:
            self._pieces = 0
            self._feed(data)
            if self._pipeline or self._rest is not None:
                self._go_on()
        else:
            self._rest = memoryview(data)
            self._feed_rest()

    def _drop(self, data: bytes) -> None:
        """Forget what is read, within bounds; one connection too many is refused at once."""
        if self._refused and not self._dropped_bytes:
            error = UnavailableError(
                "This server has as many connections as it takes; try again later.",
                code="too_many_connections",
            )
            self._close_with(
                _response(error, self.shared.default_headers, more=b"retry-after: 1\r\n")
            )
        self._dropped_bytes += len(data)
        if self._dropped_bytes > MAX_LINGER_BYTES:
            self.transport.abort()

    def eof_received(self) -> None:
        """Let the transport close: a client that has closed its end is taken to be gone."""

    def pause_writing(self) -> None:
        """Have responses wait until the client has read more."""
        self.write_paused = True
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let responses go on."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()

    async def writable(self) -> None:
        """Wait until the client has read more."""
        while self.write_paused:
            assert self._writable is not None
            await self._writable.wait()

    # parsing

    def _feed_rest(self) -> None:
        """Parse slice by slice, and pause where it costs much or where requests wait anyway."""
        self._continuing = False
        self._pieces = 0
        while self._rest is not None and not self._deaf:
            piece, rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._rest = rest if rest else None
            self._feed(piece)
            if len(self._pipeline) >= MAX_PIPELINED or self._pieces > MAX_PIECES:
                break
        if self._deaf:
            self._rest = None
        self._go_on()

    def _go_on(self) -> None:
        """Go on reading or parsing, unless something else has to happen first."""
        if self._deaf:
            self._resume_reading()
        elif len(self._pipeline) >= MAX_PIPELINED:
            self._pause_reading()
        elif self._rest is not None:
            self._pause_reading()
            if not self._continuing:
                self._continuing = True
                self._loop.call_soon(self._feed_rest)
        elif (
            self._incoming is None
            # Nobody takes the body of a request that was refused without it.
            or self._incoming.complete
            or len(self._incoming.body) <= HIGH_WATER_BYTES
        ):
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(memoryview(data)[upgrade.args[0] :])
            return
        except httptools.HttpParserError as problem:
            self._refuse(self._fault or _malformed(problem))
            return
        if self._begun:
            self._unfinished(len(data))

    def _unfinished(self, read: int) -> None:
        """Bound the bytes that a head, or the framing of a body, may take."""
        if not self._in_body:
            self._head_bytes += read
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(self._head_too_large())
            return
        self._body_bytes += read
        if self._pieces:
            self._empty_bytes = 0
            return
        # The extensions of a chunk, or trailers: they are read by no app.
        self._empty_bytes += read
        if self._empty_bytes > MAX_HEAD_BYTES:
            self._refuse(
                ProtocolError(431, "The request's trailers are too large.", code="head_too_large")
            )

    def _head_too_large(self) -> ProtocolError:
        if len(self._url) > MAX_TARGET_BYTES:
            return ProtocolError(
                414, f"The request's target has over {MAX_TARGET_BYTES} bytes.", code="uri_too_long"
            )
        return ProtocolError(
            431, f"The request's headers have over {MAX_HEAD_BYTES} bytes.", code="head_too_large"
        )

    def _without_upgrade(self, rest: memoryview) -> None:
        """Parse the request again without its `Upgrade`, RFC 9110 section 7.8."""
        method = self._parser.get_method()
        headers = [(name, value) for name, value in self._headers if name != b"upgrade"]
        self._again = self._begun = False
        if method == b"CONNECT":
            self._refuse(ProtocolError(405, "This server is no proxy.", code="method_not_allowed"))
            return
        if method == b"GET" and any(name == b"sec-websocket-key" for name, _ in headers):
            self._refuse(
                ProtocolError(
                    400,
                    "This server has no WebSockets; send plain HTTP requests.",
                    code="websocket_unsupported",
                )
            )
            return
        lines = [b"%b %b HTTP/%b" % (method, self._url, self._parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in headers]
        self._new_parser()
        self._head_bytes = 0
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        self._rest = memoryview(head + bytes(rest) + bytes(self._rest or b""))

    # called by the parser

    def on_message_begin(self) -> None:
        """Make ready for a new request."""
        self._begun = True
        self._url = b""
        self._headers: Headers = []
        self._watched: dict[bytes, bytes] = {}

    def on_url(self, url: bytes) -> None:
        """Take the request's target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer: the list of trailers is dropped."""
        name = name.lower()
        if name in _WATCHED:
            if name == b"host" and name in self._watched:
                self._fault = ProtocolError(
                    400, "The request has two Host headers.", code="bad_host"
                )
            self._watched[name] = value
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin the exchange, or find a reason not to."""
        parser = self._parser
        if parser.should_upgrade():
            # httptools raises HttpParserUpgrade next.
            self._again = True
            return
        headers, self._headers = self._headers, []
        watched, self._watched = self._watched, {}
        version = parser.get_http_version()
        method = parser.get_method().decode("ascii")
        url = self._url
        if url[:1] != b"/" or b"#" in url:
            url = self._origin_form(url, headers, watched)
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        self._check_head(version, headers, watched)
        # The parser would not go on after an exception without its being told why.
        assert self._fault is None
        keep_alive = parser.should_keep_alive()
        exchange = Exchange(self, method, version, keep_alive)
        exchange.scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "headers": headers,
            "state": self._app_state.copy(),
            "method": method,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "extensions": {WHOLE: {"write": exchange.write_whole}},
        }
        if b"expect" in watched and watched[b"expect"].lower() == b"100-continue":
            exchange.expects_continue = version == "1.1"
        self._head_bytes = self._body_bytes = self._empty_bytes = 0
        self._in_body = True
        self._incoming = exchange
        if self._current is None:
            self._start(exchange)
        else:
            self._pipeline.append(exchange)

    def _origin_form(self, url: bytes, headers: Headers, watched: dict[bytes, bytes]) -> bytes:
        """Return path and query of a target in another form, RFC 9112 section 3.2."""
        if url == b"*":
            return url
        if url[:1] == b"/":
            return url.partition(b"#")[0]
        absolute = _ABSOLUTE.fullmatch(url.partition(b"#")[0])
        if absolute is None:
            self._fault = ProtocolError(400, "The request's target is no path.", code="bad_target")
            raise ValueError
        host, rest = absolute.groups()
        # It stands above the header, so that the app reads the same host as we do.
        for n, (name, _) in enumerate(headers):
            if name == b"host":
                headers[n] = (name, host)
        watched.setdefault(b"host", host)
        return rest if rest[:1] == b"/" else b"/" + rest

    def _check_head(self, version: str, headers: Headers, watched: dict[bytes, bytes]) -> None:
        """Refuse a head that only looks well-formed.

        An exception ends the parser, and `_fault` says why.
        """
        if self._fault is None:
            if version not in ("1.1", "1.0"):
                self._fault = ProtocolError(
                    505, "This server speaks HTTP/1.1.", code="http_version_not_supported"
                )
            elif b"host" not in watched and version == "1.1":
                self._fault = ProtocolError(400, "The request has no Host header.", code="bad_host")
            elif b"transfer-encoding" in watched:
                if version == "1.0":
                    self._fault = ProtocolError(
                        400, "HTTP/1.0 has no Transfer-Encoding.", code="bad_framing"
                    )
                elif watched[b"transfer-encoding"].lower() != b"chunked":
                    self._fault = ProtocolError(
                        501, "The only Transfer-Encoding here is chunked.", code="bad_framing"
                    )
            elif len(headers) > MAX_HEADERS:
                self._fault = ProtocolError(
                    431, f"The request has over {MAX_HEADERS} headers.", code="head_too_large"
                )
            elif len(self._url) > MAX_TARGET_BYTES:
                self._fault = self._head_too_large()
            elif self._head_bytes + SLICE_BYTES > MAX_HEAD_BYTES:
                # The slice that ends the head may hold a part of the body as well.
                size = sum(len(name) + len(value) + 4 for name, value in headers)
                if size + len(self._url) > MAX_HEAD_BYTES:
                    self._fault = self._head_too_large()
        if self._fault is not None:
            raise ValueError

    def on_body(self, body: bytes) -> None:
        """Take a piece of the request's body."""
        self._pieces += 1
        exchange = self._incoming
        assert exchange is not None
        if exchange.complete or self._deaf:
            return
        if exchange.body:
            # Only a body in several pieces needs a copy.
            exchange.body = (
                bytearray(exchange.body) if type(exchange.body) is bytes else exchange.body
            )
            exchange.body += body
        else:
            exchange.body = body
        exchange.wake()
        if len(exchange.body) > HIGH_WATER_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """End the request: what follows is the head of the next one."""
        if self._again:
            return
        exchange = self._incoming
        assert exchange is not None
        self._begun = self._in_body = False
        exchange.more_body = False
        if exchange.keep_alive and self._headers and not self._parser.should_keep_alive():
            # A trailer asked for it, and the parser will not go on.
            exchange.keep_alive = False
        if not exchange.complete:
            exchange.wake()

    # answering

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        tasks = self.shared.tasks
        task = self._loop.create_task(exchange.run(self._app))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def taken(self) -> None:
        """Go on reading, as the app has taken what had come of the request's body."""
        if self._reading_paused:
            self._go_on()

    def answered(self, exchange: Exchange) -> None:
        """Go on with the next request after a complete response, or close."""
        self._current = None
        if not exchange.keep_alive:
            self._close_gently()
        elif self._pipeline:
            self._start(self._pipeline.popleft())
            self._go_on()
        elif self._last_words:
            self._close_with(self._last_words)
        elif self._reading_paused:
            self._go_on()

    def _refuse(self, error: EvalrouterError) -> None:
        """Answer with an error after the responses that come before it, and close."""
        if self._deaf or self.transport.is_closing():
            return
        incoming = self._incoming if self._in_body else None
        self._deaf = True
        self._rest = None
        self._resume_reading()
        if incoming is not None:
            # The app has begun with this request, and may even have answered already.
            incoming.keep_alive = False
            incoming.fail(error)
            return
        words = _response(error, self.shared.default_headers)
        if self._current is None:
            self._close_with(words)
        else:
            self._last_words = words

    def _close_with(self, words: bytes) -> None:
        self.transport.write(words)
        self._close_gently()

    def _close_gently(self) -> None:
        """End our side, and wait until the client has ended its own."""
        self._deaf = True
        self._rest = None
        self._pipeline.clear()
        if self.transport.is_closing():
            return
        if self.shared.stopping and not self._in_body:
            # A pool does not look at a connection that it does not use: waiting would be in vain.
            self.transport.close()
            return
        self.transport.write_eof()
        self._resume_reading()

    def shutdown(self) -> None:
        """Close as soon as the response under way is complete; called by uvicorn."""
        if self._current is None:
            self.transport.close()
            return
        last = self._pipeline[-1] if self._pipeline else self._current
        last.keep_alive = False

    def cut(self) -> None:
        """End now, with an error where one can still be sent."""
        self._deaf = True
        self._pipeline.clear()
        if self._current is not None:
            self._current.cut(stopping())
        self.transport.close()

    # time

    def check(self, now: float, idle_seconds: float) -> None:
        """Enforce the limit of whatever the connection is waiting for."""
        unsent = self.transport.get_write_buffer_size()
        state = self._state(unsent)
        if state == "reading":
            unsent += _unacknowledged(self.transport)
        seen = (state, self._incoming, self._body_bytes // BODY_STEP_BYTES)
        if seen != self._seen or (state == "reading" and unsent < self._unsent):
            self._seen = seen
            self._since = now
        self._unsent = unsent
        limits = self.shared.limits
        limit = {
            "reading": limits.send_seconds,
            "lingering": LINGER_S,
            "head": limits.head_seconds,
            "body": limits.body_seconds,
            "idle": idle_seconds,
        }.get(state)
        if limit is not None and now - self._since >= limit:
            self._since = now
            self._expire(state)

    def _state(self, unsent: int) -> ConnectionState:
        """Return what the connection waits for: the client's reading, its sending, or neither."""
        current = self._current
        if unsent and (self.write_paused or current is None):
            return "reading"
        if current is None:
            if self._deaf:
                return "lingering"
            return "head" if self._begun else "idle"
        if current.more_body and not current.started and not self._reading_paused:
            return "body"
        return "busy"

    def _expire(self, state: ConnectionState) -> None:
        if state == "head":
            self._refuse(
                ProtocolError(408, "The request's headers took too long.", code="request_timeout")
            )
        elif state == "body" and self._current is not None and self._current.error is None:
            self._refuse(
                ProtocolError(408, "The request's body took too long.", code="request_timeout")
            )
        elif state == "idle":
            self.transport.close()
        else:
            log.debug("a connection was cut while %s", state)
            self.transport.abort()


class Exchange(msgspec.Struct, eq=False):
    """One request and the response to it; its `receive` and `send` are the app's.

    Attributes:
        scope: the app's scope.
        body: the part of the request's body that came and the app has not taken.
        more_body: whether more of it is to come.
        error: the fault of the request, to be raised where the app reads it.
        gone: whether the client has left.
        started, complete: how far the response is.
        keep_alive: whether another request may follow on the connection.
        expects_continue: whether the client waits for leave to send the body.
    """

    _connection: Protocol
    _method: str
    _version: str
    keep_alive: bool
    scope: dict[str, Any] = {}
    body: bytes | bytearray = b""
    more_body: bool = True
    error: EvalrouterError | None = None
    gone: bool = False
    started: bool = False
    complete: bool = False
    expects_continue: bool = False
    _event: asyncio.Event | None = None
    _news: bool = False
    # The response's framing, whether it is a stream of events, and the bytes still to come.
    _chunked: bool = False
    _events: bool = False
    _left: int = -1

    # Shows neither what the client wrote nor any secret.
    __repr__ = object.__repr__

    def wake(self) -> None:
        """Wake the app that waits in `receive`, as there is something new."""
        self._news = True
        if self._event is not None:
            self._event.set()

    def fail(self, error: EvalrouterError) -> None:
        """Note that the rest of the request will not come; the app learns it where it reads."""
        if not self.complete:
            self.error = error
            self.wake()

    async def run(self, app: Any) -> None:
        """Have the app answer."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.complete and not self.gone:
                # A client that does not read makes a response short; without one, it is our fault.
                level = logging.DEBUG if self.started else logging.ERROR
                log.log(level, "no whole response to %s %s", self._method, self.scope["path"])
                await self._fall_short()
        except asyncio.CancelledError:
            if not self.complete and not self.gone:
                self._connection.transport.close()
            raise
        except Exception:
            log.exception("unforeseen error on %s %s", self._method, self.scope["path"])
            await self._fall_short()
        finally:
            # Its bound method would make a cycle of it.
            self.scope["extensions"] = None

    async def _fall_short(self) -> None:
        """Answer in the app's place, or show that the response is not whole."""
        if self.gone or self.complete:
            return
        if self.started:
            self._connection.transport.close()
            return
        body = body_of(
            EvalrouterError(
                "Something went wrong here; the server's log says what.", code="internal"
            )
        )
        self.write(500, [(b"content-type", b"application/json")], body)

    async def receive(self) -> dict[str, Any]:
        """Return the request's body as it comes, then the client's leaving; ASGI's `receive`.

        Raises:
            ProtocolError: the rest of the body is malformed, or took too long.
        """
        if self.expects_continue:
            self.expects_continue = False
            if self.more_body and not self.gone:
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self._news or self.gone or self.complete):
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
            self._event.clear()
        self._news = False
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        if self.error is not None:
            raise self.error
        body, self.body = bytes(self.body), b""
        self._connection.taken()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: dict[str, Any]) -> None:
        """Send the head or a piece of the response; ASGI's `send`."""
        if self._connection.write_paused and not self.gone:
            await self._connection.writable()
        if self.gone:
            return
        kind = message["type"]
        if not self.started:
            if kind != "http.response.start":
                raise RuntimeError(f"expected http.response.start, not {kind}")
            self._begin(message["status"], list(message.get("headers", ())))
        elif not self.complete:
            if kind != "http.response.body":
                raise RuntimeError(f"expected http.response.body, not {kind}")
            self._go_on(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} after the end of the response")

    def write(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response at once."""
        self._begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        self._go_on(body, more=False)

    def write_whole(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response in one go; return False where only `send` can."""
        connection = self._connection
        if self.started or connection.write_paused or not self.keep_alive or self.more_body:
            return False
        if self._method == "HEAD" or self._version == "1.0":
            return False
        if self.gone:
            return True
        head = _lines(connection.shared.default_headers + headers)
        connection.transport.write(b"%b%b\r\n%b" % (STATUS_LINES[status], head, body))
        self.started = self.complete = True
        self.wake()
        connection.answered(self)
        return True

    def _begin(self, status: int, headers: Headers) -> None:
        """Write the head, which says how the response ends."""
        length = None
        chunked = closing = False
        for name, value in headers:
            match name.lower():
                case b"content-length":
                    length = int(value)
                case b"transfer-encoding":
                    chunked = True
                case b"connection":
                    closing = closing or b"close" in value.lower()
                case b"content-type":
                    self._events = value.startswith(b"text/event-stream")
        # The rest of the request would have to be read first, or never comes.
        if closing or self.more_body:
            self.keep_alive = False
        if self._method == "HEAD" or status in _NO_BODY:
            length = 0
        elif length is None and self._version == "1.0":
            # The end of the connection is the end of the body.
            self.keep_alive = False
        elif length is None and not chunked:
            chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive and not closing:
            headers.append((b"connection", b"close"))
        elif self.keep_alive and self._version == "1.0":
            headers.append((b"connection", b"keep-alive"))
        head = _lines(self._connection.shared.default_headers + headers)
        self._connection.transport.write(b"%b%b\r\n" % (STATUS_LINES[status], head))
        self.started = True
        self._chunked = chunked and length is None
        self._left = -1 if length is None else length

    def _go_on(self, body: bytes, *, more: bool) -> None:
        transport = self._connection.transport
        if self._method == "HEAD":
            pass
        elif self._chunked:
            if body:
                end = b"" if more else b"0\r\n\r\n"
                transport.write(b"%x\r\n%b\r\n%b" % (len(body), body, end))
            elif not more:
                transport.write(b"0\r\n\r\n")
        else:
            if self._left >= 0:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("the response is not as long as its Content-Length")
            if body:
                transport.write(body)
        if not more:
            self.complete = True
            self.wake()
            self._connection.answered(self)

    @property
    def _dialect(self) -> Dialect:
        """What clients of the request's path read; of paths that call no model, as of chats."""
        path = PATHS.get(self.scope["path"])
        return CHAT if path is None else DIALECTS[path]

    def cut(self, error: EvalrouterError) -> None:
        """End the response with an error, where its framing leaves room for one."""
        if self.gone or self.complete:
            return
        self.keep_alive = False
        if not self.started:
            status, body = self._dialect.error_answer(error, "")
            self.write(status, [(b"content-type", b"application/json")], body)
        elif self._events and self._left < 0:
            self._go_on(self._dialect.error_event(error, ()), more=False)
        self.gone = True


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel has that the client has not; 0 where it does not tell.

    A kernel takes more only once a large part of its buffer is free, which a slow client may take
    longer for than it is given to show that it reads at all.
    """
    number = bytearray(4)
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, number)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(number, sys.byteorder)


def _lines(headers: Headers) -> bytes:
    """Return headers as they go over the wire.

    Raises:
        RuntimeError: one has a byte that would end it.
    """
    head = b"\r\n".join([*map(b": ".join, headers), b""])
    if head.translate(None, _IN_HEADERS) != b"\r\n" * len(headers):
        raise RuntimeError("a response header has a control character in it")
    return head


def _response(error: EvalrouterError, headers: Headers, more: bytes = b"") -> bytes:
    """Return a whole response that is not an exchange's."""
    body = body_of(error)
    return b"%b%b%bcontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        STATUS_LINES[error.status],
        _lines(headers),
        more,
        len(body),
        b"connection: close\r\n",
        body,
    )


def stopping() -> UnavailableError:
    """Return the error that ends responses which are cut at the end of the drain."""
    return UnavailableError("The server is being stopped.", code="server_stopping")


def _malformed(problem: httptools.HttpParserError) -> ProtocolError:
    """Return what the parser says, where it is a sentence that a client understands."""
    if "PRI/Upgrade" in str(problem):
        return ProtocolError(505, "This server speaks HTTP/1.1.", code="http_version_not_supported")
    if isinstance(problem, httptools.HttpParserCallbackError):
        return ProtocolError(400, "The request is malformed.", code="malformed_request")
    return ProtocolError(400, f"The request is malformed: {problem}.", code="malformed_request")
