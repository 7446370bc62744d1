"""Scheduling of runs against a real upstream: rate limits, dead and slow targets, live requests."""

import json
import threading
import time
from collections import Counter

import pytest
from servers import gateway, scripted

ROWS = [{"id": f"s{n}", "input": f"Say {n}", "reference": f"Say {n}"} for n in range(40)]
LIMITED = {"status": 429, "headers": {"retry-after": "0"}}
MODELS = {
    "echo": [{}],
    "limited": [{"times": 6, **LIMITED}, {"times": 20}, {"times": 3, **LIMITED}, {}],
    "spent": [{"status": 429, "body": {"error": {"message": "pay", "code": "insufficient_quota"}}}],
    "dead": [{"status": 500}],
    "flaky": [{"match": "[37]$", "status": 400}, {}],
    "hanging": [{"delay_s": 0.5}],
    "slow": [{"delay_s": 0.2}],
}
CONFIG = """
server: {{port: 0}}
providers: {{up: {{kind: compatible, base_url: "{url}", api_key: sk-secret-key}}}}
routes:
  narrow: {{targets: [{{model: up/slow, max_concurrency: 1}}]}}
  once: {{targets: [{{model: up/dead}}], retries: {{attempts: 1}}}}
  fast: {{targets: [{{model: up/echo}}], cache: {{ttl: 600}}}}
"""


@pytest.fixture
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
def url(tmp_path, monkeypatch, upstream):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with gateway(CONFIG.format(url=upstream.url)) as url:
        yield url


def document(**changes):
    return {"dataset": "data.jsonl", "routes": ["up/echo"], "metrics": ["exact_match"]} | changes


def begin(http, url, **changes):
    created = http.post(f"{url}/eval", json=document(**changes))
    assert created.status_code == 202, created.text
    return created.json()["id"]


def ended(http, url, run_id):
    """The run once it has ended."""
    with http.stream("GET", f"{url}/eval/{run_id}/events") as events:
        for _ in events.iter_lines():
            pass
    return http.get(f"{url}/eval/{run_id}").json()


def answers(http, url, run_id, route=None):
    params = {"limit": 1000} | ({"route": route} if route else {})
    return http.get(f"{url}/eval/{run_id}/samples", params=params).json()["data"]


def test_a_rate_limit_is_waited_out_and_costs_no_cell(http, url, upstream):
    outcome = ended(http, url, begin(http, url, routes=["up/limited"]))
    assert outcome["run"]["state"] == "completed"
    assert outcome["run"]["interrupted"] == 0
    rows = answers(http, url, outcome["run"]["id"])
    assert {row["answer"]["error"] for row in rows} == {None}
    assert len(upstream.log.requests) == 49
    # Each refused attempt is on the record of its cell.
    results = Counter(attempt["result"] for row in rows for attempt in row["attempts"])
    assert results == {"ok": 40, "upstream_429": 9}
    assert sum(row["answer"]["attempts"] for row in rows) == 49


def test_a_spent_quota_is_not_waited_for(http, url, upstream):
    outcome = ended(http, url, begin(http, url, routes=["up/spent"], limits={"concurrency": 4}))
    assert outcome["run"]["state"] == "failed"
    assert "up/spent failed 20 of 20" in outcome["run"]["stopped"]
    assert len(upstream.log.requests) <= 24


def test_a_dead_target_stops_its_own_cells_only(http, url):
    outcome = ended(http, url, begin(http, url, routes=["once", "up/echo"]))
    assert outcome["run"]["state"] == "failed"
    why = outcome["run"]["stopped"]
    assert "once: up/dead failed 20 of 20 requests" in why
    assert "limits.failure_share, 0.5" in why
    rows = answers(http, url, outcome["run"]["id"], "up/echo")
    assert [row["answer"]["text"] for row in rows] == [row["input"] for row in ROWS]
    dead = answers(http, url, outcome["run"]["id"], "once")
    # Those that were in flight when it stopped are kept too.
    assert 20 <= len(dead) < 40


def test_how_much_may_fail_is_the_runs_to_say(http, url):
    outcome = ended(http, url, begin(http, url, routes=["up/flaky"]))
    assert outcome["run"]["state"] == "completed"
    limits = {"failure_share": 0.1, "concurrency": 2}
    outcome = ended(http, url, begin(http, url, routes=["up/flaky"], cache=False, limits=limits))
    assert outcome["run"]["state"] == "failed"
    assert "more than limits.failure_share, 0.1" in outcome["run"]["stopped"]
    assert len(answers(http, url, outcome["run"]["id"])) < 40


def test_a_slow_target_does_not_hold_up_the_others(http, url, upstream):
    limits = {"concurrency": 4}
    run_id = begin(http, url, routes=["up/hanging", "up/echo"], limits=limits)
    outcome = ended(http, url, run_id)
    assert outcome["run"]["state"] == "completed"
    models = [json.loads(bytes(request.body))["model"] for request in upstream.log.requests]
    # In one queue for both, at most four more of the one could be asked before the other.
    assert models[:50].count("echo") == 40


def test_a_target_gets_no_more_at_a_time_than_the_run_says(http, url, upstream):
    limits = {"concurrency": 16, "per_target": {"up/slow": 3}}
    run_id = begin(http, url, routes=["up/slow"], limit=12, limits=limits)
    highest = 0
    while sum(row["answer"] is not None for row in answers(http, url, run_id)) < 12:
        highest = max(highest, upstream.log.counts["outcomes"]["open"])
    assert 0 < highest <= 3
    assert ended(http, url, run_id)["run"]["state"] == "completed"


def test_a_limit_for_a_target_that_the_run_does_not_ask_is_refused(http, url):
    refused = http.post(f"{url}/eval", json=document(limits={"per_target": {"up/ech": 3}}))
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "limits.per_target.up/ech"
    assert "up/echo" in error["message"]


def test_live_requests_go_first_where_a_target_has_few_places(http, url):
    run_id = begin(http, url, routes=["narrow"], limit=20)
    while not answers(http, url, run_id):
        time.sleep(0.01)
    body = {"model": "narrow", "messages": [{"role": "user", "content": "live"}]}
    replies = []
    live = [
        threading.Thread(
            target=lambda: replies.append(http.post(f"{url}/v1/chat/completions", json=body))
        )
        for _ in range(3)
    ]
    for task in live:
        task.start()
    for task in live:
        task.join()
    left = 20 - sum(row["answer"] is not None for row in answers(http, url, run_id))
    assert [reply.status_code for reply in replies] == [200] * 3
    # One cell was in flight when they came; in turn with the run's others, they would have been
    # last.
    assert left >= 4
    assert ended(http, url, run_id)["run"]["state"] == "completed"


def test_a_run_trips_no_live_breaker_fills_no_live_cache_and_is_labelled(http, url, upstream):
    ended(http, url, begin(http, url, routes=["once"]))
    ended(http, url, begin(http, url, routes=["fast"]))
    metrics = http.get(f"{url}/metrics").text
    open_ = [line for line in metrics.splitlines() if line.startswith("evalrouter_breaker_open{")]
    assert any('class="eval"' in line and line.endswith(" 1.0") for line in open_)
    assert not any('class="live"' in line and line.endswith(" 1.0") for line in open_)
    sent = len(upstream.log.requests)
    body = {"model": "fast", "messages": [{"role": "user", "content": "Say 1"}]}
    reply = http.post(f"{url}/v1/chat/completions", json=body)
    assert reply.headers["x-evalrouter-cache"] == "miss"
    assert len(upstream.log.requests) == sent + 1
