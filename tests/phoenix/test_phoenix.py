"""What a real Arize Phoenix makes of our traces, by its own APIs: `make test-phoenix`."""

import os
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from servers import gateway, reserved_port, scripted
from traced_requests import MODELS, QUESTION, SECRET, config, send_all

PHOENIX = Path(__file__).parents[2] / ".venv-phoenix/bin/phoenix"
PROJECT = "evalrouter"
START_S = 180

pytestmark = [
    pytest.mark.skipif(not PHOENIX.exists(), reason="make test-phoenix"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory):
    """A Phoenix on loopback that asks nothing of the network; yields a client of it."""
    folder = tmp_path_factory.mktemp("phoenix")
    with ExitStack() as stack:
        port, grpc = (stack.enter_context(reserved_port()) for _ in range(2))
        environ = {
            **os.environ,
            "PHOENIX_WORKING_DIR": str(folder),
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(grpc),
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
            "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        }
        log = stack.enter_context((folder / "log").open("wb"))
        server = subprocess.Popen(
            [PHOENIX, "serve"], env=environ, cwd=folder, stdout=log, stderr=log
        )
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        try:
            until = time.monotonic() + START_S
            while not is_up(http):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, "Phoenix did not start"
                time.sleep(0.2)
            yield http
        finally:
            server.terminate()
            server.wait()


def is_up(http):
    try:
        return http.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


class Shown:
    """What Phoenix has of the project: spans by id, and what was sent."""

    def __init__(self, http, records):
        self.http = http
        self.records = records

    def spans(self):
        answer = self.http.get(f"/v1/projects/{PROJECT}/spans", params={"limit": 1000})
        # There is no project before Phoenix has written its first span.
        rows = [] if answer.status_code == 404 else answer.json()["data"]
        return {row["context"]["span_id"]: row for row in rows}

    def of_record(self, name):
        """The request's span, and the names of those below it in the order they began."""
        spans = self.spans()
        [request] = [
            span
            for span in spans.values()
            if span["attributes"].get("evalrouter.record") == self.records[name]
            and span["span_kind"] == "LLM"
        ]
        return request, below(spans, request)

    def annotations(self, spans):
        """Span id to the annotations of it, by name."""
        found = defaultdict(dict)
        rows = self.http.get(
            f"/v1/projects/{PROJECT}/span_annotations",
            params={"span_ids": [span["context"]["span_id"] for span in spans], "limit": 1000},
        ).json()["data"]
        for row in rows:
            found[row["span_id"]][row["name"]] = row
        return found

    def query(self, text):
        answer = self.http.post("/graphql", json={"query": text}).json()
        assert "errors" not in answer, answer
        return answer["data"]


def below(spans, parent):
    place = parent["context"]["span_id"]
    children = [span for span in spans.values() if span["parent_id"] == place]
    return sorted(children, key=lambda span: span["start_time"])


@pytest.fixture(scope="module")
def shown(phoenix, tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    address = str(phoenix.base_url)
    with scripted(MODELS) as upstream, httpx.Client(timeout=60) as http:
        settings = config(upstream.url, address, folder / "e.db", content=True, phoenix=address)
        with gateway(settings) as url:
            shown = Shown(phoenix, send_all(http, url, folder))
    # Phoenix writes what it got a moment later, and annotations after the spans.
    until = time.monotonic() + 60
    while time.monotonic() < until:
        spans = [span for span in shown.spans().values() if span["name"].startswith("sample ")]
        scored = shown.annotations(spans) if spans else {}
        if len(scored) == 2 and any("feedback" in span["name"] for span in shown.spans().values()):
            break
        time.sleep(0.2)
    return shown


def test_a_request_has_its_attempts_below_it(shown):
    request, children = shown.of_record("retried")
    assert [child["name"] for child in children] == ["attempt up/moody"] * 2
    assert [child["status_code"] for child in children] == ["ERROR", "UNSET"]
    assert [child["span_kind"] for child in children] == ["CHAIN", "CHAIN"]
    assert request["parent_id"] is None
    _, children = shown.of_record("hit")
    assert [child["name"] for child in children] == ["cache"]


def test_tokens_are_counted_once(shown):
    data = shown.query(
        "{ projects(first: 10) { edges { node { name sessions(first: 10) { edges { node {"
        " sessionId numTraces tokenUsage { prompt completion } } } } } } } }"
    )
    [project] = [e["node"] for e in data["projects"]["edges"] if e["node"]["name"] == PROJECT]
    sessions = {e["node"]["sessionId"]: e["node"] for e in project["sessions"]["edges"]}
    assert set(sessions) == {"outing", shown.records["run"]}
    # Five requests, one of which the response cache answered.
    assert sessions["outing"]["numTraces"] == 5
    assert sessions["outing"]["tokenUsage"] == {"prompt": 4000, "completion": 400}
    # Two samples with a judge's request each.
    assert sessions[shown.records["run"]]["numTraces"] == 2
    assert sessions[shown.records["run"]]["tokenUsage"] == {"prompt": 2100, "completion": 220}


@pytest.mark.parametrize("name", ["retried", "streamed", "miss", "hit"])
def test_messages_are_shown_without_secrets(shown, name):
    request, _ = shown.of_record(name)
    attributes = request["attributes"]
    assert attributes["input.value"] == f"{QUESTION} My key is ***."
    assert attributes["output.value"].startswith("It rains")
    assert SECRET not in str(shown.spans())


def test_what_must_not_be_stored_is_not_shown(shown):
    request, _ = shown.of_record("private")
    assert QUESTION not in str(request)
    assert "input.value" not in request["attributes"]


def test_scores_of_an_evaluation_are_events_and_annotations(shown):
    spans = shown.spans()
    samples = [span for span in spans.values() if span["name"] == "sample weather"]
    assert len(samples) == 2
    annotations = shown.annotations(samples)
    for sample in samples:
        names = [child["name"] for child in below(spans, sample)]
        assert names == ["run cache", "chat small", "chat judge"]
        tomorrow = sample["attributes"]["evalrouter.sample"] == "tomorrow"
        scores = annotations[sample["context"]["span_id"]]
        assert scores["exact_match"]["result"]["score"] == float(tomorrow)
        assert scores["exact_match"]["annotator_kind"] == "CODE"
        assert scores["helpfulness"]["result"]["score"] == 4
        assert scores["helpfulness"]["annotator_kind"] == "LLM"
        named = {
            event["attributes"]["gen_ai.evaluation.name"]: event["attributes"]
            for event in sample["events"]
            if event["name"] == "gen_ai.evaluation.result"
        }
        assert named["helpfulness"]["gen_ai.evaluation.score.value"] == 4


def test_feedback_is_an_annotation_by_a_person(shown):
    request, children = shown.of_record("streamed")
    assert [child["name"] for child in children] == ["attempt up/small", "feedback helpful"]
    assert children[-1]["span_kind"] == "EVALUATOR"
    given = shown.annotations([request])[request["context"]["span_id"]]["helpful"]
    assert given["annotator_kind"] == "HUMAN"
    assert given["result"] == {"score": 1.0, "label": "true", "explanation": "Dry!"}
