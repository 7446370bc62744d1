"""Names from outside that are too long or no text: refused wherever one can be given.

Every operation that takes a body is in `PLACES`, with each string in it that names something.
"""

from __future__ import annotations

import copy
import json
import re
import sqlite3
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest
from raw_client import RawClient, request
from raw_host import READ, answer, raw_host
from servers import evalrouter, gateway, scripted

from providers.errors import ConfigError
from router.config.loading import parse

LONG = "N" * 1_000_000
JUST_TOO_LONG = {
    "ascii": "N" * 257,
    "two bytes each": "é" * 129,
    "four bytes each": "\U0001d49c" * 65,
}
NO_TEXT = {"null": "a\x00b", "line feed": "a\nb", "half a surrogate pair": "a\ud800b"}
ODD = [LONG, *NO_TEXT.values(), *JUST_TOO_LONG.values()]
# Where it stands in JSON: keys and indexes; a last step that is a KEY is the name of a field.
KEY = object()


class Op(NamedTuple):
    """An operation, a body that it takes, and the places of names in it."""

    method: str
    path: str
    body: Any = None
    places: tuple[tuple[Any, ...], ...] = ()
    query: Mapping[str, str] = MappingProxyType({})
    names_in_query: tuple[str, ...] = ()


MESSAGES = [{"role": "user", "content": "hi"}]
RUN = {
    "dataset": "d.jsonl",
    "routes": ["r", "up/echo"],
    "metrics": ["length"],
    "name": "n",
    "experiment": "e",
    "tags": ["t"],
    "columns": {"input": "input"},
    "parameters": {"temperature": 0},
    "baseline": "r",
    "gates": ["words >= 0"],
    "limits": {"per_target": {"up/echo": 1}},
    "limit": 1,
    "language": "en",
    "delimiter": ";",
    "answer": {"strip_thinking": True},
    "on_truncated": "score",
}
JUDGED = {**RUN, "metrics": [{"name": "prometheus", "judge": "r", "rubric": "helpfulness"}]}
RUN_PLACES = (
    ("dataset",),
    ("language",),
    ("delimiter",),
    ("on_truncated",),
    ("routes", 1),
    ("metrics", 0),
    ("name",),
    ("experiment",),
    ("tags", 0),
    ("columns", KEY),
    ("columns", "input"),
    ("parameters", KEY),
    ("baseline",),
    ("gates", 0),
    ("limits", "per_target", KEY),
    ("limits", KEY),
    ("task",),
    (KEY,),
)
OPERATIONS = [
    *(
        Op("POST", f"/v1/{path}", {"model": "r", field: value}, (("model",),))
        for path, field, value in (
            ("chat/completions", "messages", MESSAGES),
            ("completions", "prompt", "hi"),
            ("embeddings", "input", "hi"),
            ("responses", "input", "hi"),
            ("messages", "messages", MESSAGES),
            ("messages/count_tokens", "messages", MESSAGES),
        )
    ),
    # What a client writes there is its own, and stored as JSON.
    Op("POST", "/v1/responses/{response_id}/cancel", {}),
    Op("POST", "/v1/conversations", {"metadata": {"a": "b"}}),
    Op("POST", "/v1/conversations/{conversation_id}", {"metadata": {"a": "b"}}),
    Op("POST", "/v1/conversations/{conversation_id}/items", {"items": []}),
    Op(
        "PUT",
        "/routes/{name}",
        {"targets": [{"model": "up/echo"}], "fallback": ["baseline/echo"], "sticky": "header:x"},
        (("targets", 0, "model"), ("fallback", 0), ("sticky",), ("targets", 0, KEY), (KEY,)),
    ),
    Op(
        "PUT",
        "/routes/{name}",
        {
            "targets": [{"model": "up/echo"}],
            "share_bodies_with": ["baseline"],
            "shadow": {
                "targets": ["baseline/echo"],
                "judge": {"judge": "baseline/echo", "rubric": "helpfulness"},
                "metrics": ["length"],
            },
        },
        (
            ("share_bodies_with", 0),
            ("shadow", "targets", 0),
            ("shadow", "judge", "judge"),
            ("shadow", "judge", "rubric"),
            ("shadow", "judge", KEY),
            ("shadow", "metrics", 0),
            ("shadow", KEY),
        ),
    ),
    Op(
        "POST",
        "/review",
        {"rows": [{"messages": MESSAGES, "metadata": {"a": "b"}}], "dataset": "d"},
        (("dataset",), ("rows", 0, "metadata", KEY), ("rows", 0, KEY), (KEY,)),
    ),
    Op("POST", "/review/publish", {"dataset": "d"}, (("dataset",), (KEY,))),
    Op("PATCH", "/review/{row_id}", {"dataset": "d"}, (("dataset",), (KEY,))),
    Op("POST", "/review/{row_id}/accept", {"dataset": "d"}, (("dataset",), (KEY,))),
    Op("POST", "/review/{row_id}/reject", {"reason": "r"}, ((KEY,),)),
    Op("POST", "/review/{row_id}/undo", {}, ((KEY,),)),
    Op(
        "POST",
        "/what-if",
        {
            "policy": {
                "rules": [
                    {"when": "stream == true", "weights": {"up/echo": 1}},
                    {"weights": {"up/echo": 1}},
                ]
            },
            "route": "r",
            "value": "feedback:v",
            "since": "1d",
        },
        (
            ("route",),
            ("value",),
            ("since",),
            ("policy", "rules", 0, "when"),
            ("policy", "rules", 0, "weights", KEY),
            ("policy", KEY),
            (KEY,),
        ),
    ),
    Op(
        "GET",
        "/frontier",
        query={"route": "r", "quality": "errors", "since": "1d", "run": ""},
        names_in_query=("route", "quality", "since", "run"),
    ),
    Op(
        "GET",
        "/eval/{run_id}/slices",
        query={"column": "input", "output": "words"},
        names_in_query=("column", "output"),
    ),
    Op("POST", "/routes/{name}/shadow", {"action": "pause", "reason": "r"}, (("action",), (KEY,))),
    Op("POST", "/evidence", {"subject": "run_x"}, (("subject",), ("bodies",), (KEY,))),
    Op(
        "POST",
        "/routes/{name}/rollout",
        {
            "candidate": "up/echo",
            "signals": [{"measure": "errors", "role": "goal", "margin": 0.1}],
            "sticky": "header:x",
            "reason": "r",
        },
        (
            ("candidate",),
            ("signals", 0, "measure"),
            ("signals", 0, "role"),
            ("signals", 0, KEY),
            ("sticky",),
            (KEY,),
        ),
    ),
    *(
        Op("POST", f"/routes/{{name}}/rollout/{action}", {"reason": "r"}, ((KEY,),))
        for action in ("pause", "resume", "promote", "rollback")
    ),
    Op("POST", "/watches/{name}/probe", {}, ((KEY,),)),
    Op("POST", "/watches/{name}/pin", {"reason": "r"}, ((KEY,),)),
    *(
        Op("POST", f"/schedules/{{name}}/{action}", {"reason": "r"}, ((KEY,),))
        for action in ("run", "pause", "resume")
    ),
    Op("POST", "/schedules/{name}/accept", {"reason": "r", "run": "run_1"}, (("run",), (KEY,))),
    Op("POST", "/routes/{name}/learned", {}, ((KEY,),)),
    Op("POST", "/alerts/{alert_id}/silence", {"reason": "r", "seconds": 60}, ((KEY,),)),
    Op("POST", "/alerts/test", {"receiver": "ops"}, (("receiver",), (KEY,))),
    Op("POST", "/eval", RUN, RUN_PLACES),
    Op("POST", "/eval", RUN, RUN_PLACES, {"dry_run": "true"}),
    Op("POST", "/eval", JUDGED, (("metrics", 0, "judge"), ("metrics", 0, "rubric"))),
    Op(
        "POST",
        "/eval",
        {**RUN, "task": {"name": "summarization"}},
        (("task", "name"), ("task", KEY)),
    ),
    Op("POST", "/eval/{run_id}/rescore", {"metrics": ["length"]}, (("metrics", 0), (KEY,))),
    Op(
        "POST",
        "/eval/{run_id}/rescore",
        {"metrics": [{"name": "prometheus", "judge": "r"}]},
        (("metrics", 0, "name"), ("metrics", 0, "judge"), ("metrics", 0, KEY)),
    ),
    Op("POST", "/eval/{run_id}/extend", {"limit": 2}, ((KEY,),)),
    Op(
        "POST",
        "/eval/{run_id}/resume",
        {"limits": {"per_target": {"up/echo": 1}}},
        (("limits", "per_target", KEY), ("limits", KEY), (KEY,)),
    ),
    Op(
        "PUT",
        "/eval/{run_id}/samples/{position}/notes",
        {"label": "good", "note": "n", "before": 0},
        ((KEY,),),
    ),
    Op(
        "PUT",
        "/eval/{run_id}/labels",
        {
            "labels": [{"sample_id": "1", "answer": "hi", "scores": 3.0}],
            "route": "r",
            "output": "words",
        },
        (("labels", 0, "sample_id"), ("labels", 0, KEY), ("route",), ("output",), (KEY,)),
    ),
    *(
        Op("POST", f"/eval/{{run_id}}/{action}", {}, ((KEY,),))
        for action in ("pause", "cancel", "export", "track")
    ),
    Op(
        "POST",
        "/datasets",
        {"source": "d.jsonl", "name": "n", "columns": {"input": "input"}},
        (("source",), ("name",), ("columns", KEY), ("columns", "input"), (KEY,)),
    ),
    Op("POST", "/datasets", {"source": "d.jsonl"}, (), {"name": "n"}, ("name",)),
    Op(
        "PUT",
        "/datasets/{name}",
        query={"filename": "d.jsonl", "column": "a=input", "delimiter": ";"},
        names_in_query=("filename", "column", "delimiter"),
    ),
    Op(
        "POST",
        "/datasets/label",
        {
            "dataset": "d.jsonl",
            "route": "r",
            "task": {"name": "summarization"},
            "columns": {"input": "input"},
            "parameters": {"temperature": 0},
            "overwrite": True,
        },
        (
            ("dataset",),
            ("route",),
            ("task", "name"),
            ("task", KEY),
            ("columns", KEY),
            ("columns", "input"),
            ("parameters", KEY),
            (KEY,),
        ),
    ),
    Op(
        "POST",
        "/datasets/from-traffic",
        {
            "name": "n",
            "route": "r",
            "since": "7d",
            "until": "1h",
            "where": "user == 'x'",
            "sample": 1,
            "stratify": ["route"],
        },
        (
            ("name",),
            ("route",),
            ("since",),
            ("until",),
            ("where",),
            ("stratify", 0),
            (KEY,),
        ),
    ),
    Op("POST", "/datasets/label/{run_id}", {"name": "n"}, (("name",), (KEY,))),
    Op(
        "POST",
        "/keys",
        {"name": "n", "role": "client", "routes": ["r"], "budget_period": "day", "expires": "1h"},
        (("name",), ("role",), ("routes", 0), ("budget_period",), ("expires",), (KEY,)),
    ),
    Op(
        "PATCH",
        "/keys/{name}",
        {"name": "n", "role": "client", "routes": ["r"], "budget_period": "day", "expires": "1h"},
        (("name",), ("role",), ("routes", 0), ("budget_period",), ("expires",), (KEY,)),
    ),
    Op(
        "POST",
        "/feedback",
        {
            "name": "n",
            "value": True,
            "request_id": "req_nothing",
            "user": "u",
            "idempotency_key": "i",
        },
        (("name",), ("idempotency_key",), (KEY,)),
    ),
    Op(
        "POST",
        "/feedback",
        {"metric_name": "n", "value": True, "inference_id": "req_nothing"},
        (("metric_name",), (KEY,)),
    ),
    Op("POST", "/v1/feedback", {"trace_id": "req_nothing", "value": 1}, ((KEY,),)),
    Op("PUT", "/v1/feedback/{feedback_id}", {"value": 1}, ((KEY,),)),
    Op(
        "POST",
        "/api/public/scores",
        {"name": "n", "value": 1, "traceId": "req_nothing", "id": "i", "dataType": "NUMERIC"},
        (("name",), ("id",), ("dataType",), (KEY,)),
    ),
    Op("POST", "/api/public/ingestion", {"batch": []}, ((KEY,),)),
    Op("PATCH", "/experiments/{name}", {"tags": ["t"]}, (("tags", 0), (KEY,))),
    Op(
        "POST",
        "/providers/{name}/conformance",
        {},
        ((KEY,),),
        query={"model": "echo"},
        names_in_query=("model",),
    ),
]
IN_BODIES = [
    pytest.param(op, place, id=f"{op.method} {op.path} {place_in_words} {n}")
    for n, op in enumerate(OPERATIONS)
    for place in op.places
    for place_in_words in [".".join("KEY" if one is KEY else str(one) for one in place)]
]
IN_QUERIES = [
    pytest.param(op, name, id=f"{op.method} {op.path} {name}")
    for op in OPERATIONS
    for name in op.names_in_query
]


