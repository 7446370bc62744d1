"""The model paths over real HTTP: bytes, headers and errors, as curl and any client see them."""

import json
import shutil
import socket
import subprocess
import time

import pytest
from servers import gateway, reserved_port, scripted

WIRE_TOOLS = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            "logprobs": {"content": []},
        }
    ],
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m-2026",
    "unheard_of": {"kept": [1.50, "ü"]},
}

OPENAI_ERROR = {
    "error": {"message": "no", "type": "invalid_request_error", "param": "x", "code": "y"}
}
MISTRAL_ERROR = {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
MODELS = {
    "hello": [{"answer": "Hello, wörld! 👋 It works."}],
    "body": [{"body": WIRE_TOOLS}],
    "n": [{"answer": "ok"}],
    "teapot": [{"status": 418, "body": {"error": {"message": "tea", "type": "t", "code": None}}}],
    "openai-error": [{"status": 400, "body": OPENAI_ERROR}],
    "vllm-error": [
        {"status": 400, "body": {"object": "error", "message": "too long", "code": 400}}
    ],
    "mistral-error": [{"status": 422, "body": MISTRAL_ERROR}],
    "gemini-error": [{"status": 400, "body": [{"error": {"message": "bad key", "code": 400}}]}],
    "plain-error": [{"status": 400, "body": "<html>no</html>"}],
    "limited": [{"status": 429, "headers": {"Retry-After": "77"}}],
    "reset": [{"fault": "reset"}],
    "hang": [{"fault": "hang"}],
    "cut": [{"answer": "one two three four", "fault": "truncate"}],
    "cut-stream": [{"answer": "one two three four five six", "fault": "reset_midway"}],
    "hang-stream": [{"answer": "one two three four five six", "fault": "hang_midway"}],
    "flaky": [{"times": 2, "status": 503}, {"answer": "third time"}],
    "flaky-reset": [{"times": 1, "fault": "reset"}, {"answer": "second time"}],
    "hint": [{"times": 1, "status": 429, "headers": {"retry-after-ms": 1}}, {"answer": "hinted"}],
    "down": [{"status": 503}],
    "forbidden": [{"status": 401}],
    "strict": [{"status": 400}],
    "slow": [{"answer": "late", "delay_s": 30}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def closed():
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def url(upstream, closed, tmp_path_factory):
    database = tmp_path_factory.mktemp("db") / "e.db"
    retry = "retries: {attempts: 3, backoff: 0.01, backoff_max: 0.02}"
    config = f"""
server: {{port: 0, max_body_bytes: 100000}}
storage: {{database: "sqlite:///{database}"}}
providers:
  up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-provider, headers: {{x-team: t}}}}
  closed: {{kind: compatible, base_url: "http://127.0.0.1:{closed}/v1", models: [m]}}
  closed-too: {{kind: compatible, base_url: "http://127.0.0.1:{closed}/v1", models: [m]}}
  nowhere: {{kind: compatible, base_url: "http://does-not-exist.invalid/v1", models: [m]}}
routes:
  flaky: {{targets: [{{model: up/flaky}}], {retry}}}
  flaky-reset: {{targets: [{{model: up/flaky-reset}}], {retry}}}
  hint: {{targets: [{{model: up/hint}}], {retry}}}
  falls-back: {{targets: [{{model: closed/m}}], fallback: [up/n], {retry}}}
  bad-key: {{targets: [{{model: up/forbidden}}], fallback: [up/n], {retry}}}
  bad-request: {{targets: [{{model: up/strict}}], fallback: [up/n], {retry}}}
  all-down: {{targets: [{{model: up/down}}], fallback: [closed-too/m], {retry}}}
  impatient: {{targets: [{{model: up/hang}}], {retry}, timeout: {{first_byte: 0.1}}}}
  hurried: {{targets: [{{model: up/hang}}], {retry}, timeout: {{total: 0.2}}}}
  stuck: {{targets: [{{model: up/hang-stream}}], timeout: {{between_chunks: 0.2}}}}
  limited: {{targets: [{{model: up/limited}}], {retry}}}
"""
    with gateway(config) as url:
        yield url


def chat(model, **fields):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


def ask(http, url, model, **fields):
    return http.post(f"{url}/v1/chat/completions", json=chat(model, **fields))


def last(upstream, model):
    return next(one for one in reversed(upstream.log.requests) if one.model == model)


def test_an_answer_and_its_headers(http, url):
    reply = ask(http, url, "up/hello")
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "Hello, wörld! 👋 It works."
    assert reply.headers["x-evalrouter-route"] == "up/hello"
    assert reply.headers["x-evalrouter-target"] == "up/hello"
    assert reply.headers["x-evalrouter-attempts"].startswith("up/hello ok 0.")
    assert reply.headers["x-request-id"].startswith("req_")
    assert "server" not in reply.headers


def test_the_request_passes_untouched_but_for_the_model(http, url, upstream):
    fields = (
        '"temperature": 0.10, "seed": 12345678901234567890, "unheard_of": {"a": [1.50, null]},'
        '"messages": [{"role": "user", "content": [{"type": "image_url", "image_url":'
        ' {"url": "data:image/png;base64,AA=="}}, {"type": "text", "text": "\\u00fc"}]}],'
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],'
        '"response_format": {"type": "json_object"}, "logprobs": true, "n": 2,'
        '"reasoning_effort": "low"'
    )
    http.post(f"{url}/v1/chat/completions", content=f'{{{fields}, "model": "up/n"}}')
    got = bytes(last(upstream, "n").body).decode()
    for name, value in json.loads(f"{{{fields}}}").items():
        assert json.loads(got)[name] == value
    # Numbers keep their spelling, which a decoded and encoded body would lose.
    assert "0.10" in got
    assert "1.50" in got
    assert "12345678901234567890" in got
    assert "\\u00fc" in got


def test_the_answer_passes_untouched(http, url, upstream):
    direct = http.post(f"{upstream.url}/chat/completions", json=chat("body"))
    assert ask(http, url, "up/body").content == direct.content
    assert "unheard_of" in direct.json()


def test_the_clients_key_stays_here_and_the_providers_goes_there(http, url, upstream):
    http.post(
        f"{url}/v1/chat/completions",
        json=chat("up/n"),
        headers={"authorization": "Bearer client-key", "x-request-id": "my-id-1"},
    )
    headers = last(upstream, "n").headers
    with_key = http.post(
        f"{upstream.url}/chat/completions",
        json=chat("n"),
        headers={"authorization": "Bearer sk-provider"},
    )
    assert with_key.status_code == 200
    assert headers["authorization"] == last(upstream, "n").headers["authorization"]
    assert headers["x-request-id"] == "my-id-1"
    assert headers["x-team"] == "t"


def test_a_request_id_that_could_break_a_header_is_replaced(http, url):
    reply = http.post(
        f"{url}/v1/chat/completions",
        json=chat("up/n"),
        headers={"x-request-id": "a" * 200},
    )
    assert reply.headers["x-request-id"].startswith("req_")


def test_a_stream_is_the_upstreams_bytes(http, url, upstream):
    direct = http.post(f"{upstream.url}/chat/completions", json=chat("hello", stream=True))
    through = ask(http, url, "up/hello", stream=True)
    assert through.headers["content-type"].startswith("text/event-stream")

    def texts(raw):
        events = [json.loads(e[6:]) for e in raw.decode().split("\n\n") if e.startswith("data: {")]
        return [e["choices"][0]["delta"].get("content", "") for e in events if e["choices"]]

    assert texts(through.content) == texts(direct.content)
    assert "".join(texts(through.content)) == "Hello, wörld! 👋 It works."
    assert through.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("content", "status", "code", "param"),
    [
        (b"{", 400, "bad_json", None),
        (b"[]", 400, "bad_json", None),
        (b"", 400, "bad_json", None),
        (b'{"model": "\xff"}', 400, "invalid_type", "model"),
        (b'{"a": ' + b"[" * 50_000, 400, "bad_json", None),
        (b'{"messages": []}', 400, "missing_required_parameter", "model"),
        (b'{"model": "", "messages": []}', 400, "missing_required_parameter", "model"),
        (b'{"model": 7, "messages": []}', 400, "invalid_type", "model"),
        (b'{"model": "up/n"}', 400, "missing_required_parameter", "messages"),
        (b'{"model": "up/n", "messages": [], "stream": "yes"}', 400, "invalid_type", "stream"),
        (b'{"model": "up7/n", "messages": []}', 404, "model_not_found", "model"),
        (b'{"model": "flakey", "messages": []}', 404, "model_not_found", "model"),
        (b" " * 100_001, 413, "body_too_large", None),
    ],
)
def test_bad_input_is_answered_with_openais_error(http, url, content, status, code, param):
    reply = http.post(f"{url}/v1/chat/completions", content=content)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert reply.headers["x-request-id"]


def test_an_unknown_model_gets_the_closest_names(http, url):
    message = ask(http, url, "flakey").json()["error"]["message"]
    assert "'flaky'" in message


def test_other_methods_and_paths(http, url):
    reply = http.get(f"{url}/v1/chat/completions")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    reply = http.put(f"{url}/v1/models")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    reply = http.get(f"{url}/v1/nothing")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/eval"])
def test_another_sites_page_cannot_use_a_server_without_keys(http, url, path):
    for origin, refused in (
        ("https://evil.example", True),
        ("http://127.0.0.1:1", True),
        ("null", True),
        (url, False),
    ):
        reply = http.post(f"{url}{path}", content=b"{", headers={"Origin": origin})
        assert (reply.status_code == 403) == refused
        code = reply.json()["error"]["code"]
        assert code == ("other_origin" if refused else "bad_json")
    for headers, refused in (
        ({"Sec-Fetch-Site": "cross-site"}, True),
        # Another port of the same host.
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": url}, False),
    ):
        reply = http.post(f"{url}{path}", content=b"{", headers=headers)
        code = reply.json()["error"]["code"]
        assert code == ("other_origin" if refused else "bad_json"), headers


def test_a_body_without_length_that_is_too_large(http, url):
    def chunks():
        for _ in range(30):
            yield b" " * 10_000

    reply = http.post(f"{url}/v1/chat/completions", content=chunks())
    assert reply.status_code == 413


def test_the_upstreams_own_error_is_kept(http, url):
    reply = ask(http, url, "up/teapot")
    assert reply.status_code == 418
    assert reply.json() == {"error": {"message": "tea", "type": "t", "code": None, "param": None}}


@pytest.mark.parametrize(
    ("model", "message", "code"),
    [
        ("vllm-error", "too long", "400"),
        ("mistral-error", "body.seed: Extra inputs are not permitted", None),
        ("gemini-error", "bad key", "400"),
    ],
)
def test_every_hosts_error_becomes_openais_object(http, url, model, message, code):
    error = ask(http, url, f"up/{model}").json()["error"]
    assert error["message"] == message
    assert error["code"] == code


def test_an_error_that_is_openais_already_passes_byte_for_byte(http, url, upstream):
    direct = http.post(f"{upstream.url}/chat/completions", json=chat("openai-error"))
    through = ask(http, url, "up/openai-error")
    assert (through.status_code, through.content) == (direct.status_code, direct.content)


def test_an_upstreams_error_that_is_not_json_is_wrapped(http, url):
    reply = ask(http, url, "up/plain-error")
    assert reply.status_code == 400
    assert "<html>no</html>" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("model", "word"), [("closed/m", "refused"), ("nowhere/m", "resolve")])
