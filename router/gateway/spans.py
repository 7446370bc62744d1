"""Makes spans of requests, of what was done for them, and of scores. No IO, no OpenTelemetry.

A request is one span by the semantic conventions for generative AI, which have it last from the
first attempt to the end of the answer, retries included: so tokens and cost are in one span and are
not counted twice. Below it are spans of its attempts, by the conventions for HTTP clients, and of
what else was done for it, as looking into the response cache. OpenInference's attributes are those
that Arize Phoenix does not make of the others itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from providers.shortening import shortened
from router.gateway.redact import redact
from router.gateway.trace_content import ContentAttributes, content_of
from router.gateway.trace_context import TraceContexts
from router.records import Record, Trace, TracedAttempt, new_span_id

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]
Annotator = Literal["HUMAN", "LLM", "CODE"]

# Of any text that others chose, such as a model's name.
MAX_NAME_CHARS = 256
# Of an explanation, as a comment of feedback.
MAX_EXPLANATION_CHARS = 4096
# Attempts of one request that have spans: the first ones.
MAX_ATTEMPTS = 64

EVALUATION_EVENT = "gen_ai.evaluation.result"
NO_SCORE = "no_score"

_OPERATIONS = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
    "messages": "chat",
    "messages/count_tokens": "count_tokens",
}
# Provider kinds as the conventions call them; others keep their own name.
_PROVIDERS = {
    "mistral": "mistral_ai",
    "gemini": "gcp.gemini",
    "azure": "azure.ai.openai",
}
# What a client made up is not part of a span's name, of which there should be few.
_MADE_UP = frozenset({"model_not_found", "upstream_404"})


class SpanEvent(NamedTuple):
    """Something that happened at a moment: seconds since the epoch."""

    name: str
    at: float
    attributes: Attributes


class TraceSpan(NamedTuple):
    """A span that has ended.

    Attributes:
        name: what it is called.
        trace_id, span_id: its place.
        parent_id: of the span that it is below; None for the first of a trace.
        is_remote: whether that span is another program's.
        kind: as OpenTelemetry has it.
        began_at, ended_at: seconds since the epoch.
        attributes: by their names.
        events: what happened in it.
        links: other spans, as trace id and span id.
        error: why it failed; "" where it did not.
        texts: attributes with texts that may have secrets, and any length.
    """

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    kind: Literal["server", "client", "internal"]
    began_at: float
    ended_at: float
    attributes: Attributes
    is_remote: bool = False
    events: Sequence[SpanEvent] = ()
    links: Sequence[tuple[int, int]] = ()
    error: str = ""
    texts: Mapping[str, str] = {}


class EvaluationResult(NamedTuple):
    """What was found about an answer.

    Attributes:
        name: what the score is called.
        value: the score; None without one.
        label: what it means in a word; "" without one.
        explanation: the reason; "" without one.
        annotator: who found it.
        error: why there is no score; "" where there is one.
        identifier: tells it from others of the name about the same answer; "" where a new one takes
            the place of an old one.
    """

    name: str
    value: float | None = None
    label: str = ""
    explanation: str = ""
    annotator: Annotator = "CODE"
    error: str = ""
    identifier: str = ""


class SpanSink(Protocol):
    """Gets spans, and decides which are recorded. `tracing.py` has the one that sends them.

    Attributes:
        contexts: decides what is recorded.
        shows_content: whether spans may show messages.
    """

    contexts: TraceContexts
    shows_content: bool

    def add(self, spans: Iterable[TraceSpan]) -> None:
        """Queue spans; those for which there is no room are dropped and counted."""
        ...

    def evaluate(
        self,
        name: str,
        about: Trace,
        evaluations: Sequence[EvaluationResult],
        at: float,
        attributes: Attributes,
    ) -> None:
        """Queue a span with scores of what may have been sent already, and its annotations."""
        ...

    def annotate(self, about: Trace, evaluations: Iterable[EvaluationResult]) -> None:
        """Queue scores for Phoenix, where there is one."""
        ...


class ProviderHosts(NamedTuple):
    """What is known of providers by their names.

    Attributes:
        kinds: the kind of each.
        address_of: returns the address of one; "" where it has none.
    """

    kinds: Mapping[str, str]
    address_of: Callable[[str], str] = lambda _: ""


def request_spans(
    record: Record, hosts: ProviderHosts, *, content: bool = False
) -> Iterator[TraceSpan]:
    """Yield the spans of a request that has ended and is settled.

    Args:
        record: has a trace.
        hosts: the providers.
        content: whether messages are shown, as far as the record has bodies that may be stored.
    """
    trace = record.trace
    assert trace is not None, "the caller has seen it"
    ended_at = record.at + record.total_s
    failed = bool(record.error_code) or record.status >= 400
    live = record.traffic_class == "live"
    shown: ContentAttributes = {}
    if content:
        shown = _content(record, trace)
    yield TraceSpan(
        name=_name(record),
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        is_remote=trace.is_remote,
        kind="server" if live else "client",
        began_at=record.at,
        ended_at=ended_at,
        attributes={**_attributes(record, hosts, failed=failed), **trace.attributes, **shown},
        links=trace.links,
        error=(record.error_code or str(record.status)) if failed else "",
    )
    yield from step_spans(trace)
    answered = _answering(record, trace)
    for number, traced in enumerate(trace.attempts[:MAX_ATTEMPTS], 1):
        began_at = traced.ended_at - traced.attempt.seconds
        yield TraceSpan(
            name=_attempt_name(traced),
            trace_id=trace.trace_id,
            span_id=traced.span_id,
            parent_id=trace.span_id,
            kind="client",
            began_at=max(record.at, began_at),
            # The answer goes on after its first byte.
            ended_at=ended_at if traced is answered else max(record.at, traced.ended_at),
            attributes=_attempt_attributes(traced, number, hosts),
            error="" if traced.attempt.result == "ok" else traced.attempt.result,
        )


def step_spans(trace: Trace) -> Iterator[TraceSpan]:
    """Yield the spans of what was done in one besides its attempts."""
    for step in trace.steps:
        yield TraceSpan(
            name=step.name,
            trace_id=trace.trace_id,
            span_id=step.span_id,
            parent_id=trace.span_id,
            kind="internal",
            began_at=step.began_at,
            ended_at=step.ended_at,
            attributes={"openinference.span.kind": "CHAIN", **step.attributes},
        )


def evaluation_span(
    name: str,
    about: Trace,
    evaluations: Sequence[EvaluationResult],
    at: float,
    attributes: Attributes,
) -> TraceSpan:
    """Return a span of scores about one that may have ended: below it, and linked with it.

    Args:
        name: the span's.
        about: the place of what was scored.
        evaluations: the scores.
        at: when they were given.
        attributes: more of the span's.
    """
    return TraceSpan(
        name=bounded(name),
        trace_id=about.trace_id,
        span_id=new_span_id(),
        parent_id=about.span_id,
        kind="internal",
        began_at=at,
        ended_at=at,
        attributes={"openinference.span.kind": "EVALUATOR", **attributes},
        events=evaluation_events(evaluations, at),
        links=((about.trace_id, about.span_id),),
    )


def evaluation_events(evaluations: Sequence[EvaluationResult], at: float) -> tuple[SpanEvent, ...]:
    """Return the events that the conventions have for scores."""
    return tuple(
        SpanEvent(
            EVALUATION_EVENT,
            at,
            _present(
                {
                    "gen_ai.evaluation.name": bounded(each.name),
                    "gen_ai.evaluation.score.value": each.value,
                    "gen_ai.evaluation.score.label": bounded(each.label),
                    "gen_ai.evaluation.explanation": (each.explanation or each.error)[
                        :MAX_EXPLANATION_CHARS
                    ],
                    # Of which there should be few.
                    "error.type": NO_SCORE if each.error else None,
                }
            ),
        )
        for each in evaluations
    )


def bounded(text: str) -> str:
    """Return a name as spans have it: not longer than MAX_NAME_CHARS."""
    return shortened(text, MAX_NAME_CHARS)


def address_attributes(address: str) -> dict[str, AttributeValue]:
    """Return `server.address` and `server.port` of a URL, without anything else that it has."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return {"server.address": host, "server.port": port or (80 if parts.scheme == "http" else 443)}


