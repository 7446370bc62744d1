"""The traces of a run: samples with their requests, judges and scores, as a collector gets them."""

import json
import time

import httpx
import pytest
from click.testing import CliRunner
from collector import Tree, collecting, scores_of, values_of
from servers import gateway, scripted

from router.cli import main
from router.gateway.trace_context import evaluation_ids

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
MODELS = {
    "one": [{"answer": "It rains.", "usage": USAGE}],
    "two": [
        {"times": 1, "status": 503, "headers": {"retry-after-ms": 1}},
        {"answer": "It snows.", "usage": USAGE},
    ],
    "down": [{"status": 500}],
    "judge": [{"answer": "Feedback: Fine. [RESULT] 4", "usage": USAGE}],
}
ROWS = [{"id": f"s{n}", "input": f"Question {n}?", "reference": "It rains."} for n in range(2)]
METRICS = [{"name": "exact_match"}, {"name": "prometheus", "judge": "up/judge", "retries": 0}]
RUN = {"name": "first", "routes": ["one", "two"], "metrics": METRICS}
ENDED = {"completed", "failed", "cancelled"}


@pytest.fixture
def folder(tmp_path):
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(rows)
    return tmp_path


class Server:
    """A gateway that sends its spans to a collector."""

    def __init__(self, url, collector, folder):
        self.http = httpx.Client(base_url=url, timeout=60)
        self.collector = collector
        self.folder = folder
        self.config = ""

    def run(self, **document):
        body = {**RUN, "dataset": str(self.folder / "rows.jsonl"), **document}
        created = self.http.post("/eval", json=body)
        assert created.status_code < 300, created.text
        return self.ended(created.json()["id"])

    def ended(self, run_id):
        while True:
            run = self.http.get(f"/eval/{run_id}").json()["run"]
            if run["state"] in ENDED:
                return run
            time.sleep(0.02)


@pytest.fixture
def serve(folder):
    def start(**telemetry):
        return Serving(folder, telemetry)

    return start


class Serving:
    def __init__(self, folder, telemetry):
        self.folder, self.telemetry = folder, telemetry

    def __enter__(self):
        self.collecting = collecting()
        collector = self.collecting.__enter__()
        self.scripted = scripted(MODELS)
        upstream = self.scripted.__enter__()
        section = json.dumps({"otlp_endpoint": collector.url, **self.telemetry})
        config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{self.folder}/e.db"}}
datasets: {{roots: ["{self.folder}"]}}
providers: {{up: {{kind: vllm, base_url: "{upstream.url}"}}}}
record: metadata
telemetry: {section}
routes:
  one: {{targets: [{{model: up/one}}]}}
  two: {{targets: [{{model: up/two}}], retries: {{attempts: 2, backoff: 0.01}}}}
  down: {{targets: [{{model: up/down}}], retries: {{attempts: 1}}}}
