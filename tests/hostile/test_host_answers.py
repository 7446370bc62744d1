"""What hosts send in place of an answer: bytes, what the client gets, what the record says.

Each row is played by a raw-socket host in each framing, to requests for a whole answer, for a
stream, and of an evaluation; with a fallback and without.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import httpx
import pytest
from raw_host import (
    CHAT,
    DONE,
    FRAMINGS,
    RESET,
    USAGE_EVENT,
    Split,
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

INVALID = "upstream_invalid_response"
JSON = b"content-type: application/json\r\n"
EVENTS = b"content-type: text/event-stream\r\n"
HTML = b"<html><body>Please log in</body></html>"
ERROR = {"error": {"message": "overloaded", "type": "server_error", "param": None, "code": "busy"}}
ERROR_BYTES = json.dumps(ERROR).encode()
SPARE = chat("Spare")


@dataclass(frozen=True)
class Row:
    """A host's answer with status 200 (unless it says otherwise) that is none.

    Attributes:
        name: of the row, and of the host's model.
        parts: of the body, sent one by one.
        result: of the attempts, and the client's error code where nothing else answers.
        status: what the client gets then.
        message: what its error says.
    """

    name: str
    parts: tuple[bytes, ...]
    result: str = INVALID
    headers: bytes = JSON
    line: str = "200 OK"
    status: int = 502
    message: str = ""
    retried: bool = True


def error(name, *parts, headers=JSON):
    return Row(name, parts, result="upstream_502", headers=headers, message="overloaded")


# Each would be said by hundreds of megabytes of events.
MANY_CHOICES = chat(choices=[{"index": 0, "message": {"content": "a"}}] * 129)
MANY_BYTES = chat("word " * 2000, note="x" * 40_000)

WHOLE = [
    Row("html", (HTML,), headers=b"content-type: text/html\r\n", message="not JSON"),
    Row("html-as-json", (HTML,), message="not JSON"),
    Row("empty", (b"",), message="empty"),
    Row("blank", (b" \n",), message="empty"),
    Row("truncated", (chat()[:-40],), message="not JSON"),
    Row("truncated-at-a-brace", (b'{"choices":[{"message":{"content":"a"}',), message="not JSON"),
    Row("two-objects", (chat() + chat(),), message="not JSON"),
    Row("null", (b"null",)),
    Row("a-number", (b"7",)),
    Row("a-list", (b"[]",)),
    Row("no-choices", (b'{"id":"x","object":"chat.completion"}',), message="no choices"),
    Row("choices-empty", (chat(choices=[]),), message="no choices"),
    Row("choices-null", (chat(choices=None),), message="no choices"),
    Row("choices-object", (chat(choices={"0": "a"}),)),
    Row("choices-of-nothing", (chat(choices=[None]),)),
    Row("choice-empty", (chat(choices=[{}]),), message="first choice is empty"),
    Row("message-null", (chat(choices=[{"index": 0, "message": None}]),), message="empty"),
    Row("no-content", (b"",), line="204 No Content", message="204"),
    Row("reset", (b"",), line="205 Reset Content", message="205"),
    Row("partial", (chat(),), line="206 Partial Content", message="206"),
    Row("moved", (b"",), line="301 Moved Permanently", message="301"),
    error("error", ERROR_BYTES),
    error("error-first", b'{"error": {"message": "overloaded"}, "choices": null}'),
    error("error-last", b'{"id": "x", "choices": [], "error": {"message": "overloaded"}}'),
    error("error-beside-choices", chat(error={"message": "overloaded"})),
    error("error-text", b'{"error": "overloaded"}'),
    error("error-list", b'[{"error": {"message": "overloaded", "code": 503}}]'),
    error("error-vllm", b'{"object":"error","message":"overloaded","code":503}'),
    error("error-in-choice", chat(choices=[{"index": 0, "error": {"message": "overloaded"}}])),
    error("error-stream", b"event: error\ndata: " + ERROR_BYTES + b"\n\n", headers=EVENTS),
    Row("events-cut", (chunk({"content": "Hel"}),), headers=EVENTS, message="cut off"),
    Row("events-of-nothing", (DONE,), headers=EVENTS),
]
BEGINNINGS = [
    *(row for row in WHOLE if row.name not in ("events-cut",)),
    error("data", event(ERROR), DONE, headers=EVENTS),
    error("data-split", b'data: {"err', b'or": {"message": "overloaded"}}\n\n', headers=EVENTS),
    error("no-space", b"data:" + ERROR_BYTES + b"\n\n", headers=EVENTS),
    error("crlf", b"data: " + ERROR_BYTES + b"\r\n\r\n", headers=EVENTS),
    error("cr", b"data: " + ERROR_BYTES + b"\r\r", headers=EVENTS),
    error("bom", b"\xef\xbb\xbfdata: " + ERROR_BYTES + b"\n\n", headers=EVENTS),
    error("event-error", b"event: error\ndata: " + ERROR_BYTES + b"\n\n", headers=EVENTS),
    error("event-last", b"data: " + ERROR_BYTES + b"\nevent: error\n\n", headers=EVENTS),
    error("event-bare", b'event: error\ndata: {"message": "overloaded"}\n\n', headers=EVENTS),
    error("comment", b": hold on\n\n", event(ERROR), headers=EVENTS),
    error("comments", b": a\n: b\n\n: c\n\n" + event(ERROR), headers=EVENTS),
    error("error-line", b'error: {"code":503,"message":"overloaded"}\n\n', DONE, headers=EVENTS),
    error("no-choices-first", USAGE_EVENT, event(ERROR), headers=EVENTS),
    error("no-choices-beside", event({"choices": [], **ERROR}), headers=EVENTS),
    error("long-comment", b":" + b"x" * 70_000 + b"\n\n" + event(ERROR), headers=EVENTS),
    error("upper-case", event(ERROR), headers=b"Content-Type: Text/Event-Stream\r\n"),
    error("no-type", event(ERROR), headers=b"x-a: b\r\n"),
    error("json-type", event(ERROR)),
    Row("only-comments", (b": hold on\n\n",), headers=EVENTS, message="before it said anything"),
    Row("only-usage", (USAGE_EVENT, DONE), headers=EVENTS, message="before it said anything"),
    Row("not-json", (b"data: hello\n\n",), headers=EVENTS, message="not a chunk"),
    Row("half-an-event", (b'data: {"choices":[{"ind',), headers=EVENTS),
    Row("html-events", (HTML,), headers=EVENTS, message="not JSON"),
    Row("choices-galore", (MANY_CHOICES,), message="over 128 choices"),
    Row("fields-galore", (MANY_BYTES,), message="too long"),
]


def steps(row, framing):
    if row.line[:3] in ("204", "205", "301"):
        return [f"HTTP/1.1 {row.line}\r\ncontent-length: 0\r\n\r\n".encode()]
    return framed(row.parts, framing, status=row.line, headers=row.headers)


def config(url, folder, names, *, fallback="up/spare", more=""):
    retries = "retries: {attempts: 2, backoff: 0.001, backoff_max: 0.01, budget: 10}"
    breaker = "breaker: {failures: 1000}"
    routes = "".join(
        f"  r-{name}: {{targets: [{{model: up/{name}}}], {retries}, {breaker}}}\n"
        f"  f-{name}: {{targets: [{{model: up/{name}}}], fallback: ['{fallback}'], {retries},"
        f" {breaker}}}\n"
        for name in names
    )
    return (
        f"server: {{port: 0}}\nstorage: {{database: 'sqlite:///{folder}/e.db'}}\n"
        f"datasets: {{roots: ['{folder}']}}\n"
        f"providers:\n  up: {{kind: compatible, base_url: '{url}', api_key: sk-the-key-of-up}}\n"
        f"routes:\n{routes}{more}"
    )


class Sent(NamedTuple):
    """A request."""

    model: str
    path: str = "chat/completions"
    stream: bool = False


class Served:
    """A raw host and the server in front of it."""

    def __init__(self, http, url, host):
        self.http, self.url, self.host = http, url, host
        self.sent = {}

    def send_all(self, requests):
        """Send many at a time, so that no test waits for its answer or its record."""
        with ThreadPoolExecutor(4) as pool:
            self.sent = dict(zip(requests, pool.map(self.ask, requests), strict=True))

    def ask(self, model, *, path="chat/completions", **fields):
        stream = fields == {"stream": True}
        if (not fields or stream) and (found := self.sent.get(Sent(model, path, stream))):
            return found
        if isinstance(model, Sent):
            model, path, stream = model
            fields = {"stream": True} if stream else {}
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
        if path == "embeddings":
            body = {"model": model, "input": "Hi"}
        if path == "completions":
            body = {"model": model, "prompt": "Hi", **fields}
        return self.http.post(f"{self.url}/v1/{path}", json=body)

    def record(self, reply):
        name = reply.headers["x-request-id"]
        for _ in range(200):
            found = self.http.get(f"{self.url}/traffic/{name}")
            if found.status_code == 200:
                return found.json()
            time.sleep(0.02)
        raise AssertionError("no record")

    def run(self, folder, routes, **fields):
        """The answer of each route to the one sample of a run."""
        (folder / "one.jsonl").write_text('{"id": "s", "input": "Hi", "reference": "Spare"}\n')
        document = {"dataset": f"{folder}/one.jsonl", "routes": routes, "metrics": ["exact_match"]}
        created = self.http.post(f"{self.url}/eval", json=document | fields)
        assert created.status_code == 202, created.text
        name = created.json()["id"]
        with self.http.stream("GET", f"{self.url}/eval/{name}/events") as events:
            for _ in events.iter_lines():
                pass
        rows = self.http.get(f"{self.url}/eval/{name}/samples", params={"limit": 1000}).json()
        return {row["route"]: row["answer"] for row in rows["data"]}


def serve(http, folder, answers, **options):
    """A context: the server with a route to each of these models."""
    return _Serving(http, folder, answers, options)


class _Serving:
    def __init__(self, http, folder, answers, options):
        self.http, self.folder, self.options = http, folder, options
        self.answers = {"spare": [answer(SPARE)], **answers}

    def __enter__(self):
        self.host = raw_host(by_model(self.answers))
        host = self.host.__enter__()
        text = config(host.url, self.folder, self.answers, **self.options)
        self.gateway = gateway(text)
        return Served(self.http, self.gateway.__enter__(), host)

    def __exit__(self, *error):
        self.gateway.__exit__(*error)
        self.host.__exit__(*error)


EMBEDDING = {"object": "embedding", "index": 0, "embedding": [0.5]}
VECTORS = json.dumps({"object": "list", "data": [EMBEDDING], "model": "m"}).encode()
TEXT = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "Hi"}]}
OTHER_PATHS = {
    "vectors": ("embeddings", VECTORS, True),
    "vectors-none": ("embeddings", b'{"object":"list","data":[]}', False),
    "vectors-absent": ("embeddings", b'{"object":"list"}', False),
    "vectors-null": ("embeddings", b'{"data":null}', False),
    "vectors-empty": ("embeddings", b'{"data":[{}]}', False),
    "vectors-of-null": ("embeddings", b'{"data":[null]}', False),
    "vectors-cut": ("embeddings", VECTORS[:-9], False),
    "vectors-html": ("embeddings", HTML, False),
    "vectors-nothing": ("embeddings", b"", False),
    "vectors-chat": ("embeddings", chat(), False),
    "vectors-error": ("embeddings", ERROR_BYTES, False),
    "text": ("completions", json.dumps(TEXT).encode(), True),
    "text-no-choices": ("completions", json.dumps(TEXT | {"choices": []}).encode(), False),
    "text-absent": ("completions", json.dumps(TEXT | {"choices": [{"index": 0}]}).encode(), False),
    "text-error": ("completions", ERROR_BYTES, False),
}
GOOD_WHOLE = {
    "error-null-first": b'{"error": null, ' + chat()[1:],
    "error-null-last": chat(error=None),
    "error-false": chat(error=False),
    "error-empty": chat(error={}),
    "filtered": chat(choices=[{"index": 0, "finish_reason": "content_filter"}]),
    "tool-calls": chat(choices=[{"index": 0, "message": {"content": None, "tool_calls": []}}]),
    "about-errors": chat('{"error": {"message": "no"}} data: {"error"'),
    "spaces": b"\r\n  " + chat() + b"\r\n",
    "odd-types": chat(id=7, created="now", model=None),
}

FINISHED = [chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop")]
GOOD_STREAMS = {
    "plain": chat_stream(usage=False),
    "no-done": FINISHED,
    "no-done-usage-last": [*FINISHED, USAGE_EVENT],
    "done-without-blank-line": [*FINISHED, b"data: [DONE]"],
    "done-without-finish": [chunk({"content": "Hello"}), DONE],
    "last-without-blank-line": [*FINISHED[:-1], FINISHED[-1].rstrip()],
    "comments": [b": hold on\n\n", *FINISHED, DONE],
    "comment-lines": [b": hold on\n", b": hold on\n", *FINISHED, DONE],
    "preamble": [event({"choices": [], "prompt_filter_results": []}), *FINISHED, DONE],
    "ping": [b"event: ping\ndata: ping\n\n", *FINISHED, DONE],
    "crlf": [part.replace(b"\n", b"\r\n") for part in [*FINISHED, DONE]],
    "bom": [b"\xef\xbb\xbf" + FINISHED[0], *FINISHED[1:], DONE],
    "null-errors": [chunk({"content": "Hello"}, error=None), chunk({}, "stop", error=None), DONE],
    "about-errors": [chunk({"content": "Hello"}), chunk({"content": '{"error": 1}'}), DONE],
    "nothing-after-done": [*FINISHED, DONE, event(ERROR)],
    "nothing-after-done-together": [*FINISHED, DONE + event(ERROR)],
    "chunks-after-done": [*FINISHED, DONE, chunk({"content": "more"}), event(ERROR)],
    "chunks-after-done-together": [*FINISHED, DONE + chunk({"content": "more"}), event(ERROR)],
    "half-a-chunk-after-done": [*FINISHED, DONE + b'data: {"choices":[{"ind'],
    "no-space": [part.replace(b"data: ", b"data:") for part in [*FINISHED, DONE]],
    "two-choices": [
        event({"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}),
        event({"choices": [{"index": 1, "delta": {"content": ""}, "finish_reason": None}]}),
        event({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ],
}

STARTED = chunk({"content": "Hel"})
# Name, what follows the first chunk, the record's error code, what the error event says.
BROKEN_OFF = [
    ("nothing", [], INVALID, "cut off"),
    ("half-an-event", [b'data: {"choices":[{"ind'], INVALID, "cut off"),
    ("comment", [b": hold on\n\n"], INVALID, "cut off"),
    ("usage-only", [USAGE_EVENT], INVALID, "cut off"),
    (
        "one-of-two-choices",
        [
            event({"choices": [{"index": 1, "delta": {"content": "x"}}]}),
            event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        ],
        INVALID,
        "cut off",
    ),
    ("error", [event(ERROR)], "upstream_error_event", "overloaded"),
    ("error-done", [event(ERROR), DONE], "upstream_error_event", "overloaded"),
    ("error-split", [b'data: {"err', b'or": {"message": "overloaded"}}\n\n', DONE],
     "upstream_error_event", "overloaded"),
    ("error-half", [b'data: {"error": {"message": "overloaded"}}'],
     "upstream_error_event", "overloaded"),
    ("event-error", [b"event: error\ndata: " + ERROR_BYTES + b"\n\n", DONE],
     "upstream_error_event", "overloaded"),
    ("error-line", [b'error: {"code":500,"message":"overloaded"}\n\n', DONE],
     "upstream_error_event", "overloaded"),
    ("error-beside", [event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}],
                             **ERROR}), DONE], "upstream_error_event", "overloaded"),
    ("error-crlf", [b"data: " + ERROR_BYTES + b"\r\n\r\n"], "upstream_error_event", "overloaded"),
]  # fmt: skip
TYPES = {
    "events": EVENTS,
    "upper": b"Content-Type: Text/Event-Stream; charset=utf-8\r\n",
    "text": b"content-type: text/plain\r\n",
    "json": JSON,
    "none": b"x-a: b\r\n",
}


@pytest.fixture(scope="module", params=FRAMINGS)
def served(request, tmp_path_factory):

    folder = tmp_path_factory.mktemp("answers")
    rows = {row.name: row for row in (*WHOLE, *BEGINNINGS)}
    framing = request.param
    models = {row.name: [steps(row, framing)] for row in rows.values()}
    models |= {name: [answer(one[1], framing)] for name, one in OTHER_PATHS.items()}
    models |= {f"w-{name}": [answer(body, framing)] for name, body in GOOD_WHOLE.items()}
    models |= {f"s-{n}": [stream(*events, framing=framing)] for n, events in GOOD_STREAMS.items()}
    for n, events in GOOD_STREAMS.items():
        body = b"".join(events)
        head = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n" % (EVENTS, len(body))
        models[f"b-{n}"] = [[head, Split(body, 7, 0.0)]]
    for n, events, *_ in BROKEN_OFF:
        models[f"x-{n}"] = [stream(STARTED, *events, framing=framing)]
    for n, headers in TYPES.items():
        models[f"fold-{n}"] = [stream(framing=framing, headers=headers)]
        models[f"unfold-{n}"] = [framed(chat(), framing, headers=headers)]
    models["spare"] = [answer(SPARE, framing)]
    with httpx.Client(timeout=30) as http, serve(http, folder, models) as one:
        one.folder = folder
        routes = [f"{kind}-{row.name}" for row in rows.values() for kind in "rf"]
        routes += [f"r-w-{name}" for name in GOOD_WHOLE]
        routes += [f"r-{kind}-{name}" for name in GOOD_STREAMS for kind in "sb"]
        routes += [f"f-x-{row[0]}" for row in BROKEN_OFF]
        routes += [f"r-{kind}-{name}" for name in TYPES for kind in ("fold", "unfold")]
        requests = [Sent(route, stream=wants) for route in routes for wants in (True, False)]
        one.send_all(requests + [Sent(f"r-{name}", row[0]) for name, row in OTHER_PATHS.items()])
        yield one


def content_of(reply):
    """The text of a reply, whole or streamed."""
    if reply.headers["content-type"].startswith("application/json"):
        return reply.json()["choices"][0]["message"]["content"]
    return "".join(
        choice["delta"].get("content") or ""
        for one in events_of(reply)
        for choice in one.get("choices") or ()
    )


def events_of(reply):
    lines = reply.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    return [json.loads(one) for one in data if one not in ("[DONE]", "ping")]


def check_refused(served, row, reply):
    found = reply.json()["error"]
    assert reply.status_code == row.status, reply.text
    assert found["code"] in (row.result, "busy", "503", None)
    assert row.message in found["message"]
    record = served.record(reply)
    assert record["status"] == row.status
    assert record["error_code"] == row.result
    assert [one["result"] for one in record["attempts"]] == [row.result] * 2


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row.name)
def test_what_is_no_whole_answer_is_retried_and_falls_back(served, row):
    reply = served.ask(f"f-{row.name}")
    assert (reply.status_code, content_of(reply)) == (200, "Spare")
    record = served.record(reply)
    assert [one["result"] for one in record["attempts"]] == [row.result] * 2 + ["ok"]
    assert (record["error_code"], record["target"]) == ("", "up/spare")
    check_refused(served, row, served.ask(f"r-{row.name}"))


@pytest.mark.parametrize("row", BEGINNINGS, ids=lambda row: row.name)
def test_what_begins_no_stream_is_retried_and_falls_back(served, row):
    reply = served.ask(f"f-{row.name}", stream=True)
    assert (reply.status_code, content_of(reply)) == (200, "Spare")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    record = served.record(reply)
    assert [one["result"] for one in record["attempts"]] == [row.result] * 2 + ["ok"]
    check_refused(served, row, served.ask(f"r-{row.name}", stream=True))


def test_evaluations_fail_their_samples_and_fall_back_where_they_may(served):
    found = served.run(served.folder, [f"r-{row.name}" for row in WHOLE])
    for row in WHOLE:
        one = found[f"r-{row.name}"]
        assert (one["error_code"], one["attempts"]) == (row.result, 2), row.name
        assert row.message in one["error"], row.name
    found = served.run(served.folder, [f"f-{row.name}" for row in WHOLE], fallback=True)
    for row in WHOLE:
        one = found[f"f-{row.name}"]
        assert (one["text"], one["target"], one["attempts"]) == ("Spare", "up/spare", 3), row.name


@pytest.mark.parametrize("name", OTHER_PATHS)
def test_the_other_paths(served, name):
    path, body, good = OTHER_PATHS[name]
    reply = served.ask(f"r-{name}", path=path)
    assert reply.status_code == (200 if good else 502)
    results = [one["result"] for one in served.record(reply)["attempts"]]
    assert len(results) == (1 if good else 2)
    if good:
        assert reply.content == body


@pytest.mark.parametrize("name", GOOD_WHOLE)
def test_odd_answers_that_are_answers_pass_byte_for_byte(served, name):
    reply = served.ask(f"r-w-{name}")
    assert (reply.status_code, reply.content) == (200, GOOD_WHOLE[name])
    assert [one["result"] for one in served.record(reply)["attempts"]] == ["ok"]


@pytest.mark.parametrize("pieces", ["s", "b"])
@pytest.mark.parametrize("name", GOOD_STREAMS)
def test_streams_that_come_to_their_end_have_no_error(served, name, pieces):
    reply = served.ask(f"r-{pieces}-{name}", stream=True)
    assert content_of(reply).startswith("Hello")
    assert not [one for one in events_of(reply) if one.get("error")]
    record = served.record(reply)
    assert (record["status"], record["error_code"]) == (200, "")
    whole = served.ask(f"r-{pieces}-{name}")
    assert content_of(whole).startswith("Hello")


@pytest.mark.parametrize(
    ("name", "code", "message"), [(row[0], *row[2:]) for row in BROKEN_OFF], ids=lambda one: one
)
def test_a_stream_that_breaks_off_ends_with_one_error_event(served, name, code, message):
    reply = served.ask(f"f-x-{name}", stream=True)
    assert content_of(reply)[:3] == "Hel"
    assert "[DONE]" not in reply.text
    errors = [one["error"] for one in events_of(reply) if one.get("error")]
    assert len(errors) == 1
    assert errors[0]["message"].count(message) == 1
    assert events_of(reply)[-1] == {"error": errors[0]}
    record = served.record(reply)
    assert (record["status"], record["error_code"]) == (200, code)
    assert [one["result"] for one in record["attempts"]] == ["ok"]
    # The same to a client that wants a whole answer is no answer.
    whole = served.ask(f"f-x-{name}")
    assert content_of(whole) == "Spare"
    assert len(served.record(whole)["attempts"]) == 3


def test_a_stream_that_is_reset_ends_with_an_error_event_unless_it_was_done(http, tmp_path):
    head = b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n" % EVENTS

    def parts(*events):
        return [b"%x\r\n%b\r\n" % (len(one), one) for one in events]

    def wait(connection):
        time.sleep(0.2)

    models = {
        "cut": [[head, *parts(STARTED), wait, RESET]],
        "done": [[head, *parts(STARTED, chunk({}, "stop"), DONE), wait, RESET]],
    }
    with serve(http, tmp_path, models) as served:
        reply = served.ask("r-cut", stream=True)
        assert events_of(reply)[-1]["error"]["code"] == INVALID
        assert served.record(reply)["error_code"] == INVALID
        reply = served.ask("r-done", stream=True)
        assert reply.text.endswith("[DONE]\n\n")
        assert served.record(reply)["error_code"] == ""


def test_streams_that_break_off_open_the_breaker_and_are_not_cached(http, tmp_path, caplog):
    more = (
        "  b: {targets: [{model: up/m}], fallback: [up/spare], cache: {ttl: 60},"
        " breaker: {failures: 2, open: 60}}\n"
    )
    with serve(http, tmp_path, {"m": [stream(STARTED)]}, more=more) as served:
        for _ in range(2):
            reply = served.ask("b", stream=True)
            assert events_of(reply)[-1]["error"]["code"] == INVALID
            assert reply.headers["x-evalrouter-cache"] == "miss"
        reply = served.ask("b", stream=True)
        assert content_of(reply) == "Spare"
        assert "breaker_open" in reply.headers["x-evalrouter-attempts"]
        assert served.host.counts["m"] == 2
    [line] = [one for one in caplog.messages if "gets no requests" in one]
    assert line.startswith("up/m ")


@pytest.mark.parametrize("kind", TYPES)
def test_a_stream_for_a_client_that_wants_a_whole_answer_is_folded(served, kind):
    reply = served.ask(f"r-fold-{kind}")
    assert reply.headers["content-type"].startswith("application/json")
    body = reply.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert body["usage"] == CHAT["usage"]
    record = served.record(reply)
    assert (record["error_code"], record["completion_tokens"]) == ("", 2)
    route = f"r-fold-{kind}"
    assert served.run(served.folder, [route])[route]["text"] == "Hello"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("wants", [True, False])
def test_a_whole_answer_for_a_client_that_wants_a_stream_is_unfolded(served, kind, wants):
    options = {"stream_options": {"include_usage": True}} if wants else {}
    reply = served.ask(f"r-unfold-{kind}", stream=True, **options)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert content_of(reply) == "Hello"
    assert reply.text.endswith("data: [DONE]\n\n")
    assert bool([one for one in events_of(reply) if one.get("usage")]) == wants
    record = served.record(reply)
    assert (record["error_code"], record["completion_tokens"]) == ("", 2)


@pytest.mark.parametrize("kind", TYPES)
def test_a_stream_is_one_whatever_its_content_type(served, kind):
    reply = served.ask(f"r-fold-{kind}", stream=True)
    assert reply.headers["content-type"].lower().startswith("text/event-stream")
    assert content_of(reply) == "Hello"
