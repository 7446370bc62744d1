"""`/v1/messages` over real HTTP, at hosts that have it: bytes, events, errors and records."""

import json

import anthropic
import pytest
from anthropic import Anthropic
from servers import data_of, gateway, last_request, record_of, reserved_port, scripted

from router.gateway.messages_answers import read_end

THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}
TEXT = {"type": "text", "text": "Grüße 👋"}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "Oslo"}}
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 30,
    "output_tokens": 12,
}
MESSAGE = {
    "id": "msg_abc",
    "type": "message",
    "role": "assistant",
    "model": "claude-9",
    "content": [THINKING, TEXT, TOOL],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": USAGE,
    "unheard_of": [1.50],
}
BEGUN = MESSAGE | {"content": [], "stop_reason": None, "usage": USAGE | {"output_tokens": 1}}
CHAT = {"id": "c", "object": "chat.completion", "choices": [{"message": {"content": "hi"}}]}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def event(kind, **fields):
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def delta(index, kind, **fields):
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


EVENTS = [
    event("message_start", message=BEGUN),
    event("ping"),
    event(
        "content_block_start", index=0, content_block=THINKING | {"thinking": "", "signature": ""}
    ),
    delta(0, "thinking_delta", thinking="Hm."),
    delta(0, "signature_delta", signature="c2lnbmVk"),
    event("content_block_stop", index=0),
    event("content_block_start", index=1, content_block=TEXT | {"text": ""}),
    delta(1, "text_delta", text="Grüße, the error of message_stop"),
    delta(1, "text_delta", text=" 👋"),
    event("content_block_stop", index=1),
    event("unheard_of", kept=[1.5]),
    event("content_block_start", index=2, content_block=TOOL | {"input": {}}),
    delta(2, "input_json_delta", partial_json='{"town": '),
    delta(2, "input_json_delta", partial_json='"Oslo"}'),
    event("content_block_stop", index=2),
    event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 12}),
    event("message_stop"),
]
STREAMED = {"content-type": "text/event-stream"}


def stream(*events, **rule):
    return [{"body": "".join(events), "headers": STREAMED, **rule}]


FAILING = {
    "error": event("error", error=OVERLOADED["error"]),
    "ping-error": event("ping") + event("error", error=OVERLOADED["error"]),
    "chats": 'data: {"error": {"message": "it broke"}}\n\n',
    "stop": event("message_stop"),
    "chunks": 'data: {"object": "chat.completion.chunk", "choices": [{"delta": {}}]}\n\n',
    "page": "<html>sign in</html>",
    "nothing": "",
}
WRONG = {
    "chat": CHAT,
    "error": OVERLOADED,
    "half": '{"type": "message", "content": [',
    "no-content": MESSAGE | {"content": None},
    "empty": "",
}
TOO_LONG = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"},
    "request_id": "req_host",
}