# Tables of requests and of counts of them, which are written some time after the requests.
_OF_REQUESTS = ("traffic", "sqlite", "live_", "model_versions", "alert_counts", "leases")


class World(NamedTuple):
    url: str
    run: str
    folder: Any
    http: httpx.Client

    def send(self, op: Op, content: bytes | None, query: Mapping[str, str] | None = None):
        known = {
            "run_id": self.run,
            "position": "1",
            "feedback_id": "nothing",
            "row_id": "nothing",
            "bundle_id": "nothing",
            "alert_id": "nothing",
            "name": "up" if "conformance" in op.path else "e",
        }
        url = self.url + op.path.format(**known)
        headers = {"content-type": "application/json"}
        sent = op.query if query is None else query
        return self.http.request(op.method, url, content=content, params=sent, headers=headers)

    def left(self) -> tuple[Any, ...]:
        """What is kept: rows of every table and how large they are, files, the metrics' series."""
        with sqlite3.connect(self.folder / "e.db") as db:
            tables = db.execute("SELECT name FROM sqlite_master WHERE type='table'")
            names = [name for (name,) in tables]
            kept = {}
            for name in names:
                rows = [str(row) for row in db.execute(f"SELECT * FROM {name}")]
                # Requests are on record and counted by the hour, without what was refused in them.
                count = None if name.startswith(_OF_REQUESTS) else len(rows)
                kept[name] = count, max(map(len, rows), default=0) // 10_000
        files = sorted(str(one) for one in self.folder.rglob("*") if "e.db" not in one.name)
        text = self.http.get(f"{self.url}/metrics").text
        series = {line.rpartition(" ")[0] for line in text.splitlines() if line[:1] != "#"}
        return kept, files, series, self.http.get(f"{self.url}/routes").text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    (folder / "d.jsonl").write_text('{"input": "hi", "reference": "x"}\n' * 3)
    with pytest.MonkeyPatch.context() as patch, scripted({"echo": [{}]}) as upstream:
        patch.chdir(folder)
        text = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder / "e.db"}", artifacts: "{folder / "artifacts"}"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
