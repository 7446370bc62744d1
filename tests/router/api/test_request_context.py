"""What the objects of a request under way show of themselves in logs and tracebacks."""

import pytest

from router.api.request_context import RequestContext
from router.gateway.upstream import UpstreamRequest
from router.protocol import Exchange

SECRET = "er-secret-of-a-client"
PATH = "/v1/chat/completions"
SCOPE = {"headers": [(b"authorization", f"Bearer {SECRET}".encode())], "path": PATH}


@pytest.mark.parametrize(
    "one",
    [
        RequestContext.of(SCOPE, 0.0, 0.0),
        UpstreamRequest(PATH, {}, stream=False, request_id="r", headers={"x": SECRET}),
        Exchange(None, "POST", "1.1", True, SCOPE),
    ],
    ids=lambda one: type(one).__name__,
)
def test_no_secret_is_shown(one):
    assert SECRET not in repr(one)
    assert type(one).__name__ in repr(one)
