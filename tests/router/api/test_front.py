"""What holds on every path: who may call the server by which name, from which page, and how."""

import gzip
import json
import re
import socket
import threading
import time
import zlib
from functools import cache

import pytest
import yaml
from openai import OpenAI
from raw_client import RawClient, request
from raw_host import answer, by_model, raw_host
from servers import evalrouter, gateway, reserved_port, scripted

CHAT = "/v1/chat/completions"
ASK = {"model": "baseline/echo", "messages": [{"role": "user", "content": "Hi."}]}
COMPLETION = json.dumps(
    {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        ],
    }
).encode()
MODELS = {"m": [{"answer": "Hello"}]}


def config(tmp_path, url="http://127.0.0.1:9/v1", *, server="", **sections):
    more = "\n".join(f"{name}: {json.dumps(value)}" for name, value in sections.items())
    return f"""
server: {{port: 0{", " + server if server else ""}}}
storage: {{database: "sqlite:///{tmp_path}/e.db", artifacts: "{tmp_path}/artifacts"}}
providers: {{up: {{kind: compatible, base_url: "{url}", api_key: sk-up}}}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}, s: {{targets: [{{model: up/m}}]}}}}
{more}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with (
        scripted(MODELS) as upstream,
        gateway(
            config(
                tmp_path_factory.mktemp("front"),
                upstream.url,
                server='allowed_hosts: [router.test, "*.inner.test"], '
                'allow_origins: ["https://app.test"], pass_headers: [x-team]',
            )
        ) as url,
    ):
        yield url


# The OpenAPI document


def test_the_schema_is_the_same_in_every_form(http, url):
    described = http.get(f"{url}/schema").json()
    assert CHAT in described["paths"]
    assert "/eval/{run_id}" in described["paths"]
    assert not [path for path in described["paths"] if path.startswith("/schema")]
    for path in ("/schema/", "/schema/openapi.json"):
        assert http.get(url + path).json() == described
    for path in ("/schema/openapi.yaml", "/schema/openapi.yml"):
        assert yaml.safe_load(http.get(url + path).text) == described
    assert http.get(f"{url}/schema/other").json()["error"]["code"] == "not_found"


# Names


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost", True),
        ("LOCALHOST:4000", True),
        ("localhost.", True),
        ("127.0.0.1:1", True),
        ("127.3.2.1", True),
        ("[::1]:4000", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("router.test", True),
        ("Router.Test.:80", True),
        ("a.inner.test", True),
        ("inner.test", False),
        ("evil.test", False),
        ("router.test.evil.test", False),
        ("localhost.evil.test", False),
        ("127.0.0.1.evil.test", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("localhost:80@evil.test", False),
        ("localhost evil.test", False),
        ("[::1", False),
        (":80", False),
        ("", False),
        ("x" * 5000, False),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", "/chat/completions/"),
        ("GET", "/v1/models"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/traffic"),
        ("GET", "/traffic/totals"),
        ("HEAD", "/eval"),
        ("GET", "/nowhere"),
        ("POST", "/eval"),
    ],
)
def test_without_keys_only_known_names_are_answered(url, host, passes, method, path):
    sent = request(method, path, f"host: {host}", body=json.dumps(ASK).encode())
    sent = sent.replace(b"host: localhost\r\n", b"", 1)
    with RawClient(url) as client:
        client.send(sent)
        response = client.response(to_head=method == "HEAD")
    refused = response.status in (400, 403)
    if passes:
        assert response.status != 403
    else:
        assert refused
    if response.status == 403 and method != "HEAD":
        assert response.error["code"] == "host_not_allowed"
        assert "server.allowed_hosts" in response.error["message"]
        assert len(response.body) < 1000


def test_a_forwarded_name_does_not_count(http, url):
    headers = {"host": "evil.test", "x-forwarded-host": "localhost", "forwarded": "host=localhost"}
    assert http.get(f"{url}/v1/models", headers=headers).status_code == 403


def test_health_is_answered_to_addresses_but_not_to_names(http, url):
    assert http.get(f"{url}/health/live", headers={"host": "10.1.2.3:4000"}).status_code == 200
    assert http.get(f"{url}/health/live", headers={"host": "evil.test"}).status_code == 403


def test_with_keys_any_name_is_answered(http, tmp_path):
    with gateway(config(tmp_path, server="require_keys: true")) as url:
        assert http.get(f"{url}/v1/models", headers={"host": "evil.test"}).status_code == 401


def test_no_get_costs_anything(http, tmp_path):
    with scripted(MODELS) as upstream, gateway(config(tmp_path, upstream.url)) as url:
        for query in ("", "?again=true", "?model=m&again=true"):
            assert http.get(f"{url}/providers/up/conformance{query}").status_code in (400, 404)
        assert upstream.log.total == 0


# Pages of other sites


ALLOWED = {"origin": "https://app.test"}
OTHER = {"origin": "https://evil.test"}


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/eval", "/nowhere", "/chat/completions"])
def test_a_preflight_is_answered_before_keys(http, tmp_path, path):
    server = 'require_keys: true, allow_origins: ["https://app.test"]'
    with gateway(config(tmp_path, server=server)) as url:
        headers = ALLOWED | {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        reply = http.options(url + path, headers=headers)
        assert (reply.status_code, reply.content) == (204, b"")
        assert reply.headers["access-control-allow-origin"] == "https://app.test"
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert reply.headers["access-control-allow-headers"] == "authorization,content-type"
        reply = http.options(url + path, headers=headers | OTHER)
        assert reply.status_code == 403
        assert "server.allow_origins" in reply.json()["error"]["message"]
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("body", "status"),
    [(ASK, 200), (ASK | {"stream": True}, 200), ({"model": "nobody"}, 400), (b"{", 400)],
)
def test_answers_errors_and_streams_can_be_read_by_an_allowed_page(http, url, body, status):
    content = body if isinstance(body, bytes) else json.dumps(body)
    reply = http.post(url + CHAT, content=content, headers=ALLOWED)
    assert reply.status_code == status
    assert reply.headers["access-control-allow-origin"] == "https://app.test"
    assert reply.headers["vary"] == "origin"
    assert "x-request-id" in reply.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/v1/models", "/eval", "/nowhere"])
def test_so_can_everything_else(http, url, path):
    reply = http.get(url + path, headers=ALLOWED)
    assert reply.headers["access-control-allow-origin"] == "https://app.test"
    assert "access-control-allow-origin" not in http.get(url + path, headers=OTHER).headers


def test_another_sites_page_is_refused_with_the_setting(http, url):
    for path, body in ((CHAT, ASK), ("/eval", {})):
        reply = http.post(url + path, json=body, headers=OTHER)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "other_origin")
        assert "server.allow_origins" in reply.json()["error"]["message"]


def test_any_origin(http, tmp_path):
    with gateway(config(tmp_path, server='allow_origins: ["*"]')) as url:
        reply = http.post(url + CHAT, json=ASK, headers=OTHER)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "*"


# Names of models


LONG = "x" * 257


@pytest.mark.parametrize("model", [LONG, "baseline/" + LONG, "é" * 129, "x" * 1_000_000])
def test_a_name_that_is_too_long(http, url, model):
    reply = http.post(url + CHAT, json=ASK | {"model": model})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
    assert reply.json()["error"]["code"] == "string_above_max_length"
    assert len(reply.content) < 1000
    assert sum(len(name) + len(value) for name, value in reply.headers.items()) < 2000
    time.sleep(0.05)
    assert len(http.get(f"{url}/metrics").content) < 1_000_000


def test_names_that_a_provider_does_not_know_leave_nothing(http, tmp_path):
    others = 'class="live",route="up/other"'
    with scripted(MODELS) as upstream, gateway(config(tmp_path, upstream.url)) as url:
        for n in range(60):
            reply = http.post(url + CHAT, json=ASK | {"model": f"up/{'n' * 200}{n}"})
            assert reply.status_code == 404
        assert http.post(url + CHAT, json=ASK | {"model": "up/m"}).status_code == 200
        while f'{others},status="404",target="up/other"}} 60.0' not in (
            text := http.get(f"{url}/metrics").text
        ):
            time.sleep(0.02)
    assert "n" * 200 not in text
    states = re.findall(r"evalrouter_requests_at_target\{.*target=\"([^\"]*)\"", text)
    assert set(states) == {"up/m"}


# Keys


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server with a client's key that is confined to the route r, and one without confinement."""
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "evalrouter.yaml"
    file.write_text(config(folder))
    made = {
        name: evalrouter("key", "create", name, "--config", file, *options).stdout.split()
        for name, options in {
            "some": ["--route", "r"],
            "all": [],
            "boss": ["--admin"],
        }.items()
    }
    keys = {
        name: next(word for word in words if word.startswith("er-")) for name, words in made.items()
    }
    with gateway(file.read_text()) as url:
        yield url, keys


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "X-Api-Key"])
def test_keys_in_other_headers(http, locked, header):
    url, keys = locked
    for path in (CHAT, "/chat/completions"):
        reply = http.post(url + path, json=ASK, headers={header: keys["all"]})
        assert reply.status_code == 200
        assert http.post(url + path, json=ASK, headers={header: "er-no"}).status_code == 401
    assert http.get(f"{url}/routes", headers={header: keys["boss"]}).status_code == 200
    assert http.get(f"{url}/routes", headers={header: keys["all"]}).status_code == 403


