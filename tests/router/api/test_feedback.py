"""Feedback over HTTP: ours, TensorZero's, Portkey's and Langfuse's."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from servers import gateway, scripted

from router.gateway.key_administration import create
from router.store.sqlite import SqliteStore

MESSAGES = [{"role": "user", "content": "hi"}]


async def make_keys(path: Path) -> dict[str, tuple[str, str]]:
    store = SqliteStore(path)
    await store.open()
    try:
        keys = {}
        for name, role in (("client", "client"), ("other", "client"), ("admin", "admin")):
            secret, row = await create(store, name, now=0.5, role=role)
            keys[name] = secret, row.id
        return keys
    finally:
        await store.close()


class World(NamedTuple):
    http: httpx.Client
    keys: dict[str, tuple[str, str]]

    def send(
        self, method: str, path: str, name: str = "client", headers: Any = None, **options: Any
    ) -> httpx.Response:
        secret = self.keys[name][0]
        sent = {"authorization": f"Bearer {secret}", **(headers or {})}
        return self.http.request(method, path, headers=sent, **options)

    def ask(self, name: str = "client", model: str = "r", **headers: str) -> dict[str, str]:
        """Send a request; return its names: of the record, the client's, and the response's."""
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = self.send(
            "POST", "/v1/chat/completions", name, sent, json={"model": model, "messages": MESSAGES}
        )
        assert answer.status_code == 200, answer.text
        return {
            "record": answer.headers["x-evalrouter-record"],
            "x-request-id": answer.headers["x-request-id"],
            "response": answer.json()["id"],
        }

    def give(self, by: str = "client", headers: Any = None, **body: Any) -> httpx.Response:
        given = {"name": "thumb", "value": True, **body}
        sent = {key: value for key, value in given.items() if value is not None}
        return self.send("POST", "/feedback", by, headers, json=sent)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feedback")
    keys = asyncio.run(make_keys(folder / "e.db"))
    with scripted({"echo": [{}]}) as upstream:
        config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes:
  r: {{targets: [{{model: up/echo}}]}}
  silent: {{targets: [{{model: up/echo}}], record: none}}
"""
        with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield World(http, keys)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_request_is_named_by_its_record_its_client_or_its_response(world):
    names = world.ask(x_request_id="mine-1", x_evalrouter_conversation="talk-1")
    # At once: the record is not written yet.
    given = [world.give(request_id=name, user=kind) for kind, name in names.items()]
    assert [answer.status_code for answer in given] == [201, 201, 201]
    for answer, user in zip(given, names, strict=True):
        row = answer.json()
        assert row["record_id"] == names["record"]
        assert (row["user"], row["name"], row["kind"], row["value"]) == (
            user,
            "thumb",
            "bool",
            True,
        )
        assert (row["route"], row["target"], row["status"]) == ("r", "up/echo", 200)
        assert row["key_id"] == row["request_key"] == world.keys["client"][1]
        assert row["conversation"] == "talk-1"
        assert uuid.UUID(row["id"]).version == 7
        assert world.send("GET", f"/feedback/{row['id']}").json() == row
    listed = world.send("GET", f"/feedback?request_id={names['x-request-id']}").json()
    assert [row["user"] for row in listed["data"]] == list(reversed(names))


@pytest.mark.parametrize(
    ("value", "kind", "score"),
    [
        (False, "bool", 0.0),
        (4, "number", 4.0),
        (-0.5, "number", -0.5),
        ("too long", "text", None),
        ({"correction": "Hello!"}, "correction", None),
        ({"correction": {"role": "assistant", "content": "Hello!"}}, "correction", None),
    ],
)
def test_values(world, value, kind, score):
    row = world.give(request_id=world.ask()["record"], value=value, comment="why").json()
    stored = value["correction"] if isinstance(value, dict) else value
    assert (row["value"], row["kind"], row["score"]) == (stored, kind, score)
    assert row["comment"] == "why"