def test_an_upstream_that_is_down(http, url, model, word):
    reply = ask(http, url, model)
    assert reply.status_code == 502
    error = reply.json()["error"]
    assert (error["code"], error["type"]) == ("upstream_unreachable", "upstream_error")
    assert word in error["message"]
    # The address of a provider is nobody's business but the operator's.
    assert "127.0.0.1" not in reply.text
    assert "invalid/v1" not in reply.text
    assert reply.headers["x-evalrouter-attempts"].count("upstream_unreachable") == 3


@pytest.mark.parametrize("model", ["impatient", "hurried"])
def test_an_upstream_that_is_too_slow(http, url, model):
    reply = ask(http, url, model)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "upstream_timeout"


def test_an_answer_cut_off_in_the_middle_is_an_error_not_an_answer(http, url):
    reply = ask(http, url, "up/cut")
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_invalid_response"


@pytest.mark.parametrize(
    ("model", "code"),
    [("up/cut-stream", "upstream_invalid_response"), ("stuck", "upstream_timeout")],
)
def test_a_stream_cut_off_ends_with_an_error_event_and_no_done(http, url, model, code):
    reply = ask(http, url, model, stream=True)
    assert reply.status_code == 200
    events = reply.text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == code
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize(
    ("model", "text", "attempts"),
    [
        ("flaky", "third time", ["upstream_503", "upstream_503", "ok"]),
        ("flaky-reset", "second time", ["upstream_unreachable", "ok"]),
        ("hint", "hinted", ["upstream_429", "ok"]),
        ("falls-back", "ok", ["upstream_unreachable"] * 3 + ["ok"]),
        ("bad-key", "ok", ["upstream_auth", "ok"]),
    ],
)
def test_retries_and_fallback(http, url, model, text, attempts):
    reply = ask(http, url, model)
    assert reply.json()["choices"][0]["message"]["content"] == text
    told = reply.headers["x-evalrouter-attempts"].split(", ")
    assert [one.split()[1] for one in told] == attempts
    assert reply.headers["x-evalrouter-route"] == model


