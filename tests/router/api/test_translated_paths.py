"""`/v1/responses` and `/v1/messages` at hosts that have chat completions only, over real HTTP."""

import json

import anthropic
import pytest
from anthropic import Anthropic
from openai import OpenAI
from servers import data_of, gateway, last_request, record_of, scripted

CALLS = [
    {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"town":"Oslo"}'},
    }
]
CALLING = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "caller",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": CALLS},
        }
    ],
    "usage": {
        "prompt_tokens": 40,
        "completion_tokens": 12,
        "total_tokens": 52,
        "prompt_tokens_details": {"cached_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 8},
    },
}


def chunk(delta=None, finish=None, **fields):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps({**head, 'choices': choices, **fields})}\n\n"


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Grüße"}),
    chunk({"content": " 👋"}),
    chunk({}, "stop"),
    chunk(usage=CALLING["usage"]),
    "data: [DONE]\n\n",
]
# Those before the finish reason, without which a stream is not whole.
UNFINISHED = 3
STREAMED = {"content-type": "text/event-stream"}


def stream(*chunks):
    return [{"body": "".join(chunks), "headers": STREAMED}]


NO_CHOICES = {"object": "chat.completion", "choices": []}
IN_200 = {"error": {"message": "it broke", "type": "server_error", "param": None, "code": None}}
MODELS = {
    "hello": [{"answer": "Hello, wörld! It works.", "chunks": 3}],
    "n": [{"answer": "call {n}"}],
    "caller": [{"body": CALLING}],
    "stream": stream(*CHUNKS),
    "bare": stream(*CHUNKS[:4]),
    "breaks": [{"answer": "one two three four", "fault": "error_event"}],
    "secret": stream(CHUNKS[0], chunk({"content": "sk-provider-secret"}), *CHUNKS[3:]),
    "no-usage": [{"answer": "one two three four", "fault": "no_usage"}],
    "refusing": [{"status": 400, "body": {"error": {"message": "no such tool", "code": "x"}}}],
    "limited": [{"status": 429, "headers": {"Retry-After": "77"}}],
    **{
        f"flaky-{path}": [{"times": 2, "status": 503}, {"answer": "third time"}]
        for path in ("responses", "messages")
    },
    "old": [{"times": 1, "status": 404, "body": "404 page not found"}, {"answer": "by chat"}],
    "unknown": [{"status": 404, "body": {"error": {"message": "no model", "code": "x"}}}],
    "empty": [{"body": NO_CHOICES}],
    "in-200": [{"body": IN_200}],
    "begins-badly": stream(f"data: {json.dumps(IN_200)}\n\n"),
    **{f"cut-{n}": stream(*CHUNKS[:n]) for n in range(1, UNFINISHED + 1)},
}
ONCE = "retries: {attempts: 1}"


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream, tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    retry = "retries: {attempts: 3, backoff: 0.01, backoff_max: 0.02}"
    falls_back = "\n".join(
        f"  falls-{name}: {{targets: [{{model: up/{name}}}], fallback: [native/n], {ONCE}}}"
        for name in ("empty", "in-200", "begins-badly")
    )
    config = f"""
storage: {{database: "sqlite:///{database}"}}
record: full
providers:
  up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-provider-secret}}
  strict: {{kind: compatible, base_url: "{upstream.url}", on_unsupported: error}}
  native: {{kind: vllm, base_url: "{upstream.url}"}}
  old: {{kind: vllm, base_url: "{upstream.url}"}}
  groq: {{kind: groq, base_url: "{upstream.url}", speaks: []}}
prices:
  up/caller: {{input: 1, output: 10, cached_input: 0.5}}
routes:
  flaky-responses: {{targets: [{{model: up/flaky-responses}}], {retry}}}
  flaky-messages: {{targets: [{{model: up/flaky-messages}}], {retry}}}
  mixed: {{targets: [{{model: up/refusing}}], fallback: [native/n], fallback_on: [400], {ONCE}}}
{falls_back}
"""
    with gateway(config) as url:
        yield url