routes: {{r: {{targets: [{{model: up/echo}}]}}}}
"""
        with gateway(text) as url, httpx.Client(timeout=60) as http:
            begun = http.post(f"{url}/eval", json=RUN)
            assert begun.status_code == 202, begun.text
            run = begun.json()["id"]
            while http.get(f"{url}/eval/{run}").json()["run"]["state"] != "completed":
                time.sleep(0.02)
            found = World(url, run, folder, http)
            # Every status and code is among the counts, with other names than those of the tests.
            models = [op for op in OPERATIONS if op.places == (("model",),)]
            others = [one.translate({ord("N"): "W", ord("a"): "w"}) for one in ODD]
            for op in models:
                for content in (b"{", *(with_name(op, ("model",), one) for one in others)):
                    found.send(op, content)
            while counted(found) < len(models) * (len(ODD) + 1):
                time.sleep(0.02)
            yield found


def counted(world: World) -> int:
    """How many requests of clients are among the counts, which come a moment after the answers."""
    text = world.http.get(f"{world.url}/metrics").text
    found = re.findall(r'evalrouter_requests_total\{class="live".*\} (\d+)', text)
    return sum(map(int, found))


def with_name(op: Op, place: tuple[Any, ...], name: str) -> bytes:
    """The operation's body with another name in a place."""
    body = copy.deepcopy(op.body)
    inner = body
    for step in place[:-1]:
        inner = inner[step]
    if place[-1] is KEY:
        inner[name] = next(iter(inner.values()), None)
    else:
        inner[place[-1]] = prefixed(inner, place, name)
    # Halves of surrogate pairs are escaped.
    return json.dumps(body).encode()


