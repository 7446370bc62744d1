"""Errors in the form of Anthropic's API. No IO.

    status, body = error_answer(error, request_id)
    # 529, {"type": "error", "error": {"type": "overloaded_error", ...}, "request_id": ...}

Anthropic's clients choose by the status whether to try again, so statuses are Anthropic's too:
where there is no room (all targets of a route, or this server, or its database) that is 529, and
429 says that the caller has to slow down. What a host reports in Anthropic's own form stays as it
is, because Claude Code finds its way out of some errors by their words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from providers.errors import EvalrouterError, TargetBusyError, UpstreamStatusError
from providers.host_json import decode_object
from providers.wire import UNREADABLE

_encode = msgspec.json.Encoder().encode

OVERLOADED = 529
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
# How OpenAI and llama.cpp name a prompt that has too many tokens, in `code` and in `type`.
_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})


def status_of(error: EvalrouterError) -> int:
    """Return the status that Anthropic's API answers such an error with."""
    if isinstance(error, TargetBusyError) or error.status == 503:
        return OVERLOADED
    return error.status


def error_object(error: EvalrouterError, request_id: str = "") -> dict[str, Any]:
    """Return an error as Anthropic's object; with the request's id, where there is one."""
    if isinstance(error, UpstreamStatusError):
        document = _anthropics(error.body)
        if document is not None:
            return document
    fields = error.as_openai()["error"]
    status = status_of(error)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    message = fields["message"]
    if not _TOO_LONG.isdisjoint((fields["code"], fields["type"])):
        # Claude Code makes its conversation shorter where an error begins so.
        message = f"prompt is too long: {message}"
    document = {"type": "error", "error": {"type": kind, "message": message}}
    if request_id:
        document["request_id"] = request_id
    return document


def error_answer(error: EvalrouterError, request_id: str = "") -> tuple[int, bytes]:
    """Return the status and the body that answer a request which failed."""
    return status_of(error), _encode(error_object(error, request_id))


def _anthropics(body: bytes) -> dict[str, Any] | None:
    """Return a host's error where it has Anthropic's form; None where it has another."""
    try:
        document = decode_object(body)
    except UNREADABLE:
        return None
    error = document.get("error")
    if document.get("type") != "error" or not isinstance(error, dict):
        return None
    is_whole = isinstance(error.get("type"), str) and isinstance(error.get("message"), str)
    return document if is_whole else None
