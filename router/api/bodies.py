"""Reads the JSON body of a request outside the hot path, as a document to be checked."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request

from providers.errors import InputError, RequestError
from providers.wire import UNREADABLE
from router.config.documents import Document


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
