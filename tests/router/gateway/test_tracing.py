"""Spans as a real OTLP collector on loopback receives them, and what it may do to their sender."""

import json
import logging
import socket
import threading

import msgspec
import pytest
from collector import CollectorReply, Tree, collecting, scores_of, values_of
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from providers.base import Secret
from providers.errors import ConfigError
from providers.masking import Masks
from router.config.loading import parse
from router.config.telemetry import Telemetry
from router.gateway.spans import (
    MAX_ATTEMPTS,
    MAX_NAME_CHARS,
    EvaluationResult,
    ProviderHosts,
    TraceSpan,
)
from router.gateway.trace_content import MAX_CONTENT_CHARS, MAX_TEXT_CHARS
from router.gateway.tracing import BATCH, Traces
from router.records import Attempt, Record, Target, TracedAttempt, new_record_id, span_id_of

INCOMING = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOSTS = ProviderHosts(
    {"mine": "openai", "eu": "mistral"},
    lambda name: {"mine": "https://jo:secret@api.example:8443/v1?key=secret"}.get(name, ""),
)


@pytest.fixture
def collector():
    with collecting() as started:
        yield started


def traces_for(collector, masks=None, queued=1000, **settings):
    return Traces(
        Telemetry(otlp_endpoint=collector.url, **settings), HOSTS, masks or Masks(), queued=queued
    )


def record(traces, incoming=None, **changes):
    record_id = new_record_id()
    trace, _ = traces.contexts.begin(incoming, record_id)
    known = {
        "id": record_id,
        "at": 1000.25,
        "route": "r",
        "target": Target("mine", "gpt-4o-mini"),
        "status": 200,
        "first_byte_s": 0.03,
        "total_s": 1.5,
        "attempts": [Attempt("mine/gpt-4o-mini", "ok", 200, 0.03)],
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "cached_tokens": 400,
        "cost_usd": 0.5,
        "model": "gpt-4o-mini-2024-07-18",
        "finish_reason": "stop",
    }
    made = Record(**{**known, "trace": trace, **changes})
    for attempt in made.attempts if trace is not None else ():
        trace.attempts.append(TracedAttempt(7 + len(trace.attempts), 1000.3, attempt))
    return made


def sent(collector, traces, *records):
    """The spans that the collector got of some requests."""
    for each in records:
        traces.send(each)
    traces.close()
    return Tree(collector.spans)


# What is sent


def test_a_request_is_a_span_in_genai_conventions(collector):
    traces = traces_for(
        collector,
        otlp_headers={"x-team": Secret("blue")},
        service_name="gate",
        resource={"deployment.environment.name": "test"},
    )
    made = record(
        traces,
        INCOMING,
        stream=True,
        system_fingerprint="fp",
        response_id="chatcmpl-1",
        conversation="outing",
        user="jo",
        rollout="rol_1",
        arm="candidate",
        key_id="key_1",
    )
    tree = sent(collector, traces, made)
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    assert {headers["x-team"] for _, headers in collector.requests} == {"blue"}
    [resource] = collector.resources
    assert resource["service.name"] == resource["openinference.project.name"] == "gate"
    assert resource["deployment.environment.name"] == "test"
    span = tree.named("chat gpt-4o-mini")
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.span_id == span_id_of(made.id).to_bytes(8, "big")
    assert span.kind == span.SPAN_KIND_SERVER
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1000250000000, 1001750000000)
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert values_of(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": "outing",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.03,
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 400,
        "openai.response.system_fingerprint": "fp",
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "server.address": "api.example",
        "server.port": 8443,
        "user.id": "jo",
        "session.id": "outing",
        "openinference.span.kind": "LLM",
        "evalrouter.request_id": made.id,
        "evalrouter.record": made.id,
        "evalrouter.route": "r",
        "evalrouter.target": "mine/gpt-4o-mini",
        "evalrouter.class": "live",
        "evalrouter.cached": False,
        "evalrouter.cost_usd": 0.5,
        "evalrouter.key": "key_1",
        "evalrouter.attempts": 1,
        "evalrouter.rollout": "rol_1",
        "evalrouter.arm": "candidate",
    }


