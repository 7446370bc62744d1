"""What a request leaves behind: its record, its metrics, its spans, its answer in the cache.

Over real HTTP: a gateway in front of a scripted upstream, and a collector beside them.
"""

import asyncio
import hashlib
import json
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from collector import CollectorReply, Tree, collecting, values_of
from prometheus_client.parser import text_string_to_metric_families
from servers import gateway, process, record_of, scripted

from router.cli import main
from router.gateway.key_administration import create
from router.store.sqlite import SqliteStore

USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 500},
}
HELLO = [{"role": "user", "content": "hi"}]
LONG = " ".join("word" for _ in range(3000))
MODELS = {
    "m": [{"answer": "answer {n}", "usage": USAGE}],
    "long": [{"answer": LONG, "usage": USAGE}],
    "n": [{"answer": "call {n}"}],
    "down": [{"status": 503}],
    "refuses": [{"status": 422}],
    "cut": [{"answer": "one two three four five six", "fault": "reset_midway"}],
    "error": [{"answer": "one two three four", "fault": "error_event"}],
    "once": [{"times": 1, "status": 429, "headers": {"retry-after-ms": 1}}, {"answer": "call {n}"}],
    "slow": [{"answer": " ".join("word" for _ in range(200)), "chunk_delay_s": 0.05}],
    "late": [{"answer": "late", "delay_s": 10}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


def config_of(upstream, database, extra=""):
    return f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{database}"}}
providers:
  up: {{kind: vllm, base_url: "{upstream.url}"}}
  floor: {{kind: baseline}}
prices: {{up/m: {{input: 10, output: 20, cached_input: 1}}}}
record: metadata
routes:
  plain: {{targets: [{{model: up/m}}]}}
  silent: {{targets: [{{model: up/m}}], record: none}}
  full: {{targets: [{{model: up/m}}], record: full}}
  long: {{targets: [{{model: up/long}}], record: full}}
  falls: {{targets: [{{model: up/down}}], fallback: [up/m], retries: {{attempts: 1}}}}
  down: {{targets: [{{model: up/down}}], retries: {{attempts: 1}}}}
  cut: {{targets: [{{model: up/cut}}], retries: {{attempts: 1}}, cache: {{}}, record: full}}
  error: {{targets: [{{model: up/error}}], retries: {{attempts: 1}}, cache: {{}}}}
  refuses: {{targets: [{{model: up/refuses}}], cache: {{}}}}
  once: {{targets: [{{model: up/once}}], cache: {{}}}}
  cached: {{targets: [{{model: up/n}}], cache: {{ttl: 600}}, record: full}}
  brief: {{targets: [{{model: up/n}}], cache: {{ttl: 0.2}}}}
  slow: {{targets: [{{model: up/slow}}], cache: {{}}}}
  late: {{targets: [{{model: up/late}}]}}
{extra}
"""


@pytest.fixture
def url(upstream, tmp_path):
    with gateway(config_of(upstream, tmp_path / "o.db")) as url:
        yield url


def ask(http, url, model, headers=(), **fields):
    body = {"model": model, "messages": HELLO} | fields
    return http.post(f"{url}/v1/chat/completions", json=body, headers=dict(headers))


def text_of(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def metric(http, url, name, **labels):
    text = http.get(f"{url}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"evalrouter_{name}" and sample.labels == labels:
                return sample.value
    return None


def counted_statuses(http, url, labels):
    """How many requests with these labels ended with which status."""
    text = http.get(f"{url}/metrics").text
    return {
        sample.labels["status"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "evalrouter_requests_total" and labels.items() <= sample.labels.items()
    }


# Records


def test_the_record_of_an_answer(http, url):
    before = time.time()
    reply = ask(http, url, "plain", headers={"x-request-id": "mine-1"})
    record = record_of(http, url, reply)
    assert (record["request_id"], record["id"]) == ("mine-1", reply.headers["x-evalrouter-record"])
    assert reply.headers["x-request-id"] == "mine-1"
    assert record["response_id"] == reply.json()["id"] != ""
    assert (record["conversation"], record["stored"]) == ("", True)
    assert record_of(http, url, "mine-1") == record
    assert (record["route"], record["target"], record["status"]) == ("plain", "up/m", 200)
    assert (record["path"], record["class"], record["stream"]) == (
        "chat/completions",
        "live",
        False,
    )
    assert before <= record["at"] <= time.time()
    assert (record["prompt_tokens"], record["completion_tokens"]) == (1000, 100)
    assert (record["total_tokens"], record["cached_tokens"]) == (1100, 500)
    assert record["cost_usd"] == pytest.approx((500 * 10 + 500 * 1 + 100 * 20) / 1e6)
    assert (record["finish_reason"], record["error_code"]) == ("stop", "")
    assert 0 < record["first_byte_s"] <= record["total_s"] < 10
    [attempt] = record["attempts"]
    assert 0 < attempt["began_s"] < record["first_byte_s"] <= record["total_s"]
    assert (attempt["target"], attempt["result"], attempt["status"]) == ("up/m", "ok", 200)
    assert not record["bodies"]
    assert record["request"] is None


def test_a_request_without_an_id_has_that_of_its_record(http, url):
    reply = ask(http, url, "plain")
    record = record_of(http, url, reply)
    assert record["id"] == record["request_id"] == reply.headers["x-request-id"]
    refused = ask(http, url, "no such route")
    assert refused.headers["x-evalrouter-record"] == refused.headers["x-request-id"]


def test_requests_are_found_by_all_their_names(http, url):
    names = {"x-request-id": "one", "x-evalrouter-conversation": "talk é"}
    first = ask(http, url, "plain", {name: text.encode() for name, text in names.items()}.items())
    second = ask(http, url, "plain", {"x-portkey-trace-id": "t" * 300, "x-request-id": "one"})
    third = ask(http, url, "plain", {"x-portkey-trace-id": "t", "x-evalrouter-conversation": "c"})
    ids = [reply.headers["x-evalrouter-record"] for reply in (first, second, third)]
    assert len(set(ids)) == 3
    records = [record_of(http, url, name) for name in ids]
    assert records[0]["conversation"] == "talk é"
    assert records[1]["conversation"].startswith("sha256:")
    assert records[2]["conversation"] == "c"
    assert record_of(http, url, "one")["id"] == ids[1]

    def found(**query):
        rows = http.get(f"{url}/traffic", params=query).json()["data"]
        [total] = http.get(f"{url}/traffic/totals", params=query).json()["data"]
        assert total["requests"] == len(rows)
        return [row["id"] for row in rows]

    assert found(request_id="one") == [ids[1], ids[0]]
    assert found(conversation="talk é") == ids[:1]
    assert found(conversation="t" * 300) == ids[1:2]
    assert found(response_id=third.json()["id"]) == ids[2:]
    for wrong in ({"request_id": ""}, {"conversation": ""}, {"arm": "control"}):
        refused = http.get(f"{url}/traffic", params=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(wrong)))
    gone = http.delete(f"{url}/traffic", params={"conversation": "talk é"}).json()
    assert gone["deleted"] == 1
    assert http.delete(f"{url}/traffic/one").json()["deleted"] == 1
    assert http.get(f"{url}/traffic/one").status_code == 404
    assert found(conversation="c") == ids[2:]


@pytest.mark.parametrize("stream", [False, True])
def test_bodies_of_requests_that_must_not_be_stored_are_not(http, url, stream):
    kept = record_of(http, url, ask(http, url, "full", stream=stream, store=True))
    assert (kept["stored"], kept["bodies"]) == (True, True)
    record = record_of(http, url, ask(http, url, "full", stream=stream, store=False))
    assert (record["stored"], record["bodies"], record["request"]) == (False, False, None)
    assert record["total_tokens"] == 1100


def test_the_record_of_a_stream_has_usage_the_client_did_not_ask_for(http, url):
    reply = ask(http, url, "plain", stream=True)
    assert b"prompt_tokens" not in reply.content
    record = record_of(http, url, reply)
    assert (record["stream"], record["finish_reason"]) == (True, "stop")
    assert (record["total_tokens"], record["cached_tokens"]) == (1100, 500)
    assert record["cost_usd"] == pytest.approx(0.0075)


def test_the_record_of_an_embedding(http, url):
    reply = http.post(f"{url}/v1/embeddings", json={"model": "plain", "input": "hi"})
    assert reply.status_code == 200
    record = record_of(http, url, reply)
    assert record["path"] == "embeddings"
    assert record["prompt_tokens"] == 1000


def test_a_long_answer_is_read_at_its_end(http, url):
    record = record_of(http, url, ask(http, url, "long"))
    assert record["total_tokens"] == 1100
    assert len(record["response"]) > len(LONG)


def test_the_record_of_a_fallback_has_both_attempts(http, url):
    record = record_of(http, url, ask(http, url, "falls"))
    assert [(one["target"], one["status"]) for one in record["attempts"]] == [
        ("up/down", 503),
        ("up/m", 200),
    ]
    assert (record["target"], record["status"]) == ("up/m", 200)


@pytest.mark.parametrize(
    ("model", "fields", "status", "code", "target"),
    [
        ("down", {}, 503, "upstream_503", "up/down"),
        ("refuses", {}, 422, "upstream_422", "up/refuses"),
        ("nowhere", {}, 404, "model_not_found", ""),
        ("plain", {"stream": "perhaps"}, 400, "invalid_type", ""),
    ],
)
def test_the_record_of_a_failure(http, url, model, fields, status, code, target):
    reply = ask(http, url, model, **fields)
    assert reply.status_code == status
    record = record_of(http, url, reply)
    assert (record["status"], record["target"]) == (status, target)
    assert record["error_code"] == code
    assert record["cost_usd"] == 0


def test_a_request_that_is_no_json_has_a_record(http, url):
    record = record_of(http, url, http.post(f"{url}/v1/chat/completions", content=b"{"))
    assert (record["status"], record["error_code"], record["route"]) == (400, "bad_json", "")


@pytest.mark.parametrize("model", ["cut", "error"])
def test_a_stream_that_breaks_off_says_so_in_its_record(http, url, model):
    reply = ask(http, url, model, stream=True)
    assert reply.status_code == 200
    record = record_of(http, url, reply)
    assert record["status"] == 200
    assert record["error_code"]


@pytest.mark.parametrize(("model", "status"), [("late", 499), ("slow", 200)])
def test_a_client_that_leaves_has_a_record(http, url, upstream, model, status):
    stream = model == "slow"
    asked = upstream.log.counts["models"].get(model, 0)
    body = json.dumps({"model": model, "messages": HELLO, "stream": stream}).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: leaver\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        if stream:
            client.recv(1)
        while upstream.log.counts["models"].get(model, 0) == asked:
            time.sleep(0.01)
    record = record_of(http, url, "leaver")
    assert (record["status"], record["error_code"]) == (status, "client_closed_request")
    # Either may have cost something, but this model has no price.
    assert record["cost_usd"] is None
    assert record["estimated"]
    assert (record["prompt_tokens"] if stream else record["lost_tokens"]) > 0


def test_bodies_are_kept_where_the_route_says_so_without_secrets(http, url):
    reply = ask(
        http, url, "full", user="sk-live-0123456789abcdefghij", metadata={"api_key": "x9y8"}
    )
    record = record_of(http, url, reply)
    assert record["bodies"]
    sent = json.loads(record["request"])
    assert (sent["model"], sent["user"], sent["metadata"]) == ("full", "***", {"api_key": "***"})
    assert json.loads(record["response"]) == reply.json()


def test_the_body_of_a_stream_is_kept_whole(http, url):
    reply = ask(http, url, "full", stream=True, stream_options={"include_usage": True})
    assert record_of(http, url, reply)["response"] == reply.text


def test_records_say_of_which_user_of_the_client_they_are(http, url):
    sent = [{"user": "ann"}, {"user": "bob", "safety_identifier": "ann"}, {"user": "x" * 300}, {}]
    replies = [ask(http, url, "plain", **fields) for fields in sent]
    users = [record_of(http, url, reply)["user"] for reply in replies]
    assert users == ["ann", "ann", f"sha256:{hashlib.sha256(b'x' * 300).hexdigest()}", ""]

    def count(user):
        return len(http.get(f"{url}/traffic", params={"user": user}).json()["data"])

    assert [count(user) for user in ("ann", "bob", "x" * 300, users[2])] == [2, 0, 1, 1]
    totals = http.get(f"{url}/traffic/totals", params={"by": "user"}).json()["data"]
    assert {one["group"]["user"]: one["requests"] for one in totals} == {
        "ann": 2, users[2]: 1, "": 1
    }  # fmt: skip
    for method, path in (("GET", ""), ("GET", "/totals"), ("DELETE", "")):
        refused = http.request(method, f"{url}/traffic{path}", params={"user": ""})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "user")
    deleted = http.delete(f"{url}/traffic", params={"user": "ann"}).json()
    assert deleted == {"deleted": 2, "related": 0, "complete": True, "elsewhere": []}
    assert [count(user) for user in ("ann", users[2])] == [0, 1]


def test_no_record_where_the_route_wants_none(http, url):
    hidden = ask(http, url, "silent", user="ann")
    record_of(http, url, ask(http, url, "plain"))
    assert http.get(f"{url}/traffic/{hidden.headers['x-request-id']}").status_code == 404
    assert [one["route"] for one in http.get(f"{url}/traffic").json()["data"]] == ["plain"]
    labels = {"class": "live", "route": "silent", "target": "up/m", "status": "200"}
    assert metric(http, url, "requests_total", **labels) == 1


def test_the_records_of_an_ended_server_are_there(http, upstream, tmp_path):
    config = config_of(upstream, tmp_path / "o.db")
    with gateway(config) as url:
        for _ in range(30):
            ask(http, url, "plain")
    with gateway(config) as url:
        assert len(http.get(f"{url}/traffic", params={"limit": 100}).json()["data"]) == 30


# Metrics


def test_requests_show_up_in_the_metrics(http, url):
    ask(http, url, "plain")
    ask(http, url, "plain", stream=True)
    ask(http, url, "falls")
    last = ask(http, url, "down")
    record_of(http, url, last)
    plain = {"class": "live", "route": "plain", "target": "up/m"}
    down = {"class": "live", "route": "down", "target": "up/down"}
    assert metric(http, url, "requests_total", **plain, status="200") == 2
    assert metric(http, url, "requests_total", **down, status="503") == 1
    assert metric(http, url, "errors_total", **down, code="upstream_503") == 1
    assert metric(http, url, "tokens_total", **plain, type="input") == 2000
    assert metric(http, url, "tokens_total", **plain, type="output") == 200
    assert metric(http, url, "cost_usd_total", **plain) == pytest.approx(0.015)
    assert metric(http, url, "first_byte_seconds_count", **plain) == 2
    tried = {"class": "live", "target": "up/down", "result": "upstream_503"}
    assert metric(http, url, "attempts_total", **tried) == 2
    closed = {"class": "live", "target": "up/m"}
    assert metric(http, url, "breaker_open", **closed) == 0
    assert metric(http, url, "open_streams") == 0


def test_open_streams_are_counted_while_they_are_open(http, url):
    with http.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json={"model": "slow", "messages": HELLO, "stream": True},
    ) as reply:
        next(reply.iter_bytes())
        assert metric(http, url, "open_streams") == 1
    while metric(http, url, "open_streams"):
        time.sleep(0.01)


def evaluate(http, url, route, samples):
    """Evaluate a route on so many samples, in the working directory."""
    rows = (json.dumps({"input": f"Question {n}.", "reference": "a"}) for n in range(samples))
    Path("d.jsonl").write_text("\n".join(rows))
    document = {
        "dataset": "d.jsonl",
        "routes": [route],
        "prompt": "{{ input }}",
        "metrics": ["length"],
    }
    run = http.post(f"{url}/eval", json=document)
    assert run.status_code == 202, run.text
    while http.get(f"{url}/eval/{run.json()['id']}").json()["run"]["state"] not in {
        "completed",
        "failed",
    }:
        time.sleep(0.02)


def test_evaluations_are_a_class_of_their_own(http, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(http, url, "plain", samples=3)
    labels = {"route": "plain", "target": "up/m", "status": "200"}
    while metric(http, url, "requests_total", **labels | {"class": "eval"}) != 3:
        time.sleep(0.02)
    assert metric(http, url, "requests_total", **labels | {"class": "live"}) is None
    tokens = labels | {"class": "eval", "type": "input"}
    del tokens["status"]
    assert metric(http, url, "tokens_total", **tokens) == 3000


@pytest.mark.parametrize(
    ("route", "status"), [("refuses", "422"), ("down", "503"), ("late", "504")]
)
def test_a_failed_request_of_an_evaluation_is_counted_with_its_status(
    http, upstream, tmp_path, monkeypatch, route, status
):
    monkeypatch.chdir(tmp_path)
    config = config_of(upstream, tmp_path / "o.db").replace(
        "{model: up/late}]", "{model: up/late}], timeout: {total: 0.1}"
    )
    with gateway(config) as url:
        evaluate(http, url, route, samples=1)
        while not (counted := counted_statuses(http, url, {"class": "eval", "route": route})):
            time.sleep(0.01)
        # As a live request is answered.
        assert ask(http, url, route).status_code == int(status)
        assert counted == {status: 1}


def test_a_scrape_of_any_worker_shows_all(upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream, tmp_path / "o.db"))
    labels = {"class": "live", "route": "plain", "target": "up/m", "status": "200"}
    with process(tmp_path, "--workers", "2") as (server, url):
        answered = set()
        while len(answered) < 2:
            # A connection each: the kernel deals them out to the workers.
            with httpx.Client() as http:
                text_of(ask(http, url, "plain"))
                text = http.get(f"{url}/metrics").text
                answered |= set(re.findall(r'evalrouter_cache_bytes\{worker="(\d+)"\}', text))
        with httpx.Client() as http:
            total = len(http.get(f"{url}/traffic", params={"limit": 1000}).json()["data"])
            while metric(http, url, "requests_total", **labels) != total:
                time.sleep(0.05)
                total = len(http.get(f"{url}/traffic", params={"limit": 1000}).json()["data"])
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


# The response cache


def cache_header(reply):
    return reply.headers.get("x-evalrouter-cache")


def test_the_same_request_is_answered_from_the_cache(http, url, upstream):
    first = ask(http, url, "cached")
    asked = upstream.log.total
    again = ask(http, url, "cached")
    assert upstream.log.total == asked
    assert (cache_header(first), cache_header(again)) == ("miss", "hit")
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-evalrouter-target"] == "up/n"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    record = record_of(http, url, again)
    assert (record["cached"], record["status"], record["cost_usd"]) == (True, 200, 0)
    assert record["attempts"] == []
    labels = {"class": "live", "route": "cached", "target": "up/n"}
    assert metric(http, url, "cache_hits_total", **labels) == 1


def test_a_stream_is_cached_as_a_stream(http, url, upstream):
    first = ask(http, url, "cached", stream=True)
    asked = upstream.log.total
    again = ask(http, url, "cached", stream=True)
    assert upstream.log.total == asked
    assert again.content == first.content
    assert again.content.endswith(b"data: [DONE]\n\n")
    assert again.headers["content-type"] == first.headers["content-type"]
    assert record_of(http, url, again)["stream"]
    # Whole answers and streams are not taken for each other.
    assert cache_header(ask(http, url, "cached")) == "miss"


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.5},
        {"messages": [{"role": "user", "content": "hi!"}]},
        {"headers": {"cache-control": "no-cache"}},
        {"headers": {"cache-control": "max-age=0"}},
        {"headers": {"cache-control": "no-store"}},
        {"headers": {"x-evalrouter-cache": "false"}},
    ],
)
def test_what_is_not_answered_from_the_cache(http, url, changes):
    first = text_of(ask(http, url, "cached"))
    assert text_of(ask(http, url, "cached", **changes)) != first


def test_no_cache_keeps_the_fresh_answer_and_no_store_does_not(http, url):
    first = text_of(ask(http, url, "cached"))
    text_of(ask(http, url, "cached", headers={"cache-control": "no-store"}))
    assert text_of(ask(http, url, "cached")) == first
    fresh = text_of(ask(http, url, "cached", headers={"cache-control": "no-cache"}))
    assert fresh != first
    assert text_of(ask(http, url, "cached")) == fresh


def test_a_request_can_ask_for_the_cache(http, url):
    on = {"x-evalrouter-cache": "true"}
    first = text_of(ask(http, url, "up/n", headers=on))
    assert text_of(ask(http, url, "up/n", headers=on)) == first
    plain = ask(http, url, "up/n")
    assert text_of(plain) != first
    assert cache_header(plain) is None


@pytest.mark.parametrize("path", ["?user=ann", "?user=unknown", "/unknown"])
def test_a_deletion_empties_the_cache_whoever_it_is_about(http, url, path):
    first = text_of(ask(http, url, "cached", user="ann"))
    assert text_of(ask(http, url, "cached", user="ann")) == first
    assert http.delete(f"{url}/traffic{path}").status_code in {200, 404}
    again = ask(http, url, "cached", user="ann")
    assert (cache_header(again), text_of(again) != first) == ("miss", True)


def test_a_deletion_by_a_command_empties_the_cache_of_a_server(http, upstream, tmp_path):
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream, tmp_path / "o.db"))
    with gateway(config_of(upstream, tmp_path / "o.db")) as url:
        first = text_of(ask(http, url, "cached", user="ann"))
        config = str(tmp_path / "evalrouter.yaml")
        command = ["traffic", "delete", "--user", "ann", "--config", config]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        while text_of(ask(http, url, "cached", user="ann")) == first:
            time.sleep(0.05)


def test_an_answer_expires(http, url):
    first = text_of(ask(http, url, "brief"))
    time.sleep(0.25)
    assert text_of(ask(http, url, "brief")) != first


@pytest.mark.parametrize(
    ("model", "stream"), [("refuses", False), ("cut", True), ("error", True), ("error", False)]
)
def test_failed_answers_are_never_kept(http, url, upstream, model, stream):
    ask(http, url, model, stream=stream)
    asked = upstream.log.total
    again = ask(http, url, model, stream=stream)
    assert upstream.log.total > asked
    assert cache_header(again) != "hit"


def test_a_stream_whose_client_left_is_not_kept(http, url, upstream):
    body = {"model": "slow", "messages": HELLO, "stream": True}
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        next(reply.iter_bytes())
    record_of(http, url, reply)
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as again:
        assert cache_header(again) == "miss"


# Keys


@pytest.fixture
def keyed(upstream, tmp_path):
    """A gateway with keys: its URL and name to key."""
    path = tmp_path / "k.db"

    async def make():
        store = SqliteStore(path)
        await store.open()
        try:
            made = {}
            for name, fields in {
                "one": {},
                "other": {},
                "poor": {"budget_usd": 0.01},
                "admin": {"role": "admin"},
            }.items():
                made[name] = await create(store, name, now=0.5, **fields)
        finally:
            await store.close()
        return {name: (key, row.id) for name, (key, row) in made.items()}

    keys = asyncio.run(make())
    with gateway(config_of(upstream, path)) as url:
        yield url, keys


def bearer(keys, name):
    return {"authorization": f"Bearer {keys[name][0]}"}


def test_nobody_gets_what_another_one_asked_for(http, keyed):
    url, keys = keyed
    first = text_of(ask(http, url, "cached", headers=bearer(keys, "one")))
    other = ask(http, url, "cached", headers=bearer(keys, "other"))
    assert cache_header(other) == "miss"
    assert text_of(other) != first
    assert text_of(ask(http, url, "cached", headers=bearer(keys, "one"))) == first


def test_records_say_whose_key_it_was_and_only_admins_read_all(http, keyed):
    url, keys = keyed
    mine = ask(http, url, "plain", headers=bearer(keys, "one"))
    ask(http, url, "plain", headers=bearer(keys, "other"))
    admin = bearer(keys, "admin")
    assert record_of(http, url, mine, admin)["key_id"] == keys["one"][1]
    listed = http.get(f"{url}/traffic", params={"key": keys["one"][1]}, headers=admin).json()
    assert [one["id"] for one in listed["data"]] == [mine.headers["x-request-id"]]
    for path, status in (("/traffic", 200), ("/metrics", 403)):
        assert http.get(f"{url}{path}").status_code == 401
        assert http.get(f"{url}{path}", headers=bearer(keys, "one")).status_code == status
        assert http.get(f"{url}{path}", headers=admin).status_code == 200


def test_a_refused_request_has_a_record(http, keyed):
    url, keys = keyed
    refused = ask(http, url, "plain")
    assert refused.status_code == 401
    record = record_of(http, url, refused, bearer(keys, "admin"))
    assert (record["status"], record["error_code"]) == (401, "invalid_api_key")


def test_cost_reaches_the_budget_and_hits_cost_nothing(http, keyed):
    url, keys = keyed
    poor, admin = bearer(keys, "poor"), bearer(keys, "admin")
    on = poor | {"x-evalrouter-cache": "true"}
    # 0.0075 dollars a request, and a budget of 0.01.
    record_of(http, url, ask(http, url, "plain", headers=on), admin)
    for _ in range(3):
        hit = ask(http, url, "plain", headers=on)
        assert cache_header(hit) == "hit"
    record_of(http, url, hit, admin)
    record_of(http, url, ask(http, url, "plain", headers=poor), admin)
    spent = ask(http, url, "plain", headers=poor)
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "insufficient_quota")


# Traces


INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def traced(upstream, tmp_path, **settings):
    """A gateway with a collector: its URL, and the spans, all once it has ended."""
    with collecting() as collector:
        section = json.dumps({"otlp_endpoint": collector.url, **settings})
        with gateway(config_of(upstream, tmp_path / "o.db", f"telemetry: {section}")) as url:
            yield url, collector.spans


def test_a_trace_goes_through_the_gateway(http, upstream, tmp_path):
    with traced(upstream, tmp_path) as (url, spans):
        reply = ask(http, url, "plain", headers={"traceparent": INCOMING})
        record = record_of(http, url, reply)
        sent = upstream.log.requests[-1].headers["traceparent"]
    assert record["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    tree = Tree(spans)
    request, attempt = tree.named("chat m"), tree.named("attempt up/m")
    assert request.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert tree.below(request) == [attempt]
    # What the host does is below the attempt.
    assert sent == f"00-{attempt.trace_id.hex()}-{attempt.span_id.hex()}-01"
    values = values_of(request.attributes)
    assert values["evalrouter.request_id"] == reply.headers["x-request-id"]
    assert values["evalrouter.record"] == reply.headers["x-evalrouter-record"]
    assert values["gen_ai.usage.input_tokens"] == 1000
    assert values["server.port"] == int(upstream.url.removesuffix("/v1").rpartition(":")[2])


@pytest.mark.parametrize("stream", [False, True])
def test_every_attempt_has_a_span_and_its_host_gets_its_own_place(http, upstream, tmp_path, stream):
    with traced(upstream, tmp_path) as (url, spans):
        ask(http, url, "falls", stream=stream)
        last = [*upstream.log.requests][-2:]
        sent = [each.headers["traceparent"].split("-")[2] for each in last]
    tree = Tree(spans)
    failed, answered = tree.below(tree.named("chat m"))
    assert [failed.span_id.hex(), answered.span_id.hex()] == sent
    assert values_of(failed.attributes)["http.response.status_code"] == 503
    assert failed.end_time_unix_nano <= answered.start_time_unix_nano
    request = tree.named("chat m")
    assert answered.end_time_unix_nano == request.end_time_unix_nano
    assert request.start_time_unix_nano <= failed.start_time_unix_nano


def test_looking_into_the_response_cache_is_a_span(http, upstream, tmp_path):
    with traced(upstream, tmp_path) as (url, spans):
        for _ in range(2):
            ask(http, url, "cached")
    tree = Tree(spans)
    hits = []
    for request in tree.all_named("chat n"):
        below = tree.below(request)
        hits.append(values_of(below[0].attributes)["evalrouter.cache.hit"])
        assert [span.name for span in below] == (
            ["cache"] if hits[-1] else ["cache", "attempt up/n"]
        )
    assert sorted(hits) == [False, True]


@pytest.mark.parametrize("propagate", [True, False])
def test_what_targets_get_of_a_trace(http, upstream, tmp_path, propagate):
    with traced(upstream, tmp_path, sample=0, propagate=propagate) as (url, spans):
        got = []
        for incoming in ("", INCOMING[:-2] + "00", INCOMING):
            headers = {"traceparent": incoming} if incoming else {}
            record = record_of(http, url, ask(http, url, "plain", headers=headers))
            assert bool(record["trace_id"]) == (incoming == INCOMING)
            got.append(upstream.log.requests[-1].headers.get("traceparent"))
    assert {span.trace_id.hex() for span in spans} == {INCOMING[3:35]}
    if not propagate:
        assert got == [None] * 3
        return
    new, unsampled, sampled = got
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", new)
    assert unsampled == INCOMING[:-2] + "00"
    assert sampled[:36] == INCOMING[:36]
    assert sampled != INCOMING


def test_spans_show_messages_only_of_requests_that_are_stored_with_them(http, upstream, tmp_path):
    secret = "sk-live-0123456789abcdefghij"
    messages = [{"role": "user", "content": f"My key is {secret}."}]
    shown = set()
    with traced(upstream, tmp_path, content=True) as (url, spans):
        for model, fields in (
            ("full", {}),
            ("full", {"stream": True}),
            ("full", {"store": False}),
            ("plain", {}),
            ("silent", {}),
        ):
            reply = ask(http, url, model, messages=messages, **fields)
            if model == "full" and "store" not in fields:
                shown.add(reply.headers["x-evalrouter-record"])
    assert secret not in str(spans)
    with_messages = set()
    for span in Tree(spans).all_named("chat m"):
        values = values_of(span.attributes)
        if "gen_ai.input.messages" in values:
            with_messages.add(values["evalrouter.record"])
            assert values["input.value"] == "My key is ***."
            assert values["output.value"].startswith("answer ")
    assert with_messages == shown


def test_a_request_that_is_refused_is_a_span(http, upstream, tmp_path):
    with traced(upstream, tmp_path) as (url, spans):
        assert ask(http, url, "nowhere").status_code == 404
        assert http.post(f"{url}/v1/chat/completions", content=b"{").status_code == 400
    assert {span.status.message for span in spans} == {"model_not_found", "bad_json"}
    assert {span.name for span in spans} == {"chat"}


def test_spans_are_counted(http, upstream, tmp_path):
    with traced(upstream, tmp_path) as (url, _):
        ask(http, url, "plain")
        while metric(http, url, "spans_total", outcome="sent") != 2:
            time.sleep(0.02)
        assert metric(http, url, "spans_total", outcome="dropped") == 0


def test_a_server_that_is_killed_has_answered_all_the_same(http, upstream, tmp_path):
    """Spans may be lost with it, answers and records are not."""
    go_on = threading.Event()

    def never(*_):
        go_on.wait(60)
        return CollectorReply(503)

    with collecting(never) as collector:
        config = config_of(
            upstream, tmp_path / "o.db", f'telemetry: {{otlp_endpoint: "{collector.url}"}}'
        )
        (tmp_path / "c.yaml").write_text(config)
        with process(tmp_path, "--config", "c.yaml", "--port", "0") as (server, url):
            replies = [ask(http, url, "plain") for _ in range(5)]
            assert {reply.status_code for reply in replies} == {200}
            rows = [record_of(http, url, reply) for reply in replies]
            server.kill()
            server.wait()
        go_on.set()
    with gateway(config_of(upstream, tmp_path / "o.db")) as url:
        for row in rows:
            assert record_of(http, url, row["id"]) == row


def test_without_traces_the_clients_header_goes_on_as_it_came(http, url, upstream):
    incoming = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    text_of(ask(http, url, "plain", headers={"traceparent": incoming}))
    assert upstream.log.requests[-1].headers["traceparent"] == incoming
    text_of(ask(http, url, "plain", headers={"traceparent": incoming + "-x"}))
    assert "traceparent" not in upstream.log.requests[-1].headers
