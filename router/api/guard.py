"""Who may see what, outside the model paths (`completions.py` asks `Keys.admit` by itself).

While keys are required: `/health/*` is open to all, `/v1/models` to every key, and everything else
(evaluations, traffic, metrics, pages, the schema, paths that do not exist) to keys made with
`--admin`, because it shows what others asked. What is not listed here is closed.

Without keys, only a browser that was sent by another site's page is turned away.

A key is presented as `Authorization: Bearer er-...`. A browser asks its user for a name and a
password instead (HTTP Basic): any name will do, and the key is the password.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from litestar.types import ASGIApp, Receive, Send

from providers.errors import AuthenticationError, PermissionDeniedError, RequestError
from router.api.errors import body_of
from router.keys import Keys, bearer

OPEN = "/health/"
ANY_KEY = "/v1/models"

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """An ASGI app in front of another one, which only gets what its caller may see."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

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
            return
        if not self._keys.required:
            if method not in SAFE_METHODS:
                refuse_other_origins(headers)
            return
        authorization = headers.get(b"authorization")
        key = bearer(authorization)
        if key is None:
            key = basic(authorization)
            if key is not None and method not in SAFE_METHODS:
                refuse_other_origins(headers)
        row = self._keys.identify(key)
        if not (row.admin or path == ANY_KEY or path.startswith(ANY_KEY + "/")):
            raise PermissionDeniedError(
                "This key may ask models only; this needs one made with "
                "'evalrouter key create NAME --admin'.",
                code="admin_required",
            )


def refuse_other_origins(headers: Mapping[bytes, bytes]) -> None:
    """For requests that need no key, or one that a browser adds by itself.

    Any site can make its visitors' browsers send those, to a server on their own machine too.

    Raises:
        PermissionDeniedError: a browser says that another site's page sent it.
    """
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc != headers.get(
        b"host", b""
    ).decode("latin-1"):
        raise PermissionDeniedError(
            "This request comes from a page of another site.", code="other_origin"
        )


def basic(authorization: bytes | None) -> bytes | None:
    """The password in an Authorization header of the scheme Basic; None for none."""
    if authorization is None or authorization[:6].lower() != b"basic ":
        return None
    try:
        _, colon, password = base64.b64decode(authorization[6:], validate=True).partition(b":")
    except binascii.Error:
        return None
    return password if colon else None


async def _refuse(error: RequestError, request: Mapping[bytes, bytes], send: Send) -> None:
    headers = dict(error.headers)
    if isinstance(error, AuthenticationError) and b"text/html" in request.get(b"accept", b""):
        headers["www-authenticate"] = 'Basic realm="evalrouter: any name, your key as password"'
    body = body_of(error)
    headers |= {"content-type": "application/json", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
