"""What all pages for a browser have in common: layout, headers, errors.

    @page("/runs")
    async def run_list(services: Injected, caller: InjectedCaller) -> Response[str]:
        return await rendered("runs.html", caller, title="Runs", current="/runs", runs=...)

A page that has the path of an operation of the API is a handler of `/pages` and that path: a
browser that asks for `/routes` gets `/pages/routes`, and a program gets JSON.

A page loads files of this server only, and has no script or style of its own: the policy that it
is sent with forbids both. Texts are escaped by the templates.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib.metadata import version as version_of
from typing import Any, NamedTuple

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import HttpMethod, MediaType, Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Redirect

from evaluators.reports.cells import ABSENT, verdict_words
from evaluators.reports.report import dollars
from evaluators.stats.comparison import Comparison
from providers.errors import EvalrouterError
from router.api.access import Caller, known_sender
from router.api.static_files import WEB, version

PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "private, no-cache",
    "vary": "accept, cookie",
}
# Of handlers whose errors are pages, too.
PAGE = "evalrouter_page"


class NavigationEntry(NamedTuple):
    """A page that every page links to.

    Attributes:
        name: what the link says.
        path: its address.
        operation: the page in the table of `access.py`.
    """

    name: str
    path: str
    operation: str


NAVIGATION = (
    NavigationEntry("Home", "/", "GET /"),
    NavigationEntry("Playground", "/playground", "GET /playground"),
    NavigationEntry("Runs", "/runs", "GET /runs"),
    NavigationEntry("Compare", "/compare", "GET /compare"),
    NavigationEntry("Experiments", "/experiments", "GET /pages/experiments"),
    NavigationEntry("Datasets", "/datasets", "GET /pages/datasets"),
    NavigationEntry("Judges", "/judges", "GET /judges"),
    NavigationEntry("Traffic", "/traffic", "GET /pages/traffic"),
    NavigationEntry("Review", "/review", "GET /pages/review"),
    NavigationEntry("Routes", "/routes", "GET /pages/routes"),
    NavigationEntry("Keys", "/keys", "GET /pages/keys"),
    NavigationEntry("Settings", "/settings", "GET /settings"),
)
# Before the path of a page that has the path of an operation of the API.
SHARED = "/pages"


class Pages:
    """Knows which paths are pages.

    Args:
        handlers: those of the server; `page` makes those of pages.
    """

    def __init__(self, handlers: Iterable[object]) -> None:
        paths = [
            path
            for handler in handlers
            if isinstance(handler, HTTPRouteHandler)
            and PAGE in handler.opt
            and HttpMethod.GET in handler.http_methods
            for path in handler.paths
        ]
        self._paths = [re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)) for path in paths]

    def shared(self, path: str) -> str | None:
        """Return the page's own path where its path is one of the API, too; None elsewhere."""
        page_path = SHARED + path
        return page_path if self.has(page_path) else None

    def has(self, path: str) -> bool:
        """Return whether a path is a page."""
        return any(pattern.fullmatch(path) for pattern in self._paths)


def page(path: str) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Return a decorator that makes a function the handler of a page."""
    return get(path, media_type=MediaType.HTML, include_in_schema=False, opt={PAGE: True})


def action(
    path: str, *, is_upload: bool = False
) -> Callable[[Callable[..., Any]], HTTPRouteHandler]:
    """Return a decorator that makes a function the handler of a page's form.

    It changes something and returns `done`, or the page with the form again and what is wrong.

    Args:
        path: its path.
        is_upload: whether the function itself limits how much it reads of the body.
    """
    limit: Any = {"request_max_body_size": None} if is_upload else {}
    return post(
        path,
        status_code=303,
        media_type=MediaType.HTML,
        include_in_schema=False,
        opt={PAGE: True},
        **limit,
    )


def done(path: str) -> Redirect:
    """Return what leads a browser on to a page, after an action."""
    return Redirect(path, status_code=303)


def form_again(response: Response[str], status_code: int = 200) -> Response[str]:
    """Return what answers a form with the page that it is on; the page's address stays.

    Args:
        response: the page.
        status_code: from 400 on where the page says what is wrong.
    """
    response.status_code = status_code
    # htmx would show the form's own address, which cannot be loaded again.
    response.headers["hx-push-url"] = "false"
    return response


async def done_or_shown(
    change: Awaitable[str | Response[str]],
    shown: Callable[[EvalrouterError], Awaitable[Response[str]]],
) -> Response[Any]:
    """Make a change, and lead on to a page; or show the form again with what is wrong.

    Args:
        change: what a form is for; returns the path of the page that shows what came of it, or
            that page where it has no path.
        shown: returns the page of the form, with the error.

    Raises:
        EvalrouterError: the server failed, and what was typed is not to blame.
    """
    try:
        made = await change
    except EvalrouterError as error:
        if error.status >= 500:
            raise
        return form_again(await shown(error), error.status)
    return done(made) if isinstance(made, str) else made


def html_response(text: str, status_code: int = 200) -> Response[str]:
    """Return a response with a page, or a part of one, under the policy of pages."""
    return Response(
        text, status_code=status_code, media_type=MediaType.HTML, headers=dict(PAGE_HEADERS)
    )


def text_response(text: str) -> Response[bytes]:
    """Return a text that a browser shows as a text."""
    headers = PAGE_HEADERS | {"content-disposition": "inline"}
    return Response(text.encode("utf-8", "replace"), media_type="text/plain", headers=headers)


async def rendered(
    template: str, caller: Caller | None, *, title: str, current: str = "", **values: Any
) -> Response[str]:
    """Return a page, made in a thread.

    Args:
        template: its file in `router/web`.
        caller: whose page it is; None for a page without navigation.
        title: what it is called.
        current: the entry of the navigation that it is under.
        values: what the template has besides.
    """
    text = await part(template, **_layout(caller, title, current) | values)
    return html_response(text)


async def part(template: str, **values: Any) -> str:
    """Return a template's HTML, made in a thread: of a whole page, or of a part that is live."""
    return await asyncio.to_thread(_render, template, values)


