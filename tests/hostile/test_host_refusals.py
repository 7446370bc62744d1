"""How hosts refuse: keys that are ours, secrets they echo, limits they tell, patience they need."""

import json
import socket
import time

import httpx
import pytest
from raw_host import (
    DONE,
    FRAMINGS,
    HOLD,
    Repeat,
    answer,
    by_model,
    chat,
    chat_stream,
    chunk,
    event,
    framed,
    raw_host,
    stream,
)
from servers import gateway

KEY = 'sk-up/0123"456789'
IN_JSON = json.dumps(KEY)[1:-1]
TEAM = "team-token-12345"
PASSWORD = "pass%2Fword-99"
TOKEN = "hub-token-4711"
OTHER = "sk-of-another-host-7"
SPARE = chat("Spare")
JSON = b"content-type: application/json\r\n"
CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
datasets: {{roots: ["{folder}"], hub: "https://user:{password}@hub.example/?token={token}"}}
record: full
providers:
  up:
    kind: compatible
    base_url: "{url}"
    api_key: '{key}'
    headers: {{x-team-token: {team}, x-title: an-ordinary-title}}
    record: "{folder}/recorded.jsonl"
  hurried: {{kind: compatible, base_url: "{url}", timeout: {{total: 0.3}}}}
  other: {{kind: compatible, base_url: "{url}", api_key: {other}}}
