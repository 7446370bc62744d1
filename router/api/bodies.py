"""Reads the JSON body of a request outside the hot path, as a document to be checked."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request

from providers.errors import InputError, RequestError
from providers.wire import UNREADABLE
from router.config.documents import Document, convert


class _NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    try:
        data = msgspec.json.decode(await request.body() or default)
    except UNREADABLE as problem:
        raise error(f"The body is not JSON: {problem}", code="bad_json") from None
    return Document(data, "", {})


async def check_no_options(
    request: Request[Any, Any, Any], *, error: type[InputError | RequestError] = RequestError
) -> None:
    """Refuse a body with anything in it; it may be empty, or `{}`.

    Raises:
        error: it is not JSON, or has a key.
    """
    convert(await document_of(request, error=error, default=b"{}"), _NoOptions, error=error)