class ShownPart:
    """A part of a page, rendered when what it shows has changed.

    Args:
        template: its file in `router/web`.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._shown: tuple[dict[str, Any], str] | None = None

    async def html(self, values: dict[str, Any]) -> str:
        """Return the part's HTML."""
        if self._shown is None or self._shown[0] != values:
            self._shown = values, await part(self._template, **values)
        return self._shown[1]


def template_names() -> list[str]:
    """Return the files of all templates."""
    return _templates().list_templates(extensions=["html"])


def read_template(name: str) -> None:
    """Read a template's file and compile it, which takes 10 to 60 ms the first time."""
    _templates().get_template(name)


def error_page(request: Request[Any, Any, Any], error: EvalrouterError) -> Response[str]:
    """Return an error as a page."""
    title = HTTPStatus(error.status).phrase if error.status in set(HTTPStatus) else "Error"
    values = _layout(known_sender(request), title, "")
    described = {"message": error.message, "status": error.status, "code": error.code}
    text = _render("error.html", values | described)
    return html_response(text, error.status)


def wants_page(request: Request[Any, Any, Any]) -> bool:
    """Return whether an error is to be a page: of a page, or of a path that does not exist."""
    handler = request.scope.get("route_handler")
    is_page = handler is None or PAGE in handler.opt
    return is_page and accepts_html(request.headers.get("accept", ""))


def accepts_html(accept: str) -> bool:
    """Return whether an Accept header is a browser's that loads a page, not a program's."""
    return "text/html" in accept.lower()


def navigation_of(
    caller: Caller, entries: Iterable[NavigationEntry] = NAVIGATION
) -> list[NavigationEntry]:
    """Return the entries that a caller may see, of the navigation of all pages or of another."""
    return [entry for entry in entries if caller.reach_of(entry.operation) != "no"]


def _render(template: str, values: Mapping[str, Any]) -> str:
    return _templates().get_template(template).render(values)


def _layout(caller: Caller | None, title: str, current: str) -> dict[str, Any]:
    return {
        "title": title,
        "current": current,
        "navigation": [] if caller is None else navigation_of(caller),
        "signed_in": "" if caller is None or not caller.csrf_token else caller.key_name,
        "csrf_token": "" if caller is None else caller.csrf_token,
    }


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(WEB),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        # The files do not change while a server runs.
        auto_reload=False,
    )
    templates.filters |= {"as_json": as_json, "bytes": size, "number": number, "utc": utc}
    templates.filters |= {"dollars": money, "duration": duration}
    templates.globals |= {
        "release": version_of("evalrouter"),
        "static": _static,
        "verdict_class": _verdict_class,
        "verdict_words": verdict_words,
    }
    return templates


def _static(name: str) -> str:
    return f"/static/{version()}/{name}"


def number(value: float | None, *, sign: bool = False) -> str:
    """Return a number as pages show it: three digits or more; `-` for None."""
    if value is None:
        return "-"
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def size(count: int) -> str:
    """Return a number of bytes as pages show it: `512 bytes`, `1.5 MiB`."""
    if count < 1024:
        return f"{count} bytes"
    power = 1 if count < 1024**2 else 2 if count < 1024**3 else 3
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def money(usd: float | None, *, estimated: bool = False) -> str:
    """Return US dollars as all pages show them: `$12.50`, `$0.0012`; `-` for None."""
    return ABSENT if usd is None else dollars(usd, estimated=estimated)


def duration(seconds: float | None) -> str:
    """Return a time as all pages show it: `0.09 ms`, `250 ms`, `1.50 s`; `-` for None."""
    if seconds is None:
        return ABSENT
    if seconds < 0.9995:
        shown = 1000 * seconds
        return f"{shown:.{0 if shown >= 9.95 else 1 if shown >= 0.995 else 2}f} ms"
    return f"{seconds:,.{2 if seconds < 9.995 else 1 if seconds < 99.95 else 0}f} s"


def as_json(value: Any, indent: int = 0) -> str:
    """Return a value as JSON, on one line without an indent."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent).decode()


def utc(seconds: float | None, *, precise: bool = False) -> str:
    """Return a moment as pages show it, to the minute, or to the second; "" for None."""
    if seconds is None:
        return ""
    form = "%Y-%m-%d %H:%M:%S" if precise else "%Y-%m-%d %H:%M"
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def _verdict_class(comparison: Comparison | None) -> str:
    verdict = comparison.verdict if comparison else None
    return verdict if verdict in ("better", "worse") else ""
