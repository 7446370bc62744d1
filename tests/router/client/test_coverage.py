"""The SDK has a method for every operation of the server's `/schema`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import msgspec
import pytest
from servers import gateway

from providers.errors import ConflictError, UpstreamProtocolError
from router.client import AsyncClient, asynchronous

# OpenAI's package sends these.
OF_OTHER_PACKAGES = {
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/responses",
    "GET /v1/responses/{response_id}",
    "DELETE /v1/responses/{response_id}",
    "POST /v1/responses/{response_id}/cancel",
    "GET /v1/responses/{response_id}/input_items",
    "POST /v1/conversations",
    "GET /v1/conversations/{conversation_id}",
    "POST /v1/conversations/{conversation_id}",
    "DELETE /v1/conversations/{conversation_id}",
    "GET /v1/conversations/{conversation_id}/items",
    "POST /v1/conversations/{conversation_id}/items",
    "GET /v1/conversations/{conversation_id}/items/{item_id}",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}",
    # The anthropic package's.
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    # Portkey's and Langfuse's.
    "POST /v1/feedback",
    "PUT /v1/feedback/{feedback_id}",
    "POST /api/public/scores",
    "POST /api/public/ingestion",
}
Use = Callable[[AsyncClient], Awaitable[Any]]


async def all_of(rows: Any) -> None:
    async for _ in rows:
        pass


def uses(folder: Any) -> dict[str, Use]:
    """Return a use of the SDK for each operation; each name in a path is `x/y`, or `x`."""
    file = folder / "rows.jsonl"
    return {
        "GET /v1/models": lambda client: client.models.list(),
        "GET /v1/models/{model}": lambda client: client.models.show("x/y"),
        "GET /health/live": lambda client: client.server.live(),
        "GET /health/ready": lambda client: client.server.ready(),
        "GET /metrics": lambda client: client.server.metrics(),
        "GET /plugins": lambda client: client.plugins(),
        "GET /routes": lambda client: client.routes.list(),
        "GET /routes/{name}": lambda client: client.routes.show("x/y"),
        "PUT /routes/{name}": lambda client: client.routes.set("x/y", {"targets": []}),
        "DELETE /routes/{name}": lambda client: client.routes.delete("x/y"),
        "GET /routes/{name}/versions": lambda client: client.routes.versions("x/y", before=3),
        "GET /routes/{name}/learned": lambda client: client.routes.learned("x/y"),
        "POST /routes/{name}/learned": lambda client: client.routes.learn("x/y"),
        "GET /schedules": lambda client: client.schedules.list(),
        "GET /schedules/{name}": lambda client: client.schedules.show("x/y"),
        "POST /schedules/{name}/run": lambda client: client.schedules.run("x/y"),
        "POST /schedules/{name}/pause": lambda client: client.schedules.pause("x/y", "why"),
        "POST /schedules/{name}/resume": lambda client: client.schedules.resume("x/y", "why"),
        "POST /schedules/{name}/accept": lambda client: client.schedules.accept("x/y", "why"),
        "GET /alerts": lambda client: client.alerts.list(state="firing"),
        "GET /alerts/{alert_id}": lambda client: client.alerts.show("x/y"),
        "POST /alerts/{alert_id}/silence": lambda client: client.alerts.silence(
            "x/y", "why", seconds=60
        ),
        "POST /alerts/test": lambda client: client.alerts.test("ops"),
        "GET /evidence": lambda client: client.evidence.list(subject="r"),
        "POST /evidence": lambda client: client.evidence.create("run_x"),
        "GET /evidence/{bundle_id}": lambda client: client.evidence.download("x/y", file),
        "DELETE /evidence/{bundle_id}": lambda client: client.evidence.delete("x/y"),
        "GET /rollouts": lambda client: client.rollouts.list(route="r"),
        "GET /routes/{name}/rollout": lambda client: client.rollouts.show("x/y"),
        "POST /routes/{name}/rollout": lambda client: client.rollouts.start("x/y", "p/m"),
        "POST /routes/{name}/rollout/pause": lambda client: client.rollouts.pause("x/y", "why"),
        "POST /routes/{name}/rollout/resume": lambda client: client.rollouts.resume("x/y", "why"),
        "POST /routes/{name}/rollout/promote": lambda client: client.rollouts.promote("x/y", "why"),
        "POST /routes/{name}/rollout/rollback": lambda client: client.rollouts.rollback(
            "x/y", "why"
        ),
        "GET /models/versions": lambda client: client.models.versions(),
        "GET /models/retirements": lambda client: client.models.retirements(),
        "GET /watches": lambda client: client.watches.list(),
        "GET /watches/{name}": lambda client: client.watches.show("x/y"),
        "POST /watches/{name}/probe": lambda client: client.watches.probe("x/y"),
        "POST /watches/{name}/pin": lambda client: client.watches.pin("x/y", "why"),
        "GET /shadows": lambda client: client.routes.shadows(),
        "GET /frontier": lambda client: client.routes.frontier(
            "x/y", quality="feedback:v", since="1d", run="run_1"
        ),
        "POST /what-if": lambda client: client.routes.what_if(
            {"strategy": "cheapest"}, route="x/y", value="feedback:v", since="1d", until="1h"
        ),
        "GET /routes/{name}/shadow": lambda client: client.routes.shadow("x/y"),
        "POST /routes/{name}/shadow": lambda client: client.routes.pause_shadow("x/y", "why"),
        "GET /eval": lambda client: client.runs.list(dataset="d"),
        "POST /eval": lambda client: client.runs.create({"dataset": "d"}, key="k"),
        "GET /eval/tasks": lambda client: client.tasks(),
        "GET /eval/metrics": lambda client: client.metrics(),
        "GET /eval/compare": lambda client: client.compare("a", "b"),
        "GET /eval/{run_id}": lambda client: client.runs.report("x/y"),
        "DELETE /eval/{run_id}": lambda client: client.runs.delete("x/y"),
        "POST /eval/{run_id}/pause": lambda client: client.runs.pause("x/y"),
        "POST /eval/{run_id}/cancel": lambda client: client.runs.cancel("x/y"),
        "POST /eval/{run_id}/resume": lambda client: client.runs.resume("x/y"),
        "POST /eval/{run_id}/rescore": lambda client: client.runs.rescore("x/y"),
        "POST /eval/{run_id}/extend": lambda client: client.runs.extend("x/y", limit=2),
        "POST /eval/{run_id}/track": lambda client: client.runs.track("x/y"),
        "GET /eval/{run_id}/events": lambda client: all_of(client.runs.events("x/y")),
        "GET /eval/{run_id}/logs": lambda client: all_of(client.runs.logs("x/y")),
        "GET /eval/{run_id}/slices": lambda client: client.runs.slices("x/y", "x", output="f1"),
        "GET /eval/{run_id}/samples": lambda client: all_of(client.runs.samples("x/y")),
        "GET /eval/{run_id}/judgements": lambda client: all_of(client.runs.judgements("x/y")),
        "GET /eval/{run_id}/samples/{position}/notes": lambda client: client.runs.notes("x/y", 1),
        "PUT /eval/{run_id}/samples/{position}/notes": lambda client: client.runs.note("x/y", 1),
        "DELETE /eval/{run_id}/samples/{position}/notes": (
            lambda client: client.runs.delete_note("x/y", 1)
        ),
        "GET /eval/{run_id}/labels": lambda client: client.runs.labels("x/y"),
        "PUT /eval/{run_id}/labels": lambda client: client.runs.label("x/y", []),
        "GET /eval/{run_id}/label-plan": lambda client: client.runs.label_plan("x/y", width=0.1),
        "POST /eval/{run_id}/export": lambda client: client.runs.export("x/y"),
        "GET /eval/{run_id}/export": lambda client: client.runs.show_export("x/y"),
        "GET /eval/{run_id}/export/{name}": lambda client: client.runs.download_export(
            "x/y", "x/y", folder / "a"
        ),
        "GET /eval/{run_id}/rows.csv": lambda client: client.runs.download(
            "x/y", folder / "a", format="csv"
        ),
        "GET /eval/{run_id}/rows.jsonl": lambda client: client.runs.download("x/y", folder / "a"),
        "GET /eval/{run_id}/rows.parquet": lambda client: client.runs.download(
            "x/y", folder / "a", format="parquet"
        ),
        "GET /eval/judges": lambda client: client.judges.list(rubric="helpfulness"),
        "GET /eval/judges/studies/{study_id}": lambda client: client.judges.show("x/y"),
        "GET /eval/judges/studies/{study_id}/fragment": lambda client: client.judges.html("x/y"),
        "GET /eval/judges/{name}/calibration": lambda client: client.judges.calibration("x"),
        "GET /eval/judges/{provider}/{model}/calibration": lambda client: client.judges.calibration(
            "x/y"
        ),
        "GET /datasets": lambda client: client.datasets.list(),
        "POST /datasets": lambda client: client.datasets.register("s3://x/y.csv"),
        "POST /datasets/from-traffic": lambda client: client.datasets.from_traffic("d", "r"),
        "POST /datasets/label": lambda client: client.datasets.label("d", "r"),
        "POST /datasets/label/{run_id}": lambda client: client.datasets.label("d", "r"),
        "GET /datasets/{name}": lambda client: client.datasets.show("x/y"),
        "PUT /datasets/{name}": lambda client: client.datasets.upload(file, name="x/y"),
        "DELETE /datasets/{name}": lambda client: client.datasets.delete("x/y"),
        "GET /datasets/{name}/rows": lambda client: all_of(client.datasets.rows("x/y")),
        "GET /datasets/{name}/content": lambda client: client.datasets.download(
            "x/y", folder / "a"
        ),
        "GET /experiments": lambda client: client.experiments.list(),
        "GET /experiments/{name}": lambda client: client.experiments.leaderboard("x/y"),
        "PATCH /experiments/{name}": lambda client: client.experiments.change("x/y", notes=""),
        "DELETE /experiments/{name}": lambda client: client.experiments.delete("x/y"),
        "GET /review": lambda client: client.review.list(state="waiting"),
        "POST /review": lambda client: client.review.add([{"messages": []}]),
        "POST /review/publish": lambda client: client.review.publish("d"),
        "GET /review/{row_id}": lambda client: client.review.show("x/y"),
        "PATCH /review/{row_id}": lambda client: client.review.edit("x/y", reference=None),
        "POST /review/{row_id}/accept": lambda client: client.review.accept("x/y"),
        "POST /review/{row_id}/reject": lambda client: client.review.reject("x/y"),
        "POST /review/{row_id}/undo": lambda client: client.review.undo("x/y"),
        "GET /traffic": lambda client: client.traffic.list(route="r", **{"class": "live"}),
        "GET /traffic/totals": lambda client: client.traffic.totals(["route", "key"]),
        "GET /traffic/{request_id}": lambda client: client.traffic.show("x/y"),
        "DELETE /traffic": lambda client: client.traffic.delete(route="r"),
        "DELETE /traffic/{request_id}": lambda client: client.traffic.delete("x/y"),
        "POST /feedback": lambda client: client.feedback.give("x/y", name="thumb", value=True),
        "GET /feedback": lambda client: client.feedback.list(name="thumb", history=True),
        "GET /feedback/{feedback_id}": lambda client: client.feedback.show("x/y"),
        "DELETE /feedback/{feedback_id}": lambda client: client.feedback.delete("x/y"),
        "GET /key": lambda client: client.keys.current(),
        "GET /keys": lambda client: client.keys.list(),
        "POST /keys": lambda client: client.keys.create("x"),
        "GET /keys/{name}": lambda client: client.keys.show("x/y"),
        "PATCH /keys/{name}": lambda client: client.keys.change("x/y", name="z", rpm=None),
        "DELETE /keys/{name}": lambda client: client.keys.revoke("x/y"),
        "GET /targets": lambda client: client.routes.targets(),
        "GET /providers": lambda client: client.providers.list(),
        "GET /providers/{name}/conformance": lambda client: client.providers.conformance("x/y"),
        "POST /providers/{name}/conformance": lambda client: client.providers.examine("x/y"),
    }


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """The operations of a real server's document."""
    folder = tmp_path_factory.mktemp("coverage")
    config = f"{{server: {{port: 0}}, storage: {{database: 'sqlite:///{folder}/e.db'}}}}"
    with gateway(config) as url:
        schema = httpx.get(f"{url}/schema", timeout=60).json()
    return {
        f"{method.upper()} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_has_a_method(operations, tmp_path):
    assert set(uses(tmp_path)) | OF_OTHER_PACKAGES == set(operations)


class Recorder:
    """Answers every request with what suits most of them, and notes it."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        if path.endswith(("/events", "/from-traffic")):
            text = 'event: end\r\ndata: {"state": "completed"}\r\n\r\n'
            return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})
        if path == "/providers":
            return httpx.Response(200, json=[])
        answer = {
            "id": "x/y",
            "data": [],
            "next": None,
            "deleted": 0,
            "complete": True,
            "elsewhere": [],
            "related": 0,
        }
        return httpx.Response(200, json=answer | {"deleted_runs": 0, "elsewhere": []})


async def test_each_method_sends_its_operation(operations, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    for operation, use in uses(tmp_path).items():
        recorder = Recorder()
        http = httpx.AsyncClient(transport=httpx.MockTransport(recorder))
        async with http, AsyncClient("http://server", http=http) as client:
            await use(client)
        method, path = operation.split(" ")
        sent = [
            (request.method, request.url.raw_path.decode().partition("?")[0])
            for request in recorder.requests
        ]
        parts = {"{model}": "x/y" if path.startswith("/v1") else "y", "{provider}": "x"}
        parts["{position}"] = "1"
        if path == "/eval/judges/{name}/calibration":
            parts["{name}"] = "x"
        expected = path
        for name in (
            "model",
            "provider",
            "name",
            "run_id",
            "study_id",
            "request_id",
            "feedback_id",
            "row_id",
            "alert_id",
            "bundle_id",
            "position",
        ):
            expected = expected.replace(f"{{{name}}}", parts.get(f"{{{name}}}", "x%2Fy"))
        assert (method, expected) in sent, operation
        # No parameter that the server does not know, because it would be ignored.
        known = {one["name"] for one in operations[operation].get("parameters", ())}
        for request in recorder.requests:
            if (request.method, request.url.raw_path.decode().partition("?")[0]) == (
                method,
                expected,
            ):
                assert set(request.url.params) <= known, operation


def test_parameters_of_the_query_can_be_given(operations, tmp_path):
    """Each is a parameter of the method, but those that only the SDK itself sends."""
    by_itself = {
        "after", "before", "every", "all", "dry_run", "follow", "filename", "column", "runs", "by",
        "margin", "limit",
    }  # fmt: skip
    filters = {
        "route", "target", "key", "user", "status", "class", "since", "until", "request_id",
        "response_id", "conversation", "rollout", "arm", "where", "text", "metadata",
    }  # fmt: skip
    accepted = {
        name
        for group in vars(asynchronous).values()
        if inspect.isclass(group) and group.__module__ == asynchronous.__name__
        for method in vars(group).values()
        if inspect.isfunction(method)
        for name in inspect.signature(method).parameters
    }
    for operation in uses(tmp_path):
        named = {
            parameter["name"]
            for parameter in operations[operation].get("parameters", ())
            if parameter["in"] == "query"
        }
        if "/traffic" in operation:
            named -= filters
        if operation == "GET /feedback":
            named -= {*filters, "rollout", "history"}
        assert named - by_itself <= accepted, operation


async def test_bodies_have_described_fields_only(operations, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    for operation in (
        "POST /keys",
        "POST /datasets",
        "POST /datasets/from-traffic",
        "PUT /eval/{run_id}/labels",
    ):
        recorder = Recorder()
        http = httpx.AsyncClient(transport=httpx.MockTransport(recorder))
        async with http, AsyncClient("http://server", http=http) as client:
            await uses(tmp_path)[operation](client)
        [request] = recorder.requests
        content = operations[operation]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"]
        assert isinstance(msgspec.json.decode(request.content), dict)


async def test_an_error_in_a_stream_of_events_is_raised_as_its_status_says():
    error = {"message": "gone", "type": "x", "param": "name", "code": "no_rows"}
    event = msgspec.json.encode({"status": 409, "error": error}).decode()
    text = (
        'event: progress\r\ndata: {"records": 1, "rows": 0}\r\n\r\n'
        f"event: error\r\ndata: {event}\r\n\r\n"
    )
    endings = {text: ConflictError, "": UpstreamProtocolError}
    for answer, kind in endings.items():
        transport = httpx.MockTransport(lambda _, answer=answer: httpx.Response(200, text=answer))
        news: list[Mapping[str, int]] = []
        async with httpx.AsyncClient(transport=transport) as http:
            client = AsyncClient("http://server", http=http)
            with pytest.raises(kind) as raised:
                await client.datasets.from_traffic("d", "r", progress=news.append)
        assert news == ([{"records": 1, "rows": 0}] if answer else [])
        assert raised.value.param == ("name" if answer else None)