def prefixed(inner: Any, place: tuple[Any, ...], name: str) -> str:
    """The name, behind what makes it one of its kind: a provider, a header."""
    last = place[-1]
    before = inner[last] if isinstance(last, int) or last in inner else ""
    head = before[: before.rfind("/") + 1] if isinstance(before, str) and "/" in before else ""
    return ("header:" if last == "sticky" else head) + name


def check_refused(reply, statuses=(400, 422)):
    assert reply.status_code in statuses, reply.text[:300]
    is_anthropics = "/v1/messages" in str(reply.url)
    shape = {"message", "type"} if is_anthropics else {"message", "type", "param", "code"}
    assert set(reply.json()["error"]) == shape
    assert len(reply.content) < 10_000
    assert sum(len(one) + len(value) for one, value in reply.headers.items()) < 2_000


def test_every_operation_that_takes_a_body_is_tried(world):
    schema = world.http.get(f"{world.url}/schema/openapi.json").json()
    found = {
        (method.upper(), path)
        for path, item in schema["paths"].items()
        for method in item
        if method in ("post", "put", "patch")
    }
    assert found == {(op.method, op.path) for op in OPERATIONS if op.method != "GET"}


@pytest.mark.parametrize(("op", "place"), IN_BODIES)
def test_a_name_that_is_none_is_refused_and_leaves_nothing(world, op, place):
    before = world.left()
    for name in ODD:
        check_refused(world.send(op, with_name(op, place, name)))
    assert world.left() == before


