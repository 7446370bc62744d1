"""What a target's failure means, read from its status, headers and body."""

import json

import pytest

from providers.errors import UpstreamStatusError
from router.gateway.failures import falls_back, retry_after


def test_retry_after_that_makes_no_sense_is_left_out():
    assert retry_after({}, 0) is None
    assert retry_after({"retry-after": "nan?"}, 0) is None
    for text in ("-5", "0", "nan", "inf", "1e400", "1_0", "٣", "9" * 400, "soon, maybe", "", " "):
        assert retry_after({"retry-after": text}, 0) is None, text
        assert retry_after({"retry-after-ms": text, "retry-after": "2"}, 0) == 2.0, text


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 12 Jan 1970 13:46:39 GMT",
        "Mon, 12 Jan 99999 13:46:39 GMT",
        "Mon, 99 Jan 2030 13:46:39 GMT",
        "Mon, 12 Jan 2030 13:46:39 +9999999",
        "1, 2, 3",
    ],
)
def test_a_date_that_is_past_or_malformed_is_no_time_to_wait(date):
    assert retry_after({"retry-after": date}, 1_000_000.0) is None


def test_a_date_without_a_zone_is_not_in_this_machines():
    date = "Mon, 12 Jan 1970 13:46:50 -0000"
    assert retry_after({"retry-after": date}, 1_000_000.0) == 10.0


@pytest.mark.parametrize(
    ("error", "falls"),
    [
        ({"code": "content_filter"}, True),
        ({"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, True),
        ({"code": "x", "innererror": {"code": "y"}}, False),
        # A host may send anything in the place of a code.
        ({"code": "x", "innererror": {"code": {"a": 1}}}, False),
        ({"code": "content_filter", "innererror": {"code": ["a"]}}, True),
        ({"code": [1], "type": {"a": 1}, "innererror": "x"}, False),
    ],
)
def test_what_a_route_falls_back_on(error, falls):
    body = json.dumps({"error": {"message": "no", **error}}).encode()
    failure = UpstreamStatusError(400, body, {}, "no")
    assert falls_back(failure, frozenset({"content_filter"})) is falls
