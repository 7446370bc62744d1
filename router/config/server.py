"""`server:` of the config: where the server listens and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from providers.base import Positive, Secret
from router.config.documents import Document, Problem
from router.config.section import Count, Section

_HostPattern = Annotated[str, msgspec.Meta(pattern=r"^(\*|(\*\.)?[A-Za-z0-9.:\[\]-]{1,253})$")]
_Origin = Annotated[str, msgspec.Meta(pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]{1,253})$")]
_HeaderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}$")]

# Headers that the router handles itself: they say who the client is, and frame the request.
_NEVER_PASSED = frozenset(
    {
        *("accept", "accept-encoding", "api-key", "authorization", "connection", "cookie"),
        *("content-encoding", "content-length", "content-type", "expect", "forwarded", "host"),
        *("keep-alive", "origin", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("traceparent", "transfer-encoding", "upgrade", "x-api-key", "x-request-id"),
    }
)


class Server(Section, frozen=True, kw_only=True):
    """Where the server listens and what it refuses.

    Attributes:
        host, port: the address; the default is reachable from this machine only.
        max_body_bytes: larger request bodies are answered with 413.
        drain_seconds: how long open requests may go on after SIGTERM; what is still open then is
            cut with an error, and 5 seconds later at most the process has ended.
        max_connections: connections of clients, per process; more are answered with 503. None for
            half of what the limit of open files leaves, since each may need one to a target.
        head_seconds: how long a request's headers may take, from their first byte to their last.
        body_seconds: how long every 16 KB of a request's body may take.
        send_seconds: how long a client may read nothing of a response that waits for it.
        idle_seconds: how long a connection may stay without a request.
        require_keys: whether every request needs a key even while no key exists.
        allow_anonymous: whether `evalrouter serve` may listen on an address that others can reach
            while no key exists and none is required.
        allowed_hosts: names that clients may call the server by (the header `Host`) while no key is
            required, besides this machine's own: `router.example.com`, `*.example.com`, or `*` for
            any. Without this, a page whose name is made to lead here could use the server.
        allow_origins: sites whose pages may call the server from a browser (CORS):
            `https://app.example.com`, or `*` for any.
        admin_key: the first administrator's key, created when the server starts, unless an
            administrator has one already; else `EVALROUTER_ADMIN_KEY`, or the file that
            `EVALROUTER_ADMIN_KEY_FILE` names. 32 characters or more.
        public_url: the address that people reach the server by, such as
            `https://router.example.com`, for links in what it sends; "" for no links.
        expose: what `/v1/models` lists to keys that are confined to no models: `all`, the config's
            `routes`, or the providers' `models`. Requests may name any of them all the same.
        pass_headers: headers of clients that are sent on to providers, besides `OpenAI-Beta`,
            `OpenAI-Organization` and `OpenAI-Project`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 4000
    max_body_bytes: Count = 32 * 1024 * 1024
    drain_seconds: Positive = 30.0
    max_connections: Count | None = None
    head_seconds: Positive = 20.0
    body_seconds: Positive = 30.0
    send_seconds: Positive = 60.0
    idle_seconds: Positive = 75.0
    require_keys: bool = False
    allow_anonymous: bool = False
    allowed_hosts: tuple[_HostPattern, ...] = ()
    allow_origins: tuple[_Origin, ...] = ()
    admin_key: Secret = Secret("")
    public_url: Annotated[
        str, msgspec.Meta(pattern=r"^(https?://[A-Za-z0-9.:\[\]-]{1,253}(/[A-Za-z0-9._~/-]*)?)?$")
    ] = ""
    expose: Literal["all", "routes", "models"] = "all"
    pass_headers: tuple[_HeaderName, ...] = ()


def server_problems(document: Document, server: Server) -> Iterator[Problem]:
    """Yield the headers that are never passed on."""
    for n, header in enumerate(server.pass_headers):
        if header.lower() in _NEVER_PASSED:
            yield document.problem(
                ("server", "pass_headers", n),
                f"{header} is handled by the router itself and is never passed on",
            )