routes:
{routes}
"""


def error(message, **fields):
    return json.dumps(
        {"error": {"message": message, "type": "t", "param": None, **fields}}
    ).encode()


class Served:
    """A raw host and the server in front of it."""

    def __init__(self, http, url, host, folder):
        self.http, self.url, self.host, self.folder = http, url, host, folder

    def ask(self, model, **fields):
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
        return self.http.post(f"{self.url}/v1/chat/completions", json=body)

    def record(self, reply):
        name = reply.headers["x-request-id"]
        for _ in range(200):
            found = self.http.get(f"{self.url}/traffic/{name}")
            if found.status_code == 200:
                return found
            time.sleep(0.02)
        raise AssertionError("no record")

    def run(self, route, *others, **fields):
        """The first answer of a run, or those of all its routes."""
        (self.folder / "one.jsonl").write_text('{"id": "s", "input": "Hi", "reference": "x"}\n')
        document = {
            "dataset": f"{self.folder}/one.jsonl",
            "routes": [route, *others],
            "metrics": ["exact_match"],
        }
        created = self.http.post(f"{self.url}/eval", json=document | fields)
        assert created.status_code == 202, created.text
        name = created.json()["id"]
        with self.http.stream("GET", f"{self.url}/eval/{name}/events") as events:
            for _ in events.iter_lines():
                pass
        rows = self.http.get(f"{self.url}/eval/{name}/samples").json()["data"]
        return [row["answer"] for row in rows] if others else rows[0]["answer"]


@pytest.fixture
def serve(tmp_path):
    """Start a server with a route `r-MODEL`, without a fallback, and `f-MODEL`, with one."""
    open_contexts = []

    def start(answers, **route):
        answers = {"spare": [answer(SPARE)], **answers}
        host_context = raw_host(by_model(answers))
        host = host_context.__enter__()
        open_contexts.append(host_context)
        route = {"retries": {"attempts": 2, "backoff": 0.001, "budget": 10}, **route}
        routes = "".join(
            f"  {kind}-{name}: "
            + json.dumps({"targets": [{"model": f"up/{name}"}], **fallback, **route})
            + "\n"
            for name in answers
            for kind, fallback in (("r", {}), ("f", {"fallback": ["other/spare"]}))
        )
        text = CONFIG.format(
            folder=tmp_path, url=host.url, key=KEY, team=TEAM, other=OTHER,
            password=PASSWORD, token=TOKEN, routes=routes,
        )  # fmt: skip
        server = gateway(text)
        url = server.__enter__()
        open_contexts.append(server)
        return Served(http, url, host, tmp_path)

    with httpx.Client(timeout=30) as http:
        yield start
        for context in reversed(open_contexts):
            context.__exit__(None, None, None)


# Keys


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "407 Proxy"])
@pytest.mark.parametrize("wants", [False, True])
def test_a_hosts_refusal_of_our_key_is_not_the_clients(serve, framing, status, wants):
    body = error(f"Incorrect API key provided: {KEY}", code="invalid_api_key")
    served = serve({"m": [framed(body, framing, status=status)]})
    reply = served.ask("r-m", stream=wants)
    assert reply.status_code == 502
    found = reply.json()["error"]
    assert (found["type"], found["code"]) == ("upstream_error", "upstream_auth")
    assert "'up'" in found["message"]
    assert found["message"].endswith("Incorrect API key provided: ***")
    assert reply.headers["x-should-retry"] == "false"
    assert "www-authenticate" not in reply.headers
    record = served.record(reply).json()
    assert (record["status"], record["error_code"]) == (502, "upstream_auth")
    assert [(one["result"], one["status"]) for one in record["attempts"]] == [
        ("upstream_auth", int(status[:3]))
    ]
    assert served.ask("f-m", stream=wants).status_code == 200
    found = served.run("r-m")
    assert (found["error_code"], found["attempts"]) == ("upstream_auth", 1)
    assert KEY not in found["error"]


# Secrets

SENT = ("plain", "bearer", "header")
ECHOES = {
    "plain": KEY,
    "bearer": f"Bearer {KEY}",
    "header": f"x-team-token: {TEAM}",
    "password": "pass/word-99",
    "password-as-written": PASSWORD,
    "another-hosts": OTHER,
    "query": f"?token={TOKEN}",
    "userinfo": "dXNlcjpwYXNzL3dvcmQtOTk=",
}


def leaks(text):
    secrets = (
        KEY,
        IN_JSON,
        IN_JSON.replace("/", "\\/"),
        TEAM,
        TOKEN,
        "word-99",
        OTHER,
        "dXNlcjpwYXNz",
    )
    return [one for one in secrets if one in text]


MAKERS = {
    "400": lambda text: answer(error(text), status="400 Bad Request"),
    "500": lambda text: answer(error(text), status="500 Internal Server Error"),
    "429": lambda text: answer(error(text), status="429 Too Many Requests"),
    "html": lambda text: answer(text.encode(), status="502 Bad Gateway"),
    "slashes": lambda text: answer(error(text).replace(b"/", b"\\/"), status="422 No"),
    "200": lambda text: answer(error(text)),
    "header": lambda text: answer(
        error(text), headers=JSON + b"x-request-id: %b\r\n" % text.encode(), status="400 No"
    ),
    "event": lambda text: stream(event(error(text))),
    "late": lambda text: stream(chunk({"content": "a"}), event(error(text))),
    "split": lambda text: stream(
        chunk({"content": "a"}), *(bytes([byte]) for byte in event(error(text)))
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_secrets_in_errors_reach_nobody(serve, caplog, kind):
    make = MAKERS[kind]
    served = serve({name: [make(text)] for name, text in ECHOES.items()})
    for name in ECHOES:
        for wants in (False, True):
            reply = served.ask(f"r-{name}", stream=wants)
            assert not leaks(reply.text)
            assert not leaks(str(reply.headers))
            assert not leaks(served.record(reply).text)
            assert "***" in reply.text
        # The recorder of a provider knows what that one sends.
        if name in SENT:
            assert not leaks((served.folder / "recorded.jsonl").read_text())
        (served.folder / "recorded.jsonl").write_text("")
    if kind != "429":
        found = served.run(*(f"r-{name}" for name in ECHOES))
        assert all("***" in one["error"] for one in found)
        assert not leaks(json.dumps(found))
    assert not leaks(caplog.text)


def test_a_hosts_own_secrets_are_masked_in_its_answers_too(serve):
    models = {}
    for name in SENT:
        text = f"Your secret is {ECHOES[name]}."
        parts = chat_stream([text])
        headers = JSON + b"request-id: %b\r\n" % KEY.encode()
        models[f"whole-{name}"] = [answer(chat(text), headers=headers)]
        models[f"stream-{name}"] = [stream(*parts)]
        models[f"bytes-{name}"] = [stream(*(bytes([one]) for one in b"".join(parts)))]
    served = serve(models)
    for model in models:
        for wants in (False, True):
            reply = served.ask(f"r-{model}", stream=wants)
            assert "secret" in reply.text
            assert "***" in reply.text
            assert not leaks(reply.text)
            assert not leaks(str(reply.headers))
            assert not leaks(served.record(reply).text)
    found = served.run(*(f"r-{model}" for model in models))
    assert all("***" in one["text"] for one in found)
    assert not leaks(json.dumps(found))
    assert not leaks((served.folder / "recorded.jsonl").read_text())


def test_what_is_no_secret_stays_in_answers(serve):
    text = "an-ordinary-title, user, 127.0.0.1"
    served = serve({"m": [answer(chat(text))]})
    assert served.ask("r-m").json()["choices"][0]["message"]["content"] == text


# Limits


def test_a_hosts_limits_and_request_id_are_passed_on(serve):
    headers = (
        b"x-request-id: req_7\r\nx-ratelimit-remaining-requests: 9\r\n"
        b"X-RateLimit-Reset-Tokens: 6m0s\r\nset-cookie: a=b\r\n"
        b"anthropic-ratelimit-input-tokens-limit: 80\r\n"
    )
    refusal = answer(error("slow down"), headers=JSON + headers, status="429 Too Many Requests")
    served = serve({
        "m": [answer(headers=JSON + headers)],
        "s": [stream(headers=b"content-type: text/event-stream\r\n" + headers)],
        "no": [refusal],
        "key": [answer(error("no"), headers=JSON + headers, status="401 Unauthorized")],
    })  # fmt: skip
    for model, wants in (("m", False), ("s", True), ("no", False), ("key", True)):
        reply = served.ask(f"r-{model}", stream=wants)
        told = {name: value for name, value in reply.headers.items() if "upstream" in name}
        assert told == {
            "x-evalrouter-upstream-request-id": "req_7",
            "x-evalrouter-upstream-ratelimit-remaining-requests": "9",
            "x-evalrouter-upstream-ratelimit-reset-tokens": "6m0s",
            "x-evalrouter-upstream-ratelimit-input-tokens-limit": "80",
        }
        assert reply.headers["x-request-id"] != "req_7"
        assert "set-cookie" not in reply.headers


def test_what_is_passed_on_is_bounded(serve):
    many = b"".join(b"x-ratelimit-%d: %b\r\n" % (n, b"v" * 400) for n in range(60))
    odd = b"x-ratelimit-" + b"n" * 100 + b": 1\r\nrequest-id: caf\xe9\t\xff\r\n"
    served = serve({"m": [answer(headers=JSON + many + odd)]})
    reply = served.ask("r-m")
    assert reply.status_code == 200
    told = {name: value for name, value in reply.headers.items() if "ratelimit" in name}
    assert len(told) == 16
    assert {len(value) for value in told.values()} == {256}
    assert reply.headers["x-evalrouter-upstream-request-id"].isascii()


@pytest.mark.parametrize(
    ("hint", "seconds", "milliseconds"),
    [
        ("2", "2", "2000"),
        ("0.2", "1", "200"),
        ("99999999999", "86400", "86400000"),
        ("-1", None, None),
        ("0", None, None),
        ("nan", None, None),
        ("1e400", None, None),
        ("soon", None, None),
        ("Mon, 12 Jan 1970 13:46:39 GMT", None, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "86400", "86400000"),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None, None),
    ],
)
def test_when_to_come_back_is_told_in_numbers(serve, hint, seconds, milliseconds):
    headers = JSON + f"retry-after: {hint}\r\n".encode()
    refusal = answer(error("slow down"), headers=headers, status="429 Too Many Requests")
    served = serve({"m": [refusal]})
    reply = served.ask("r-m")
    assert reply.status_code == 429
    assert reply.headers.get("retry-after") == seconds
    assert reply.headers.get("retry-after-ms") == milliseconds
    assert served.record(reply).json()["error_code"] == "upstream_429"


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("429 Too Many Requests", {"code": "insufficient_quota"}),
        ("429 Too Many Requests", {"code": None, "type": "insufficient_quota"}),
        ("429 Too Many Requests", {"code": "billing_hard_limit_reached", "type": ["odd"]}),
        ("402 Payment Required", {}),
    ],
)
def test_a_spent_quota_is_not_retried(serve, status, fields):
    served = serve({"m": [answer(quota(fields), status=status)]})
    reply = served.ask("r-m")
    assert reply.status_code == int(status[:3])
    assert reply.headers["x-should-retry"] == "false"
    record = served.record(reply).json()
    assert record["error_code"] == "insufficient_quota"
    assert [one["result"] for one in record["attempts"]] == ["insufficient_quota"]
    reply = served.ask("f-m")
    assert reply.json()["choices"][0]["message"]["content"] == "Spare"
    assert "insufficient_quota" in reply.headers["x-evalrouter-attempts"]
    found = served.run("r-m")
    assert (found["error_code"], found["attempts"]) == ("insufficient_quota", 1)
    assert served.run("f-m", fallback=True)["text"] == "Spare"


def quota(fields):
    return json.dumps({"error": {"message": "pay", "type": "t", "code": None} | fields}).encode()


# Refusals that another target may not share

REFUSALS = {
    "openai": ("400 Bad Request", {"code": "context_length_exceeded"}, "context_length_exceeded"),
    "llama.cpp": (
        "400 Bad Request",
        {"code": 400, "type": "exceed_context_size_error"},
        "context_length_exceeded",
    ),
    "azure": (
        "400 Bad Request",
        {"code": "content_filter", "type": None, "innererror": {"code": "x"}},
        "content_filter",
    ),
    "azure-inner": (
        "400 Bad Request",
        {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}},
        "content_filter",
    ),
    "status": ("422 Unprocessable Entity", {}, 422),
    "too-large": ("413 Payload Too Large", {}, 413),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_goes_on_where_the_route_has_it(serve, name):
    status, fields, entry = REFUSALS[name]
    models = {"m": [answer(quota(fields), status=status)]}
    served = serve(models, fallback_on=[entry])
    for wants in (False, True):
        reply = served.ask("f-m", stream=wants)
        assert reply.status_code == 200
        results = [one["result"] for one in served.record(reply).json()["attempts"]]
        assert results == [f"upstream_{status[:3]}", "ok"]
    assert served.ask("r-m").status_code == int(status[:3])
    answered = served.run("f-m")
    if entry == "content_filter":
        # What a host's filter held back is an answer of a kind, however the host puts it.
        assert (answered["error_code"], answered["shortfall"]) == (None, "filtered")
    else:
        assert answered["error_code"] == f"upstream_{status[:3]}"
    assert served.run("f-m", fallback=True)["text"] == "Spare"


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_final_where_it_has_another(serve, name):
    status, fields, entry = REFUSALS[name]
    models = {"m": [answer(quota(fields), status=status)]}
    another = "content_filter" if entry == "context_length_exceeded" else "context_length_exceeded"
    for fallback_on in ([], [another, 418]):
        served = serve(models, fallback_on=fallback_on)
        assert served.ask("f-m").status_code == int(status[:3])


# Patience


def test_a_time_out_names_the_key_that_has_it(serve):
    models = {"m": [[HOLD]], "s": [[*stream(chunk({"content": "a"}))[:2], HOLD]]}
    served = serve(models, timeout={"first_byte": 0.2, "between_chunks": 0.2})
    reply = served.ask("r-m")
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert "routes.r-m.timeout.first_byte" in reply.json()["error"]["message"]
    last = served.ask("r-s", stream=True).text.rstrip().split("\n\n")[-1]
    assert "routes.r-s.timeout.between_chunks" in last
    found = served.run("r-m")
    assert (found["error_code"], found["attempts"]) == ("upstream_timeout", 1)
    assert "routes.r-m.timeout.first_byte" in found["error"]


@pytest.mark.parametrize("wants", [False, True])
def test_a_providers_time_outs_are_for_its_models(serve, wants):
    served = serve({"m": [[HOLD]]})
    reply = served.ask("hurried/m", stream=wants)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert "providers.hurried.timeout.total" in reply.json()["error"]["message"]
    assert len(served.host.requests) == 1


def test_a_client_that_does_not_read_holds_no_place_for_ever(serve):
    chunks = chunk({"content": "word " * 200})
    served = serve(
        {"m": [[*stream(chunks, framing="close")[:1], Repeat(chunks)]], "e": [stream(DONE)]},
        timeout={"total": 1.0},
    )
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "r-m", "messages": [], "stream": True}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\nx-request-id: lazy\r\n"
            b"content-length: %d\r\n\r\n%b" % (host.encode(), len(body), body)
        )
        served.host.wait_until(lambda one: one.connections and one.connections[0].ended, 20)
        reply = httpx.Response(200, headers={"x-request-id": "lazy"})
        record = served.record(reply).json()
    assert (record["status"], record["error_code"]) == (200, "client_too_slow")
    text = served.http.get(f"{served.url}/metrics").text
    running = [
        one for one in text.splitlines() if "requests_at_target{" in one and "running" in one
    ]
    assert running
    assert all(one.endswith(" 0.0") for one in running)


# The shape of errors


@pytest.mark.parametrize(
    ("fields", "type_", "param", "code"),
    [
        ({"type": 5, "param": ["x"], "code": {"x": 1}}, "upstream_error", None, None),
        ({"type": None, "param": {"a": 1}, "code": True}, "upstream_error", None, None),
        ({"type": "t", "param": "p", "code": 400}, "t", "p", "400"),
        ({"type": [], "param": 7, "code": 1.5}, "upstream_error", None, None),
    ],
)
def test_the_fields_of_an_error_have_openais_types(serve, fields, type_, param, code):
    body = json.dumps({"error": {"message": "no", **fields}}).encode()
    served = serve({"m": [framed(body, "length", status="400 Bad Request")]})
    reply = served.ask("r-m")
    assert reply.status_code == 400
    assert reply.json()["error"] == {"message": "no", "type": type_, "param": param, "code": code}


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b'{"detail":"Not Found"}', True),
        (b"<html>404 page not found</html>", True),
        (b"", True),
        (error("The model `m` does not exist", code="model_not_found"), False),
    ],
    ids=["fastapi", "html", "empty", "openai"],
)
def test_a_path_that_a_host_does_not_have_points_at_base_url(serve, body, hint):
    served = serve({"m": [framed(body, "length", status="404 Not Found")]})
    reply = served.ask("r-m")
    assert reply.status_code == 404
    message = reply.json()["error"]["message"]
    assert ("providers.up.base_url" in message) == hint
    assert ("up/m answered with status 404" in message) == hint


def test_a_breaker_that_opens_and_closes_is_logged(serve, caplog):
    served = serve(
        {
            "m": [
                *[framed(error("overloaded"), "length", status="500 Oops")] * 2,
                answer(chat("back")),
            ]
        },
        breaker={"failures": 2, "open": 0.05},
        retries={"attempts": 1},
    )
    for _ in range(2):
        assert served.ask("r-m").status_code == 500
    [line] = [one for one in caplog.messages if "gets no requests" in one]
    assert "up/m" in line
    assert "overloaded" in line or "500" in line
    while served.ask("r-m").status_code != 200:
        time.sleep(0.01)
    assert [one for one in caplog.messages if one == "up/m answers again"]
