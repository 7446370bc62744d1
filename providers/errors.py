"""Every error evalrouter raises on purpose.

Catch the branch you can act on:

    EvalrouterError
    ├── InputError                    the caller has to change something
    │   ├── ConfigError               the config file (path inside it, closest key)
    │   ├── DatasetError              a dataset file (path, line)
    │   ├── EvidenceError             a bundle of evidence, or a key for one
    │   ├── RunDocumentError          an eval run document (path inside it)
    │   ├── MissingExtraError         an optional package is needed; says how to install it
    │   └── RequestError              an HTTP request
    │       ├── AuthenticationError   401: no key, or one that is unknown, revoked or expired
    │       ├── PermissionDeniedError 403: the key is good and may not do this
    │       ├── NotFoundError         404: no such run, dataset, page
    │       │   └── ModelNotFoundError    404: the model names neither a route nor provider/model
    │       ├── MethodNotAllowedError 405
    │       ├── ConflictError         409: the thing is in a state that forbids this
    │       ├── BodyTooLargeError     413
    │       ├── ProtocolError         its own status: not HTTP/1.1 as the server takes it
    │       ├── UnsupportedMediaTypeError 415: a coding of the body that is not decoded here
    │       └── RateLimitError        429: too much for now, or a budget is spent
    ├── UpstreamError                 a target failed; nothing is wrong with the request
    │   ├── UpstreamConnectError      502: refused, reset, DNS, TLS
    │   │   └── WorkerLostError       502: a run's own worker died; another one may answer
    │   ├── UpstreamTimeoutError      504: connect, first_byte, between_chunks or total
    │   │   └── TargetStartingError   504: it is being started, and was not ready in time
    │   ├── UpstreamProtocolError     502: cut off in mid-body, or not the JSON it promised
    │   ├── UpstreamAuthError         502: it refused the key that the config has for it
    │   ├── UpstreamStatusError       its own status and body, unchanged
    │   └── TargetBusyError           429: all targets are full, and so are their queues
    ├── ClientGoneError               499: the client went away before the answer
    ├── UnavailableError              503: the server has no room, or is being stopped
    └── PlacedError                   500: its message names a place that clients are not told
        ├── StoreError                500: the database refused
        │   └── StoreUnavailableError 503: the database does not work at present
        └── ArtifactError             500: the place where files are stored refused

Data sits on the exception (`status`, `type`, `code`, `param`); nothing matches on message text.
`as_openai()` gives the one error object every HTTP path answers with.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from providers.host_json import decode
from providers.shortening import shortened

# Characters of an error that is sent: messages quote what the client sent, which may be anything.
MAX_MESSAGE = 8192
MAX_PARAM = 256
# Names of things are shorter; comparing longer ones with them would take long.
_MAX_COMPARED = 300


class EvalrouterError(Exception):
    """Base of the tree. `message` is for people; the attributes are for programs.

    Attributes:
        status: HTTP status the error is answered with.
        type: OpenAI's `error.type`.
        code: OpenAI's `error.code`, a string or None.
        param: the request field at fault, or None.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def as_openai(self) -> dict[str, dict[str, Any]]:
        """Return the error as OpenAI's error object, ready for JSON."""
        return {
            "error": {
                "message": shortened(self.message, MAX_MESSAGE),
                "type": self.type,
                "param": None if self.param is None else shortened(self.param, MAX_PARAM),
                "code": self.code,
            }
        }


class InputError(EvalrouterError):
    """The caller has to change something; sending it again unchanged fails again.

    Attributes:
        problems: the path in a document to what is wrong there, where several things are.
    """

    status = 400
    type = "invalid_request_error"
    problems: Mapping[str, str] = {}


class ConfigError(InputError):
    """The config file cannot be used. The message names file, line, path in it and a remedy."""

    code = "invalid_config"


class DatasetError(InputError):
    """A dataset cannot be used. The message names the file and, where known, the line."""

    code = "invalid_dataset"


class RunDocumentError(InputError):
    """An eval run document cannot be used. `param` is the path inside the document."""

    code = "invalid_run"


class EvidenceError(InputError):
    """A bundle of evidence, or a key to sign it with, cannot be used."""

    code = "invalid_evidence"


class MissingExtraError(InputError):
    """An optional package is not installed; the message says which extra brings it."""

    code = "missing_extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra {extra!r}: pip install 'evalrouter[{extra}]'",
        )


class RequestError(InputError):
    """An HTTP request that cannot be served as it stands.

    Attributes:
        headers: response headers that belong to the error, names in lower case.
    """

    headers: Mapping[str, str] = {}


