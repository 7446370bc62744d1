"""Sends spans to an OpenTelemetry collector, as OTLP over HTTP, and scores to Arize Phoenix.

    traces = Traces(settings, hosts, masks)
    traces.send(record)              # on any thread; never waits for the collector
    traces.add(spans)
    traces.close()

A thread of its own encodes spans and sends them (`otlp.py`), some hundred at a time. What waits is
bounded; what finds the queue full is dropped, and so is what the collector refuses or does not take
in time: `spans` and `annotations` count all of it.

OpenTelemetry is an extra: import this module only where traces are configured.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from providers.masking import Masks
from router.config.telemetry import Telemetry
from router.gateway.otlp import TOO_LARGE, CollectorClient, ExportResult, SpanEncoder
from router.gateway.phoenix import Annotation, PhoenixAnnotations
from router.gateway.spans import (
    Attributes,
    EvaluationResult,
    ProviderHosts,
    TraceSpan,
    evaluation_span,
    request_spans,
)
from router.gateway.trace_context import TraceContexts
from router.records import Record, Trace

log = logging.getLogger("evalrouter")

CLOSE_S = 3.0  # how long a server that ends waits for its collector
EVERY_S = 1.0  # between two exports of a few spans
BATCH = 256  # spans of an export
QUEUED = 8192  # spans that may wait
QUEUED_CHARS = 32 * 2**20  # of texts in them
QUEUED_ANNOTATIONS = 4096


class _Queued(NamedTuple):
    """A span that waits, and how long its texts are."""

    span: TraceSpan
    size: int


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
        self._encoder = SpanEncoder(settings, self._masks)
        self._collector = CollectorClient(settings)
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

    def close(self, within: float = CLOSE_S) -> None:
        """Send what is queued, and stop; blocks for `within` seconds at most."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._news.set()
        if thread is not None:
            thread.join(within)
        self._is_aborted = True
        # It may go on trying for longer.
        self._collector.abort()
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
        result = self._sent(batch)
        if not result.failure:
            self._is_refused = False
            self._count(self.spans, len(batch) - result.rejected, result.rejected)
        elif result.status == TOO_LARGE and len(batch) > 1 and not self._is_aborted:
            half = len(batch) // 2
            self._export(batch[:half])
            self._export(batch[half:])
        else:
            self._count(self.spans, 0, len(batch))
            if not self._is_refused:
                # Once, until it takes some again; the number is among the metrics.
                why = self._masks.mask_text(result.failure)[:500]
                log.error("the collector does not take spans (telemetry.otlp_endpoint): %s", why)
            self._is_refused = True

    def _sent(self, batch: Sequence[TraceSpan]) -> ExportResult:
        try:
            return self._collector.send(self._encoder.encode(batch))
        except Exception:
            # One bad span must not end the thread.
            log.exception("spans could not be sent")
            return ExportResult(0, failure="see the log")

    def _send_annotations(self, phoenix: PhoenixAnnotations) -> None:
        with self._lock:
            number = min(BATCH, len(self._scores))
            batch = [self._scores.popleft() for _ in range(number)]
        try:
            taken = phoenix.send(batch, self._masks)
        except Exception:
            log.exception("scores could not be sent")
            taken = 0
        self._count(self.annotations, taken, len(batch) - taken)

    def _count(self, counts: Counter[str], sent: int, refused: int) -> None:
        with self._lock:
            counts["sent"] += sent
            counts["refused"] += refused


def _size_of(span: TraceSpan) -> int:
    size = sum(map(len, span.texts.values()))
    size += sum(len(value) for value in span.attributes.values() if isinstance(value, str))
    for event in span.events:
        size += sum(len(value) for value in event.attributes.values() if isinstance(value, str))
    return size