def test_each_attempt_is_a_span_below_the_request(collector):
    traces = traces_for(collector)
    attempts = [
        Attempt("eu/m", "breaker_open", None, 0.0),
        Attempt("mine/gpt-4o-mini", "upstream_503", 503, 0.02, paid=True),
        Attempt("mine/gpt-4o-mini", "ok", 200, 0.03),
    ]
    tree = sent(collector, traces, record(traces, attempts=attempts))
    request = tree.named("chat gpt-4o-mini")
    below = {values_of(s.attributes)["evalrouter.attempt.number"]: s for s in tree.below(request)}
    passed_over, failed, answered = (below[n] for n in (1, 2, 3))
    assert passed_over.name == "attempt eu/m"
    assert values_of(failed.attributes) == {
        "openinference.span.kind": "CHAIN",
        "http.request.method": "POST",
        "http.request.resend_count": 1,
        "http.response.status_code": 503,
        "error.type": "upstream_503",
        "server.address": "api.example",
        "server.port": 8443,
        "evalrouter.target": "mine/gpt-4o-mini",
        "evalrouter.attempt.number": 2,
        "evalrouter.attempt.result": "upstream_503",
        "evalrouter.attempt.seconds": 0.02,
        "evalrouter.attempt.paid": True,
    }
    assert [span.kind for span in below.values()] == [request.SPAN_KIND_CLIENT] * 3
    error = request.status.STATUS_CODE_ERROR
    assert [span.status.code == error for span in (passed_over, failed, answered)] == [
        True,
        True,
        False,
    ]
    # The one that answered goes on to the end of the answer, the others end where they ended.
    assert answered.end_time_unix_nano == request.end_time_unix_nano
    assert failed.end_time_unix_nano == pytest.approx(1000.3e9)
    assert failed.start_time_unix_nano == pytest.approx(1000.28e9)
    assert "http.request.method" not in values_of(passed_over.attributes)


def test_a_failure_says_so(collector):
    traces = traces_for(collector)
    failed = record(
        traces,
        path="embeddings",
        target=Target("eu", "mistral-embed"),
        status=429,
        error_code="rate_limited",
        finish_reason="",
        first_byte_s=None,
        attempts=[],
    )
    span = sent(collector, traces, failed).named("embeddings mistral-embed")
    assert span.parent_span_id == b""
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert span.status.message == "rate_limited"
    values = values_of(span.attributes)
    assert values["gen_ai.provider.name"] == "mistral_ai"
    assert values["error.type"] == "rate_limited"
    assert values["openinference.span.kind"] == "EMBEDDING"


def test_what_the_cache_answers_takes_no_tokens(collector):
    traces = traces_for(collector)
    made = record(traces, cached=True, attempts=[], cached_tokens=0)
    made.trace.add_step("cache", 1000.25, {"evalrouter.cache.hit": True})
    tree = sent(collector, traces, made)
    request = tree.named("chat gpt-4o-mini")
    assert not [name for name in values_of(request.attributes) if "usage" in name]
    [step] = tree.below(request)
    assert (step.name, values_of(step.attributes)["evalrouter.cache.hit"]) == ("cache", True)


def test_the_names_are_those_of_the_conventions(collector):
    from opentelemetry.semconv._incubating.attributes import (
        gen_ai_attributes,
        session_attributes,
        user_attributes,
    )
    from opentelemetry.semconv.attributes import (
        error_attributes,
        http_attributes,
        server_attributes,
    )

    modules = (
        gen_ai_attributes,
        session_attributes,
        user_attributes,
        error_attributes,
        http_attributes,
        server_attributes,
    )
    known = {
        value for module in modules for value in vars(module).values() if isinstance(value, str)
    }
    traces = traces_for(collector, content=True)
    made = record(
        traces,
        stream=True,
        written_tokens=1,
        status=500,
        conversation="c",
        user="u",
        response_id="i",
        keep="full",
        request=b'{"messages": [{"role": "user", "content": "hi"}]}',
        response=b'{"choices": [{"message": {"content": "ho"}}]}',
    )
    traces.evaluate("s", made.trace, [EvaluationResult("n", 1, "l", "why")], 1.0, {})
    tree = sent(collector, traces, made)
    used = {one.key for span in tree.spans for one in span.attributes}
    used |= {one.key for span in tree.spans for event in span.events for one in event.attributes}
    # Ours, OpenAI's, and OpenInference's, which are in no module of OpenTelemetry's.
    theirs = ("evalrouter.", "openai.", "openinference.", "input.", "output.")
    foreign = {name for name in used if not name.startswith(theirs)}
    assert len(foreign) >= 24
    assert foreign <= known


