"""Sends spans to an OpenTelemetry collector, as OTLP over HTTP, and scores to Arize Phoenix.

    traces = Traces(settings, hosts, masks)
    traces.send(record)              # on any thread; never waits for the collector
    traces.add(spans)
    traces.close()

A thread of its own makes OpenTelemetry's spans of ours, encodes them and sends them, some hundred
at a time. What waits is bounded; what finds the queue full is dropped, and so is what the collector
refuses or does not take in time: `counts` has all of it. The exporter is OpenTelemetry's, which
tries again where the collector says so, within `otlp_timeout`.

OpenTelemetry is an extra: import this module only where traces are configured.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from providers.masking import Masks
from router.config.telemetry import Telemetry
from router.gateway.phoenix import Annotation, PhoenixAnnotations
from router.gateway.redact import redact
from router.gateway.spans import (
    Attributes,
    EvaluationResult,
    ProviderHosts,
    TraceSpan,
    evaluation_span,
    request_spans,
)
from router.gateway.trace_content import MAX_BODY_BYTES, shortened
from router.gateway.trace_context import TraceContexts
from router.records import Record, Trace

log = logging.getLogger("evalrouter")

CLOSE_S = 3.0  # how long a server that ends waits for its collector
EVERY_S = 1.0  # between two exports of a few spans
BATCH = 256  # spans of an export
QUEUED = 8192  # spans that may wait
QUEUED_CHARS = 32 * 2**20  # of texts in them
QUEUED_ANNOTATIONS = 4096
# A batch that the collector finds too large is halved down to single spans.
_TOO_LARGE = 413

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
# Nothing of a response is read that is longer.
_MAX_RESPONSE_BYTES = 65_536


class _Queued(NamedTuple):
    """A span that waits, and how long its texts are."""

    span: TraceSpan
    size: int


class _CollectorSession(requests.Session):
    """Notes what comes of an export besides its success; refuses to be sent elsewhere.

    OpenTelemetry's exporter takes a redirect for a success, and reads no answer.

    Attributes:
        status: the collector's; 0 without one.
        rejected: how many spans of an export it did not take.
        failure: why the last attempt failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        """Forget the export before."""
        self.status = self.rejected = 0
        self.failure = ""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Send, and note what the collector says."""
        try:
            response = super().request(*args, **options)
        except requests.RequestException as error:
            self.failure = str(error)
            raise
        self.status = response.status_code
        if not response.ok:
            self.failure = f"it answered with status {self.status}"
        if 300 <= self.status < 400:
            self.failure = (
                f"it redirects ({self.status}), which is not followed: name the address itself"
            )
            raise requests.TooManyRedirects(self.failure)
        body = response.content
        kind = response.headers.get("content-type", "")
        if response.ok and kind == "application/x-protobuf" and len(body) <= _MAX_RESPONSE_BYTES:
            partial = ExportTraceServiceResponse.FromString(body).partial_success
            self.rejected = max(0, partial.rejected_spans)
        return response


class Traces:
    """Sends spans to a collector.

    Args:
        settings: the config's section `telemetry`.
        hosts: the providers.
        masks: the config's secrets, which no span may show.
        queued: how many spans may wait.

    Attributes:
        contexts: decides what is recorded.
        spans: how many were `sent`, how many were `refused` by the collector or not taken in time,
            and how many were `dropped` because the queue was full.
        annotations: the same of annotations for Phoenix.
        shows_content: whether spans may show messages.
    """

    def __init__(
        self,
        settings: Telemetry,
        hosts: ProviderHosts,
        masks: Masks | None = None,
        *,
        queued: int = QUEUED,
    ) -> None:
        self.contexts = TraceContexts(settings)
        self.spans = Counter[str]()
        self.annotations = Counter[str]()
        self.shows_content = settings.content
        self._hosts = hosts
        self._masks = masks or Masks()
        self._max_queued = queued
        self._scope = InstrumentationScope("evalrouter", version("evalrouter"))
        self._resource = Resource.create(
            {
                "service.name": settings.service_name,
                "openinference.project.name": settings.service_name,
                **settings.resource,
            }
        )
        endpoint = settings.otlp_endpoint.rstrip("/").removesuffix("/v1/traces")
        self._session = _CollectorSession()
        self._exporter = OTLPSpanExporter(
            endpoint=f"{endpoint}/v1/traces",
            headers={name: value.reveal() for name, value in settings.otlp_headers.items()},
            timeout=settings.otlp_timeout,
            session=self._session,
        )
        self._phoenix = PhoenixAnnotations(settings) if settings.phoenix else None
        self._queue: deque[_Queued] = deque()
        self._size = 0
        self._scores: deque[Annotation] = deque()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closing = False
        self._is_aborted = False
        self._is_dropping = self._is_refused = False
        self._thread: threading.Thread | None = None

    def send(self, record: Record) -> None:
        """Queue the spans of a request that has ended and is settled."""
        if record.trace is not None:
            self.add(request_spans(record, self._hosts, content=self.shows_content))

    def add(self, spans: Iterable[TraceSpan]) -> None:
        """Queue spans; those for which there is no room are dropped and counted."""
        entries = [_Queued(span, _size_of(span)) for span in spans]
        dropped = 0
        with self._lock:
            for entry in entries:
                is_full = len(self._queue) >= self._max_queued
                if self._closing or is_full or self._size + entry.size > QUEUED_CHARS:
                    dropped += 1
                else:
                    self._queue.append(entry)
                    self._size += entry.size
            self.spans["dropped"] += dropped
            self._begin()
        if len(self._queue) >= BATCH:
            self._news.set()
        self._warn(dropped)

    def evaluate(
        self,
        name: str,
        about: Trace,
        evaluations: Sequence[EvaluationResult],
        at: float,
        attributes: Attributes,
    ) -> None:
        """Queue a span with scores of what may have been sent already, and its annotations."""
        self.add([evaluation_span(name, about, evaluations, at, attributes)])
        self.annotate(about, evaluations)

    def annotate(self, about: Trace, evaluations: Iterable[EvaluationResult]) -> None:
        """Queue scores for Phoenix, where there is one."""
        if self._phoenix is None:
            return
        span_id = f"{about.span_id:016x}"
        dropped = 0
        with self._lock:
            for each in evaluations:
                if self._closing or len(self._scores) >= QUEUED_ANNOTATIONS:
                    dropped += 1
                else:
                    self._scores.append(Annotation(span_id, each))
            self.annotations["dropped"] += dropped
            self._begin()
        self._warn(dropped)

    def flush_soon(self) -> None:
        """Send what is queued without waiting for more."""
        self._news.set()

    def close(self, within: float = CLOSE_S) -> None:
        """Send what is queued, and stop; blocks for `within` seconds at most."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._news.set()
        if thread is not None:
            thread.join(within)
        self._is_aborted = True
        # The exporter goes on trying for longer; this ends its waiting.
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it has no annotations
        self._session.close()
        if self._phoenix is not None:
            self._phoenix.close()
        with self._lock:
            self.spans["dropped"] += len(self._queue)
            self.annotations["dropped"] += len(self._scores)
            lost = len(self._queue)
            self._queue.clear()
            self._scores.clear()
        if lost:
            log.warning("%d spans were never sent, because the server ends", lost)

    def _begin(self) -> None:
        """Start the thread with the first span: the process may have been forked before that."""
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(
                target=self._export_all, name="evalrouter-spans", daemon=True
            )
            self._thread.start()

    def _warn(self, dropped: int) -> None:
        if dropped and not self._is_dropping:
            # The number is among the metrics.
            log.error("spans are being dropped: the collector is too slow or away")
        self._is_dropping = dropped > 0

    # on the thread

    def _export_all(self) -> None:
        while not self._is_aborted:
            self._news.wait(EVERY_S)
            self._news.clear()
            closing = self._closing
            while self._queue and not self._is_aborted:
                self._export(self._take())
            while self._phoenix is not None and self._scores and not self._is_aborted:
                self._send_annotations(self._phoenix)
            if closing:
                return

    def _take(self) -> list[TraceSpan]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._size -= sum(entry.size for entry in batch)
        return [entry.span for entry in batch]

    def _export(self, batch: Sequence[TraceSpan]) -> None:
        """Send spans; where they are too many for the collector, in halves."""
        session = self._session
        session.begin()
        try:
            sent = self._exporter.export([self._readable(span) for span in batch])
        except Exception:
            # One bad span must not end the thread.
            log.exception("spans could not be encoded")
            sent = SpanExportResult.FAILURE
        if sent is SpanExportResult.SUCCESS:
            self._is_refused = False
            self._count(self.spans, len(batch) - session.rejected, session.rejected)
        elif session.status == _TOO_LARGE and len(batch) > 1 and not self._is_aborted:
            half = len(batch) // 2
            self._export(batch[:half])
            self._export(batch[half:])
        else:
            self._count(self.spans, 0, len(batch))
            if not self._is_refused:
                # Once, until it takes some again; the number is among the metrics.
                why = self._masks.mask_text(session.failure)[:500]
                log.error("the collector does not take spans (telemetry.otlp_endpoint): %s", why)
            self._is_refused = True

    def _send_annotations(self, phoenix: PhoenixAnnotations) -> None:
        with self._lock:
            number = min(BATCH, len(self._scores))
            batch = [self._scores.popleft() for _ in range(number)]
        taken = phoenix.send(batch, self._masks)
        self._count(self.annotations, taken, len(batch) - taken)

    def _count(self, counts: Counter[str], sent: int, refused: int) -> None:
        with self._lock:
            counts["sent"] += sent
            counts["refused"] += refused

    def _readable(self, span: TraceSpan) -> ReadableSpan:
        context = _context(span.trace_id, span.span_id, is_remote=False)
        parent = None
        if span.parent_id is not None:
            parent = _context(span.trace_id, span.parent_id, is_remote=span.is_remote)
        return ReadableSpan(
            name=self._masked(span.name),
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=self._masked_all({**span.attributes, **_cleaned(span.texts)}),
            events=[
                Event(event.name, self._masked_all(event.attributes), _nanoseconds(event.at))
                for event in span.events
            ],
            links=[Link(_context(*link, is_remote=False)) for link in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=_nanoseconds(span.began_at),
            end_time=_nanoseconds(max(span.began_at, span.ended_at)),
            instrumentation_scope=self._scope,
        )

    def _masked_all(self, attributes: Attributes) -> dict[str, Any]:
        return {
            name: self._masked(value) if isinstance(value, str) else value
            for name, value in attributes.items()
        }

    def _masked(self, text: str) -> str:
        # Lone surrogates cannot be sent.
        return self._masks.mask(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def _cleaned(texts: Mapping[str, str]) -> dict[str, str]:
    """Return texts without secrets, and not too long."""
    cleaned = {}
    for name, text in texts.items():
        body = redact(text.encode("utf-8", "replace")[:MAX_BODY_BYTES])
        cleaned[name] = shortened(body.decode(errors="replace"))
    return cleaned


def _size_of(span: TraceSpan) -> int:
    size = sum(map(len, span.texts.values()))
    size += sum(len(value) for value in span.attributes.values() if isinstance(value, str))
    for event in span.events:
        size += sum(len(value) for value in event.attributes.values() if isinstance(value, str))
    return size


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _context(trace_id: int, span_id: int, *, is_remote: bool) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))
