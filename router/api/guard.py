"""Finds out whose request it is, outside the model paths (`completions.py` calls `Keys.admit`).

While keys are required, a request without a usable one is refused, but on the paths that the table
of `access.py` opens to all. What a key may do is decided there, once the handler is known.

Without keys, two requests are refused: those that call the server by a name it does not go by, and
those that a browser sends for another site's page (`origins.py`).

A key is presented as `Authorization: Bearer er-...`, `x-api-key` or `api-key`, or as the password
of HTTP Basic, with any name. A browser has a session of a key instead (`sign_in.py`): without one,
a page that it requests is answered with the way to the form.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from litestar import Litestar
from litestar.types import Receive, Send

from providers.errors import AuthenticationError, RequestError
from router.api.access import (
    PRESENTED,
    PUBLIC_PATHS,
    PUBLIC_PREFIXES,
    SAFE_METHODS,
    PresentedKey,
)
from router.api.errors import refuse
from router.api.event_streams import EventStreams
from router.api.origins import Hosts, Origins
from router.api.page_layout import Pages, accepts_html
from router.api.sign_in import cookie_of, login_path, session_cookie
from router.config.server import Server
from router.gateway.keys import Keys, presented
from router.gateway.sessions import COOKIE, Sessions, SignedIn

# Portkey's clients present their key in a header of their own.
PORTKEY_FEEDBACK = "/v1/feedback"


class Guard:
    """An ASGI app in front of another one, which only gets requests that it may answer.

    Args:
        app: the other one.
        keys: the clients' keys.
        sessions: the browsers' sessions.
        pages: which paths are pages.
        server: the server's config.
        hosts: the names that the server goes by.
        origins: the sites whose pages may call it.
    """

    def __init__(
        self,
        app: Litestar,
        *,
        keys: Keys,
        sessions: Sessions,
        pages: Pages,
        server: Server,
        hosts: Hosts,
        origins: Origins,
    ) -> None:
        self._app = app
        self._keys = keys
        self._sessions = sessions
        self._streams = EventStreams(keys, sessions)
        self._pages = pages
        self._server = server
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with OpenAI's error object or the form to sign in."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            is_browser = scope["method"] == "GET" and accepts_html(
                headers.get(b"accept", b"").decode("latin-1")
            )
            own_path = self._pages.shared(scope["path"]) if scope["method"] == "GET" else None
            is_page = is_browser and (own_path is not None or self._pages.has(scope["path"]))
            try:
                presented_key = await self._check(scope["method"], scope["path"], headers)
            except AuthenticationError as error:
                if is_page and b"authorization" not in headers:
                    await _send_to(login_path(scope["path"], scope["query_string"]), send)
                else:
                    await _refuse(error, headers, send)
                return
            except RequestError as error:
                await refuse(error, send)
                return
            scope = {**scope, PRESENTED: presented_key}
            if own_path is not None and is_browser:
                scope |= {"path": own_path, "raw_path": own_path.encode()}
            elif own_path is not None:
                # A browser gets another answer.
                send = _with_header(send, b"vary", b"accept")
            if is_page and presented_key.signed_in is not None:
                send = await self._renewing(presented_key.signed_in, scope["scheme"], send)
            if scope["method"] == "GET":
                async with self._streams.serve(presented_key, send) as watched:
                    await self._app(scope, receive, watched)
                return
        await self._app(scope, receive, send)

    async def _check(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> PresentedKey:
        required = self._keys.required
        public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)
        if public or not required:
            if not required:
                # Load balancers call a machine by its address.
                self._hosts.check(headers.get(b"host"), addresses=public)
            if method not in SAFE_METHODS:
                self._origins.check(headers)
            return PresentedKey(None, required)
        key = presented(headers)
        if key is None and path.startswith(PORTKEY_FEEDBACK):
            key = headers.get(b"x-portkey-api-key")
        if key is None:
            key, signed_in = await self._added_by_a_browser(headers)
            if (key or signed_in) and method not in SAFE_METHODS:
                self._origins.check(headers)
            if signed_in is not None:
                return PresentedKey(signed_in.key, required, signed_in)
        # A path that does not exist is no secret: it gets its 404 or 405 from the app.
        return PresentedKey(self._keys.identify(key), required)

    async def _added_by_a_browser(
        self, headers: Mapping[bytes, bytes]
    ) -> tuple[bytes | None, SignedIn | None]:
        """Return the password, or the session, that a browser adds to requests by itself."""
        if b"authorization" in headers:
            return basic(headers[b"authorization"]), None
        if b"cookie" in headers:
            return None, await self._sessions.find(cookie_of(headers, COOKIE))
        return None, None

    async def _renewing(self, signed_in: SignedIn, scheme: str, send: Send) -> Send:
        """Return a `send` that gives the browser a new token, where it has an old one."""
        renewed = await self._sessions.renewed(signed_in)
        if renewed is None:
            return send
        cookie = session_cookie(renewed.token, self._server, scheme)
        return _with_header(send, *cookie.to_encoded_header())


def _with_header(send: Send, name: bytes, value: bytes) -> Send:
    """Return a `send` that adds a header to the answer."""

    async def send_with_header(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (name, value)]}
        await send(message)

    return send_with_header


async def _send_to(location: str, send: Send) -> None:
    """Answer a request with the address of another page."""
    headers = [
        (b"location", location.encode()),
        (b"cache-control", b"no-store"),
        (b"vary", b"accept, cookie"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse(error: AuthenticationError, request: Mapping[bytes, bytes], send: Send) -> None:
    more = {}
    if accepts_html(request.get(b"accept", b"").decode("latin-1")):
        more["www-authenticate"] = 'Basic realm="evalrouter: any name, your key as password"'
    await refuse(error, send, **more)


def basic(authorization: bytes | None) -> bytes | None:
    """Return the password in an Authorization header of the scheme Basic; None without one."""
    if authorization is None or authorization[:6].lower() != b"basic ":
        return None
    try:
        _, colon, password = base64.b64decode(authorization[6:], validate=True).partition(b":")
    except binascii.Error:
        return None
    return password if colon else None