@pytest.mark.parametrize("path", [CHAT, "/openai/deployments/r/chat/completions", "/eval"])
def test_a_connection_goes_on_after_a_body_that_was_refused_unread(locked, path):
    url, keys = locked
    long = request("POST", path, "x-api-key: er-no", body=b" " * 70_000)
    short = request("POST", CHAT, f"x-api-key: {keys['all']}", body=json.dumps(ASK).encode())
    while True:
        with RawClient(url) as client:
            client.send(long)
            refused = client.response()
            assert refused.status == 401
            # A body that is still on its way ends the connection.
            if refused.headers.get("connection") != "close":
                client.send(short)
                assert client.response().status == 200
                return


@pytest.mark.parametrize("name", ["some", "all"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("POST", "/v1/audio/speech", 404),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/eval", 405),
        ("GET", "/eval/xyz", 404),
        ("POST", "/eval", 403),
        ("GET", "/traffic/x", 404),
        ("DELETE", "/traffic/x", 403),
        ("GET", "/eval/compare", 403),
        ("GET", "/metrics", 403),
    ],
)
def test_what_does_not_exist_is_not_forbidden(http, locked, name, method, path, status):
    url, keys = locked
    headers = {"authorization": f"Bearer {keys[name]}"}
    reply = http.request(method, url + path, headers=headers)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    if status == 405:
        assert reply.headers["allow"]
    assert http.request(method, url + path).status_code == 401


