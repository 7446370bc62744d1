"""Errors in Anthropic's form, one of each kind that this package raises."""

import json

import pytest
from anthropic.types import ErrorResponse

from providers import errors
from providers.errors import (
    AuthenticationError,
    BodyTooLargeError,
    ConflictError,
    MethodNotAllowedError,
    ModelNotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    RequestError,
    StoreUnavailableError,
    TargetBusyError,
    UnavailableError,
    UpstreamAuthError,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from providers.translation.messages_errors import error_answer, error_object

# What the package's types do not list, and Anthropic's documentation of errors does.
DOCUMENTED = {"request_too_large", "conflict_error"}


def host_error(status, body=b"no"):
    return UpstreamStatusError(status, body, {}, "lab answered with an error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("m"), 400, "invalid_request_error"),
        (AuthenticationError("m"), 401, "authentication_error"),
        (PermissionDeniedError("m"), 403, "permission_error"),
        (ModelNotFoundError("m"), 404, "not_found_error"),
        (MethodNotAllowedError("m", allowed=["GET"]), 405, "invalid_request_error"),
        (ConflictError("m"), 409, "conflict_error"),
        (BodyTooLargeError("m"), 413, "request_too_large"),
        (ProtocolError(431, "m", code="c"), 431, "invalid_request_error"),
        (RateLimitError("m", retry_after=1), 429, "rate_limit_error"),
        (TargetBusyError("m", retry_after=1), 529, "overloaded_error"),
        (UnavailableError("m"), 529, "overloaded_error"),
        (StoreUnavailableError("m", fault="slow", reason="r"), 529, "overloaded_error"),
        (errors.StoreError("m"), 500, "api_error"),
        (UpstreamConnectError("m"), 502, "api_error"),
        (UpstreamProtocolError("m"), 502, "api_error"),
        (UpstreamAuthError("m", upstream_status=401, headers={}), 502, "api_error"),
        (UpstreamTimeoutError("m", phase="total"), 504, "timeout_error"),
        (host_error(400), 400, "invalid_request_error"),
        (host_error(402), 402, "billing_error"),
        (host_error(429), 429, "rate_limit_error"),
        (host_error(500), 500, "api_error"),
        (host_error(503), 529, "overloaded_error"),
        (host_error(529), 529, "overloaded_error"),
    ],
)
def test_each_error_has_anthropics_status_and_type(error, status, kind):
    answered, body = error_answer(error, "req_1")
    assert answered == status
    read = json.loads(body)
    assert read["error"]["type"] == kind
    assert read["error"]["message"].startswith(("m", "lab answered with an error: no"))
    assert read["request_id"] == "req_1"
    if kind not in DOCUMENTED:
        ErrorResponse.model_validate(read, strict=True)
    assert "request_id" not in error_object(error)


def test_an_error_in_anthropics_form_stays_as_it_is():
    body = (
        b'{"type":"error","error":{"type":"invalid_request_error","message":"thinking: no",'
        b'"details":{"a":1}},"request_id":"req_9"}'
    )
    answered, sent = error_answer(host_error(400, body), "req_1")
    assert answered == 400
    assert json.loads(sent) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":"no"}',
        b'{"type":"error","error":{"type":"x"}}',
        b'{"type":"error","error":{"message":"no"}}',
        b'{"error":{"type":"x","message":"no"}}',
        b"[]",
        b"{",
    ],
)
def test_other_forms_become_anthropics(body):
    answered, sent = error_answer(host_error(400, body))
    read = json.loads(sent)
    assert answered == 400
    assert read["type"] == "error"
    assert read["error"]["type"] == "invalid_request_error"
    ErrorResponse.model_validate(read, strict=True)


@pytest.mark.parametrize(
    "fields",
    [{"code": "context_length_exceeded"}, {"code": 400, "type": "exceed_context_size_error"}],
)
def test_a_prompt_that_is_too_long_is_named_as_anthropic_names_it(fields):
    body = json.dumps({"error": {"message": "At most 9 tokens.", **fields}}).encode()
    _, sent = error_answer(host_error(400, body))
    assert json.loads(sent)["error"]["message"] == "prompt is too long: At most 9 tokens."
