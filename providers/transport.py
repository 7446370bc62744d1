"""What every provider sends its requests through, and the one place that names its errors.

Error messages name the provider, never its address: they are shown to clients.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from providers import http1
from providers.base import AS_IT_CAME, Translation
from providers.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the HTTP client. Of the config's `http` section.

    Attributes:
        connections: requests in flight per process, each on a connection of its own; None for no
            bound.
        keepalive: seconds an idle connection is kept.
        max_header_bytes: most an answer's headers may have together.
    """

    connections: int | None = None
    keepalive: float = 30.0
    max_header_bytes: int = 65_536


class Transport:
    """One HTTP client for all providers of a process. `open()` it inside the running loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._pool: http1.Pool | None = None
        # Requests to one URL with the same headers begin with the same bytes.
        self._starts: dict[tuple[str, str], _Start] = {}

    async def open(self) -> None:
        """Make the connection pool."""
        self._pool = http1.Pool(
            connections=self._limits.connections,
            keepalive=self._limits.keepalive,
            max_header_bytes=self._limits.max_header_bytes,
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
    ) -> HttpReply:
        """Send one request and return when the answer's headers are here.

        Redirects are not followed: a POST that turns into a GET loses its body.

        Args:
            method: GET or POST.
            url: of what.
            provider: whose it is, for errors.
            headers: those that all its requests have: encoded once per object.
            body: None for none.
            connect_timeout: seconds.
            more: this request's own headers.

        Raises:
            UpstreamConnectError, UpstreamTimeoutError, UpstreamProtocolError: see `translate`.
        """
        assert self._pool is not None, "the transport is not open"
        start = self._starts.get((method, url))
        if start is None or start.headers is not headers:
            start = self._starts[method, url] = _begin(method, url, headers)
        body = body or b""
        head = b"%b%bcontent-length: %d\r\n\r\n" % (start.head, _lines(more), len(body))
        try:
            response = await self._pool.send(
                start.origin, head, body, connect_timeout=connect_timeout
            )
        except (http1.Lost, http1.Malformed, OSError) as error:
            raise translate(error, provider) from error
        return HttpReply(response, provider)


class _Start(NamedTuple):
    """How requests to one URL begin: its origin, the headers they have, and both as bytes."""

    origin: http1.Origin
    headers: Mapping[str, str]
    head: bytes


def _begin(method: str, url: str, headers: Mapping[str, str]) -> _Start:
    origin, path = http1.origin_of(url)
    line = f"{method} {path} HTTP/1.1\r\nhost: {http1.host_header(origin)}\r\n"
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
        """The whole body."""
        try:
            return await self._response.read()
        except (http1.Lost, http1.Malformed, OSError) as error:
            raise translate(error, self._provider) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, one item per read from the socket."""
        try:
            async for chunk in self._response.chunks():
                yield chunk
        except (http1.Lost, http1.Malformed, OSError) as error:
            raise translate(error, self._provider) from error

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else cut it."""
        self._response.close()


def translate(error: Exception, provider: str) -> UpstreamError:
    """What the client met, as one of our errors. Every exception it raises has its line here."""
    if isinstance(error, http1.Lost | http1.Malformed) and error.begun:
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
