"""Sends every provider's requests, and turns the client's errors into ours in one place.

Error messages name the provider, never its address: they are shown to clients.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Annotated, NamedTuple

import msgspec

from providers.base import AS_IT_CAME, NotNegative, Translation
from providers.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from providers.http import http1
from providers.http.content_coding import Decoder, Undecodable, decoder_for

# Decoded bytes after which other tasks have their turn (about a millisecond), and the bytes that a
# step counts for beyond those that it decodes.
WORK_BYTES = 256 * 1024
STEP_COST = 4096
# URLs whose requests' first bytes are stored.
MAX_STARTS = 1000


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the HTTP client, as in the config's `http` section.

    Attributes:
        connections: requests in flight per process, each on a connection of its own; None for no
            bound.
        keepalive: seconds an idle connection stays open.
        max_header_bytes: bytes of an answer's headers at most, 32 more counted for each header;
            interim answers and trailers included.
        max_answer_bytes: bytes of a whole (not streamed) answer's body at most, after content
            codings such as gzip were decoded.
    """

    connections: Annotated[int, msgspec.Meta(ge=1, le=10**9)] | None = None
    keepalive: NotNegative = 30.0
    max_header_bytes: Annotated[int, msgspec.Meta(ge=1024, le=10**9)] = 65_536
    max_answer_bytes: Annotated[int, msgspec.Meta(ge=1024, le=10**12)] = 64 * 1024 * 1024


class Transport:
    """One HTTP client for all providers of a process. `open()` it inside the running loop."""

    def __init__(self, limits: HttpLimits | None = None) -> None:
        self._limits = limits or HttpLimits()
        self._pool: http1.ConnectionPool | None = None
        # Requests to one URL with the same headers begin with the same bytes.
        self._starts: dict[tuple[str, str], _Start] = {}

    async def open(self) -> None:
        """Make the connection pool."""
        self._pool = http1.ConnectionPool(
            connections=self._limits.connections,
            keepalive=self._limits.keepalive,
            max_header_bytes=self._limits.max_header_bytes,
            max_answer_bytes=self._limits.max_answer_bytes,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        provider: str,
        headers: Mapping[str, str],
        body: bytes | None,
        connect_timeout: float,
        more: Mapping[str, str] = MappingProxyType({}),
        resend: bool = False,
        any_status: bool = False,
    ) -> HttpReply:
        """Send one request and return when the answer's headers are here.

        Redirects are not followed: a POST that turns into a GET loses its body. No content coding
        is accepted, and an answer that has one all the same is decoded.

        Args:
            method: GET or POST.
            url: the URL to request.
            provider: the provider's name, for errors.
            headers: headers that all of the provider's requests have; encoded once per object.
            body: the body; None for none.
            connect_timeout: seconds to connect.
            more: headers of this request alone.
            resend: whether the host may get the request twice where a pooled connection ends
                without an answer; a GET may always be sent again.
            any_status: whether an answer may be one that promises no body.

        Raises:
            UpstreamConnectError, UpstreamTimeoutError, UpstreamProtocolError: see `translate`; or
                the status promises no body, which every answer here has to have.
        """
        assert self._pool is not None, "the transport is not open"
        start = self._starts.get((method, url))
        if start is None or start.headers is not headers:
            if len(self._starts) >= MAX_STARTS:
                # URLs may have a model's name in them, and names come from clients.
                self._starts.clear()
            start = self._starts[method, url] = _begin(method, url, headers)
        body = body or b""
        head = b"%b%bcontent-length: %d\r\n\r\n" % (start.head, _lines(more), len(body))
        try:
            response = await self._pool.send(
                start.origin,
                head,
                body,
                connect_timeout=connect_timeout,
                resend=resend or method == "GET",
            )
        except (http1.Lost, http1.Malformed, OSError) as error:
            raise translate(error, provider) from error
        status = response.status
        if 203 < status < 400 and not any_status:
            response.close()
            raise UpstreamProtocolError(
                f"{provider}: it answered with status {status}, which is no answer to this request"
            )
        headers = response.headers
        kind = headers.get("content-type")
        if kind is not None and not kind.islower():
            # Media types and charsets have no case (RFC 9110, 8.3), but comparisons do.
            headers["content-type"] = kind.lower()
        if "content-encoding" not in headers:
            return HttpReply(response, provider)
        try:
            decoder = decoder_for(headers.pop("content-encoding"))
        except Undecodable as error:
            response.close()
            raise translate(error, provider) from error
        if decoder is None:
            return HttpReply(response, provider)
        # It is the length of the coded body.
        headers.pop("content-length", None)
        return _DecodedReply(response, provider, decoder)


