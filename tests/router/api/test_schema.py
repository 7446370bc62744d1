"""`/schema`: every operation says what it takes and what it answers with."""

from __future__ import annotations

from collections import Counter

import httpx
import msgspec
import pytest
from servers import gateway

from router.api.request_bodies import BODIES


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    (folder / "d.jsonl").write_text('{"input": "hi"}\n')
    config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{roots: ["{folder}"]}}
evaluation: {{roots: ["{folder}"]}}
"""
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield folder, http


@pytest.fixture(scope="module")
def schema(server):
    return server[1].get("/schema").json()


def operations(schema):
    return {
        f"{method.upper()} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_that_writes_says_what_it_takes(schema):
    for name, operation in operations(schema).items():
        if name.startswith(("POST", "PUT", "PATCH")):
            content = operation["requestBody"]["content"]
            for media_type, described in content.items():
                assert described["schema"], (name, media_type)
    assert set(BODIES) <= set(operations(schema))


def test_every_operation_says_what_it_answers_with(schema):
    for name, operation in operations(schema).items():
        answers = {
            status: answer
            for status, answer in operation["responses"].items()
            if status.startswith("2")
        }
        assert answers, name
        for status, answer in answers.items():
            assert status == "204" or all(
                described["schema"] for described in answer["content"].values()
            ), name
        assert operation["responses"]["default"]["content"]["application/json"], name
        assert "400" not in operation["responses"], name


def test_names_are_unique_and_what_is_referred_to_is_there(schema):
    names = Counter(operation["operationId"] for operation in operations(schema).values())
    assert names.most_common(1)[0][1] == 1
    components = schema["components"]["schemas"]
    titles = Counter(one["title"] for one in components.values() if "title" in one)
    assert not [title for title, count in titles.items() if count > 1]

    def references(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for reference in references(schema):
        assert reference.removeprefix("#/components/schemas/") in components


SENT = {
    "POST /eval": {"dataset": "d.jsonl", "routes": ["r"], "metrics": []},
    "POST /datasets": {"source": "d.jsonl"},
    "POST /keys": {"name": "x"},
    "POST /feedback": {"name": "x"},
}


@pytest.mark.parametrize("operation", [name for name, body in BODIES.items() if body.kind])
def test_the_described_fields_are_those_that_are_read(server, schema, operation):
    """A field that is not described is refused, and one that is described is never unknown."""
    _, http = server
    method, path = operation.split(" ")
    body = operations(schema)[operation]["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    url = path.replace("{run_id}", "run_x").replace("{name}", "nobody")
    unknown = {**SENT.get(operation, {}), "no_such_field": 1}
    message = http.request(method, url, json=unknown).json()["error"]["message"]
    assert "no_such_field" in message
    for field in fields:
        # A number is a wrong value for all fields but numbers, whose name is enough.
        answer = http.request(method, url, json={field: {"no such": ["value"]}})
        assert f"{field}: unknown" not in answer.json()["error"]["message"], field


def test_the_bodies_are_read_by_the_types_that_are_described():
    for body in BODIES.values():
        if body.kind is not None:
            assert msgspec.json.schema(body.kind)["$ref"]