def test_the_list_shows_what_the_key_may_use(locked):
    url, keys = locked

    def ids(name):
        client = OpenAI(base_url=f"{url}/v1", api_key=keys[name], max_retries=0)
        return [one.id for one in client.models.list()], client

    some, client = ids("some")
    assert some == ["r"]
    assert client.models.retrieve("r").id == "r"
    for hidden in ("s", "baseline/echo", "nobody"):
        with pytest.raises(Exception, match=r"404|model"):
            client.models.retrieve(hidden)
    every, client = ids("all")
    assert {"r", "s", "baseline/echo"} <= set(every)
    assert client.models.retrieve("baseline/echo").owned_by == "baseline"


# Lists of models


def test_a_hung_host_delays_no_list(http, tmp_path):
    hung = socket.create_server(("127.0.0.1", 0))
    try:
        address = f"http://127.0.0.1:{hung.getsockname()[1]}/v1"
        with gateway(config(tmp_path, address)) as url:
            for _ in range(3):
                data = http.get(f"{url}/v1/models").json()
                assert {"r", "s", "baseline/echo"} <= {row["id"] for row in data["data"]}
                assert data["unreachable"]["up"]
            # A route needs nobody's list.
            assert http.get(f"{url}/v1/models/r").json()["id"] == "r"
    finally:
        hung.close()


def test_the_models_of_routes_stay_listed_while_their_host_is_down(http, tmp_path):
    with reserved_port() as port, gateway(config(tmp_path, f"http://127.0.0.1:{port}/v1")) as url:
        data = http.get(f"{url}/v1/models").json()
        assert {"r", "s", "up/m"} <= {row["id"] for row in data["data"]}
        assert "up" in data["unreachable"]
        assert http.get(f"{url}/v1/models/up/m").json()["id"] == "up/m"
        assert http.get(f"{url}/v1/models/up/other").status_code == 404


def test_a_list_is_read_once_and_outlives_its_host(http, tmp_path):
    with scripted(MODELS) as upstream, gateway(config(tmp_path, upstream.url)) as url:
        for _ in range(5):
            data = http.get(f"{url}/v1/models").json()["data"]
            assert "up/m" in {row["id"] for row in data}
        assert http.get(f"{url}/v1/models/up/m").json()["id"] == "up/m"
        assert upstream.log.total <= 1


# Paths and methods