def test_what_an_author_says_last_is_what_a_request_shows(world):
    record = world.ask(x_evalrouter_conversation="talk-2")["record"]
    for value in (True, False):
        assert world.give(request_id=record, value=value, user="ann").status_code == 201
    world.give(request_id=record, value=True, user="bob")
    world.give(request_id=record, name="why", value="because")
    world.give(conversation="talk-2", name="solved", value=False)
    world.give("admin", request_id=record, name="quality", value=3)
    shown = world.send("GET", f"/traffic/{record}").json()
    assert shown["feedback"] == [
        {"name": "thumb", "count": 2, "mean": 0.5},
        {"name": "why", "count": 1, "mean": None},
    ]
    assert [(row["name"], row["user"], row["value"]) for row in shown["feedback_rows"]] == [
        ("thumb", "ann", False),
        ("thumb", "bob", True),
        ("why", "", "because"),
        ("solved", "", False),
    ]
    # What an administrator says of it is not the client's to read.
    rows = world.send("GET", "/traffic?conversation=talk-2").json()["data"]
    assert [row["feedback"] for row in rows] == [shown["feedback"]]
    rows = world.send("GET", "/traffic?conversation=talk-2", "admin").json()["data"]
    assert [summary["name"] for summary in rows[0]["feedback"]] == ["quality", "thumb", "why"]
    history = world.send("GET", f"/feedback?request_id={record}&history=true&user=ann").json()
    assert [(row["value"], row["superseded"]) for row in history["data"]] == [
        (False, False),
        (True, True),
    ]


def test_requests_of_other_keys_are_not_there(world):
    names = world.ask(x_request_id="mine-2", x_evalrouter_conversation="talk-3")
    world.ask("other", x_request_id="theirs")
    feedback = world.give(request_id=names["record"]).json()["id"]
    refused: list[Callable[[], httpx.Response]] = [
        lambda: world.give("other", request_id="mine-2"),
        lambda: world.give("other", request_id=names["record"]),
        lambda: world.give("other", request_id="nothing"),
        lambda: world.give("admin", request_id="mine-2"),
        lambda: world.give("other", conversation="talk-3"),
        lambda: world.send(
            "POST", "/v1/feedback", "other", json={"trace_id": "talk-3", "value": 1}
        ),
        lambda: world.send("GET", f"/feedback/{feedback}", "other"),
        lambda: world.send("DELETE", f"/feedback/{feedback}", "other"),
        lambda: world.send("PUT", f"/v1/feedback/{feedback}", "other", json={"value": 1}),
    ]
    # At once, because each waits for a record that may still come.
    with ThreadPoolExecutor(len(refused)) as pool:
        refusals = [future.result() for future in [pool.submit(send) for send in refused]]
    assert [answer.status_code for answer in refusals] == [404] * len(refusals)
    theirs, unknown = (
        error_of(answer)["message"].replace(name, "NAME")
        for answer, name in zip(refusals[1:3], (names["record"], "nothing"), strict=True)
    )
    assert theirs == unknown
    assert world.send("GET", "/feedback", "other").json()["data"] == []
    key = world.keys["client"][1]
    assert world.send("GET", f"/feedback?key={key}", "other").status_code == 403
    # An administrator names any record.
    assert world.give("admin", request_id=names["record"]).status_code == 201
    assert world.send("GET", f"/feedback?key={key}", "admin").json()["data"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"request_id": None}, "request_id"),
        ({"conversation": "c"}, "conversation"),
        ({"request_id": ""}, "request_id"),
        ({"name": ""}, "name"),
        ({"name": "n" * 257}, "name"),
        ({"name": None}, "name"),
        ({"metric_name": "m"}, "metric_name"),
        ({"value": None}, None),
        ({"value": []}, "value"),
        ({"value": {"correct": "x"}}, "value.correct"),
        ({"value": 1e13}, "value"),
        ({"value": 10**400}, "value"),
        ({"value": " "}, "value"),
        ({"value": "x" * 20_000}, "value"),
        ({"comment": "x" * 20_000}, "comment"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"user": "u" * 9000}, "user"),
        ({"idempotency_key": "a\nb"}, "idempotency_key"),
        ({"valeu": 1}, "valeu"),
        ({"consent": True}, "consent"),
        ({"messages": MESSAGES, "consent": True}, "answer"),
        ({"messages": MESSAGES, "answer": "a"}, "consent"),
        ({"messages": [], "answer": "a", "consent": True}, "messages"),
        ({"messages": [{"content": "x"}], "answer": "a", "consent": True}, "messages"),
        ({"model": "r"}, "model"),
        ({"request_id": None, "messages": MESSAGES, "answer": "a", "consent": True}, "model"),
    ],
)
def test_what_cannot_be_stored_is_refused(world, body, param):
    answer = world.give(**{"request_id": "x", **body})
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param


def test_a_body_that_is_no_object_is_refused(world):
    for content in (b"", b"[]", b"nonsense", b"1e999", b'{"name": "\\ud800"}'):
        assert world.send("POST", "/feedback", content=content).status_code == 400
    deep = b'{"name": "n", "value": 1, "request_id": "x", "metadata": ' + b'{"a":' * 900
    assert world.send("POST", "/feedback", content=deep + b"1" + b"}" * 901).status_code in (
        400,
        404,
    )
    assert world.send("POST", "/feedback", content=b" " * 3_000_000).status_code == 413


