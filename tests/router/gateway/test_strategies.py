"""Strategies, stickiness and what targets support, over HTTP: who answered which request."""

import time
from collections import Counter

import pytest
from servers import gateway, scripted

MANY = 22
HOLD = {"match": "hold", "fault": "hang_midway", "answer": "one two three four"}
MODELS = {
    "a": [HOLD, {"answer": "a"}],
    "b": [HOLD, {"answer": "b"}],
    "slow": [{"answer": "slow", "delay_s": 1}],
    **{f"m{n}": [{"answer": f"m{n}"}] for n in range(MANY)},
}
TURNS = ", ".join(f"{{model: up/m{n}}}" for n in range(MANY))
BOTH = "targets: [{model: up/a}, {model: up/b}]"


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream):
    config = f"""
server: {{port: 0}}
providers:
  up: {{kind: compatible, base_url: "{upstream.url}"}}
prices:
  up/a: {{input: 2, output: 8}}
  up/b: {{input: 3, output: 4}}
routes:
  weighted: {{targets: [{{model: up/a, weight: 0}}, {{model: up/b, weight: 3}}]}}
  even: {{{BOTH}}}
  turns: {{strategy: round_robin, targets: [{TURNS}]}}
  busy: {{strategy: least_busy, {BOTH}}}
  quick: {{strategy: lowest_latency, targets: [{{model: up/slow}}, {{model: up/b}}]}}
  cheap: {{strategy: cheapest, targets: [{{model: up/m0}}, {{model: up/a}}, {{model: up/b}}]}}
  by-user: {{sticky: user, {BOTH}}}
  by-conversation: {{sticky: conversation, {BOTH}}}
  by-header: {{sticky: "header:X-Team", {BOTH}}}
  tried: {{strategy: cheapest, explore: 0.5, {BOTH}}}
  tried-by-user: {{sticky: user, explore: 1, {BOTH}}}
  elsewhere: {{targets: [{{model: up/nowhere}}], fallback: [up/b], cache: {{}}}}
  able:
    targets:
      - {{model: up/a, supports: {{vision: false, tools: false, json_schema: false, context: 50}}}}
      - {{model: up/b, supports: {{tools: false}}}}
"""
    with gateway(config) as url:
        yield url


def ask(http, url, route, text="hi", headers=None, **fields):
    body = {"model": route, "messages": [{"role": "user", "content": text}], **fields}
    return http.post(f"{url}/v1/chat/completions", json=body, headers=headers)


def answered(http, url, route, *args, **fields):
    reply = ask(http, url, route, *args, **fields)
    assert reply.status_code == 200, reply.text
    text = reply.json()["choices"][0]["message"]["content"]
    assert reply.headers["x-evalrouter-target"] == f"up/{text}"
    return text


def test_weighted_draws_by_weight(http, url):
    assert {answered(http, url, "weighted") for _ in range(5)} == {"b"}
    # The chance that one of two equals never answers is 2**-39.
    assert {answered(http, url, "even") for _ in range(40)} == {"a", "b"}


def test_round_robin_takes_turns(http, url):
    names = [f"m{n}" for n in range(MANY)]
    assert [answered(http, url, "turns") for _ in range(2 * MANY)] == names * 2


def test_least_busy_avoids_the_target_that_is_at_work(http, url):
    body = {"model": "busy", "messages": [{"role": "user", "content": "hold"}], "stream": True}
    held = http.stream("POST", f"{url}/v1/chat/completions", json=body)
    with held as reply:
        at_work = reply.headers["x-evalrouter-target"]
        others = {f"up/{answered(http, url, 'busy')}" for _ in range(20)}
        assert others == {"up/a", "up/b"} - {at_work}


def test_lowest_latency_stays_with_the_quicker_target(http, url):
    # Each is tried once, in an order that is drawn.
    assert {answered(http, url, "quick") for _ in range(2)} == {"slow", "b"}
    assert [answered(http, url, "quick") for _ in range(10)] == ["b"] * 10


def test_cheapest_takes_the_lowest_known_price(http, url):
    assert {answered(http, url, "cheap") for _ in range(10)} == {"b"}


def who_answered(answer):
    """Keys spread over both targets, and each stays with its own."""
    first = [answer(n) for n in range(30)]
    assert [answer(n) for n in range(30)] == first
    assert set(first) == {"a", "b"}


def test_sticky_by_user(http, url):
    who_answered(lambda n: answered(http, url, "by-user", f"hi {n % 2}", user=f"u{n}"))


def test_sticky_by_header(http, url):
    who_answered(lambda n: answered(http, url, "by-header", headers={"x-team": f"t{n}"}))


def test_sticky_by_conversation(http, url):
    turns = Counter()

    def answer(n):
        # A conversation grows, and its system message may change.
        turns[n] += 1
        later = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"}]
        system = {"role": "system", "content": f"turn {turns[n]}"}
        opening = {"role": "user", "content": f"hello {n}"}
        messages = [system, opening, *later * turns[n]]
        return answered(http, url, "by-conversation", messages=messages)

    who_answered(answer)


def recorded(http, url, route, *args, **fields):
    """Send a request; return who answered it, and its record."""
    reply = ask(http, url, route, *args, **fields)
    path = f"{url}/traffic/{reply.headers['x-evalrouter-record']}"
    while (record := http.get(path)).status_code == 404:
        time.sleep(0.01)
    return reply.json()["choices"][0]["message"]["content"], record.json()


def test_a_route_that_explores_records_how_likely_each_target_was(http, url):
    # The cheapest is b. The chance that a is never tried is 0.75**60.
    assert {answered(http, url, "tried") for _ in range(60)} == {"a", "b"}
    name, record = recorded(http, url, "tried")
    assert record["choices"] == {"up/a": 0.25, "up/b": 0.75}
    assert record["first_target"] == f"up/{name}"
    assert record["propensity"] == record["choices"][f"up/{name}"]
    assert (record["unit"], record["request_bytes"] > 20) == ("", True)


def test_a_client_of_a_sticky_route_explores_as_one(http, url):
    who_answered(lambda n: answered(http, url, "tried-by-user", user=f"u{n}"))
    units = {recorded(http, url, "tried-by-user", user=user)[1]["unit"] for user in ("u1", "u2")}
    assert len(units) == 2
    assert recorded(http, url, "tried-by-user", user="u1")[1]["unit"] in units
    assert recorded(http, url, "by-user", user="u1")[1]["unit"] not in units


def test_the_first_target_counts_where_another_answers(http, url):
    name, record = recorded(http, url, "elsewhere", "fresh")
    assert (name, record["target"], record["first_target"]) == ("b", "up/b", "up/nowhere")
    assert (record["propensity"], record["choices"]) == (1.0, {})
    # Nothing is chosen where the cache answers, or the client has named the target.
    _, cached = recorded(http, url, "elsewhere", "fresh")
    assert cached["cached"]
    for other in (cached, recorded(http, url, "up/b")[1]):
        assert (other["propensity"], other["first_target"]) == (None, "")


IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"text": IMAGE},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        {"text": "word " * 50},
        {"max_tokens": 60},
    ],
)
def test_a_request_goes_only_where_it_is_supported(http, url, fields):
    assert {answered(http, url, "able", **fields) for _ in range(20)} == {"b"}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}], "function_call": "auto"},
    ],
)
def test_what_is_supported_nowhere_is_refused(http, url, upstream, fields):
    before = upstream.log.total
    reply = ask(http, url, "able", **fields)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "no_capable_target"
    assert error["type"] == "invalid_request_error"
    assert "'able'" in error["message"]
    assert "tools" in error["message"]
    assert upstream.log.total == before