def test_scores_are_a_span_of_their_own_below_what_they_are_about(collector):
    traces = traces_for(collector, phoenix=collector.url, phoenix_headers={"k": Secret("v")})
    made = record(traces)
    results = [
        EvaluationResult("helpful", 1.0, "true", "Dry!", annotator="HUMAN", identifier="jo"),
        EvaluationResult("exact", None, error="no reference"),
        EvaluationResult("note", 0.5),
    ]
    traces.evaluate("feedback helpful", made.trace, results, 1002.0, {"evalrouter.record": made.id})
    tree = sent(collector, traces, made)
    request, scores = tree.named("chat gpt-4o-mini"), tree.named("feedback helpful")
    assert scores in tree.below(request)
    [link] = scores.links
    assert (link.trace_id, link.span_id) == (request.trace_id, request.span_id)
    assert scores_of(scores) == {"helpful": 1.0, "exact": None, "note": 0.5}
    first, second, _ = (values_of(event.attributes) for event in scores.events)
    assert first["gen_ai.evaluation.score.label"] == "true"
    assert first["gen_ai.evaluation.explanation"] == "Dry!"
    assert second["error.type"] == "no_score"
    assert second["gen_ai.evaluation.explanation"] == "no reference"
    [posted] = collector.posted["/v1/span_annotations"]
    first, second, third = json.loads(posted)["data"]
    assert first == {
        "span_id": request.span_id.hex(),
        "name": "helpful",
        "annotator_kind": "HUMAN",
        "result": {"score": 1.0, "label": "true", "explanation": "Dry!"},
        "identifier": "jo",
    }
    assert second["result"] == {"explanation": "no reference"}
    assert third["name"] == "note (evalrouter)"
    assert traces.annotations == {"sent": 3, "refused": 0, "dropped": 0}


# Contents

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Hi."}, {"type": "image_url"}],
    },
]
BODIES = {
    "request": json.dumps({"model": "r", "messages": MESSAGES}).encode(),
    "response": b'{"choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}]}',
}


def contents(collector, traces, **changes):
    span = sent(collector, traces, record(traces, **changes)).named("chat gpt-4o-mini")
    return {
        name: value
        for name, value in values_of(span.attributes).items()
        if "messages" in name or name.startswith(("input.", "output."))
    }


def test_messages_are_shown_where_the_config_says_so(collector):
    shown = contents(collector, traces_for(collector, content=True), keep="full", **BODIES)
    system, user = json.loads(shown["gen_ai.input.messages"])
    assert system == {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]}
    assert user["parts"][0]["content"] == "Hi.\n[image_url]"
    [answer] = json.loads(shown["gen_ai.output.messages"])
    assert answer == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "Hello."}],
        "finish_reason": "stop",
    }
    assert (shown["output.value"], shown["input.mime_type"]) == ("Hello.", "text/plain")


@pytest.mark.parametrize(("content", "keep"), [(False, "full"), (True, "metadata"), (True, "none")])
def test_messages_are_not_shown_otherwise(collector, content, keep):
    assert contents(collector, traces_for(collector, content=content), keep=keep, **BODIES) == {}