def test_a_conversation_is_sent_along_where_no_record_is_stored(world):
    names = world.ask(model="silent")
    refused = world.give(request_id=names["record"])
    assert refused.status_code == 404
    assert "consent: true" in error_of(refused)["message"]
    sent = {
        "messages": MESSAGES,
        "answer": "my key is sk-abcdefghijklmnopqrstuvwx",
        "consent": True,
    }
    given = world.give(model="silent", **sent)
    assert given.status_code == 201, given.text
    row = given.json()
    assert (row["route"], row["record_id"], row["sent_along"]) == ("silent", "", True)
    shown = world.send("GET", f"/feedback/{row['id']}").json()
    assert shown["messages"] == MESSAGES
    # Secrets are taken out, as of a recorded body.
    assert shown["answer"] == "my key is ***"
    listed = world.send("GET", "/feedback?route=silent").json()["data"]
    assert [(one["id"], one["messages"]) for one in listed] == [(row["id"], None)]
    # The record of this one has no bodies.
    given = world.give(request_id=world.ask()["record"], **sent)
    assert given.status_code == 201
    unknown = world.give(model="nobody/none", **sent)
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")


def test_a_request_that_is_repeated_stores_nothing_new(world):
    record = world.ask()["record"]
    first = world.give(request_id=record, idempotency_key="once")
    again = world.give(headers={"Idempotency-Key": "once"}, request_id=record)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = world.give(headers={"Idempotency-Key": "once"}, request_id=record, value=False)
    assert (other.status_code, error_of(other)["code"]) == (409, "conflict")
    both = world.give(headers={"Idempotency-Key": "a"}, request_id=record, idempotency_key="b")
    assert error_of(both)["param"] == "idempotency_key"


def test_who_deletes_feedback_has_said_nothing(world):
    record = world.ask()["record"]
    for value in (True, False):
        row = world.give(request_id=record, value=value).json()
    assert world.send("DELETE", f"/feedback/{row['id']}").json() == {"deleted": 2}
    assert world.send("DELETE", f"/feedback/{row['id']}").status_code == 404
    assert world.send("GET", f"/traffic/{record}").json()["feedback_rows"] == []


def test_pages_are_walked_through(world):
    record = world.ask()["record"]
    for n in range(5):
        world.give(request_id=record, name="page", user=f"u{n}")
    seen: list[str] = []
    before: dict[str, Any] = {}
    while True:
        query = {"name": "page", "limit": 2, **before}
        page = world.send("GET", "/feedback", params=query).json()
        seen += [row["user"] for row in page["data"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert seen == ["u4", "u3", "u2", "u1", "u0"]
    row = page["data"][0]
    query = {"since": row["at"], "until": row["at"] + 1e-3, "name": "page", "user": "u0"}
    assert len(world.send("GET", "/feedback", params=query).json()["data"]) == 1


def test_tensorzero(world):
    names = world.ask(x_evalrouter_conversation="episode")

    def give(code: int = 200, **body: Any) -> Any:
        answer = world.send("POST", "/feedback", json=body)
        assert answer.status_code == code, answer.text
        return answer.json() if code == 200 else error_of(answer)

    inference = {"inference_id": names["response"]}
    given = give(metric_name="haiku_rating", value=True, tags={"author": "ann"}, **inference)
    assert set(given) == {"feedback_id"}
    row = world.send("GET", f"/feedback/{given['feedback_id']}").json()
    assert (row["name"], row["value"], row["source"]) == ("haiku_rating", True, "tensorzero")
    assert (row["record_id"], row["metadata"]) == (names["record"], {"author": "ann"})
    give(metric_name="score", value=0.25, episode_id="episode")
    give(metric_name="comment", value="nice", episode_id="episode")
    blocks = [{"type": "text", "text": "Hello"}]
    call = {"type": "tool_call", "id": "1", "name": "f", "arguments": {"a": 1}}
    give(metric_name="demonstration", value="Hello", **inference)
    give(metric_name="demonstration", value=blocks, **inference)
    give(metric_name="demonstration", value=[*blocks, call], **inference)
    rehearsed = give(metric_name="dry", value=1, dryrun=True, **inference)
    assert world.send("GET", f"/feedback/{rehearsed['feedback_id']}").status_code == 404
    query = f"/feedback?request_id={names['record']}&history=true"
    rows = world.send("GET", query).json()["data"]
    assert [(row["name"], row["kind"], row["value"]) for row in rows] == [
        (
            "demonstration",
            "correction",
            {
                "role": "assistant",
                "content": "Hello",
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    }
                ],
            },
        ),
        ("demonstration", "correction", "Hello"),
        ("demonstration", "correction", "Hello"),
        ("haiku_rating", "bool", True),
    ]
    for body, param in (
        ({"metric_name": "m", "value": 1}, "inference_id"),
        ({"metric_name": "m", "value": 1, "episode_id": "e", **inference}, "inference_id"),
        ({"metric_name": "m", "value": "x", **inference}, "value"),
        ({"metric_name": "comment", "value": 1, **inference}, "value"),
        ({"metric_name": "demonstration", "value": 1, **inference}, "value"),
        ({"metric_name": "demonstration", "value": [{"type": "x"}], **inference}, "value"),
        ({"metric_name": "demonstration", "value": "x", "episode_id": "e"}, "inference_id"),
        ({"metric_name": "m", "name": "m", "value": 1, **inference}, "metric_name"),
        ({"metric_name": "m", "value": 1, "tags": {"a": 1}, **inference}, "tags.a"),
    ):
        assert give(400, **body)["param"] == param, body


