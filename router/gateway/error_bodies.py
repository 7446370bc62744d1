"""Writes errors as clients of each API read them. No IO."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.errors import EvalrouterError, UpstreamStatusError
from providers.http import sse
from providers.wire import UNREADABLE

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def body_of(error: EvalrouterError) -> bytes:
    """Return the error as JSON; a host's body that is OpenAI's object already passes as it is."""
    document = error.as_openai()
    if isinstance(error, UpstreamStatusError) and _same(error.body, document):
        return error.body
    return _encode(document)


def _same(body: bytes, document: dict[str, Any]) -> bool:
    try:
        return bool(_decode(body) == document)
    except UNREADABLE:
        return False


def event_of(error: EvalrouterError) -> bytes:
    """Return the error as an event of a stream of chat completions."""
    return sse.encode(body_of(error))


def error_answer(error: EvalrouterError, _request_id: str) -> tuple[int, bytes]:
    """Return the status and the body that answer a request which failed, as OpenAI has them."""
    return error.status, body_of(error)
