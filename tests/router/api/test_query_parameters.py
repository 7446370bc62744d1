"""Query parameters that no handler reads are refused, by every operation."""

import gc
import re

import httpx
import pytest
from litestar.handlers.base import BaseRouteHandler
from servers import gateway

from router.api.access import ACCESS
from router.api.query_parameters import OPEN_PATHS


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    config = f"{{server: {{port: 0}}, storage: {{database: 'sqlite:///{folder}/e.db'}}}}"
    with gateway(config) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def send(http, operation, **query):
    method, _, path = operation.partition(" ")
    response = http.request(method, re.sub(r"\{\w+\}", "x", path), params=query)
    error = response.json().get("error") if response.status_code == 400 else None
    return response, error or {}


@pytest.mark.parametrize(
    "operation", [name for name in ACCESS if not name.startswith(("POST /v1/", "PUT /v1/"))]
)
def test_an_unknown_parameter_is_refused(http, operation):
    response, error = send(http, operation, no_such_parameter="1")
    if operation.partition(" ")[2].startswith(OPEN_PATHS):
        assert response.status_code in {200, 404}
        return
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "unknown_parameter"
    assert error["param"] == "no_such_parameter"


def test_every_parameter_of_the_schema_is_known(http):
    documented = [
        (f"{method.upper()} {path}", parameter["name"])
        for path, item in http.get("/schema").json()["paths"].items()
        for method, operation in item.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    ]
    assert len(documented) > 60
    for operation, name in documented:
        if operation.partition(" ")[2].startswith(OPEN_PATHS):
            continue
        _, error = send(http, operation, **{name: "1"})
        assert error.get("code") != "unknown_parameter", (operation, name)
        if (operation, name) != ("PUT /datasets/{name}", "column"):
            _, error = send(http, operation, **{name: ["1", "2"]})
            assert (error["code"], error["param"]) == ("repeated_parameter", name)


def test_the_message_names_what_may_have_been_meant(http):
    error = http.get("/traffic?limits=5").json()["error"]
    assert "no query parameter 'limits'. Did you mean 'limit'?" in error["message"]
    error = http.get("/keys?limit=5").json()["error"]
    assert error["message"].endswith("It has none.")
    error = http.get("/traffic?" + "N" * 5000 + "=1").json()["error"]
    assert len(error["message"]) < 400


def test_what_a_path_allows_can_be_requested_with_any(http):
    assert http.options("/traffic?limit=1&x=2").status_code == 204


@pytest.mark.parametrize(
    ("operation", "name", "value", "known"),
    [
        ("GET /eval", "state", "done", "queued, running, paused, completed, failed, cancelled"),
        ("GET /traffic", "class", "test", "live, eval"),
        ("GET /traffic/totals", "class", "", "live, eval"),
        ("DELETE /traffic", "class", "Live", "live, eval"),
    ],
)
def test_a_value_that_is_none_of_a_few_is_refused_with_those(http, operation, name, value, known):
    response, error = send(http, operation, **{name: value})
    assert response.status_code == 400
    assert error["message"] == f"{name}: one of {known}; not '{value}'"
    assert error["param"] == name


def test_an_error_has_the_name_that_the_query_has(http):
    _, error = send(http, "DELETE /datasets/{name}", all="perhaps")
    assert (error["param"], error["message"].partition(":")[0]) == ("all", "all")


def test_requests_leave_nothing_behind(http):
    def handlers():
        gc.collect()
        return sum(isinstance(thing, BaseRouteHandler) for thing in gc.get_objects())

    http.get("/traffic?limit=5")
    before = handlers()
    for _ in range(20):
        assert http.get("/traffic?limit=5").status_code == 200
        assert http.get("/traffic?limits=5").status_code == 400
    assert handlers() < before + 10
