"""The headers of answers on the model paths: our own, and those of hosts under names of ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from providers.errors import (
    EvalrouterError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamStatusError,
)
from providers.masking import hide
from router.api.connection import Headers
from router.gateway.failures import is_spent, retry_after
from router.records import Attempt

# Of a host's headers about rate limits, those that are passed on, and how much of each.
MAX_HOST_HEADERS = 16
MAX_HOST_HEADER_BYTES = 256
# Of our own headers, those that list names; many clients take no more than 8 KB of all headers.
MAX_LIST_BYTES = 2048
# No client is sent away for longer than this.
MAX_RETRY_AFTER_S = 86_400.0

# What hosts call the id that they have for a request.
_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")
_REQUEST_ID_NAMES = frozenset(_REQUEST_IDS)
_RATE_LIMIT = re.compile(r"(?:x-|anthropic-)?ratelimit-([a-z0-9-]{1,64})")
_WITHOUT_CONTROLS = bytes(code if 32 <= code < 127 else 32 for code in range(256))


def printable(text: str) -> bytes:
    """Return a text as a header's value: a newline in a name must not begin another header."""
    return text.encode("ascii", "backslashreplace").translate(_WITHOUT_CONTROLS)


# The names are few, and every answer has some of them.
printable_name = lru_cache(maxsize=4096)(printable)


def list_value(text: str) -> bytes:
    """Return a list of names as a header's value, without its end where it is too long."""
    value = printable(text)
    if len(value) <= MAX_LIST_BYTES:
        return value
    end = MAX_LIST_BYTES - len(", ...")
    return value[: max(value.rfind(b", ", 0, end), 0) or end] + b", ..."


def attempts_value(attempts: Sequence[Attempt]) -> bytes:
    """Return `openai/gpt-4o-mini 503 0.120s, mistral/small ok 0.310s`."""
    return list_value(
        ", ".join(
            [f"{attempt.target} {attempt.result} {attempt.seconds:.3f}s" for attempt in attempts]
        )
    )


def host_headers(headers: Mapping[str, str], secrets: tuple[bytes, ...] = ()) -> Headers:
    """Return those headers of a host's answer that clients get, under names of our own.

    They are its request id, for a question to its support, and what it says of its rate limits.

    Args:
        headers: the host's, names in lower case.
        secrets: bytes that must not be passed on.
    """
    passed: Headers = []
    if not _REQUEST_ID_NAMES.isdisjoint(headers):
        name = next(name for name in _REQUEST_IDS if name in headers)
        request_id = _bounded(headers[name], secrets)
        passed.append((b"x-evalrouter-upstream-request-id", request_id))
    if "ratelimit-" in "\n".join(headers):
        limits = [
            (match[1], headers[name]) for name in headers if (match := _RATE_LIMIT.fullmatch(name))
        ]
        for name, value in limits[:MAX_HOST_HEADERS]:
            passed.append(
                (f"x-evalrouter-upstream-ratelimit-{name}".encode(), _bounded(value, secrets))
            )
    return passed


def _bounded(value: str, secrets: tuple[bytes, ...]) -> bytes:
    return hide(printable(value), secrets)[:MAX_HOST_HEADER_BYTES]


def error_headers(
    error: EvalrouterError, request_id: str, record_id: str, route: str, now: float
) -> Headers:
    """Return the headers of an answer that is an error.

    Args:
        error: what went wrong.
        request_id: the request's.
        record_id: its record's.
        route: the request's `model`, "" where it is not known.
        now: seconds since the epoch.
    """
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id.encode()),
        (b"x-evalrouter-record", record_id.encode()),
    ]
    if isinstance(error, UpstreamError):
        headers.append((b"x-evalrouter-route", printable(route)))
        headers.append((b"x-evalrouter-attempts", attempts_value(error.attempts)))
    more: Mapping[str, str] = getattr(error, "headers", {})
    if isinstance(error, UpstreamStatusError | UpstreamAuthError):
        headers += host_headers(more)
        if isinstance(error, UpstreamStatusError):
            headers += _retry_headers(error, now)
        else:
            # The next try meets the same key.
            headers.append((b"x-should-retry", b"false"))
    else:
        headers += [(name.encode(), printable(value)) for name, value in more.items()]
    return headers


def _retry_headers(error: UpstreamStatusError, now: float) -> Headers:
    """Return what a host says of another try, in the form that OpenAI's clients read."""
    headers: Headers = []
    wait = retry_after(error.headers, now)
    if wait is not None:
        wait = min(wait, MAX_RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % math.ceil(wait)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1000)))
    retry = "false" if is_spent(error) else error.headers.get("x-should-retry", "").lower()
    if retry in ("true", "false"):
        headers.append((b"x-should-retry", retry.encode()))
    return headers
