"""Checks the host names that the server answers to, and the sites whose pages may call it.

Without keys, whoever can reach the server may use it, and the browser of a person who visits a
hostile page can reach a server on that person's own machine. `Hosts` stops the page that has its
own name resolve to 127.0.0.1 (DNS rebinding): the browser still sends that name as `Host`.
`Origins` stops the page that calls the server by its real address: the browser says so in `Origin`,
or where something on the way has taken that away, in `Sec-Fetch-Site`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from litestar.types import ASGIApp, Receive, Send

from providers.errors import PermissionDeniedError
from router.config.server import Server

# Values of `Host` that passed are remembered up to this number; the rest are checked every time.
_REMEMBERED = 1024
# The rest of a name that is longer is not repeated in an error.
_SHOWN = 256

# How the page that sends a request stands to this server; `none` is the user, without a page.
_SITE = b"sec-fetch-site"
_OWN_SITE = frozenset({b"same-origin", b"none"})

PREFLIGHT = b"access-control-request-method"
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# Seconds a browser may reuse a preflight's answer. Chrome never keeps one longer than this.
_MAX_AGE = b"7200"

ResponseHeaders = list[tuple[bytes, bytes]]


class Hosts:
    """The values of `Host` that a server without keys answers.

    They are this machine's own names and addresses (`localhost`, `127.0.0.1`, `[::1]`), the
    `server.host` of the config, and what `server.allowed_hosts` lists, with any port.
    """

    def __init__(self, server: Server) -> None:
        names = {_canonical(name.strip("[]")) for name in (*server.allowed_hosts, server.host)}
        self._any = "*" in names
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._names = frozenset(names)
        self._passed: set[bytes] = set()

    def check(self, host: bytes | None, *, addresses: bool = False) -> None:
        """Raise unless the server answers to this `Host`; a set lookup for one that came before.

        Args:
            host: the header as it came; None without one.
            addresses: whether any IP address will do. A browser can be led astray only by a name.

        Raises:
            PermissionDeniedError: the server does not answer to it.
        """
        if host in self._passed or self._any or host is None:
            # Browsers send it always, and HTTP/1.1 has to; HTTP/1.0's clients may leave it out.
            return
        name = _name_in(host)
        if name is not None:
            address = _address(name)
            if self._allows(name, address):
                if len(self._passed) < _REMEMBERED:
                    self._passed.add(host)
                return
            if addresses and address is not None:
                return
        shown = host[:_SHOWN].decode("latin-1")
        raise PermissionDeniedError(
            f"The request's Host header is {shown!r}. While no key is required, this server "
            "answers to localhost and to the names that server.allowed_hosts lists in its config.",
            code="host_not_allowed",
        )

    def _allows(self, name: str, address: Any) -> bool:
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        if address is not None:
            return bool(address.is_loopback)
        return bool(self._suffixes) and name.endswith(self._suffixes)


def _name_in(host: bytes) -> str | None:
    """Return the name in a `Host` header in lower case without its port; None if it has none."""
    text = host.decode("latin-1")
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    else:
        name, _, port = text.partition(":")
    if (port and not (port.isascii() and port.isdigit())) or not name or not name.isprintable():
        return None
    return _canonical(name)


def _canonical(name: str) -> str:
    """Return a host name as it is compared: lower case, no final dot, addresses shortest."""
    name = name.lower().removesuffix(".")
    address = _address(name)
    return name if address is None else str(address)


def _address(name: str) -> Any:
    try:
        address = ip_address(name)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Origins:
    """The other sites whose pages may call the server: `server.allow_origins`.

    Attributes:
        configured: whether the config lists any site.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        origins = frozenset(origin.lower().encode() for origin in allowed)
        self.configured = bool(origins)
        self._any = b"*" in origins
        self._allowed = origins

    def allows(self, origin: bytes) -> bool:
        """Return whether the config lists the origin."""
        return self._any or origin.lower() in self._allowed

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise if a browser sends the request for a page of a site that may not.

        It is for requests that need no key, or one that a browser adds by itself: any site can
        make its visitors' browsers send those.

        Raises:
            PermissionDeniedError: the page is another site's, and the config does not list it.
        """
        origin = headers.get(b"origin")
        if origin is None:
            if self._any or headers.get(_SITE, b"none").lower() in _OWN_SITE:
                return
            named = ""
        elif self.allows(origin):
            return
        else:
            text = origin.decode("latin-1")
            if _netloc(text) == headers.get(b"host", b"").decode("latin-1").lower():
                return
            named = f", {text[:_SHOWN]!r}"
        raise PermissionDeniedError(
            f"This request comes from a page of another site{named}. Its pages may call this "
            "server once server.allow_origins in the config lists it.",
            code="other_origin",
        )

    def preflight(self, headers: Mapping[bytes, bytes]) -> ResponseHeaders:
        """Return the headers that answer a preflight: they say what the page may send.

        Raises:
            PermissionDeniedError: the page is another site's, and the config does not list it.
        """
        self.check(headers)
        answer: ResponseHeaders = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE),
        ]
        requested = headers.get(b"access-control-request-headers")
        if requested:
            answer.append((b"access-control-allow-headers", requested))
        if headers.get(b"access-control-request-private-network") == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return answer

    def exposing(self, app: ASGIApp) -> ASGIApp:
        """Return the app with answers that the allowed sites' pages may read, errors included."""

        async def exposed(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
            allowed = origin if origin is not None and self.allows(origin) else None

            async def send_exposed(message: Any) -> None:
                if message["type"] == "http.response.start":
                    headers = list(message.get("headers", ()))
                    more = self._exposing(allowed, headers)
                    message = {**message, "headers": _with_one_vary(headers + more)}
                await send(message)

            # A whole answer in one call would go past `send_exposed`.
            scope = {**scope, "extensions": {}}
            await app(scope, receive, send_exposed)

        return exposed

    def _exposing(self, origin: bytes | None, headers: ResponseHeaders) -> ResponseHeaders:
        if self._any:
            more: ResponseHeaders = [(b"access-control-allow-origin", b"*")]
        elif origin is not None:
            more = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        else:
            return [(b"vary", b"origin")]
        names = {bytes(name).lower() for name, _ in headers}
        shown = sorted(name for name in names if name.startswith((b"x-", b"retry-after")))
        if shown:
            more.append((b"access-control-expose-headers", b", ".join(shown)))
        return more


def _with_one_vary(headers: ResponseHeaders) -> ResponseHeaders:
    """Return the headers with what the answer depends on in one of them."""
    values = [value for name, value in headers if name == b"vary"]
    if len(values) < 2:
        return headers
    return [pair for pair in headers if pair[0] != b"vary"] + [(b"vary", b", ".join(values))]


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