MODELS = {
    "hello": [{"answer": "Hello, wörld! It works.", "chunks": 3}],
    "n": [{"answer": "call {n}"}],
    "whole": [{"body": MESSAGE, "headers": {"request-id": "req_host"}}],
    "stream": stream(*EVENTS),
    "bytewise": stream(*EVENTS, chunks=200),
    "long": stream(EVENTS[0], *EVENTS[1:10], *[EVENTS[8]] * 300, *EVENTS[10:], chunks=100),
    "no-blank": stream(*EVENTS[:-1], EVENTS[-1].rstrip("\n")),
    "unasked": stream(*EVENTS),
    "not-streamed": [{"body": MESSAGE}],
    "refusing": [{"status": 400, "body": TOO_LONG}],
    "limited": [{"status": 429, "headers": {"Retry-After": "77"}}],
    "overloaded": [{"status": 529, "body": OVERLOADED}],
    "down": [{"status": 503, "body": "no room"}],
    "short": [{"answer": "to be", "finish_reason": "length"}],
    "secret": stream(
        EVENTS[0], EVENTS[6], delta(0, "text_delta", text="sk-provider-secret"), *EVENTS[-3:]
    ),
    "breaks": [{"answer": "one two three four", "fault": "error_event"}],
    "counted": [{"body": {"input_tokens": 14, "unheard_of": 1}}],
    "miscounted": [{"body": {"input_tokens": "many"}}],
    **{f"cut-{n}": stream(*EVENTS[:n]) for n in range(len(EVENTS))},
    **{f"half-{n}": stream(*EVENTS[:n], EVENTS[n][:20]) for n in range(len(EVENTS))},
    **{f"fails-{kind}": stream(failing) for kind, failing in FAILING.items()},
    **{f"wrong-{kind}": [{"body": body}] for kind, body in WRONG.items()},
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream, tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    falling = [*(f"fails-{kind}" for kind in FAILING), *(f"wrong-{kind}" for kind in WRONG)]
    falls_back = "\n".join(
        f"  {name}: {{targets: [{{model: up/{name}}}], fallback: [up/n], retries: {{attempts: 1}}}}"
        for name in falling
    )
    config = f"""
storage: {{database: "sqlite:///{database}"}}
record: full
providers:
  up: {{kind: anthropic, base_url: "{upstream.url}", api_key: sk-provider-secret}}
  set: {{kind: anthropic, base_url: "{upstream.url}", headers: {{anthropic-version: "2099-01-01"}}}}
  lab: {{kind: vllm, base_url: "{upstream.url}"}}
prices:
  up/whole: {{input: 1, output: 10, cached_input: 0.5, cache_write: 2}}
  up/stream: {{input: 1, output: 10, cached_input: 0.5, cache_write: 2}}
routes:
  cached: {{targets: [{{model: up/n}}], cache: {{ttl: 60}}}}
{falls_back}
"""
    with gateway(config) as url:
        yield url


TURNS = [{"role": "user", "content": "hi"}]


def post(http, url, model, headers=None, path="messages", **fields):
    body = {"model": model, "max_tokens": 50, "messages": TURNS, **fields}
    return http.post(f"{url}/v1/{path}", json=body, headers=headers)


@pytest.fixture
def anthropic_client(url):
    with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_whole_message_comes_back_byte_for_byte(http, url, upstream):
    reply = post(http, url, "up/whole")
    assert reply.status_code == 200
    assert reply.headers["x-evalrouter-target"] == "up/whole"
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert reply.headers["x-evalrouter-upstream-request-id"] == "req_host"
    assert (
        reply.content
        == http.post(f"{upstream.url}/messages", json={"model": "whole", "messages": TURNS}).content
    )


def test_a_request_passes_untouched_with_its_version_and_betas(http, url, upstream):
    fields = (
        '"max_tokens": 9, "messages": [{"role": "assistant", "content": [{"type": "thinking",'
        ' "thinking": "\\u00fc", "signature": "x=="}]}, {"role": "user", "content": [{"type":'
        ' "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}], "unheard_of": 1.50'
    )
    headers = {
        "anthropic-version": "2023-01-01",
        "anthropic-beta": "one-2025,two-2026",
        "x-api-key": "sk-client",
    }
    path = f"{url}/v1/messages?beta=true"
    reply = http.post(path, content=f'{{{fields}, "model": "up/n"}}', headers=headers)
    assert reply.status_code == 200, reply.text
    received = last_request(upstream, "n")
    body = bytes(received.body).decode()
    for field in ('"\\u00fc"', '"cache_control": {"type": "ephemeral"}', "1.50"):
        assert field in body
    assert json.loads(body) == json.loads(f"{{{fields}}}") | {"model": "n"}
    assert received.headers["anthropic-version"] == "2023-01-01"
    assert received.headers["anthropic-beta"] == "one-2025,two-2026"
    assert "sk-client" not in json.dumps(received.headers)


def test_without_a_version_of_the_client_the_configs_or_the_usual_one_is_sent(http, url, upstream):
    post(http, url, "up/n")
    assert last_request(upstream, "n").headers["anthropic-version"] == "2023-06-01"
    post(http, url, "set/n", headers={"anthropic-version": "2023-01-01"})
    assert last_request(upstream, "n").headers["anthropic-version"] == "2099-01-01"
    post(http, url, "lab/n", headers={"anthropic-version": "2023-01-01"})
    assert last_request(upstream, "n").headers["anthropic-version"] == "2023-01-01"


def test_the_record_has_tokens_price_and_why_it_ended(http, url):
    record = record_of(http, url, post(http, url, "up/whole", metadata={"user_id": "u-7"}))
    assert (record["path"], record["response_id"]) == ("messages", "msg_abc")
    assert (record["model"], record["finish_reason"]) == ("claude-9", "tool_calls")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (45, 12)
    assert (record["cached_tokens"], record["written_tokens"]) == (30, 5)
    assert record["cost_usd"] == pytest.approx((10 + 30 * 0.5 + 5 * 2 + 12 * 10) / 1e6)
    assert record["user"] == "u-7"


@pytest.mark.parametrize("name", ["stream", "bytewise", "no-blank", "long"])
def test_a_stream_passes_byte_for_byte(http, url, name):
    reply = post(http, url, f"up/{name}", stream=True)
    assert reply.headers["content-type"] == "text/event-stream"
    if name != "long":
        assert reply.text.rstrip("\n") == "".join(EVENTS).rstrip("\n")
    record = record_of(http, url, reply)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (45, 12)
    assert (record["response_id"], record["model"]) == ("msg_abc", "claude-9")
    assert (record["finish_reason"], record["error_code"]) == ("tool_calls", "")


def test_of_a_long_stream_the_first_event_is_read_beside_the_last_ones():
    start, tail = EVENTS[0].encode(), "".join(EVENTS[-3:]).encode()
    end = read_end(tail, start)
    assert (end.usage.prompt, end.usage.completion, end.id) == (45, 12, "msg_abc")
    assert end.done


def test_anthropics_client_reads_both(anthropic_client):
    request = {"model": "up/hello", "max_tokens": 9, "messages": TURNS}
    whole = anthropic_client.messages.create(**request)
    assert whole.content[0].text == "Hello, wörld! It works."
    assert whole.stop_reason == "end_turn"
    assert whole._request_id.startswith("req_")
    with anthropic_client.messages.stream(**request) as events:
        texts = list(events.text_stream)
        final = events.get_final_message()
    assert (len(texts), "".join(texts)) == (3, "Hello, wörld! It works.")
    assert final.usage.output_tokens == 7


def test_the_clients_beta_methods_are_answered(anthropic_client):
    message = anthropic_client.beta.messages.create(
        model="up/hello", max_tokens=9, messages=TURNS, betas=["one-2025"]
    )
    assert message.content[0].text == "Hello, wörld! It works."


@pytest.mark.parametrize("kind", FAILING)
def test_a_stream_that_does_not_begin_is_tried_elsewhere(http, url, kind):
    reply = post(http, url, f"fails-{kind}", stream=True)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-evalrouter-target"] == "up/n"
    assert data_of(reply.text)[-1]["type"] == "message_stop"


@pytest.mark.parametrize("kind", ["error", "ping-error"])
def test_without_another_target_the_hosts_error_is_the_answer(http, url, kind):
    reply = post(http, url, f"up/fails-{kind}", stream=True)
    assert (reply.status_code, reply.json()) == (529, OVERLOADED)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_message_is_no_answer(http, url, kind):
    reply = post(http, url, f"wrong-{kind}")
    assert reply.headers["x-evalrouter-target"] == "up/n"
    alone = post(http, url, f"up/wrong-{kind}")
    assert alone.status_code == (529 if kind == "error" else 502)
    assert alone.json()["type"] == "error"
    assert set(alone.json()["error"]) == {"type", "message"}


@pytest.mark.parametrize("n", range(1, len(EVENTS)))
@pytest.mark.parametrize("how", ["cut", "half"])
def test_a_stream_that_breaks_off_ends_with_an_error_event(http, url, n, how):
    reply = post(http, url, f"up/{how}-{n}", stream=True)
    assert reply.status_code == 200
    *before, error = data_of(reply.text)
    assert before == data_of("".join(EVENTS[:n]))
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert "cut off" in error["error"]["message"]
    assert reply.text.count("event: error\n") == 1
    assert record_of(http, url, reply)["error_code"] == "upstream_invalid_response"


def test_an_error_in_mid_stream_is_anthropics_event(http, url, anthropic_client):
    reply = post(http, url, "up/breaks", stream=True)
    error = data_of(reply.text)[-1]
    assert error == {
        "type": "error",
        "error": {"type": "api_error", "message": "scripted error 500"},
    }
    with pytest.raises(anthropic.APIStatusError, match="scripted error 500"):
        list(
            anthropic_client.messages.create(
                model="up/breaks", max_tokens=9, messages=TURNS, stream=True
            )
        )


def test_errors_have_anthropics_shape_and_statuses(http, url, anthropic_client):
    refused = post(http, url, "up/refusing")
    assert (refused.status_code, refused.json()) == (400, TOO_LONG)
    assert refused.headers["request-id"] == refused.headers["x-request-id"]
    limited = post(http, url, "up/limited")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "77")
    assert limited.json()["error"]["type"] == "rate_limit_error"
    overloaded = post(http, url, "up/overloaded")
    assert (overloaded.status_code, overloaded.json()) == (529, OVERLOADED)
    down = post(http, url, "up/down")
    assert (down.status_code, down.json()["error"]["type"]) == (529, "overloaded_error")
    unknown = post(http, url, "nobody")
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    assert unknown.json()["request_id"] == unknown.headers["request-id"]
    method = http.get(f"{url}/v1/messages")
    assert (method.status_code, method.json()["type"]) == (405, "error")
    for body in ("[]", '{"model": "up/n"}', '{"model": "up/n", "messages": "hi"}'):
        reply = http.post(f"{url}/v1/messages", content=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        anthropic_client.messages.create(model="nobody", max_tokens=9, messages=TURNS)


def test_a_stream_that_was_not_requested_and_one_that_was(http, url, anthropic_client):
    assert post(http, url, "up/unasked").json() == MESSAGE | {
        "content": [THINKING, TEXT | {"text": "Grüße, the error of message_stop 👋"}, TOOL]
    }
    reply = post(http, url, "up/not-streamed", stream=True)
    kinds = [one["type"] for one in data_of(reply.text)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    request = {"model": "up/not-streamed", "max_tokens": 9, "messages": TURNS}
    with anthropic_client.messages.stream(**request) as events:
        final = events.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.content[0].signature == "c2lnbmVk"
    assert final.content[2].input == {"town": "Oslo"}
    assert final.stop_reason == "tool_use"


def test_secrets_of_the_config_are_hidden_in_a_stream(http, url):
    reply = post(http, url, "up/secret", stream=True)
    assert "sk-provider-secret" not in reply.text
    assert data_of(reply.text)[-1]["type"] == "message_stop"


def test_tokens_are_counted_by_the_host_for_nothing(http, url, upstream):
    reply = post(http, url, "up/counted", path="messages/count_tokens")
    assert reply.json() == {"input_tokens": 14, "unheard_of": 1}
    assert "x-evalrouter-estimated" not in reply.headers
    assert last_request(upstream, "counted").path == "messages/count_tokens"
    record = record_of(http, url, reply)
    assert (record["cost_usd"], record["total_tokens"], record["estimated"]) == (0, None, False)
    wrong = post(http, url, "up/miscounted", path="messages/count_tokens")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (502, "api_error")


def test_a_host_that_does_not_count_tokens_has_them_estimated(
    http, url, upstream, anthropic_client
):
    before = upstream.log.total
    turns = [{"role": "user", "content": "one two three four five six"}]
    reply = post(http, url, "lab/n", path="messages/count_tokens", messages=turns)
    assert reply.headers["x-evalrouter-estimated"] == "input_tokens"
    assert 6 <= reply.json()["input_tokens"] <= 12
    assert upstream.log.total == before
    count = anthropic_client.messages.count_tokens(model="lab/n", messages=TURNS)
    assert count.input_tokens > 0
    wrong = post(http, url, "lab/n", path="messages/count_tokens", messages=[{"role": "king"}])
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")


def test_the_cache_has_a_key_of_its_own_for_the_path(http, url):
    first = post(http, url, "cached")
    again = post(http, url, "cached")
    assert (again.headers["x-evalrouter-cache"], again.content) == ("hit", first.content)
    streamed = post(http, url, "cached", stream=True)
    again = post(http, url, "cached", stream=True)
    assert (again.headers["x-evalrouter-cache"], again.text) == ("hit", streamed.text)


def test_a_list_of_models_has_anthropics_shape_for_its_clients(http, url, anthropic_client):
    headers = {"anthropic-version": "2023-06-01"}
    page = http.get(f"{url}/v1/models?limit=2", headers=headers).json()
    assert set(page) == {"data", "has_more", "first_id", "last_id"}
    assert page["has_more"]
    assert set(page["data"][0]) >= {"type", "id", "display_name", "created_at"}
    names = [model.id for model in anthropic_client.models.list(limit=3)]
    assert "cached" in names
    assert anthropic_client.models.retrieve("cached").display_name == "cached"
    assert http.get(f"{url}/v1/models").json()["object"] == "list"
    wrong = http.get(f"{url}/v1/models?limit=0", headers=headers)
    assert wrong.status_code == 400


def test_head_of_the_root_says_without_a_key_that_a_server_is_there(http, tmp_path):
    config = f"""
server: {{require_keys: true}}
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
"""
    with gateway(config) as url:
        reply = http.head(f"{url}/")
        assert (reply.status_code, reply.content) == (200, b"")
        assert http.get(f"{url}/").status_code == 401
        refused = post(http, url, "baseline/echo")
        assert (refused.status_code, refused.json()["error"]["type"]) == (
            401,
            "authentication_error",
        )


def test_no_target_listens(http, tmp_path):
    with reserved_port() as port:
        config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
providers: {{closed: {{kind: anthropic, base_url: "http://127.0.0.1:{port}/v1"}}}}
"""
        with gateway(config) as url:
            reply = post(http, url, "closed/m", stream=True)
            assert (reply.status_code, reply.json()["error"]["type"]) == (502, "api_error")
