"""Decides who may see what, outside the model paths (`completions.py` calls `Keys.admit`).

While keys are required: `/health/*` is open to all, `/v1/models` to every key, and everything else
(evaluations, traffic, metrics, pages, the schema) to keys made with `--admin`, because it shows
what others requested. A path that is not listed here is closed; one that does not exist is a 404.

Without keys, two requests are refused: those that call the server by a name it does not go by, and
those that a browser sends for another site's page (`origins.py`).

A key is presented as `Authorization: Bearer er-...`, `x-api-key` or `api-key`. A browser asks its
user for a name and a password instead (HTTP Basic): any name will do, and the key is the password.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from litestar import Litestar
from litestar.types import Receive, Send

from providers.errors import AuthenticationError, PermissionDeniedError, RequestError
from router.api.errors import refuse
from router.api.origins import Hosts, Origins
from router.gateway.keys import Keys, presented

OPEN = "/health/"
ANY_KEY = "/v1/models"

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """An ASGI app in front of another one, which only gets requests that it may answer."""

    def __init__(self, app: Litestar, keys: Keys, hosts: Hosts, origins: Origins) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._origins = origins
        self._paths = [(_pattern(route.path_format), route.methods) for route in app.routes]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with OpenAI's error object."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            try:
                self._check(scope["method"], scope["path"], headers)
            except RequestError as error:
                await _refuse(error, headers, send)
                return
        await self._app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> None:
        if path.startswith(OPEN):
            # Load balancers call a machine by its address.
            if not self._keys.required:
                self._hosts.check(headers.get(b"host"), addresses=True)
            return
        if not self._keys.required:
            self._hosts.check(headers.get(b"host"))
            if method not in SAFE_METHODS:
                self._origins.check(headers)
            return
        key = presented(headers)
        if key is None:
            key = basic(headers.get(b"authorization"))
            if key is not None and method not in SAFE_METHODS:
                self._origins.check(headers)
        row = self._keys.identify(key)
        if row.admin or path == ANY_KEY or path.startswith(ANY_KEY + "/"):
            return
        # A path that does not exist is no secret: it gets its 404 or 405 from the app.
        if self._exists(method, path):
            raise PermissionDeniedError(
                "This key may only use models; this request needs a key created with "
                "'evalrouter key create NAME --admin'.",
                code="admin_required",
            )

    def _exists(self, method: str, path: str) -> bool:
        return any(method in methods and form.fullmatch(path) for form, methods in self._paths)


def _pattern(path: str) -> re.Pattern[str]:
    """Return a pattern for the paths of a route such as `/eval/{run_id}`."""
    parts = re.split(r"\{[^}]*\}", path)
    return re.compile(".+".join(re.escape(part) for part in parts))


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
