"""What a shadow and a rollout's judge add to the traces of live requests."""

import time
from functools import partial

import httpx
from collector import Tree, collecting, scores_of, values_of
from servers import gateway, scripted

MODELS = {
    "dear": [{"answer": "The dear answer."}],
    "cheap": [{"answer": "The cheap one."}],
    "judge": [{"answer": "Feedback: Fine. [RESULT] 5"}],
}
CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  live: {{kind: compatible, base_url: "{url}"}}
  other: {{kind: compatible, base_url: "{url}"}}
prices: {{live/dear: {{input: 1, output: 1}}, other/cheap: {{input: 1, output: 1}},
  other/judge: {{input: 1, output: 1}}}}
telemetry: {{otlp_endpoint: "{collector}", content: true}}
record: metadata
routes:
  chat: {{targets: [{{model: live/dear}}], share_bodies_with: [other],
    shadow: {{targets: [other/cheap], sample: 1, metrics: [length],
      limits: {{rps: 1000, usd_per_day: 5}}}}}}
  rolled: {{targets: [{{model: live/dear}}], share_bodies_with: [other]}}
"""
ROLLOUT = {
    "candidate": "other/cheap",
    "steps": [50],
    "step_seconds": 0,
    "cycle_seconds": 0,
    "unit_seconds": 0,
    "force": True,
    "judge": {
        "metric": {"name": "prometheus", "judge": "other/judge", "retries": 0},
        "sample": 1,
        "limits": {"rps": 1000, "concurrency": 8},
    },
    "signals": [
        {"measure": "judge", "low": 1, "high": 5, "margin": 0.2, "min_requests": 5},
        {"measure": "errors", "role": "goal", "margin": 0.001},
    ],
}


def ask(http, model, text):
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-evalrouter-record"]


def request_of(tree, record):
    [span] = [
        span
        for span in tree.spans
        if span.kind == span.SPAN_KIND_SERVER
        and values_of(span.attributes)["evalrouter.record"] == record
    ]
    return span


def links_of(span):
    return {(link.trace_id, link.span_id) for link in span.links}


def links_of_all(spans, name):
    return set().union(*(links_of(span) for span in list(spans) if span.name == name))


def test_scores_of_shadows_and_rollouts_join_the_traces_of_live_requests(tmp_path):
    with (
        collecting() as collector,
        scripted(MODELS) as upstream,
        gateway(CONFIG.format(folder=tmp_path, url=upstream.url, collector=collector.url)) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        started = http.post("/routes/rolled/rollout", json=ROLLOUT)
        assert started.status_code < 300, started.text
        rollout = started.json()["id"]
        # The server reads which routes have a shadow once a second, and then takes their requests.
        shadowed = []
        while not links_of_all(collector.spans, "shadow scores"):
            shadowed.append(ask(http, "chat", "private words"))
            time.sleep(0.3)
        # A rollout's judge begins a moment after it.
        rolled = []
        names = set()
        while "rollout score" not in names:
            rolled.append(ask(http, "rolled", "private words"))
            time.sleep(0.2)
            names = {span.name for span in list(collector.spans)}
        collector.wait(
            lambda spans: (
                links_of_all(spans, "shadow scores") & links_of_all(spans, "sample other/cheap")
            )
        )
    tree = Tree(collector.spans)

    candidates = tree.all_named("sample other/cheap")
    [live, *_] = [
        span
        for span in map(partial(request_of, tree), shadowed)
        if (span.trace_id, span.span_id) in links_of_all(candidates, "sample other/cheap")
        and any(below.name == "shadow scores" for below in tree.below(span))
    ]
    [scores] = [span for span in tree.below(live) if span.name == "shadow scores"]
    assert {"words": 3.0, "characters": 16.0}.items() <= scores_of(scores).items()
    assert links_of(scores) == {(live.trace_id, live.span_id)}
    [candidate] = [span for span in candidates if (live.trace_id, live.span_id) in links_of(span)]
    assert {"words": 3.0, "characters": 14.0}.items() <= scores_of(candidate).items()
    assert candidate.trace_id != live.trace_id
    assert [span.name for span in tree.below(candidate)][-1] == "chat cheap"

    [score, *_] = tree.all_named("rollout score")
    [judged] = [span for span in tree.spans if span.span_id == score.parent_span_id]
    values = values_of(judged.attributes)
    assert values["evalrouter.record"] in rolled
    assert values["evalrouter.rollout"] == rollout
    arm = "candidate" if values["evalrouter.target"] == "other/cheap" else "control"
    assert values["evalrouter.arm"] == arm
    assert list(scores_of(score).values()) == [5.0]
    [judge] = [span for span in tree.below(judged) if span.name == "chat judge"]
    assert values_of(judge.attributes)["evalrouter.rollout"] == rollout
    # Neither route stores bodies.
    assert "private words" not in str(tree.spans)
    assert "The dear" not in str(tree.spans)
