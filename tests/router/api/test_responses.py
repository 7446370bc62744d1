"""`/v1/responses` over real HTTP, at hosts that have it: bytes, events, errors and records."""

import json

import pytest
from openai import OpenAI
from servers import data_of, gateway, last_request, record_of, reserved_port, scripted

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Grüße 👋", "annotations": []}],
}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"town": "Oslo"}',
}
USAGE = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 52,
}
RESPONSE = {
    "id": "resp_abc",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-9-2027",
    "output": [{"type": "unheard_of", "kept": [1.50]}, MESSAGE, CALL],
    "usage": USAGE,
    "unheard_of": {"kept": "ü"},
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
BEGUN = RESPONSE | {"status": "in_progress", "output": [], "usage": None}
CHAT = {"id": "c", "object": "chat.completion", "choices": [{"message": {"content": "hi"}}]}
FAILURE = {"code": "server_error", "message": "it broke"}


def event(kind, number, **fields):
    data = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def delta(number, text):
    place = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    return event("response.output_text.delta", number, **place, delta=text, logprobs=[])


ITEM = {"output_index": 1, "item": MESSAGE | {"content": [], "status": "in_progress"}}
PART = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
EMPTY = {"type": "output_text", "text": "", "annotations": []}
EVENTS = [
    event("response.created", 0, response=BEGUN),
    event("response.in_progress", 1, response=BEGUN),
    event("response.output_item.added", 2, **ITEM),
    event("response.content_part.added", 3, **PART, part=EMPTY),
    event("response.unheard_of", 4, kept=[1.5]),
    delta(5, "Grüße, the error is complete"),
    delta(6, " 👋"),
    event("response.output_item.done", 7, output_index=1, item=MESSAGE),
    event("response.completed", 8, response=RESPONSE),
]
STREAMED = {"content-type": "text/event-stream"}


def stream(*events, **rule):
    return [{"body": "".join(events), "headers": STREAMED, **rule}]


def failing(kind):
    failed = BEGUN | {"status": "failed", "error": FAILURE}
    return {
        "event": event("error", 0, code="server_error", message="it broke", param=None),
        "chats": 'data: {"error": {"message": "it broke", "code": "server_error"}}\n\n',
        "failed": EVENTS[0] + event("response.failed", 1, response=failed),
        "done": "data: [DONE]\n\n",
        "chunks": 'data: {"object": "chat.completion.chunk", "choices": [{"delta": {}}]}\n\n',
        "page": "<html>sign in</html>",
        "nothing": "",
    }[kind]


FAILING = ("event", "chats", "failed", "done", "chunks", "page", "nothing")
WRONG = {
    "chat": CHAT,
    "error": {"error": {"message": "no", "type": "t", "code": "c", "param": None}},
    "failed": RESPONSE | {"status": "failed", "error": FAILURE, "output": []},
    "half": '{"output": [',
    "no-output": RESPONSE | {"output": None},
    "empty": "",
}
NOT_HERE = {"message": "no such tool", "type": "invalid_request_error", "param": "tools"}

MODELS = {
    "hello": [{"answer": "Hello, wörld! It works.", "chunks": 3}],
    "n": [{"answer": "call {n}"}],
    "whole": [{"body": RESPONSE}],
    "stream": stream(*EVENTS),
    "bytewise": stream(*EVENTS, chunks=200),
    "done": stream(*EVENTS, "data: [DONE]\n\n"),
    "no-blank": stream(*EVENTS[:-1], EVENTS[-1].rstrip("\n")),
    "unasked": stream(*EVENTS),
    "not-streamed": [{"body": RESPONSE | {"output": [MESSAGE, CALL]}}],
    "refusing": [{"status": 400, "body": {"error": NOT_HERE | {"code": None}}}],
    "limited": [{"status": 429, "headers": {"Retry-After": "77"}}],
    "short": [{"answer": "to be", "finish_reason": "length"}],
    "secret": stream(EVENTS[0], delta(1, "sk-provider-secret"), *EVENTS[-1:]),
    "breaks": [{"answer": "one two three four", "fault": "error_event"}],
    "flaky": [{"times": 2, "status": 503}, {"answer": "third time"}],
    **{f"cut-{n}": stream(*EVENTS[:n]) for n in range(len(EVENTS))},
    **{f"half-{n}": stream(*EVENTS[:n], EVENTS[n][:40]) for n in range(len(EVENTS))},
    **{f"fails-{kind}": stream(failing(kind)) for kind in FAILING},
    **{f"wrong-{kind}": [{"body": body}] for kind, body in WRONG.items()},
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream, tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    retry = "retries: {attempts: 3, backoff: 0.01, backoff_max: 0.02}"
    once = "retries: {attempts: 1}"
    falling = [*(f"fails-{kind}" for kind in FAILING), *(f"wrong-{kind}" for kind in WRONG)]
    falls_back = "\n".join(
        f"  {name}: {{targets: [{{model: up/{name}}}], fallback: [up/n], {once}}}"
        for name in falling
    )
    config = f"""
storage: {{database: "sqlite:///{database}"}}
record: full
providers:
  up: {{kind: vllm, base_url: "{upstream.url}", api_key: sk-provider-secret}}
  chats: {{kind: compatible, base_url: "{upstream.url}"}}
  told: {{kind: compatible, base_url: "{upstream.url}", speaks: [responses]}}
  silent: {{kind: openai, base_url: "{upstream.url}", speaks: []}}
prices:
  up/whole: {{input: 1, output: 10, cached_input: 0.5}}
  up/stream: {{input: 1, output: 10, cached_input: 0.5}}
routes:
  flaky: {{targets: [{{model: up/flaky}}], {retry}}}
  cached: {{targets: [{{model: up/n}}], cache: {{ttl: 60}}}}
{falls_back}
"""
    with gateway(config) as url:
        yield url


def post(http, url, model, **fields):
    """Request a response that nothing can follow: what is stored gets an id of ours."""
    body = {"model": model, "input": "hi", "store": False, **fields}
    return http.post(f"{url}/v1/responses", json=body)


@pytest.fixture
def openai_client(url):
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_whole_response_comes_back_byte_for_byte(http, url, upstream):
    reply = post(http, url, "up/whole")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-evalrouter-target"] == "up/whole"
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.json() == RESPONSE
    direct = {"model": "whole", "input": "hi", "store": False}
    with_model = http.post(f"{upstream.url}/responses", json=direct)
    assert reply.content == with_model.content


def test_a_request_passes_untouched_but_for_its_model(http, url, upstream):
    fields = (
        '"input": [{"type": "unheard_of", "id": 12345678901234567890}, {"role": "user", "content":'
        ' "\\u00fc"}], "temperature": 0.10, "tools": [{"type": "web_search"}], "include": ["x"],'
        '"max_output_tokens": 5, "store": false'
    )
    http.post(f"{url}/v1/responses", content=f'{{{fields}, "model": "up/n"}}')
    received = bytes(last_request(upstream, "n").body).decode()
    for field in ("12345678901234567890", '"\\u00fc"', "0.10", '{"type": "web_search"}'):
        assert field in received
    assert json.loads(received) == json.loads(f"{{{fields}}}") | {"model": "n"}


def test_the_record_has_tokens_price_and_why_it_ended(http, url):
    record = record_of(http, url, post(http, url, "up/whole"))
    assert record["path"] == "responses"
    assert record["response_id"] == "resp_abc"
    assert record["model"] == "gpt-9-2027"
    assert record["finish_reason"] == "tool_calls"
    assert (record["prompt_tokens"], record["completion_tokens"]) == (40, 12)
    assert (record["total_tokens"], record["cached_tokens"]) == (52, 30)
    assert record["cost_usd"] == pytest.approx((10 * 1 + 30 * 0.5 + 12 * 10) / 1e6)


@pytest.mark.parametrize("name", ["stream", "bytewise", "done", "no-blank"])
def test_a_stream_passes_byte_for_byte_and_ends_without_done(http, url, name):
    reply = post(http, url, f"up/{name}", stream=True)
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.text.rstrip("\n") == "".join(EVENTS).rstrip("\n")
    record = record_of(http, url, reply)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (40, 12)
    assert (record["response_id"], record["model"]) == ("resp_abc", "gpt-9-2027")
    assert (record["finish_reason"], record["error_code"]) == ("tool_calls", "")
    assert record["stream"]


def test_a_response_without_all_of_its_answer_says_so_in_its_record(http, url):
    for fields in ({}, {"stream": True}):
        reply = post(http, url, "up/short", **fields)
        record = record_of(http, url, reply)
        assert (record["finish_reason"], record["error_code"]) == ("length", "")
        assert record["completion_tokens"] == 2


def test_openais_client_reads_both(openai_client):
    whole = openai_client.responses.create(model="up/hello", input="hi")
    assert whole.output_text == "Hello, wörld! It works."
    assert whole.usage.output_tokens == 7
    with openai_client.responses.stream(model="up/hello", input="hi") as events:
        texts = [one.delta for one in events if one.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert (len(texts), "".join(texts)) == (3, "Hello, wörld! It works.")
    assert final.output_text == "Hello, wörld! It works."
    assert final.status == "completed"


def test_clients_that_leave_v1_out_are_answered(http, url):
    for path in ("/responses", "/v1/v1/responses", "//v1//responses/"):
        reply = http.post(f"{url}{path}", json={"model": "up/hello", "input": "hi"})
        assert reply.json()["object"] == "response", path


@pytest.mark.parametrize("kind", FAILING)
def test_a_stream_that_does_not_begin_is_tried_elsewhere(http, url, kind):
    reply = post(http, url, f"fails-{kind}", stream=True)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-evalrouter-target"] == "up/n"
    assert data_of(reply.text)[-1]["type"] == "response.completed"


@pytest.mark.parametrize("kind", ["event", "chats", "failed"])
def test_without_another_target_the_hosts_error_is_the_answer(http, url, kind):
    reply = post(http, url, f"up/fails-{kind}", stream=True)
    assert reply.status_code == 502
    error = reply.json()["error"]
    assert (error["message"], error["code"]) == ("it broke", "server_error")


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_response_is_no_answer(http, url, kind):
    reply = post(http, url, f"wrong-{kind}")
    assert reply.headers["x-evalrouter-target"] == "up/n"
    alone = post(http, url, f"up/wrong-{kind}")
    assert alone.status_code == 502
    assert set(alone.json()["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("n", range(1, len(EVENTS)))
@pytest.mark.parametrize("how", ["cut", "half"])
def test_a_stream_that_breaks_off_ends_with_an_error_event(http, url, n, how):
    reply = post(http, url, f"up/{how}-{n}", stream=True)
    assert reply.status_code == 200
    *before, error = data_of(reply.text)
    assert [one["sequence_number"] for one in before] == [*range(n)]
    assert error["type"] == "error"
    assert error["sequence_number"] == n
    assert error["code"] == "upstream_invalid_response"
    assert "cut off" in error["message"]
    assert "event: error\n" in reply.text
    assert record_of(http, url, reply)["error_code"] == "upstream_invalid_response"


def test_an_error_in_mid_stream_is_openais_event(http, url, openai_client):
    reply = post(http, url, "up/breaks", stream=True)
    *_, before, error = data_of(reply.text)
    assert error["type"] == "error"
    assert error["message"] == "scripted error 500"
    assert error["sequence_number"] == before["sequence_number"] + 1
    seen = list(openai_client.responses.create(model="up/breaks", input="hi", stream=True))
    assert (seen[-1].type, seen[-1].code) == ("error", "scripted")


def test_retries_and_refusals_are_those_of_the_other_paths(http, url):
    reply = post(http, url, "flaky")
    assert reply.status_code == 200
    assert reply.headers["x-evalrouter-attempts"].count("503") == 2
    refused = post(http, url, "up/refusing")
    assert (refused.status_code, refused.json()["error"]) == (400, NOT_HERE | {"code": None})
    limited = post(http, url, "up/limited")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "77")


def test_a_stream_that_was_not_requested_and_one_that_was(http, url):
    assert post(http, url, "up/unasked").json() == RESPONSE
    reply = post(http, url, "up/not-streamed", stream=True)
    events = data_of(reply.text)
    assert [one["sequence_number"] for one in events] == [*range(len(events))]
    assert [events[0]["type"], events[-1]["type"]] == ["response.created", "response.completed"]
    assert events[-1]["response"] == RESPONSE | {"output": [MESSAGE, CALL]}
    texts = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
    assert "".join(texts) == "Grüße 👋"


def test_the_clients_accumulator_takes_events_made_of_a_whole_response(openai_client):
    with openai_client.responses.stream(model="up/not-streamed", input="hi") as events:
        seen = [one.type for one in events]
        final = events.get_final_response()
    assert final.output_text == "Grüße 👋"
    assert "response.function_call_arguments.done" in seen


def test_secrets_of_the_config_are_hidden_in_a_stream(http, url):
    reply = post(http, url, "up/secret", stream=True)
    assert "sk-provider-secret" not in reply.text
    assert data_of(reply.text)[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("model", "path"),
    [("told/n", "responses"), ("chats/n", "chat/completions"), ("silent/n", "chat/completions")],
)
def test_each_target_is_sent_what_its_host_has(http, url, upstream, model, path):
    reply = post(http, url, model)
    assert reply.json()["object"] == "response"
    assert last_request(upstream, "n").path == path


def test_the_cache_has_a_key_of_its_own_for_the_path(http, url):
    first = post(http, url, "cached")
    again = post(http, url, "cached")
    assert again.headers["x-evalrouter-cache"] == "hit"
    assert again.content == first.content
    streamed = post(http, url, "cached", stream=True)
    assert streamed.headers["x-evalrouter-cache"] == "miss"
    again = post(http, url, "cached", stream=True)
    assert (again.headers["x-evalrouter-cache"], again.text) == ("hit", streamed.text)
    body = {"model": "cached", "input": "hi", "messages": [{"role": "user", "content": "hi"}]}
    chat = http.post(f"{url}/v1/chat/completions", json=body)
    assert chat.headers["x-evalrouter-cache"] == "miss"


@pytest.mark.parametrize("fields", [{"store": True}, {"store": None}, {"background": None}])
def test_requests_that_leave_something_are_not_cached(http, url, fields):
    for _ in range(2):
        reply = post(http, url, "cached", **fields)
        assert "x-evalrouter-cache" not in reply.headers


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"input": "hi"}', "model"),
        ('{"model": 5, "input": "hi"}', "model"),
        ('{"model": "up/n", "input": "hi", "stream": "yes"}', "stream"),
        ("[]", None),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_openais_shape(http, url, body, param):
    reply = http.post(f"{url}/v1/responses", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_the_order_of_scripted_events_is_openais(http, upstream):
    body = {"model": "hello", "input": [{"role": "user", "content": "hi"}], "stream": True}
    kinds = [one["type"] for one in data_of(http.post(f"{upstream.url}/responses", json=body).text)]
    texts = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * texts,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_no_target_listens(http, tmp_path):
    with reserved_port() as port:
        config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
providers: {{closed: {{kind: vllm, base_url: "http://127.0.0.1:{port}/v1"}}}}
"""
        with gateway(config) as url:
            reply = post(http, url, "closed/m", stream=True)
            assert reply.status_code == 502
            assert reply.json()["error"]["code"] == "upstream_unreachable"