def test_a_bad_request_is_not_tried_elsewhere(http, url, upstream):
    before = upstream.log.total
    reply = ask(http, url, "bad-request")
    assert reply.status_code == 400
    assert upstream.log.total == before + 1


def test_when_all_are_down_the_last_error_is_told(http, url):
    reply = ask(http, url, "all-down")
    assert reply.status_code == 502
    assert reply.headers["x-evalrouter-attempts"].count(",") == 5


def test_a_wait_longer_than_allowed_is_left_to_the_client(http, url, upstream):
    before = upstream.log.counts["models"].get("limited", 0)
    reply = ask(http, url, "limited")
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "77"
    assert upstream.log.counts["models"]["limited"] == before + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_the_upstream_request_with_it(url, upstream, stream):
    body = json.dumps(chat("up/slow", stream=stream)).encode()
    host, port = url.removeprefix("http://").split(":")
    before = upstream.log.counts
    gone, asked = before["outcomes"].get("client_gone", 0), before["models"].get("slow", 0)
    with socket.create_connection((host, int(port))) as client:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\n"
            f"host: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        wait_until(lambda: upstream.log.counts["models"].get("slow", 0) == asked + 1)
    wait_until(lambda: upstream.log.counts["outcomes"].get("client_gone", 0) == gone + 1)