def test_streams_tool_calls_and_completions_are_read(collector):
    stream = b"".join(
        b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n"
        for delta in (
            {"role": "assistant", "content": "Let me "},
            {"content": "look."},
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "rain", "arguments": '{"day": 1}'},
                    }
                ]
            },
        )
    )
    request = {
        "messages": [
            {"role": "tool", "tool_call_id": "call_0", "content": "Sunny."},
        ]
    }
    shown = contents(
        collector,
        traces_for(collector, content=True),
        keep="full",
        stream=True,
        request=json.dumps(request).encode(),
        response=stream + b"data: [DONE]\n\n",
    )
    [asked] = json.loads(shown["gen_ai.input.messages"])
    assert asked["parts"] == [{"type": "tool_call_response", "id": "call_0", "response": "Sunny."}]
    [answer] = json.loads(shown["gen_ai.output.messages"])
    assert answer["parts"] == [
        {"type": "text", "content": "Let me look."},
        {"type": "tool_call", "id": "call_1", "name": "rain", "arguments": '{"day": 1}'},
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"data: nonsense\n\n",
        b'{"messages": "hi", "choices": 7}',
        b'{"messages": [1, null], "choices": [1, null]}',
        b'{"messages": [{"role": 1, "content": {"a": 1}, "tool_calls": [{"function": 5}, 3]}],'
        b' "choices": [{"message": "x"}, {"text": 5}, {"message": {"content": [[1]]}}]}',
        b"\xff\xfe",
        b'{"messages":' + b"[" * 20_000,
    ],
)
def test_bodies_that_are_none_have_no_messages_and_no_span_is_lost(collector, body):
    traces = traces_for(collector, content=True)
    contents(collector, traces, keep="full", request=body, response=body)
    assert traces.spans == {"sent": 2, "refused": 0, "dropped": 0}


def test_long_contents_are_cut(collector):
    messages = [{"role": "user", "content": f"{n}" + "x" * 40_000} for n in range(200)]
    response = {"choices": [{"message": {"content": "y" * 100_000}}]}
    shown = contents(
        collector,
        traces_for(collector, content=True),
        keep="full",
        # Bodies of more than a megabyte are not read at all.
        request=json.dumps({"messages": messages[:20]}).encode(),
        response=json.dumps(response).encode(),
    )
    assert len(shown["gen_ai.input.messages"]) <= MAX_CONTENT_CHARS
    texts = [each["parts"][0]["content"] for each in json.loads(shown["gen_ai.input.messages"])]
    # The first and the last ones are left.
    assert (texts[0][:2], texts[-1][:2]) == ("0x", "19")
    assert max(map(len, texts)) == len(shown["output.value"]) == MAX_TEXT_CHARS
    again = traces_for(collector, content=True)
    huge = record(again, keep="full", request=json.dumps({"messages": messages}).encode())
    again.send(huge)
    again.close()
    assert "gen_ai.input.messages" not in values_of(collector.spans[-2].attributes)


def test_names_from_outside_are_cut_and_secrets_of_the_config_are_taken_out(collector):
    class Config(msgspec.Struct):
        key: Secret

    traces = traces_for(collector, Masks(Config(Secret("hunter22-hunter22"))))
    long = "n" * 10_000
    made = record(
        traces,
        route=long,
        target=Target("mine", long),
        user="hunter22-hunter22",
        attempts=[Attempt(f"mine/{long}", "ok", 200, 0.1)] * (MAX_ATTEMPTS + 5),
    )
    tree = sent(collector, traces, made)
    assert len(tree.spans) == 1 + MAX_ATTEMPTS
    for span in tree.spans:
        assert len(span.name) <= MAX_NAME_CHARS
        assert all(
            len(v) <= MAX_NAME_CHARS
            for v in values_of(span.attributes).values()
            if isinstance(v, str)
        )
    request = next(span for span in tree.spans if span.kind == span.SPAN_KIND_SERVER)
    assert values_of(request.attributes)["user.id"] == "***"


def test_half_of_a_surrogate_pair_costs_no_span(collector):
    traces = traces_for(collector, phoenix=collector.url)
    made = record(traces, conversation="\ud800")
    traces.annotate(made.trace, [EvaluationResult("n", 1.0, explanation="\ud800")])
    request = sent(collector, traces, made).named("chat gpt-4o-mini")
    assert values_of(request.attributes)["session.id"] == "?"
    assert traces.annotations["sent"] == 1


def test_names_that_clients_made_up_are_in_no_spans_name(collector):
    traces = traces_for(collector)
    made_up = record(
        traces,
        route="mine/made-up",
        target=None,
        status=404,
        error_code="upstream_404",
        attempts=[Attempt("mine/made-up", "upstream_404", 404, 0.1)],
    )
    tree = sent(collector, traces, made_up)
    assert {span.name for span in tree.spans} == {"chat", "attempt mine"}


