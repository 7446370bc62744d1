"""Reads the JSON body of a request outside the hot path, as a document to be checked."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from providers.errors import BodyTooLargeError, InputError, RequestError
from providers.off_loop import off_loop
from providers.wire import UNREADABLE
from router.config.documents import Document, convert

T = TypeVar("T")


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that has no options."""


async def document_of(
    request: Request[Any, Any, Any],
    *,
    error: type[InputError | RequestError] = RequestError,
    default: bytes = b"",
) -> Document:
    """Return the request's body; `default` where it is empty.

    Raises:
        error: it is not JSON.
    """
    body = await request.body()
    return await off_loop(len(body), decoded, body, error=error, default=default)


async def body_as(
    request: Request[Any, Any, Any],
    kind: type[T],
    *,
    error: type[InputError] = RequestError,
    default: bytes = b"",
) -> T:
    """Return the request's body as a value of `kind`; `default` where it is empty.

    Raises:
        error: it is not JSON, or no value of `kind`.
    """
    body = await request.body()
    return await off_loop(len(body), _read, body, kind, error, default)


def _read(body: bytes, kind: type[T], error: type[InputError], default: bytes) -> T:
    return convert(decoded(body, error=error, default=default), kind, error=error)


async def bounded_document_of(request: Request[Any, Any, Any], max_bytes: int) -> Document:
    """Return the body of a request that Litestar does not bound.

    Raises:
        BodyTooLargeError: it has more than `max_bytes`.
        RequestError: it is not JSON.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLargeError("The request body is larger than server.max_body_bytes.")
    return await off_loop(len(body), decoded, bytes(body))


def decoded(
    body: bytes,
    *,
    error: type[InputError | RequestError] = RequestError,
    default: bytes = b"",
) -> Document:
    """Return a body as a document; `default` where it is empty.

    Raises:
        error: it is not JSON.
    """
    try:
        data = msgspec.json.decode(body or default)
    except UNREADABLE as problem:
        raise error(f"The body is not JSON: {problem}", code="bad_json") from None
    return Document.of(data)


async def check_no_options(
    request: Request[Any, Any, Any], *, error: type[InputError | RequestError] = RequestError
) -> None:
    """Refuse a body with anything in it; it may be empty, or `{}`.

    Raises:
        error: it is not JSON, or has a key.
    """
    await body_as(request, NoOptions, error=error, default=b"{}")