"""
        self.gateway = gateway(config)
        self.server = Server(self.gateway.__enter__(), collector, self.folder)
        self.server.config = config
        return self.server

    def __exit__(self, *error):
        self.server.http.close()
        self.gateway.__exit__(*error)
        self.scripted.__exit__(*error)
        self.collecting.__exit__(*error)


def samples_of(tree):
    """Sample and route to the span."""
    found = {}
    for span in tree.spans:
        if span.name.startswith("sample "):
            values = values_of(span.attributes)
            found[values["evalrouter.sample"], values["evalrouter.route"]] = span
    return found


def test_a_sample_is_a_trace_with_its_requests_judges_and_scores(serve):
    with serve() as server:
        run = server.run()
    tree = Tree(server.collector.spans)
    samples = samples_of(tree)
    assert set(samples) == {(f"s{n}", route) for n in range(2) for route in ("one", "two")}
    assert len({span.trace_id for span in samples.values()}) == 4
    retried = 0
    for (_, route), span in samples.items():
        assert span.parent_span_id == b""
        values = values_of(span.attributes)
        assert values["session.id"] == values["evalrouter.run"] == run["id"]
        assert values["openinference.span.kind"] == "CHAIN"
        scores = scores_of(span)
        assert scores["exact_match"] == (route == "one")
        assert scores["helpfulness"] == 4
        below = tree.below(span)
        assert [each.name for each in below] == ["run cache", f"chat {route}", "chat judge"]
        _, request, judge = below
        assert values_of(request.attributes)["gen_ai.usage.input_tokens"] == 10
        assert values_of(judge.attributes)["evalrouter.metric"] == "prometheus:helpfulness"
        assert values_of(judge.attributes)["session.id"] == run["id"]
        assert request.kind == judge.kind == request.SPAN_KIND_CLIENT
        retried += len(tree.below(request)) - 1
        assert len(tree.below(judge)) == 1
        # No text of a sample is shown unless the config says so.
        assert "Question" not in str(span) + str(request)
    assert retried == 1
    whole = tree.named("evaluation first")
    assert values_of(whole.attributes)["evalrouter.run.answered"] == 4
    for span in samples.values():
        assert [(link.trace_id, link.span_id) for link in span.links] == [
            (whole.trace_id, whole.span_id)
        ]


def test_texts_are_shown_where_the_config_says_so(serve):
    with serve(content=True) as server:
        server.run(routes=["one"])
    tree = Tree(server.collector.spans)
    sample = samples_of(tree)["s0", "one"]
    values = values_of(sample.attributes)
    assert (values["input.value"], values["output.value"]) == ("Question 0?", "It rains.")
    request = values_of(tree.below(sample)[1].attributes)
    [message] = json.loads(request["gen_ai.input.messages"])
    assert message["parts"] == [{"type": "text", "content": "Question 0?"}]
    judge = values_of(tree.below(sample)[2].attributes)
    assert "It rains." in judge["gen_ai.input.messages"]


def test_a_sample_whose_target_fails_says_so(serve):
    with serve() as server:
        server.run(routes=["down"], metrics=["exact_match"])
    for span in samples_of(Tree(server.collector.spans)).values():
        assert span.status.code == span.status.STATUS_CODE_ERROR
        assert span.status.message == "upstream_500"
        assert scores_of(span) == {}


def test_an_answer_of_the_run_cache_is_no_request(serve, folder):
    priced = {"routes": ["one"], "metrics": ["exact_match"]}
    with serve() as server:
        server.run(**priced)
        second = server.run(**priced)
    tree = Tree(server.collector.spans)
    cached = [
        span
        for span in tree.spans
        if span.name == "sample one" and values_of(span.attributes)["session.id"] == second["id"]
    ]
    assert len(cached) == 2
    for span in cached:
        [step] = tree.below(span)
        assert values_of(step.attributes)["evalrouter.cache.hit"] is True
        assert values_of(span.attributes)["evalrouter.cached"] is True


def test_a_run_that_is_scored_again_adds_scores_to_the_same_traces(serve):
    with serve() as server:
        run = server.run(routes=["one"], metrics=["exact_match"])
        ended = server.collector.wait(lambda spans: any("evaluation" in s.name for s in spans))
        before = len(ended)
        added = server.http.post(f"/eval/{run['id']}/rescore", json={"metrics": ["length"]})
        assert added.status_code < 300, added.text
        server.ended(run["id"])
    tree = Tree(server.collector.spans)
    assert len(samples_of(tree)) == 2
    for span in samples_of(tree).values():
        [scores] = [each for each in tree.below(span) if each.name == "scores"]
        assert set(scores_of(scores)) == {"words", "characters"}
        [link] = scores.links
        assert (link.trace_id, link.span_id) == (span.trace_id, span.span_id)
    assert len(tree.all_named("evaluation first")) == 1
    assert len(tree.spans) == before + 2


def test_a_share_of_the_samples_is_recorded_always_the_same(serve):
    share = 0.5
    with serve(sample_evaluations=share) as server:
        rows = [{"id": f"s{n}", "input": "?", "reference": "!"} for n in range(40)]
        (server.folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        run = server.run(routes=["one"], metrics=["exact_match"])
    recorded = {sample for sample, _ in samples_of(Tree(server.collector.spans))}
    expected = {
        f"s{n}"
        for n in range(40)
        if evaluation_ids("sample", run["id"], "one", f"s{n}", 0)[0] & (2**56 - 1) >= 2**55
    }
    assert recorded == expected


def test_feedback_joins_the_trace_of_its_request(serve):
    with serve(content=True) as server:
        body = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
        reply = server.http.post("/v1/chat/completions", json=body)
        feedback = {
            "name": "helpful",
            "value": True,
            "comment": "Dry! sk-live-0123456789abcdefghij",
        }
        record = reply.headers["x-evalrouter-record"]
        given = server.http.post("/feedback", json={"request_id": record, **feedback})
        assert given.status_code < 300, given.text
    tree = Tree(server.collector.spans)
    request, scores = tree.named("chat one"), tree.named("feedback helpful")
    assert scores in tree.below(request)
    assert scores_of(scores) == {"helpful": 1.0}
    [event] = scores.events
    values = values_of(event.attributes)
    assert values["gen_ai.evaluation.score.label"] == "true"
    assert values["gen_ai.evaluation.explanation"] == "Dry! ***"


def test_what_is_not_recorded_sends_nothing(serve):
    with serve(sample=0, sample_evaluations=0) as server:
        server.run(routes=["one"], metrics=["exact_match"])
        body = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
        reply = server.http.post("/v1/chat/completions", json=body)
        record = reply.headers["x-evalrouter-record"]
        given = server.http.post(
            "/feedback", json={"request_id": record, "name": "helpful", "value": True}
        )
        assert given.status_code < 300, given.text
    assert server.collector.spans == []


def test_embeddings_and_a_studys_judgements_are_traces_of_their_own(serve):
    with serve() as server:
        run = server.run(
            routes=["one"], metrics=[{"name": "embedding_similarity", "route": "up/one"}]
        )
        case = {"instruction": "?", "response": "It rains.", "score": 4}
        (server.folder / "cases.jsonl").write_text(json.dumps(case) + "\n")
        (server.folder / "c.yaml").write_text(server.config)
        files = ["--dataset", f"{server.folder}/cases.jsonl", "--config", f"{server.folder}/c.yaml"]
        options = ["--judge", "up/judge", "--retries", "0", *files]
        done = CliRunner().invoke(main, ["judge", "calibrate", *options])
        assert done.exit_code == 0, done.output
    tree = Tree(server.collector.spans)
    for span in tree.all_named("embeddings one"):
        assert values_of(span.attributes)["session.id"] == run["id"]
        assert len(tree.below(span)) == 1
    assert tree.all_named("embeddings one")
    judged = tree.named("chat judge")
    values = values_of(judged.attributes)
    assert values["session.id"] == values["evalrouter.study"]
    assert judged.parent_span_id == b""
