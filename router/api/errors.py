"""Turns every failure into OpenAI's error object, with the right status, on every path."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.exceptions import ValidationException as LitestarValidation
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Send

from providers.errors import (
    BodyTooLargeError,
    EvalrouterError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
)
from router.api.page_layout import error_page, wants_page
from router.api.query_parameters import named_in_queries
from router.gateway.error_bodies import body_of

log = logging.getLogger("evalrouter")

# What msgspec's message about a text that is none of a few begins with.
_NO_VALUE = "Invalid enum value "


def from_exception(error: Exception, method: str, path: str) -> EvalrouterError:
    """Return any exception as one of ours; an unforeseen one is logged, and has status 500."""
    if isinstance(error, EvalrouterError):
        return error
    if isinstance(error, MethodNotAllowedException):
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow") or ""
        return MethodNotAllowedError(
            f"{method} is not allowed on {path}", allowed=[*allowed.split(", "), "OPTIONS"]
        )
    if isinstance(error, NotFoundException):
        return NotFoundError(f"This server has no path {path}. GET /schema lists every path.")
    if isinstance(error, HTTPException) and error.status_code == 413:
        return BodyTooLargeError("The request body is larger than server.max_body_bytes.")
    if isinstance(error, HTTPException):
        wrapped = RequestError(error.detail)
        wrapped.status = error.status_code
        return wrapped
    log.error("unforeseen error on %s %s", method, path, exc_info=error)
    return EvalrouterError(
        "Something went wrong here; the server's log says what.", code="internal"
    )


def refused_arguments(error: LitestarValidation, handler: BaseRouteHandler) -> RequestError:
    """Return what a handler's arguments cannot be, under the names that requests have for them."""
    extra = error.extra if isinstance(error.extra, list) else []
    shown = []
    for item in extra:
        name, values = named_in_queries(handler, str(item.get("key")))
        message = str(item.get("message"))
        if values:
            message = message.replace(_NO_VALUE, f"one of {', '.join(values)}; not ")
        shown.append((name, message))
    text = "; ".join(f"{name}: {message}" for name, message in shown)
    return RequestError(text or error.detail, param=shown[0][0] if shown else None)


async def refuse(error: RequestError, send: Send, **more: str) -> None:
    """Answer a request with an error and `more` headers; it goes no further."""
    body = body_of(error)
    headers = {**error.headers, **more}
    headers |= {"content-type": "application/json", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer a request outside the hot path that failed; Litestar's exception handler."""
    if isinstance(error, LitestarValidation):
        error = refused_arguments(error, request.route_handler)
    ours = from_exception(error, request.method, request.url.path)
    headers = dict(ours.headers) if isinstance(ours, RequestError) else {}
    if wants_page(request):
        page = error_page(request, ours)
        page.headers.update(headers)
        return page
    return Response(
        body_of(ours), status_code=ours.status, media_type="application/json", headers=headers
    )