def _name(record: Record) -> str:
    operation = _OPERATIONS[record.path]
    if record.error_code in _MADE_UP:
        return operation
    model = record.route if record.target is None else record.target.model
    return bounded(f"{operation} {model}".rstrip())


def _attributes(record: Record, hosts: ProviderHosts, *, failed: bool) -> dict[str, AttributeValue]:
    target = record.target
    kind = None if target is None else hosts.kinds.get(target.provider)
    model = record.route if target is None else target.model
    address = "" if target is None or record.cached else hosts.address_of(target.provider)
    live = record.traffic_class == "live"
    operation = _OPERATIONS[record.path]
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": None if kind is None else _PROVIDERS.get(kind, kind),
        "gen_ai.request.model": bounded(model),
        "gen_ai.request.stream": record.stream,
        "gen_ai.conversation.id": record.conversation,
        "gen_ai.response.id": record.response_id,
        "gen_ai.response.model": record.model,
        "gen_ai.response.finish_reasons": (record.finish_reason,) if record.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": record.first_byte_s if record.stream else None,
        # What the response cache answers takes none.
        "gen_ai.usage.input_tokens": None if record.cached else record.prompt_tokens,
        "gen_ai.usage.output_tokens": None if record.cached else record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": record.written_tokens or None,
        "openai.response.system_fingerprint": record.system_fingerprint,
        "http.request.method": "POST" if live else None,
        "http.route": f"/v1/{record.path}" if live else None,
        "http.response.status_code": record.status or None,
        "error.type": (record.error_code or str(record.status)) if failed else None,
        "user.id": record.user,
        "session.id": record.conversation,
        "openinference.span.kind": "EMBEDDING" if operation == "embeddings" else "LLM",
        "evalrouter.request_id": record.request_id or record.id,
        "evalrouter.record": record.id,
        "evalrouter.route": bounded(record.route),
        "evalrouter.target": bounded(record.target_name()),
        "evalrouter.class": record.traffic_class,
        "evalrouter.cached": record.cached,
        "evalrouter.cost_usd": record.cost_usd,
        "evalrouter.estimated": record.estimated or None,
        "evalrouter.lost_tokens": record.lost_tokens or None,
        "evalrouter.key": record.key_id,
        "evalrouter.attempts": len(record.attempts),
        "evalrouter.rollout": record.rollout,
        "evalrouter.arm": record.arm,
    }
    return {**_present(attributes), **address_attributes(address)}