# What the collector may do


def test_a_request_that_is_not_recorded_sends_nothing(collector):
    traces = traces_for(collector, sample=0)
    assert sent(collector, traces, record(traces)).spans == []
    assert (traces.spans, collector.requests) == ({"dropped": 0}, [])


def plain_span(n, text=""):
    return TraceSpan("s", 1, n, None, "internal", 1.0, 2.0, {"text": text})


def test_many_spans_are_sent_in_batches(collector):
    traces = traces_for(collector, queued=10_000)
    traces.add(plain_span(n) for n in range(1, 2 * BATCH + 2))
    traces.close()
    assert len({span.span_id for span in collector.spans}) == 2 * BATCH + 1
    assert max(collector.sizes) <= BATCH
    assert traces.spans == {"sent": 2 * BATCH + 1, "refused": 0, "dropped": 0}


def test_a_collector_that_is_down_is_not_waited_for(caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        traces = Traces(Telemetry(otlp_endpoint=address), HOSTS)
        traces.send(record(traces))
        traces.close(within=0.05)
    # Its thread is gone: nothing keeps trying.
    for thread in threading.enumerate():
        if thread.name == "evalrouter-spans":
            thread.join(10)
            assert not thread.is_alive()
    assert "refused" in caplog.text
    assert traces.spans["refused"] + traces.spans["dropped"] == 2


def test_what_finds_the_queue_full_is_dropped_and_counted(caplog):
    go_on = threading.Event()

    def slow(*_):
        assert go_on.wait(30)
        return CollectorReply()

    with collecting(slow) as collector:
        traces = traces_for(collector, queued=10)
        traces.add([plain_span(1)])
        with collector.got:
            assert collector.got.wait_for(lambda: collector.sizes, timeout=30)
        traces.add(plain_span(n) for n in range(2, 17))
        traces.add([plain_span(17)])
        assert traces.spans["dropped"] == 6
        assert [line.message for line in caplog.records].count(
            "spans are being dropped: the collector is too slow or away"
        ) == 1
        go_on.set()
        traces.close(within=30)
    assert len(collector.spans) == traces.spans["sent"] == 11
    traces.add([plain_span(18)])
    assert traces.spans["dropped"] == 7


def test_long_texts_fill_the_queue_too():
    with collecting() as collector:
        traces = traces_for(collector)
        traces.add(plain_span(n, "x" * 2**20) for n in range(1, 40))
        assert traces.spans["dropped"] >= 7
        traces.close(within=30)


def test_a_collector_that_says_later_gets_them_later(collector):
    def later(number, _):
        return CollectorReply(429, {"retry-after-ms": "1"}) if number < 3 else CollectorReply()

    with collecting(later) as collector:
        traces = traces_for(collector)
        traces.add([plain_span(1)])
        traces.close(within=30)
    assert collector.sizes == [1, 1, 1]
    assert traces.spans == {"sent": 1, "refused": 0, "dropped": 0}


def test_a_collector_that_says_much_later_loses_them_but_holds_up_nothing(caplog):
    with collecting(lambda *_: CollectorReply(429, {"retry-after": "3600"})) as collector:
        traces = traces_for(collector)
        traces.add([plain_span(1)])
        traces.close(within=30)
    assert traces.spans == {"sent": 0, "refused": 1, "dropped": 0}


def test_too_large_an_export_is_sent_in_halves(collector):
    def small(_, size):
        return CollectorReply(413 if size > 2 else 200)

    with collecting(small) as collector:
        traces = traces_for(collector)
        traces.add(plain_span(n) for n in range(1, 8))
        traces.close(within=30)
    assert sorted(span.span_id[-1] for span in collector.spans) == [1, 2, 3, 4, 5, 6, 7]
    assert traces.spans == {"sent": 7, "refused": 0, "dropped": 0}


def test_a_span_that_is_too_large_alone_is_refused(collector):
    with collecting(lambda *_: CollectorReply(413)) as collector:
        traces = traces_for(collector)
        traces.add([plain_span(1), plain_span(2)])
        traces.close(within=30)
    assert collector.sizes == [2, 1, 1]
    assert traces.spans == {"sent": 0, "refused": 2, "dropped": 0}


def test_a_redirect_is_refused_and_gets_no_header(caplog):
    with collecting() as elsewhere:
        target = f"{elsewhere.url}/v1/traces"
        with collecting(lambda *_: CollectorReply(307, {"location": target})) as collector:
            traces = traces_for(collector, otlp_headers={"authorization": Secret("Bearer abc")})
            traces.add([plain_span(1)])
            traces.close(within=30)
        assert elsewhere.requests == []
    assert traces.spans == {"sent": 0, "refused": 1, "dropped": 0}
    assert "redirects (307)" in caplog.text


def test_what_a_collector_rejects_of_an_export_is_counted(collector):
    body = ExportTraceServiceResponse()
    body.partial_success.rejected_spans = 2
    reply = CollectorReply(
        200, {"content-type": "application/x-protobuf"}, body.SerializeToString()
    )
    with collecting(lambda *_: reply) as collector:
        traces = traces_for(collector)
        traces.add(plain_span(n) for n in range(1, 6))
        traces.close(within=30)
    assert traces.spans == {"sent": 3, "refused": 2, "dropped": 0}


def test_a_collector_without_tls_is_told_of_in_the_log(collector, caplog):
    traces = Traces(
        Telemetry(
            otlp_endpoint=collector.url.replace("http:", "https:"),
            otlp_timeout=0.2,
            otlp_headers={"authorization": Secret("Bearer hunter22")},
        ),
        HOSTS,
    )
    traces.add([plain_span(1)])
    traces.close(within=30)
    assert traces.spans == {"sent": 0, "refused": 1, "dropped": 0}
    assert "SSL" in caplog.text
    assert "hunter22" not in caplog.text


def test_a_phoenix_that_is_away_is_named_once(collector, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        phoenix = f"http://127.0.0.1:{closed.getsockname()[1]}"
        traces = traces_for(collector, phoenix=phoenix)
        about = record(traces).trace
        traces.annotate(about, [EvaluationResult(f"m{n}", 1.0) for n in range(BATCH + 1)])
        traces.close(within=30)
    assert traces.annotations == {"sent": 0, "refused": BATCH + 1, "dropped": 0}
    errors = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert [line.message.startswith("Phoenix does not take") for line in errors] == [True]


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ('{otlp_endpoint: "ftp://x"}', "telemetry.otlp_endpoint"),
        ('{otlp_endpoint: "http://"}', "telemetry.otlp_endpoint"),
        ('{otlp_endpoint: "http://x:99999"}', "telemetry.otlp_endpoint"),
        ('{otlp_endpoint: "http://x y"}', "telemetry.otlp_endpoint"),
        ('{otlp_endpoint: "http://x?key=1"}', "telemetry.otlp_endpoint"),
        ('{phoenix: "http://x"}', "telemetry.phoenix"),
        ('{otlp_endpoint: "http://x", phoenix: "x:6006"}', "telemetry.phoenix"),
        ("{sample: 1.5}", "telemetry.sample"),
        ("{sample: -0.1}", "telemetry.sample"),
        ("{sample: .nan}", "telemetry.sample"),
        ("{sample_evaluations: all}", "telemetry.sample_evaluations"),
        ("{content: perhaps}", "telemetry.content"),
        ("{otlp_timeout: 0}", "telemetry.otlp_timeout"),
        ('{otlp_headers: {"a b": c}}', "telemetry.otlp_headers"),
        ('{otlp_headers: {a: "b\\nc: d"}}', "telemetry.otlp_headers"),
        ('{phoenix_headers: {a: "é"}}', "telemetry.phoenix_headers"),
        ('{resource: {"": x}}', "telemetry.resource"),
        ("{samples: 1}", "telemetry.samples"),
    ],
)
def test_a_section_that_cannot_be_obeyed_is_refused(section, place):
    with pytest.raises(ConfigError) as refused:
        parse(f"telemetry: {section}", "c.yaml", {})
    assert place in str(refused.value)
