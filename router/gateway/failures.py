"""Tells what a target's failure means: whose fault it is, whether and when to try again.

No IO, except that an answer which cannot be read is logged.
"""

from __future__ import annotations

import email.utils
import logging
import re
from collections.abc import Mapping
from datetime import UTC

from providers.errors import (
    TargetStartingError,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamStatusError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from router.gateway.routing import FIRST_BYTE_S, TimeLimits
from router.records import Target, TrafficClass

log = logging.getLogger("evalrouter")

# Longer hints are not dates.
MAX_HINT_CHARS = 64
# The error code of a host whose quota or credit is used up.
SPENT = "insufficient_quota"

_SECONDS = re.compile(r"\+?[0-9]{1,12}(\.[0-9]{0,12})?")
# Statuses that speak of the key, or of what a proxy wants: not of what the client sent.
_REFUSES_KEY = frozenset({401, 403, 407})
# What hosts call a used-up quota or credit.
_SPENT = frozenset({SPENT, "billing_hard_limit_reached", "billing_not_active"})
# What hosts call the errors that `fallback_on` names.
_NAMES = {
    "context_length_exceeded": frozenset(
        {"context_length_exceeded", "context_window_exceeded", "exceed_context_size_error"}
    ),
    "content_filter": frozenset(
        {
            "content_filter",
            "content_filtered",
            "content_policy_violation",
            "ResponsibleAIPolicyViolation",
        }
    ),
}


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return how many seconds the host asks us to wait.

    It says so by `retry-after-ms`, or by `Retry-After` as seconds or a date. None where it does
    not, and where the time has passed.

    Args:
        headers: the answer's headers, names in lower case.
        now: seconds since the epoch.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if not text or len(text) > MAX_HINT_CHARS:
            continue
        seconds = float(text) * scale if _SECONDS.fullmatch(text) else _until(text, now)
        if seconds > 0:
            return seconds
    return None


def _until(date: str, now: float) -> float:
    """Return the seconds until an HTTP date; 0 for any other text."""
    try:
        when = email.utils.parsedate_to_datetime(date)
        # A date without a zone is not in this machine's.
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def is_clients_fault(failure: UpstreamError) -> bool:
    """Return whether the request itself is at fault, so that no target would answer it."""
    if not isinstance(failure, UpstreamStatusError):
        return False
    if failure.headers.get("x-should-retry", "").lower() == "true":
        return False
    # 402 and 404 speak of our account and our model name there, which another target does not
    # share (as do 401 and 403, see `refuses_key`); every other 4xx of what the client sent.
    return 400 <= failure.status < 500 and failure.status not in (402, 404, 408, 409, 429)


def falls_back(failure: UpstreamError, fallback_on: frozenset[str | int]) -> bool:
    """Return whether the route wants another target to be tried after this refusal."""
    if not fallback_on or not isinstance(failure, UpstreamStatusError):
        return False
    if failure.status in fallback_on:
        return True
    error = failure.as_openai()["error"]
    inner = error.get("innererror")
    named = [error["code"], error.get("type"), inner.get("code") if isinstance(inner, dict) else ""]
    codes = {code for code in named if isinstance(code, str)}
    return any(codes & _NAMES[name] for name in fallback_on if isinstance(name, str))


def is_spent(failure: UpstreamError) -> bool:
    """Return whether the target's account has no quota or credit left: waiting does not help."""
    if not isinstance(failure, UpstreamStatusError) or failure.status not in (402, 429):
        return False
    if failure.status == 402 or failure.code == SPENT:
        return True
    error = failure.as_openai()["error"]
    return any(isinstance(error[name], str) and error[name] in _SPENT for name in ("code", "type"))


def refuses_key(failure: UpstreamStatusError) -> bool:
    """Return whether the target refused the key that the config has for it."""
    return failure.status in _REFUSES_KEY


def key_refused(failure: UpstreamStatusError, target: Target) -> UpstreamAuthError:
    """Return the error that says to the client that the config's key is to blame."""
    message = failure.as_openai()["error"]["message"]
    return UpstreamAuthError(
        f"The provider {target.provider!r} refused the key that this server's config has for it "
        f"(status {failure.status}): {message[:500]}",
        upstream_status=failure.status,
        headers=failure.headers,
    )


def is_targets_fault(failure: UpstreamError) -> bool:
    """Return whether the failure speaks against the target rather than against the request."""
    if isinstance(failure, TargetStartingError | UpstreamAuthError):
        return False
    return not isinstance(failure, UpstreamStatusError) or failure.status >= 500


def is_about_usage(error: UpstreamError) -> bool:
    """Return whether the host refused `stream_options`."""
    return (
        isinstance(error, UpstreamStatusError)
        and error.status in (400, 422)
        and (b"stream_options" in error.body or b"include_usage" in error.body)
    )


def may_be_paid(failure: UpstreamError) -> bool:
    """Return whether the target had the request and may have worked on it."""
    if isinstance(failure, UpstreamTimeoutError):
        return failure.phase != "connect" and not isinstance(failure, TargetStartingError)
    return isinstance(failure, UpstreamProtocolError)


def is_rate_limit(failure: UpstreamError) -> bool:
    """Return whether the target refused because it gets too many requests."""
    return isinstance(failure, UpstreamStatusError) and failure.status == 429


def may_succeed_later(failure: UpstreamError, traffic_class: TrafficClass) -> bool:
    """Return whether the same target may answer when the request is sent again."""
    if isinstance(failure, UpstreamTimeoutError):
        # The answer of an evaluation is as long the next time, and is paid for once more.
        return traffic_class == "live" or failure.phase == "connect"
    if isinstance(failure, UpstreamStatusError):
        if is_spent(failure):
            return False
        advice = failure.headers.get("x-should-retry", "").lower()
        if advice in ("true", "false"):
            return advice == "true"
        return failure.status in (408, 409, 429) or failure.status >= 500
    return not isinstance(failure, UpstreamAuthError | UpstreamTooLargeError)


def too_slow(
    target: Target, phase: str, limits: TimeLimits, section: str, starting: str = ""
) -> UpstreamTimeoutError:
    """Return the error of a target that has used up one of its time limits.

    Args:
        target: the target.
        phase: the limit: `first_byte`, `between_chunks` or `total`.
        limits: the target's limits.
        section: the section of the config that has them; "" for the defaults.
        starting: why the target may still be starting; "" for one that is not.
    """
    seconds = getattr(limits, phase) or FIRST_BYTE_S
    words = {
        "first_byte": f"no first byte within {seconds:g} s",
        "between_chunks": f"no further chunk within {seconds:g} s",
        "total": f"not done within {seconds:g} s",
    }
    kind: type[UpstreamTimeoutError] = UpstreamTimeoutError
    message = f"{target}: {words[phase]}"
    if starting:
        kind, message = TargetStartingError, f"{message}; {starting}"
    return with_section(kind(message, phase=phase), section)


def with_section(error: UpstreamTimeoutError, section: str) -> UpstreamTimeoutError:
    """Return the error with a message that says where the config has the limit."""
    if not section:
        return error
    return type(error)(
        f"{error.message} (the config's {section}.timeout.{error.phase})", phase=error.phase
    )


def unreadable(target: Target, failure: Exception) -> UpstreamProtocolError:
    """Log and return the error of an answer over which its provider's code failed."""
    log.error("the answer of %s could not be read", target, exc_info=failure)
    return UpstreamProtocolError(f"{target}: the answer cannot be read")