@pytest.mark.parametrize(("op", "parameter"), IN_QUERIES)
@pytest.mark.parametrize("name", [*JUST_TOO_LONG.values(), "a\x00b", "a\nb"], ids=range(5))
def test_names_in_a_query(world, op, parameter, name):
    before = world.left()
    end = {"filename": ".jsonl", "column": "=input"}.get(parameter, "")
    query = {**op.query, parameter: name + end}
    check_refused(world.send(op, b'{"a": "x"}\n', query))
    assert world.left() == before


@pytest.mark.parametrize("op", [op for op in OPERATIONS if "{" in op.path])
@pytest.mark.parametrize("name", ["N" * 257, "%F0%9F%98%80" * 65, "a%00b", "a%0Ab", "a%ED%A0%80b"])
def test_names_in_a_path(world, op, name):
    before = world.left()
    path = op.path.partition("{")[0] + name + op.path.partition("}")[2]
    content = None if op.body is None else json.dumps(op.body).encode()
    reply = world.http.request(op.method, world.url + path, content=content, params=op.query)
    check_refused(reply, (400, 404, 422))
    assert world.left() == before


@pytest.mark.parametrize("path", ["/routes/", "/datasets/", "/v1/models/", "/eval/"])
def test_a_megabyte_of_a_path(world, path):
    with RawClient(world.url) as client:
        client.send(request("PUT", path + LONG))
        response = client.response()
    assert response.status == 414
    assert set(response.error) == {"message", "type", "param", "code"}
    assert len(response.body) < 10_000


@pytest.mark.parametrize("model", ["up/" + "N" * 257, "%F0%9F%98%80" * 65, "up/a%00b", "up/a%0Ab"])
def test_the_model_of_a_look_up(world, model):
    reply = world.http.get(f"{world.url}/v1/models/{model}")
    check_refused(reply, (400,))
    assert reply.json()["error"]["param"] == "model"


# What hosts and clients make of the response's headers and of records


def config_of(folder, kind, url, routes="{}"):
    return f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder / "e.db"}"}}