class _Start(NamedTuple):
    """The beginning of requests to one URL: origin, headers, and both as bytes."""

    origin: http1.Origin
    headers: Mapping[str, str]
    head: bytes


def _begin(method: str, url: str, headers: Mapping[str, str]) -> _Start:
    origin, path = http1.origin_of(url)
    line = f"{method} {path} HTTP/1.1\r\nhost: {http1.host_header(origin)}\r\n"
    if "accept-encoding" not in headers:
        # Without the header, any coding would do (RFC 9110, 12.5.3).
        line += "accept-encoding: identity\r\n"
    return _Start(origin, headers, line.encode("latin-1") + _lines(headers))


def _lines(headers: Mapping[str, str]) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return text.encode("latin-1", "replace")


class HttpReply:
    """A Reply that comes over HTTP. Its sender may set `translation`."""

    translation: Translation = AS_IT_CAME

    def __init__(self, response: http1.Response, provider: str) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._provider = provider

    async def read(self) -> bytes:
        """Return the whole body."""
        try:
            return await self._response.read()
        except (http1.Lost, http1.Malformed, http1.TooLarge, OSError) as error:
            raise translate(error, self._provider) from error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, one item per read from the socket."""
        try:
            async for chunk in self._response.chunks():
                yield chunk
        except (http1.Lost, http1.Malformed, OSError) as error:
            raise translate(error, self._provider) from error

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else cut it."""
        self._response.close()


class _DecodedReply(HttpReply):
    """A reply whose content coding is undone as it comes.

    A few bytes may expand to many: memory is bounded by the size of a step, time by giving way to
    other tasks after WORK_BYTES, and a whole answer by `http.max_answer_bytes`.
    """

    def __init__(self, response: http1.Response, provider: str, decoder: Decoder) -> None:
        super().__init__(response, provider)
        self._decoder = decoder

    async def read(self) -> bytes:
        """Return the whole body, decoded."""
        limit = self._response.max_bytes
        parts: list[bytes] = []
        size = 0
        async for piece in self.chunks():
            size += len(piece)
            if size > limit:
                # The error's traceback has this frame, which may live on for a while.
                parts.clear()
                piece = b""  # noqa: PLW2901
                raise translate(http1.TooLarge(limit), self._provider)
            parts.append(piece)
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, decoded, in pieces of bounded size."""
        decoded = 0
        try:
            async for chunk in self._response.chunks():
                for piece in self._decoder.feed(chunk):
                    decoded += len(piece) + STEP_COST
                    if piece:
                        yield piece
                    if decoded > WORK_BYTES:
                        decoded = 0
                        await asyncio.sleep(0)
            self._decoder.finish()
        except (http1.Lost, http1.Malformed, Undecodable, OSError) as error:
            raise translate(error, self._provider) from error


def translate(error: Exception, provider: str) -> UpstreamError:
    """Return what the client raised as one of our errors; each of its exceptions is here."""
    if isinstance(error, Undecodable):
        return UpstreamProtocolError(f"{provider}: the answer {error}")
    if isinstance(error, http1.TooLarge):
        return UpstreamTooLargeError(
            f"{provider}: the answer has more than {error.limit} bytes (http.max_answer_bytes)"
        )
    if isinstance(error, http1.Malformed) and error.begun:
        return UpstreamProtocolError(f"{provider}: the answer's body is not valid HTTP")
    if isinstance(error, http1.Lost) and error.begun:
        return UpstreamProtocolError(f"{provider}: the answer was cut off before its end")
    if isinstance(error, http1.Malformed):
        return UpstreamProtocolError(f"{provider}: the answer is not valid HTTP")
    if isinstance(error, http1.Lost):
        reason = error.reason.lower() or "it closed the connection without an answer"
        return UpstreamConnectError(f"{provider}: {reason}")
    if isinstance(error, TimeoutError):
        return UpstreamTimeoutError(f"{provider}: no connection in time", phase="connect")
    if isinstance(error, socket.gaierror):
        return UpstreamConnectError(f"{provider}: its host name does not resolve")
    if isinstance(error, ssl.SSLCertVerificationError):
        return UpstreamConnectError(f"{provider}: its TLS certificate is not valid")
    if isinstance(error, ssl.SSLError):
        return UpstreamConnectError(f"{provider}: the TLS handshake failed")
    number = error.errno if isinstance(error, OSError) else None
    # Where several addresses were tried, asyncio puts their errors into one message.
    reason = os.strerror(number).lower() if number else "no connection could be made"
    return UpstreamConnectError(f"{provider}: {reason}")