@pytest.mark.parametrize(
    "path",
    ["/chat/completions", "/chat/completions/", "//v1//chat/completions", "/v1/v1/chat/completions",
     "/v1/chat/completions//"],
)  # fmt: skip
def test_base_urls_of_all_kinds(http, url, path):
    reply = http.post(url + path, json=ASK)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "Hi."


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "//v1"])
def test_openais_client_with_any_base(url, base):
    client = OpenAI(base_url=url + base, api_key="x", max_retries=0)
    assert client.chat.completions.create(**ASK).choices[0].message.content == "Hi."
    assert "r" in [one.id for one in client.models.list()]
    assert client.models.retrieve("r").id == "r"


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/models/", "/eval", "/", "/health/live", "/metrics", "/routes/r", "/schema"],
)
def test_head_wherever_get_is_served(http, url, path):
    got, head = http.get(url + path), http.head(url + path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_head_of_a_stream_of_events_ends(http, url):
    run = http.post(
        f"{url}/eval",
        json={
            "dataset": "evalrouter:summaries",
            "routes": ["baseline/lead-1"],
            "metrics": ["length"],
        },
    ).json()
    reply = http.head(f"{url}/eval/{run['id']}/events")
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, {"POST", "OPTIONS"}),
        ("HEAD", CHAT, {"POST", "OPTIONS"}),
        ("DELETE", "/v1/models", {"GET", "OPTIONS"}),
        ("PATCH", "/eval", {"GET", "POST", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_allowed(http, url, method, path, allowed):
    reply = http.request(method, url + path)
    assert reply.status_code == 405
    assert allowed <= set(reply.headers["allow"].split(", "))


# Bodies


CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "identity": lambda body: body,
}


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_requests(http, url, coding):
    text = "word " * 20_000
    body = json.dumps(ASK | {"messages": [{"role": "user", "content": text}]}).encode()
    headers = {"content-encoding": coding, "content-type": "application/json"}
    reply = http.post(url + CHAT, content=CODINGS[coding](body), headers=headers)
    assert reply.json()["choices"][0]["message"]["content"] == text
    # Through Litestar too: the document is read, and wrong.
    reply = http.post(f"{url}/eval", content=CODINGS[coding](b'{"a": 1}'), headers=headers)
    assert (reply.status_code, "unknown key" in reply.text) == (400, True), reply.text


@cache
def bomb():
    """A small body that becomes a large one."""
    return gzip.compress(b"0" * 200_000_000, 9)


@pytest.mark.parametrize("path", [CHAT, "/eval"])
@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("lzma", b"x", 415, "unsupported_content_encoding"),
        ("gzip, gzip", b"x", 415, "unsupported_content_encoding"),
        ("x" * 5000, b"x", 415, "unsupported_content_encoding"),
        ("gzip", b"no gzip", 400, "invalid_content_encoding"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400, "invalid_content_encoding"),
        ("gzip", gzip.compress(b"", mtime=0) * 2000, 400, "invalid_content_encoding"),
        ("deflate", b"\xff\xff", 400, "invalid_content_encoding"),
        ("gzip", bomb, 413, "body_too_large"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_cannot_be_decoded(http, url, path, coding, body, status, code):
    content = body() if callable(body) else body
    reply = http.post(url + path, content=content, headers={"content-encoding": coding})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_a_bomb_holds_nobody_up(http, url):
    sender = threading.Thread(
        target=http.post,
        args=(url + CHAT,),
        kwargs={"content": bomb(), "headers": {"content-encoding": "gzip"}},
    )
    sender.start()
    assert http.post(url + CHAT, json=ASK).status_code == 200
    sender.join()


def test_a_lone_surrogate_passes_as_the_bytes_it_is(tmp_path, http):
    with (
        raw_host(by_model({"*": [answer(COMPLETION)]})) as host,
        gateway(config(tmp_path, host.url)) as url,
    ):
        body = (
            b'{"model":"up/m","messages":[{"role":"user","content":"a\\ud800b"}],"user":"\\udfff"}'
        )
        reply = http.post(url + CHAT, content=body)
        assert reply.status_code == 200, reply.text
        assert b'"a\\ud800b"' in host.requests[-1].body
        assert b'"\\udfff"' in host.requests[-1].body


@pytest.mark.parametrize("kind", ["compatible", "mistral", "anthropic"])
def test_a_name_with_a_lone_surrogate_is_no_text(tmp_path, http, kind):
    with (
        raw_host(by_model({"*": [answer(COMPLETION)]})) as host,
        gateway(config(tmp_path, host.url).replace("kind: compatible", f"kind: {kind}")) as url,
    ):
        reply = http.post(url + CHAT, content=b'{"model":"up/m","messages":[],"\\ud800":1}')
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_json")
        assert host.requests == []


def test_names_with_control_characters_end_no_answer(tmp_path, http):
    with (
        raw_host(by_model({"*": [answer(COMPLETION)]})) as host,
        gateway(config(tmp_path, host.url).replace("kind: compatible", "kind: mistral")) as url,
    ):
        odd = {"a\0b": 1, "c\r\nx-evil: 1": 1, "d\x7f": 1, "é\u2028": 1}
        reply = http.post(url + CHAT, json={**ASK, "model": "up/m", **odd})
        assert reply.status_code == 200, reply.text
        assert "x-evil" not in reply.headers
        assert reply.headers["x-evalrouter-dropped"] == r"a b, c  x-evil: 1, d , \xe9\u2028"


# Headers


def test_an_error_does_not_repeat_all_that_was_sent(http, url):
    for path, body in [(CHAT, {**ASK, "model": "x/" + "a" * 200}), ("/eval", {"a" * 100_000: 1})]:
        reply = http.post(url + path, json=body)
        assert 400 <= reply.status_code < 500
        assert len(reply.content) < 20_000


@pytest.mark.parametrize("field", ["routes", "metrics", "gates", "messages"])
def test_a_document_of_very_many_parts_is_refused(http, url, field):
    one = {"messages": {"role": "user", "content": "a"}}.get(field, "length")
    document = {"dataset": "d.jsonl", "routes": ["r"], "metrics": ["length"], field: [one] * 257}
    for query in ("", "?dry_run=true"):
        reply = http.post(f"{url}/eval{query}", json=document)
        assert reply.status_code == 400
        assert field in reply.json()["error"]["message"]
        assert "256" in reply.json()["error"]["message"]


def test_headers_that_are_passed_on(http, tmp_path):
    server = "pass_headers: [X-Team]"
    with (
        raw_host(by_model({"*": [answer(COMPLETION)]})) as host,
        gateway(config(tmp_path, host.url, server=server)) as url,
    ):
        headers = {
            "OpenAI-Beta": "assistants=v2",
            "OpenAI-Organization": "org-1",
            "x-team": "blue",
            "x-other": "no",
            "cookie": "a=b",
            "authorization": "Bearer client",
        }
        http.post(url + CHAT, json=ASK | {"model": "up/m"}, headers=headers)
        sent = {name.lower(): value for name, value in host.requests[-1].headers.items()}
        assert (sent["openai-beta"], sent["openai-organization"]) == ("assistants=v2", "org-1")
        assert sent["x-team"] == "blue"
        assert sent["authorization"] == "Bearer sk-up"
        assert not {"x-other", "cookie"} & set(sent)
        # One that is too long is none of ours.
        http.post(url + CHAT, json=ASK | {"model": "up/m"}, headers={"x-team": "b" * 5000})
        assert "x-team" not in {name.lower() for name in host.requests[-1].headers}


@pytest.mark.parametrize("header", ["Authorization", "cookie", "Host", "x-api-key"])
def test_headers_that_cannot_be_passed_on(tmp_path, header):
    file = tmp_path / "evalrouter.yaml"
    file.write_text(config(tmp_path, server=f"pass_headers: [{header}]"))
    done = evalrouter("config", "check", file, check=2)
    assert "server.pass_headers" in done.stderr + done.stdout


@pytest.mark.parametrize("messages", ["hello", {"role": "user", "content": "hi"}, 5, None, True])
def test_messages_that_are_no_array_reach_no_host(http, tmp_path, messages):
    with (
        raw_host(by_model({"*": [answer(COMPLETION)]})) as host,
        gateway(config(tmp_path, host.url)) as url,
    ):
        reply = http.post(url + CHAT, json={"model": "up/m", "messages": messages})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (
            400,
            "messages",
            "invalid_type",
        )
        assert host.requests == []


def test_missing_fields_as_openai_names_them(http, url):
    for body, name in (({"messages": []}, "model"), ({"model": "r"}, "messages")):
        error = http.post(url + CHAT, json=body).json()["error"]
        assert (error["code"], error["param"]) == ("missing_required_parameter", name)
        assert error["message"] == f"Missing required parameter: '{name}'."