class AuthenticationError(RequestError):
    """No key was presented, or one that is unknown, revoked or expired."""

    status = 401
    code = "invalid_api_key"
    # HTTP requires every 401 to name a scheme.
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class PermissionDeniedError(RequestError):
    """The key is good, but it may not do this."""

    status = 403
    code = "permission_denied"


class NotFoundError(RequestError):
    """The server has nothing under that name."""

    status = 404
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """`model` names neither a route nor `provider/model`."""

    code = "model_not_found"


class MethodNotAllowedError(RequestError):
    """The path does not take this method.

    Args:
        message: names the method and the path.
        allowed: the methods that the path takes, for the header `allow`.
    """

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.headers = {"allow": ", ".join(sorted(allowed))}


class ConflictError(RequestError):
    """The thing is in a state that forbids the request."""

    status = 409
    code = "conflict"


class BodyTooLargeError(RequestError):
    """The request body is larger than `server.max_body_bytes`."""

    status = 413
    code = "body_too_large"


class ProtocolError(RequestError):
    """The bytes of the request are malformed, too many, too slow, or of another protocol.

    Args:
        status: the response's, from 400, 405, 408, 414, 431, 501, 505.
        message: what is wrong with them.
        code: OpenAI's `error.code`.
    """

    def __init__(self, status: int, message: str, *, code: str) -> None:
        super().__init__(message, code=code)
        self.status = status


class UnsupportedMediaTypeError(RequestError):
    """The request body has a coding that is not decoded here."""

    status = 415
    code = "unsupported_content_encoding"
    headers: Mapping[str, str] = {"accept-encoding": "gzip, deflate"}


class RateLimitError(RequestError):
    """Too much for now. Nothing was sent to any target.

    Args:
        message: which limit, and how large it is.
        retry_after: seconds until the same request may succeed; None when waiting does not help,
            and then a header keeps OpenAI's clients from retrying by themselves.
        code: `rate_limit_exceeded`, or `insufficient_quota` when a budget is spent.
        headers: further response headers, names in lower case.
    """

    status = 429
    type = "rate_limit_error"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None,
        code: str = "rate_limit_exceeded",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after
        if retry_after is None:
            advice = {"x-should-retry": "false"}
        else:
            milliseconds = max(1, math.ceil(retry_after * 1000))
            advice = {
                "retry-after": str(math.ceil(milliseconds / 1000)),
                "retry-after-ms": str(milliseconds),
            }
        self.headers = {**(headers or {}), **advice}


class UpstreamError(EvalrouterError):
    """A target failed. Another attempt, or another target, may succeed.

    Attributes:
        attempts: what was tried before giving up, as the dispatcher records it.
    """

    status = 502
    type = "upstream_error"
    attempts: tuple[Any, ...] = ()


class UpstreamConnectError(UpstreamError):
    """No connection to the target, or it broke before the answer began."""

    code = "upstream_unreachable"


class WorkerLostError(UpstreamConnectError):
    """The worker of a run's own cluster that had the request died, or its machine did."""

    code = "worker_lost"


class UpstreamTimeoutError(UpstreamError):
    """The target was too slow. `phase` is connect, first_byte, between_chunks or total."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class TargetStartingError(UpstreamTimeoutError):
    """The target is being started and was not ready in time. It has not failed."""

    code = "target_starting"


class UpstreamProtocolError(UpstreamError):
    """The target's answer was cut off in the middle or is not what it says it is."""

    code = "upstream_invalid_response"


class UpstreamTooLargeError(UpstreamProtocolError):
    """The target's answer has more bytes than are read; it would be as long the next time."""

    code = "upstream_answer_too_large"