providers: {{up: {{kind: {kind}, base_url: "{url}"}}}}
routes: {routes}
"""


def size_of(headers):
    return sum(len(name) + len(value) for name, value in headers.items())


ASKED = {"model": "up/echo", "messages": MESSAGES}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({LONG: 1}, 400),
        ({f"{n:0>200}": 1 for n in range(400)}, 400),
        ({f"{n:0>200}": 1 for n in range(100)}, 200),
    ],
    ids=["long", "many", "together long"],
)
def test_fields_that_a_host_lacks_fit_into_the_record_and_the_header(
    tmp_path, http, fields, status
):
    with (
        scripted({"echo": [{}]}) as upstream,
        gateway(config_of(tmp_path, "gemini", upstream.url)) as url,
    ):
        reply = http.post(f"{url}/v1/chat/completions", json={**ASKED, **fields})
        assert reply.status_code == status, reply.text[:300]
        assert size_of(reply.headers) < 4_000
        assert len(reply.content) < 10_000
        if status == 200:
            shown = reply.headers["x-evalrouter-dropped"].split(", ")
            assert shown[-1] == "..."
            assert set(shown[:-1]) <= set(fields)
        while not (rows := http.get(f"{url}/traffic").json()["data"]):
            time.sleep(0.02)
        assert len(json.dumps(rows)) < 40_000


@pytest.mark.parametrize("answers", [False, True])
def test_many_attempts_at_long_names_fit_into_a_header(tmp_path, http, answers):
    targets = [{"model": f"up/{n}{'é' * 120}"} for n in range(12)]
    route = {"targets": targets, "fallback": ["baseline/echo"] if answers else []}
    with (
        scripted({"echo": [{}]}) as upstream,
        gateway(config_of(tmp_path, "compatible", upstream.url, json.dumps({"r": route}))) as url,
    ):
        reply = http.post(f"{url}/v1/chat/completions", json={**ASKED, "model": "r"})
    assert reply.status_code == (200 if answers else 404)
    assert size_of(reply.headers) < 4_000
    assert reply.headers["x-evalrouter-attempts"].endswith("s, ...")


def test_what_a_host_sends_for_names_is_bounded(tmp_path, http):
    long = "N" * 3_000
    body = json.dumps(
        {
            "object": "chat.completion",
            "model": long,
            "system_fingerprint": long,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "x"},
                    "finish_reason": long,
                }
            ],
        }
    ).encode()
    kind = f"application/json; charset={'x' * 5_000}"
    with (
        raw_host([READ, *answer(body, headers=f"content-type: {kind}\r\n".encode())]) as host,
        gateway(config_of(tmp_path, "compatible", host.url)) as url,
    ):
        reply = http.post(f"{url}/v1/chat/completions", json=ASKED)
        assert reply.status_code == 200
        assert reply.content == body
        assert reply.headers["content-type"] == "application/json"
        while not (rows := http.get(f"{url}/traffic").json()["data"]):
            time.sleep(0.02)
    assert len(json.dumps(rows)) < 5_000
    assert rows[0]["model"] == "N" * 256


# The command line


RUN_IT = "eval run --dataset d.jsonl --metrics length"


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("eval show", "a\udcffb", "not UTF-8"),
        ("dataset add d.jsonl --column", "a\udcff=input", "not UTF-8"),
        (f"{RUN_IT} --routes baseline/echo --name", "N" * 257, "name: is too long"),
        (f"{RUN_IT} --routes", "baseline/a\x01", "routes[0]: has the character U+0001"),
        ("key create k --route", "N" * 257, "routes: is too long"),
        ("dataset add d.jsonl --name", "N" * 257, "name: is too long"),
    ],
    ids=["text", "column", "run", "route", "key", "dataset"],
)
def test_commands_refuse_such_names_too(tmp_path, monkeypatch, command, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"input": "hi"}\n')
    said = evalrouter(*command.split(), name, check=2)
    # Long lines are folded.
    assert words in " ".join(said.stderr.split())


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ({"targets": [{"model": "baseline/" + "N" * 300}]}, "routes.r.targets[0].model"),
        ({"targets": [{"model": "baseline/a\nb"}]}, "routes.r.targets[0].model"),
        ({"targets": [{"model": "baseline/echo"}], "fallback": ["baseline/\x7f"]}, "fallback[0]"),
        ({"targets": [{"model": "baseline/echo"}], "sticky": "header:" + "N" * 65}, "sticky"),
    ],
)
def test_the_config_file_too(route, path):
    with pytest.raises(ConfigError) as caught:
        parse(f"routes: {{r: {json.dumps(route)}}}", "c.yaml", {})
    assert path in caught.value.message