def wait_until(condition):
    """Until it holds; the suite's time-out is the bound."""
    while not condition():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "field", "kind"),
    [("completions", "prompt", "text_completion"), ("embeddings", "input", "list")],
)
def test_completions_and_embeddings(http, url, path, field, kind):
    reply = http.post(f"{url}/v1/{path}", json={"model": "up/hello", field: "hi"})
    assert reply.status_code == 200
    assert reply.json()["object"] == kind
    reply = http.post(f"{url}/v1/{path}", json={"model": "up/hello"})
    assert reply.json()["error"]["param"] == field


def test_models_lists_routes_and_every_providers_models(http, url):
    listed = http.get(f"{url}/v1/models").json()
    names = [row["id"] for row in listed["data"]]
    assert names[0] == "flaky"
    assert {"baseline/lead-3", "up/hello", "closed/m"} <= set(names)
    assert http.get(f"{url}/v1/models/baseline/lead-3").json()["owned_by"] == "baseline"
    assert http.get(f"{url}/v1/models/flaky").json()["owned_by"] == "evalrouter"
    missing = http.get(f"{url}/v1/models/baseline/lead-33")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_health_and_schema(http, url):
    assert http.get(f"{url}/health/live").json() == {"status": "alive"}
    assert http.get(f"{url}/health/ready").status_code == 200
    paths = http.get(f"{url}/schema").json()["paths"]
    assert {"/v1/chat/completions", "/v1/models", "/eval", "/health/live"} <= set(paths)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(url):
    data = '{"model": "baseline/lead-1", "messages": [{"role": "user", "content": "One. Two."}]}'
    command = ["curl", "-sS", f"{url}/v1/chat/completions", "-d", data]
    done = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "One."