def test_portkey(world):
    names = world.ask(x_portkey_trace_id="trace")
    secret = world.keys["client"][0]

    def send(method: str, path: str, body: Any) -> Any:
        answer = world.http.request(method, path, headers={"x-portkey-api-key": secret}, json=body)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["status"], len(answer.json())) == ("success", 3)
        return answer.json()["feedback_ids"]

    metadata = {"_user": "ann", "text": "title was irrelevant"}
    [given] = send(
        "POST",
        "/v1/feedback",
        {"trace_id": "trace", "value": -10, "weight": 0.5, "metadata": metadata},
    )
    row = world.send("GET", f"/feedback/{given}").json()
    assert (row["name"], row["value"], row["weight"]) == ("feedback", -10.0, 0.5)
    assert (row["conversation"], row["user"], row["metadata"]) == ("trace", "ann", metadata)
    [changed] = send("PUT", f"/v1/feedback/{given}", {"value": 5})
    [again] = send("PUT", f"/v1/feedback/{given}", {"weight": 1.0, "metadata": None})
    rows = world.send("GET", "/feedback?conversation=trace&history=true").json()["data"]
    assert [(row["id"], row["value"], row["weight"], row["superseded"]) for row in rows] == [
        (again, 5.0, 1.0, False),
        (changed, 5.0, 0.5, True),
        (given, -10.0, 0.5, True),
    ]
    several = [{"trace_id": "trace", "value": 1}, {"trace_id": names["record"], "value": 2}]
    ids = send("POST", "/v1/feedback", several)
    shown = [world.send("GET", f"/feedback/{one}").json() for one in ids]
    assert [row["value"] for row in shown] == [1.0, 2.0]
    assert [row["record_id"] for row in shown] == ["", names["record"]]
    for body in (
        {"trace_id": "trace", "value": 11},
        {"trace_id": "trace", "value": 0.5},
        {"trace_id": "trace", "value": 1, "weight": 2},
        {"value": 1},
        [],
        [{"trace_id": "trace", "value": 1}] * 101,
    ):
        assert world.send("POST", "/v1/feedback", json=body).status_code == 400, body
    # All or none.
    count = len(world.send("GET", "/feedback?limit=1000").json()["data"])
    several = [{"trace_id": "trace", "value": 3}, {"trace_id": "unknown", "value": 2}]
    assert world.send("POST", "/v1/feedback", json=several).status_code == 404
    assert len(world.send("GET", "/feedback?limit=1000").json()["data"]) == count


