"""`/login` and `/logout`: a browser's user signs in with a key, and out."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote

from litestar import Request, Response, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter
from litestar.response import Redirect

from providers.errors import AuthenticationError, BodyTooLargeError, PermissionDeniedError
from router.api.access import PRESENTED, SAFE_METHODS
from router.api.injection import Injected
from router.api.origins import Origins
from router.api.page_layout import PAGE, PAGE_HEADERS, page, rendered
from router.config.server import Server
from router.gateway.key_holder import Holder
from router.gateway.keys import KEY_HEADERS, Keys
from router.gateway.sessions import COOKIE, FailedSignIns, Sessions, is_csrf_token
from router.store.sessions import BrowserSession

InjectedFailures = NamedDependency[FailedSignIns]
InjectedSessions = NamedDependency[Sessions]

# Of the browser that loaded the form, before it has a session.
FORM_COOKIE = "evalrouter_login"
CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"
URL_ENCODED = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES = 64 * 1024
_MAX_FIELDS = 1000
# A path of this server: `//host` and `/\host` are others' for a browser.
_LOCAL = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,2000}")


def cookie_of(headers: Mapping[bytes, bytes], name: str) -> str:
    """Return the value of a cookie, the first of this name; "" without it.

    Other programs on the same host may have set cookies that no standard allows: they are passed
    over one by one.
    """
    for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        set_name, _, value = pair.partition("=")
        if set_name.strip() == name:
            return value.strip().removeprefix('"').removesuffix('"')
    return ""


def session_cookie(
    token: str,
    server: Server,
    scheme: str,
    *,
    name: str = COOKIE,
    path: str = "/",
    samesite: Literal["lax", "strict"] = "lax",
) -> Cookie:
    """Return a cookie that no script sees; a token of "" takes it away."""
    return Cookie(
        key=name,
        value=token,
        path=path,
        httponly=True,
        samesite=samesite,
        # A proxy in front may have taken the encryption away.
        secure=scheme == "https" or server.public_url.startswith("https://"),
        max_age=None if token else 0,
    )


def login_path(path: str, query: bytes) -> str:
    """Return the path of the form that leads back to a page."""
    target = quote(path) + (f"?{query.decode('latin-1')}" if query else "")
    return f"/login?next={quote(local_path(target), safe='')}"


def local_path(target: str) -> str:
    """Return the path if it is one of this server, else `/`."""
    return target if _LOCAL.fullmatch(target) else "/"


async def read_fields(request: Request[Any, Any, Any]) -> Mapping[str, str]:
    """Return the fields of a form that is no upload; of several of a name, the first.

    Raises:
        BodyTooLargeError: it has more than 64 KiB.
    """
    return {name: values[0] for name, values in (await read_field_lists(request)).items()}


async def read_field_lists(request: Request[Any, Any, Any]) -> Mapping[str, list[str]]:
    """Return the fields of a form that is no upload, with all values of each name.

    Lines end as in other texts, not as browsers send them.

    Raises:
        BodyTooLargeError: it has more than 64 KiB.
    """
    declared = request.headers.get("content-length", "0")
    body = b"" if len(declared) > 6 else await request.body()
    if len(declared) > 6 or len(body) > _MAX_FORM_BYTES:
        raise BodyTooLargeError("A form of these pages has at most 64 KiB.")
    fields: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(
            body.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS
        ):
            fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    except ValueError:
        raise BodyTooLargeError(
            f"A form of these pages has at most {_MAX_FIELDS} fields."
        ) from None
    return fields


class CsrfCheck:
    """Litestar's guard of every handler: what changes something comes from a page of ours.

    Only requests that a browser's cookie identifies are checked.
    """

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
    ) -> None:
        """Check one request. Raises PermissionDeniedError."""
        scope: Any = connection.scope
        signed_in = scope[PRESENTED].signed_in
        if signed_in is not None and scope["method"] not in SAFE_METHODS:
            await check_csrf(connection, signed_in.session)


class ModelSessions:
    """The sessions of browsers whose pages call models; `completions.py` asks for them.

    Args:
        sessions: the browsers' sessions.
        keys: the clients' keys.
        origins: the sites whose pages may call the server.
    """

    def __init__(self, sessions: Sessions, keys: Keys, origins: Origins) -> None:
        self._sessions = sessions
        self._keys = keys
        self._origins = origins

    async def holder(self, headers: Mapping[bytes, bytes], error: AuthenticationError) -> Holder:
        """Return the holder of the key that a browser is signed in with.

        Raises:
            AuthenticationError: the `error`, there is no session, or another key is presented.
            PermissionDeniedError: the request is not made by a page of ours, or keys of this role
                call no models.
        """
        if b"cookie" not in headers or not headers.keys().isdisjoint(KEY_HEADERS):
            raise error
        signed_in = await self._sessions.find(cookie_of(headers, COOKIE))
        if signed_in is None:
            raise error
        self._origins.check(headers)
        token = headers.get(CSRF_HEADER.encode(), b"").decode("latin-1")
        _check_token(signed_in.session, token)
        return self._keys.holder_of(signed_in.key)


def _check_token(session: BrowserSession, token: str | None) -> None:
    if not is_csrf_token(session, token):
        raise PermissionDeniedError(
            "The form is not of this session. Load the page again.", code="csrf_token"
        )


async def check_csrf(
    connection: ASGIConnection[Any, Any, Any, Any], session: BrowserSession
) -> None:
    """Refuse a request that a browser sends by its cookie, but that no page of ours has made.

    The session's token is in the header `x-csrf-token`, or in the form's field `csrf_token`.

    Raises:
        PermissionDeniedError: it is in neither.
    """
    token: str | None = connection.headers.get(CSRF_HEADER)
    kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if token is None and kind == URL_ENCODED and isinstance(connection, Request):
        token = (await read_fields(connection)).get(CSRF_FIELD)
    _check_token(session, token)


@page("/login")
async def show_login(
    services: Injected,
    request: Request[Any, Any, Any],
    target: Annotated[str, QueryParameter(name="next")] = "/",
) -> Response[Any]:
    """Show the form."""
    if not services.keys.required:
        return _redirect("/")
    return await _form(services.config.server, request, local_path(target))


async def _form(
    server: Server,
    request: Request[Any, Any, Any],
    target: str,
    *,
    error: str = "",
    status_code: int = 200,
) -> Response[Any]:
    token = secrets.token_urlsafe(32)
    response = await rendered(
        "login.html", None, title="Sign in", target=target, csrf_token=token, error=error
    )
    response.status_code = status_code
    response.headers["cache-control"] = "no-store"
    response.cookies.append(
        session_cookie(
            token,
            server,
            request.url.scheme,
            name=FORM_COOKIE,
            path="/login",
            samesite="strict",
        )
    )
    return response


@post("/login", include_in_schema=False, opt={PAGE: True})
async def sign_in(
    services: Injected,
    sessions: InjectedSessions,
    failures: InjectedFailures,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    """Begin a session of the key, end the browser's former one, and lead to the page."""
    server, scheme = services.config.server, request.url.scheme
    fields, headers = await read_fields(request), dict(request.scope["headers"])
    target = local_path(fields.get("next", "/"))
    if not services.keys.required:
        return _redirect("/")
    token = cookie_of(headers, FORM_COOKIE)
    presented = fields.get(CSRF_FIELD, "")
    if not token or not hmac.compare_digest(
        token.encode(errors="replace"), presented.encode(errors="replace")
    ):
        return await _form(
            server, request, target, error="The form had expired. Try again.", status_code=400
        )
    address = request.client.host if request.client else ""
    failures.check(address)
    try:
        key = services.keys.identify(fields.get("key", "").strip().encode(errors="replace"))
    except AuthenticationError as error:
        failures.add(address)
        shown = error.message if fields.get("key", "").strip() else "Enter a key."
        return await _form(server, request, target, error=shown, status_code=401)
    former = await sessions.find(cookie_of(headers, COOKIE))
    if former is not None:
        await sessions.end(former.session)
    begun = await sessions.begin(key)
    response = _redirect(target)
    response.cookies.append(session_cookie(begun.token, server, scheme))
    return response


@post("/logout", include_in_schema=False, opt={PAGE: True})
async def sign_out(
    services: Injected, sessions: InjectedSessions, request: Request[Any, Any, Any]
) -> Response[Any]:
    """End the browser's session."""
    signed_in = await sessions.find(cookie_of(dict(request.scope["headers"]), COOKIE))
    if signed_in is not None:
        await check_csrf(request, signed_in.session)
        await sessions.end(signed_in.session)
    response = _redirect("/login")
    response.cookies.append(session_cookie("", services.config.server, request.url.scheme))
    response.headers["clear-site-data"] = '"cache"'
    return response


def _redirect(path: str) -> Response[Any]:
    return Redirect(path, status_code=303, headers={**PAGE_HEADERS, "cache-control": "no-store"})