class UpstreamAuthError(UpstreamError):
    """The target refused the key that the config has for it, which the client knows nothing of.

    Attributes:
        upstream_status: 401, 403 or 407.
        headers: the answer's headers, names in lower case.
    """

    code = "upstream_auth"

    def __init__(self, message: str, *, upstream_status: int, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.upstream_status = upstream_status
        self.headers = dict(headers)


class UpstreamStatusError(UpstreamError):
    """The target answered with an error of its own, with its status and body.

    Attributes:
        body: the answer's bytes as they came.
        headers: the answer's headers, names in lower case.
        hint: what the operator may have to mend, "" where that is not known.
    """

    def __init__(self, status: int, body: bytes, headers: dict[str, str], message: str) -> None:
        super().__init__(message, code=f"upstream_{status}")
        self.status = status
        self.body = body
        self.headers = headers
        self.hint = ""

    @property
    def is_openais(self) -> bool:
        """Whether the body is an error object like OpenAI's, rather than a web server's page."""
        error = _error_object(self.body)
        return error is not None and not error.keys().isdisjoint(("type", "code"))

    def as_openai(self) -> dict[str, dict[str, Any]]:
        """Return the target's own error in OpenAI's shape, whatever its host sends.

        `code` is a string or None (vLLM and llama.cpp send numbers), Mistral's `detail` and
        Gemini's array are unpacked, and the text of any other body is added to the message.
        """
        error = _error_object(self.body)
        if error is None:
            text = self.body[:500].decode("utf-8", "replace").strip()
            error = {"message": f"{self.message}: {text}" if text else self.message}
        code = error.get("code")
        if type(code) is int:
            code = str(code)
        error["code"] = code if isinstance(code, str) else None
        if not isinstance(error.get("message"), str):
            error["message"] = self.message
        if self.hint:
            message = error["message"].removeprefix(f"{self.message}: ")
            error["message"] = f"{self.message}: {message} ({self.hint})"
        if not isinstance(error.get("type"), str):
            error["type"] = self.type
        if not isinstance(error.get("param"), str):
            error["param"] = None
        return {"error": error}


class TargetBusyError(UpstreamError):
    """Every target of the route is full, and so is every queue. Nothing was sent.

    Attributes:
        headers: `retry-after`, in seconds.
    """

    status = 429
    type = "rate_limit_error"
    code = "target_busy"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.headers = {"retry-after": f"{retry_after:g}"}


def _error_object(body: bytes) -> dict[str, Any] | None:
    """Return the error in a host's error body; None where the body has none."""
    try:
        content = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, dict):
        return None
    error = content.get("error", content)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return None
    if "message" in error:
        return dict(error)
    detail = error.get("detail")
    if isinstance(detail, list):
        # FastAPI's validation errors, which Mistral and others send.
        parts = [part for part in detail if isinstance(part, dict)]
        message = "; ".join(
            f"{'.'.join(map(str, part.get('loc', ())))}: {part.get('msg', '')}" for part in parts
        )
        return {"message": message} if message else None
    return {"message": detail} if isinstance(detail, str) else None


class ClientGoneError(EvalrouterError):
    """The client closed its connection before the answer was complete."""

    status = 499
    code = "client_closed_request"


class UnavailableError(EvalrouterError):
    """The server has no room for another connection, or is being stopped."""

    status = 503
    code = "unavailable"


class PlacedError(EvalrouterError):
    """Something went wrong at a place of the server's own, which its clients are not told.

    Args:
        message: what went wrong, with the place.
        place: the path or address as the message has it; "" where it has none.
        shown_place: what clients are told in its stead.
    """

    shown_place: ClassVar[str]

    def __init__(self, message: str, *, place: str = "") -> None:
        super().__init__(message)
        self.place = place

    def as_openai(self) -> dict[str, dict[str, Any]]:
        """Return OpenAI's error object, without the place."""
        document = super().as_openai()
        if self.place:
            shown = self.message.replace(self.place, self.shown_place)
            document["error"]["message"] = shortened(shown, MAX_MESSAGE)
        return document


class StoreError(PlacedError):
    """The database refused a read or a write."""

    code = "store_error"
    shown_place = "the database"


StoreFault = (
    Literal["locked", "slow", "full", "read_only", "failing"]
    | Literal["unreachable", "deleted", "replaced", "corrupt"]
)


class StoreUnavailableError(StoreError):
    """The database does not work at present: it is locked, full, gone or damaged.

    Args:
        message: what could not be done, where, and the reason.
        fault: what is wrong, for programs.
        reason: the same in words, without the database's path.
        place: the database's path or address.

    Attributes:
        fault, reason: see above.
    """

    status = 503
    code = "store_unavailable"

    def __init__(self, message: str, *, fault: StoreFault, reason: str, place: str = "") -> None:
        super().__init__(message, place=place)
        self.fault = fault
        self.reason = reason


class ArtifactError(PlacedError):
    """The folder or bucket where files are stored refused."""

    code = "artifact_error"
    shown_place = "the artifact store"


def closest(name: str, known: Iterable[str], *, max_names: int = 3) -> str:
    """Return the names nearest to `name`, as the tail of an error message.

    That is " Did you mean 'a' or 'b'?"; all known names when they are few and none is near; or ""
    when no name is known.
    """
    names = sorted(set(known))
    near: list[str] = []
    if len(name) <= _MAX_COMPARED:
        near = difflib.get_close_matches(name, names, n=max_names, cutoff=0.6)
    if near:
        return f" Did you mean {_either(near)}?"
    if names and len(names) <= 12:
        return f" Known: {', '.join(names)}."
    return ""


def _either(names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
