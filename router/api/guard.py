"""Finds out whose request it is, outside the model paths (`completions.py` calls `Keys.admit`).

While keys are required, a request without a usable one is refused, but on the paths that the table
of `access.py` opens to all. What a key may do is decided there, once the handler is known.

Without keys, two requests are refused: those that call the server by a name it does not go by, and
those that a browser sends for another site's page (`origins.py`).

A key is presented as `Authorization: Bearer er-...`, `x-api-key` or `api-key`. A browser asks its
user for a name and a password instead (HTTP Basic): any name will do, and the key is the password.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from litestar import Litestar
from litestar.types import Receive, Send

from providers.errors import AuthenticationError, RequestError
from router.api.access import PRESENTED, PUBLIC_PATHS, PUBLIC_PREFIXES, PresentedKey
from router.api.errors import refuse
from router.api.origins import Hosts, Origins
from router.gateway.keys import Keys, presented

# Portkey's clients present their key in a header of their own.
PORTKEY_FEEDBACK = "/v1/feedback"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """An ASGI app in front of another one, which only gets requests that it may answer."""

    def __init__(self, app: Litestar, keys: Keys, hosts: Hosts, origins: Origins) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with OpenAI's error object."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            try:
                presented_key = self._check(scope["method"], scope["path"], headers)
            except RequestError as error:
                await _refuse(error, headers, send)
                return
            scope = {**scope, PRESENTED: presented_key}
        await self._app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> PresentedKey:
        required = self._keys.required
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            # Load balancers call a machine by its address.
            if not required:
                self._hosts.check(headers.get(b"host"), addresses=True)
            return PresentedKey(None, required)
        if not required:
            self._hosts.check(headers.get(b"host"))
            if method not in SAFE_METHODS:
                self._origins.check(headers)
            return PresentedKey(None, required)
        key = presented(headers)
        if key is None and path.startswith(PORTKEY_FEEDBACK):
            key = headers.get(b"x-portkey-api-key")
        if key is None:
            key = basic(headers.get(b"authorization"))
            if key is not None and method not in SAFE_METHODS:
                self._origins.check(headers)
        # A path that does not exist is no secret: it gets its 404 or 405 from the app.
        return PresentedKey(self._keys.identify(key), required)


async def _refuse(error: RequestError, request: Mapping[bytes, bytes], send: Send) -> None:
    more = {}
    if isinstance(error, AuthenticationError) and b"text/html" in request.get(b"accept", b""):
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