def test_langfuse(world):
    names = world.ask(x_evalrouter_conversation="session")
    basic = base64.b64encode(f"pk-lf-any:{world.keys['client'][0]}".encode()).decode()

    def score(code: int = 200, **body: Any) -> Any:
        headers = {"authorization": f"Basic {basic}"}
        answer = world.http.post("/api/public/scores", headers=headers, json=body)
        assert answer.status_code == code, answer.text
        return answer.json() if code == 200 else error_of(answer)

    trace = {"traceId": names["record"]}
    assert score(id="s-1", name="correctness", value=0.9, comment="Factual", **trace) == {
        "id": "s-1"
    }
    score(id="s-1", name="correctness", value=0.9, comment="Factual", **trace)
    score(id="s-1", name="correctness", value=0.4, environment="test", **trace)
    score(name="helpful", value=1, dataType="BOOLEAN", observationId=names["response"], **trace)
    score(name="tone", value="rude", metadata={"a": 1}, id=None, **trace)
    score(name="output", value="Better", dataType="CORRECTION", **trace)
    score(name="solved", value=1, sessionId="session")
    score(name="solved", value=2, traceId="session")
    query = f"/feedback?request_id={names['record']}&history=true"
    rows = world.send("GET", query).json()["data"]
    assert [(row["name"], row["kind"], row["value"], row["metadata"]) for row in rows] == [
        ("output", "correction", "Better", {}),
        ("tone", "text", "rude", {"a": 1}),
        ("helpful", "bool", True, {}),
        ("correctness", "number", 0.4, {"environment": "test"}),
        ("correctness", "number", 0.9, {}),
    ]
    rows = world.send("GET", "/feedback?conversation=session&name=solved").json()["data"]
    assert [row["value"] for row in rows] == [2.0]
    for body, param in (
        ({"name": "n", "value": 1}, "traceId"),
        ({"name": "n", "value": 2, "dataType": "BOOLEAN", **trace}, "value"),
        ({"name": "n", "value": "x", "dataType": "NUMERIC", **trace}, "value"),
        ({"name": "n", "value": 1, "dataType": "CATEGORICAL", **trace}, "value"),
        ({"name": "n", "value": 1, "dataType": "OTHER", **trace}, "dataType"),
        ({"name": "n", "value": 1, "configId": "c", **trace}, "configId"),
        ({"name": "n", "value": 1, "datasetRunId": "c", **trace}, "datasetRunId"),
    ):
        assert score(400, **body)["param"] == param, body
    wrong = world.http.post("/api/public/scores", auth=("pk", "er-wrong"), json={})
    assert wrong.status_code == 401


def test_langfuse_batches(world):
    names = world.ask(x_request_id="ingested")
    secret = world.keys["client"][0]

    def send(*events: Any) -> Any:
        answer = world.http.post(
            "/api/public/ingestion", auth=("pk-lf-any", secret), json={"batch": events}
        )
        assert answer.status_code == 207, answer.text
        return answer.json()

    def event(n: int, type: str = "score-create", **body: Any) -> Any:  # noqa: A002 - their word
        given = {"name": "thumb", "value": n, "traceId": names["record"], **body}
        return {"id": f"e{n}", "type": type, "timestamp": "2026-11-29T00:00:00Z", "body": given}

    answer = send(
        event(1),
        event(2),
        event(3, "trace-create"),
        event(4, value=None),
        event(5, traceId="unknown"),
        event(6, traceId="unknown", id="s"),
        event(7, traceId="ingested", name="other"),
    )
    assert answer["successes"] == [{"id": f"e{n}", "status": 201} for n in (1, 2, 7)]
    errors = [(error["id"], error["status"]) for error in answer["errors"]]
    assert errors == [("e3", 400), ("e4", 400), ("e5", 404), ("e6", 404)]
    # Sent again, as the SDKs do after a failure.
    assert send(event(2))["successes"] == [{"id": "e2", "status": 201}]
    query = f"/feedback?request_id={names['record']}&history=true"
    rows = world.send("GET", query).json()["data"]
    assert [(row["name"], row["value"]) for row in rows] == [
        ("other", 7.0),
        ("thumb", 2.0),
        ("thumb", 1.0),
    ]
    refused = world.send("POST", "/api/public/ingestion", json={"batch": [event(1)] * 101})
    assert error_of(refused)["param"] == "batch"


def test_feedback_is_counted(world):
    record = world.ask()["record"]
    for value in (True, False, False, 0.5, "text", {"correction": "x"}):
        world.give(request_id=record, name="counted", value=value)
    text = world.send("GET", "/metrics", "admin").text
    counts = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("evalrouter_feedback_total") and 'name="counted"' in line
    }
    assert counts == {
        f'evalrouter_feedback_total{{name="counted",route="r",value="{value}"}}': count
        for value, count in (
            ("true", 1), ("false", 2), ("number", 1), ("text", 1), ("correction", 1),
        )
    }  # fmt: skip


def test_feedback_is_deleted_with_its_request_and_its_user(world):
    record = world.ask()["record"]
    world.give(request_id=record, user="gone")
    world.give(request_id=record, user="stays")
    assert world.send("DELETE", "/traffic?user=gone", "admin").json() == {
        "deleted": 0, "related": 1, "complete": True, "elsewhere": [],
    }  # fmt: skip
    rows = world.send("GET", f"/traffic/{record}").json()["feedback_rows"]
    assert [row["user"] for row in rows] == ["stays"]
    deleted = world.send("DELETE", f"/traffic/{record}", "admin").json()
    assert (deleted["deleted"], deleted["related"]) == (1, 1)
    assert world.send("GET", f"/feedback?request_id={record}").json()["data"] == []
    assert world.give(request_id=record).status_code == 404