TURNS = [{"role": "user", "content": "hi"}]
TOOLS = {
    "responses": [{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
    "messages": [{"name": "weather", "input_schema": {"type": "object"}}],
}
PATHS = ("responses", "messages")
ENDS = {"responses": "response.completed", "messages": "message_stop"}


def post(http, url, path, model, **fields):
    asked = {"input": "hi"} if path == "responses" else {"messages": TURNS, "max_tokens": 50}
    return http.post(f"{url}/v1/{path}", json={"model": model, **asked, **fields})


def sent_to(upstream, model):
    return json.loads(bytes(last_request(upstream, model).body))


@pytest.fixture
def openai_client(url):
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(url):
    with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_openais_client_reads_a_translated_response(upstream, openai_client):
    given = {"model": "up/hello", "instructions": "Be kind.", "input": "hi", "max_output_tokens": 9}
    whole = openai_client.responses.create(**given)
    assert whole.output_text == "Hello, wörld! It works."
    sent = sent_to(upstream, "hello")
    assert sent["messages"][-1]["content"] == "hi"
    assert sent["messages"][0]["content"] == "Be kind."
    with openai_client.responses.stream(**given) as events:
        texts = [one.delta for one in events if one.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert (len(texts), "".join(texts)) == (3, "Hello, wörld! It works.")
    assert (final.status, final.usage.output_tokens) == ("completed", 7)


def test_anthropics_client_reads_a_translated_message(upstream, anthropic_client):
    given = {"model": "up/hello", "system": "Be kind.", "max_tokens": 9, "messages": TURNS}
    whole = anthropic_client.messages.create(**given)
    assert whole.content[0].text == "Hello, wörld! It works."
    received = last_request(upstream, "hello")
    sent = sent_to(upstream, "hello")
    assert (received.path, sent["messages"][0]["role"]) == ("chat/completions", "system")
    assert not [name for name in received.headers if name.startswith("anthropic")]
    with anthropic_client.messages.stream(**given) as events:
        texts = list(events.text_stream)
        final = events.get_final_message()
    assert (len(texts), "".join(texts)) == (3, "Hello, wörld! It works.")
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 7)


@pytest.mark.parametrize("path", PATHS)
def test_calls_of_tools_and_usage_arrive(http, url, path):
    reply = post(http, url, path, "up/caller", tools=TOOLS[path])
    body = reply.json()
    if path == "responses":
        [call] = [item for item in body["output"] if item["type"] == "function_call"]
        assert (call["call_id"], json.loads(call["arguments"])) == ("c1", {"town": "Oslo"})
        assert body["usage"]["input_tokens_details"]["cached_tokens"] == 30
    else:
        [call] = [block for block in body["content"] if block["type"] == "tool_use"]
        assert (call["name"], call["input"]) == ("weather", {"town": "Oslo"})
        assert body["usage"]["cache_read_input_tokens"] == 30
    record = record_of(http, url, reply)
    assert (record["path"], record["finish_reason"]) == (path, "tool_calls")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (40, 12)
    assert (record["cached_tokens"], record["estimated"]) == (30, False)
    assert record["cost_usd"] == pytest.approx((10 + 30 * 0.5 + 12 * 10) / 1e6)


@pytest.mark.parametrize("model", ["stream", "bare"])
@pytest.mark.parametrize("path", PATHS)
def test_a_stream_is_translated_with_its_usage(http, url, upstream, path, model):
    reply = post(http, url, path, f"up/{model}", stream=True)
    events = data_of(reply.text)
    assert events[-1]["type"] == ENDS[path]
    assert "[DONE]" not in reply.text
    assert sent_to(upstream, model)["stream_options"] == {"include_usage": True}
    record = record_of(http, url, reply)
    assert (record["finish_reason"], record["error_code"]) == ("stop", "")
    if model == "stream":
        assert (record["prompt_tokens"], record["completion_tokens"]) == (40, 12)
    else:
        assert record["estimated"]


@pytest.mark.parametrize("n", range(1, UNFINISHED + 1))
@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_breaks_off_ends_with_one_error(http, url, path, n):
    reply = post(http, url, path, f"up/cut-{n}", stream=True)
    assert reply.status_code == 200
    *before, error = data_of(reply.text)
    assert error["type"] == "error"
    assert "cut off" in json.dumps(error)
    assert not [one for one in before if one["type"] in (ENDS[path], "error")]
    assert record_of(http, url, reply)["error_code"] == "upstream_invalid_response"


@pytest.mark.parametrize("path", PATHS)
def test_an_error_in_mid_stream_is_the_dialects(http, url, path):
    reply = post(http, url, path, "up/breaks", stream=True)
    error = data_of(reply.text)[-1]
    assert error["type"] == "error"
    message = error["message"] if path == "responses" else error["error"]["message"]
    assert message == "scripted error 500"
    assert record_of(http, url, reply)["error_code"] == "upstream_error_event"


@pytest.mark.parametrize("path", PATHS)
def test_secrets_of_the_config_are_hidden(http, url, path):
    reply = post(http, url, path, "up/secret", stream=True)
    assert "sk-provider-secret" not in reply.text
    assert data_of(reply.text)[-1]["type"] == ENDS[path]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_tokens_that_the_host_does_not_count_are_estimated(http, url, path, stream):
    record = record_of(http, url, post(http, url, path, "up/no-usage", stream=stream))
    assert record["estimated"]
    assert record["prompt_tokens"] > 0
    assert 3 <= record["completion_tokens"] <= 8


@pytest.mark.parametrize("path", PATHS)
def test_retries_and_fallback_are_those_of_chats(http, url, path):
    reply = post(http, url, path, f"flaky-{path}")
    assert reply.headers["x-evalrouter-attempts"].count("503") == 2
    assert "third time" in reply.text
    mixed = post(http, url, path, "mixed")
    assert mixed.headers["x-evalrouter-target"] == "native/n"
    for name in ("empty", "in-200"):
        reply = post(http, url, path, f"falls-{name}")
        assert reply.headers["x-evalrouter-target"] == "native/n", name
    reply = post(http, url, path, "falls-begins-badly", stream=True)
    assert reply.headers["x-evalrouter-target"] == "native/n"
    assert data_of(reply.text)[-1]["type"] == ENDS[path]


def test_of_a_host_that_is_too_old_it_is_remembered_that_it_lacks_a_path(http, url, upstream):
    def paths_of(model):
        return [one.path for one in upstream.log.requests if one.model == model]

    for _ in range(2):
        assert "by chat" in post(http, url, "responses", "old/old").text
    assert paths_of("old") == ["responses", "chat/completions", "chat/completions"]
    for _ in range(2):
        reply = post(http, url, "messages", "old/unknown")
        assert (reply.status_code, reply.json()["error"]["message"]) == (404, "no model")
    assert paths_of("unknown") == ["messages", "chat/completions"] * 2


def test_a_hosts_refusal_has_the_clients_shape(http, url, anthropic_client):
    for path in PATHS:
        reply = post(http, url, path, "up/refusing")
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == "no such tool"
        limited = post(http, url, path, "up/limited")
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "77")
    with pytest.raises(anthropic.BadRequestError, match="no such tool"):
        anthropic_client.messages.create(model="up/refusing", max_tokens=9, messages=TURNS)


def test_what_cannot_be_expressed_is_named_or_refused(http, url):
    fields = {"responses": {"truncation": "auto"}, "messages": {"top_k": 5}}
    for path, more in fields.items():
        [name] = more
        reply = post(http, url, path, "up/n", **more)
        assert reply.status_code == 200
        dropped = reply.headers.get("x-evalrouter-dropped", "")
        record = record_of(http, url, reply)
        translation = record["translation"]
        assert name in dropped or name in json.dumps(translation), translation
    refused = post(http, url, "responses", "strict/n", tools=[{"type": "web_search"}])
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    refused = post(http, url, "messages", "strict/n", mcp_servers=[{"name": "x"}])
    assert (refused.status_code, refused.json()["type"]) == (400, "error")


def test_both_steps_of_a_translation_are_recorded(http, url):
    # Responses to chat, and what Groq lacks of chat.
    fields = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    reply = post(http, url, "responses", "groq/n", **fields)
    assert reply.status_code == 200, reply.text
    assert "logprobs" in reply.headers["x-evalrouter-dropped"]
    translation = record_of(http, url, reply)["translation"]
    assert "input" in json.dumps(translation["converted"])


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_the_wrong_form_is_refused_with_its_place(http, url, path):
    wrong = {"responses": {"input": [{"role": "king"}]}, "messages": {"messages": [{"role": 5}]}}
    reply = post(http, url, path, "up/n", **wrong[path])
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    for name in ("previous_response_id", "conversation"):
        reply = post(http, url, "responses", "up/n", **{name: "x_1"})
        assert (reply.status_code, reply.json()["error"]["param"]) == (404, name)