def _content(record: Record, trace: Trace) -> ContentAttributes:
    if trace.bodies is not None:
        request, response = map(redact, trace.bodies)
    elif record.keep == "full":
        request, response = record.request or b"", record.response or b""
    else:
        return {}
    return content_of(record.path, request, response)


def _answering(record: Record, trace: Trace) -> TracedAttempt | None:
    """Return the attempt whose answer the client got; None without one."""
    if record.target is None:
        return None
    target = record.target_name()
    for traced in reversed(trace.attempts):
        if traced.attempt.result == "ok" and traced.attempt.target == target:
            return traced
    return None


def _attempt_name(traced: TracedAttempt) -> str:
    target = traced.attempt.target
    if traced.attempt.result in _MADE_UP:
        target = target.partition("/")[0]
    return bounded(f"attempt {target}")


def _attempt_attributes(traced: TracedAttempt, number: int, hosts: ProviderHosts) -> Attributes:
    attempt = traced.attempt
    provider = attempt.target.partition("/")[0]
    # Without an HTTP status it may not have been sent at all.
    sent = attempt.result not in ("breaker_open", "target_busy")
    attributes: dict[str, AttributeValue | None] = {
        "openinference.span.kind": "CHAIN",
        "http.request.method": "POST" if sent else None,
        "http.request.resend_count": number - 1 if sent and number > 1 else None,
        "http.response.status_code": attempt.status,
        "error.type": None if attempt.result == "ok" else attempt.result,
        "evalrouter.target": bounded(attempt.target),
        "evalrouter.attempt.number": number,
        "evalrouter.attempt.result": attempt.result,
        "evalrouter.attempt.seconds": attempt.seconds,
        "evalrouter.attempt.paid": attempt.paid or None,
    }
    return {**_present(attributes), **address_attributes(hosts.address_of(provider))}


def _present(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None and value != ""}
