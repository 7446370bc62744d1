"""`reasoning` of a route's target, seen by the host, wherever the route comes from."""

import json
import time

import httpx
import msgspec
import pytest
from servers import gateway, scripted

from providers.errors import ConfigError
from router.config.loading import parse

ANSWERS = {"o3-mini": [{"answer": "ok"}], "mine": [{"answer": "ok"}]}
ASKED = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 20,
    "temperature": 0.5,
}


@pytest.fixture
def upstream():
    with scripted(ANSWERS) as server:
        yield server


def config(upstream, tmp_path, routes="", kind="openai", more=""):
    return f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{tmp_path / "e.db"}"}}
providers: {{up: {{kind: {kind}, base_url: "{upstream.url}"{more}}}}}
routes: {{{routes}}}
"""


def route(name, model, **setting):
    return f"{name}: {json.dumps({'targets': [{'model': model, **setting}]})}"


def received(upstream):
    """The fields that the host had of the last request which the rules are about."""
    body = msgspec.json.decode(upstream.log.requests[-1].body)
    return {name: body[name] for name in body if name not in ("model", "messages", "stream")}


REASONS = {"max_completion_tokens": 20}
SAMPLES = {"max_tokens": 20, "temperature": 0.5}


@pytest.mark.parametrize(
    ("kind", "model", "provider", "target", "had"),
    [
        ("openai", "mine", "", {"reasoning": True}, REASONS),
        ("openai", "mine", ", reasoning: false", {"reasoning": True}, REASONS),
        ("openai", "o3-mini", "", {"reasoning": False}, SAMPLES),
        ("openai", "o3-mini", ", reasoning: true", {"reasoning": False}, SAMPLES),
        ("openai", "o3-mini", "", {"reasoning": None}, REASONS),
        ("openai", "mine", ", reasoning: true", {}, REASONS),
        ("compatible", "mine", "", {"reasoning": True}, REASONS),
        ("compatible", "mine", ", reasoning: [mine]", {"reasoning": False}, SAMPLES),
        ("compatible", "o3-mini", "", {}, SAMPLES),
    ],
)
def test_a_host_gets_what_the_target_says(
    upstream, tmp_path, http, kind, model, provider, target, had
):
    routes = route("r", f"up/{model}", **target)
    with gateway(config(upstream, tmp_path, routes, kind, provider)) as url:
        reply = http.post(f"{url}/v1/chat/completions", json={"model": "r", **ASKED})
    assert reply.status_code == 200, reply.text
    assert received(upstream) == had
    dropped = reply.headers.get("x-evalrouter-dropped", "")
    assert dropped == ("temperature" if had is REASONS else "")


def test_a_stream_has_the_same_rules(upstream, tmp_path, http):
    with gateway(config(upstream, tmp_path, route("r", "up/mine", reasoning=True))) as url:
        asked = {"model": "r", **ASKED, "stream": True, "stream_options": {"include_usage": True}}
        assert http.post(f"{url}/v1/chat/completions", json=asked).status_code == 200
    assert received(upstream) == {**REASONS, "stream_options": {"include_usage": True}}


def test_provider_and_model_without_a_route_go_by_the_provider(upstream, tmp_path, http):
    with gateway(config(upstream, tmp_path, route("r", "up/mine", reasoning=True))) as url:
        http.post(f"{url}/v1/chat/completions", json={"model": "up/mine", **ASKED})
    assert received(upstream) == SAMPLES


def test_two_routes_with_one_model_keep_their_own_settings(upstream, tmp_path, http):
    routes = f"{route('a', 'up/mine', reasoning=True)}, {route('b', 'up/mine')}"
    with gateway(config(upstream, tmp_path, routes)) as url:
        for name, had in [("a", REASONS), ("b", SAMPLES), ("a", REASONS)]:
            http.post(f"{url}/v1/chat/completions", json={"model": name, **ASKED})
            assert received(upstream) == had
        series = [
            line for line in http.get(f"{url}/metrics").text.splitlines() if "breaker_open{" in line
        ]
    assert len(series) == len(set(series))


def test_a_fallback_has_the_setting_of_the_target_that_it_repeats(upstream, tmp_path, http):
    targets = [
        {"model": "up/mine", "weight": 0, "reasoning": True},
        {"model": "up/gone", "reasoning": False},
    ]
    routes = f"r: {json.dumps({'targets': targets, 'fallback': ['up/mine']})}"
    with gateway(config(upstream, tmp_path, routes)) as url:
        reply = http.post(f"{url}/v1/chat/completions", json={"model": "r", **ASKED})
    assert reply.headers["x-evalrouter-target"] == "up/mine"
    assert received(upstream) == REASONS


def test_a_route_that_is_set_at_run_time_has_it_also_after_a_restart(upstream, tmp_path, http):
    text = config(upstream, tmp_path, route("r", "up/mine"))
    asked = {"model": "r", **ASKED}
    with gateway(text) as url:
        http.post(f"{url}/v1/chat/completions", json=asked)
        assert received(upstream) == SAMPLES
        body = {"targets": [{"model": "up/mine", "reasoning": True}]}
        put = http.put(f"{url}/routes/r", json=body)
        assert put.json()["route"]["targets"][0]["reasoning"] is True
        http.post(f"{url}/v1/chat/completions", json=asked)
        assert received(upstream) == REASONS
    with gateway(text) as url:
        http.post(f"{url}/v1/chat/completions", json=asked)
        assert received(upstream) == REASONS
        http.delete(f"{url}/routes/r")
        http.post(f"{url}/v1/chat/completions", json=asked)
        assert received(upstream) == SAMPLES


def evaluate(url, document):
    with httpx.Client(timeout=30) as http:
        started = http.post(f"{url}/eval", json=document)
        assert started.status_code == 202, started.text
        run = started.json()["id"]
        while http.get(f"{url}/eval/{run}").json()["run"]["state"] not in ("completed", "failed"):
            time.sleep(0.05)
        return http.get(f"{url}/eval/{run}/samples").json()["data"]


def test_evaluations_follow_it_and_do_not_take_one_anothers_answers(
    upstream, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"input": "hi", "reference": "x"}\n')
    routes = f"{route('a', 'up/mine', reasoning=True)}, {route('b', 'up/mine')}"
    document = {"dataset": "d.jsonl", "parameters": {"max_tokens": 20}, "metrics": ["length"]}
    with gateway(config(upstream, tmp_path, routes)) as url:
        for name, had in [("a", REASONS), ("b", {"max_tokens": 20})]:
            before = upstream.log.total
            [sample] = evaluate(url, {**document, "routes": [name]})
            assert upstream.log.total == before + 1
            assert received(upstream) == had
            renamed = {"max_tokens": "max_completion_tokens"} if had is REASONS else {}
            assert sample["answer"].get("translation", {}).get("renamed", {}) == renamed
        before = upstream.log.total
        [sample] = evaluate(url, {**document, "routes": ["a"]})
        assert upstream.log.total == before, "the same request is answered by the run cache"
        assert sample["answer"]["translation"]["renamed"]
    refused = {**document, "routes": ["a"], "parameters": {"temperature": 0}}
    with gateway(config(upstream, tmp_path, routes)) as url:
        [sample] = evaluate(url, refused)
    assert "temperature" in sample["answer"]["error"]


@pytest.mark.parametrize(
    ("kind", "targets", "words"),
    [
        ("openai", [{"reasoning": "yes"}], ["targets[0].reasoning"]),
        ("openai", [{"reasoning": ["m"]}], ["targets[0].reasoning"]),
        ("openai", [{"reasoning": True}, {}], ["targets[1]", "up/m", "two routes"]),
        ("openai", [{"reasoning": True}, {"reasoning": False}], ["targets[1]", "up/m"]),
        ("openai", [{}, {"reasoning": True, "weight": 0}], ["targets[1]", "up/m"]),
        ("gemini", [{"reasoning": True}], ["targets[0].reasoning", "'gemini'", "leave it out"]),
        ("anthropic", [{"reasoning": False}], ["targets[0].reasoning", "'anthropic'"]),
    ],
)
@pytest.mark.parametrize("at_run_time", [False, True])
def test_what_cannot_hold_is_refused(tmp_path, http, kind, targets, words, at_run_time):
    found = json.dumps({"targets": [{"model": "up/m", **one} for one in targets]})
    provider = f'providers: {{up: {{kind: {kind}, base_url: "http://127.0.0.1:9/v1"}}}}\n'
    if at_run_time:
        storage = f'server: {{port: 0}}\nstorage: {{database: "sqlite:///{tmp_path / "e.db"}"}}\n'
        with gateway(provider + storage) as url:
            reply = http.put(f"{url}/routes/r", content=found)
            assert reply.status_code == 400
            message = reply.json()["error"]["message"]
            assert http.get(f"{url}/routes").json()["data"] == []
    else:
        with pytest.raises(ConfigError) as caught:
            parse(f"{provider}routes: {{r: {found}}}", "c.yaml", {})
        message = caught.value.message
    assert [word for word in words if word not in message] == []


def test_a_provider_whose_kind_has_no_such_rules_cannot_say_it():
    text = "providers: {up: {kind: gemini, reasoning: true}}"
    with pytest.raises(ConfigError, match=r"providers\.up\.reasoning: .*'gemini'"):
        parse(text, "c.yaml", {})
