"""Sends finished requests as OpenTelemetry spans, in the semantic conventions for generative AI.

One span per request, of kind CLIENT, named `chat gpt-4o-mini`, made from its record after it has
ended: the times are the record's, and the span's id is the one that was sent upstream, so a host
that takes part in the trace hangs its own spans below it. Contents of messages are never in a span.

OpenTelemetry's SDK batches the spans on a thread of its own and sends them as OTLP over HTTP. It is
an extra: import this module only where traces are configured.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from router.config.telemetry import Telemetry
from router.records import Record, Trace

CLOSE_S = 3.0  # how long a server that ends waits for its collector

_OPERATIONS = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
# Provider kinds as the conventions call them; others keep their own name.
_PROVIDERS = {
    "mistral": "mistral_ai",
    "gemini": "gcp.gemini",
    "azure": "azure.ai.openai",
}


class Traces:
    """Sends spans to a collector.

    Args:
        settings: the collector's address and headers, and the service's name.
        kinds: the kind of each provider by its name.
    """

    def __init__(self, settings: Telemetry, kinds: Mapping[str, str]) -> None:
        self._kinds = kinds
        self._scope = InstrumentationScope("evalrouter", version("evalrouter"))
        self._resource = Resource.create({"service.name": settings.service_name})
        endpoint = settings.otlp_endpoint.rstrip("/").removesuffix("/v1/traces")
        self._exporter = OTLPSpanExporter(
            endpoint=f"{endpoint}/v1/traces",
            headers={name: value.reveal() for name, value in settings.otlp_headers.items()},
        )
        self._spans = BatchSpanProcessor(self._exporter)

    def send(self, record: Record) -> None:
        """Queue a completed record's span. On any thread; never waits for the collector."""
        trace = record.trace
        if trace is None or not trace.sampled:
            return
        start = int(record.at * 1e9)
        model = record.route if record.target is None else record.target.model
        operation = _OPERATIONS[record.path]
        failed = bool(record.error_code) or record.status >= 400
        span = ReadableSpan(
            name=f"{operation} {model}".rstrip(),
            context=_context(trace, trace.span_id, remote=False),
            parent=(
                None if trace.parent_id is None else _context(trace, trace.parent_id, remote=True)
            ),
            resource=self._resource,
            attributes=self._attributes(record, operation, model, failed),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=start,
            end_time=start + int(record.total_s * 1e9),
            instrumentation_scope=self._scope,
        )
        self._spans.on_end(span)

    def close(self, within: float = CLOSE_S) -> None:
        """Send what is queued, and stop; blocks for `within` seconds at most."""
        # The exporter goes on trying for long after; stopping it is what ends its waiting.
        limit = threading.Timer(within, self._exporter.shutdown)
        limit.start()
        try:
            self._spans.shutdown()  # type: ignore[no-untyped-call]  # it has no annotations
        finally:
            limit.cancel()

    def _attributes(
        self, record: Record, operation: str, model: str, failed: bool
    ) -> dict[str, Any]:
        kind = None if record.target is None else self._kinds.get(record.target.provider)
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": None if kind is None else _PROVIDERS.get(kind, kind),
            "gen_ai.request.model": model or None,
            "gen_ai.request.stream": record.stream,
            "gen_ai.response.model": record.model or None,
            "gen_ai.response.finish_reasons": (
                (record.finish_reason,) if record.finish_reason else None
            ),
            "gen_ai.response.time_to_first_chunk": record.first_byte_s if record.stream else None,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens or None,
            "gen_ai.usage.cache_creation.input_tokens": record.written_tokens or None,
            "openai.response.system_fingerprint": record.system_fingerprint or None,
            "http.response.status_code": record.status,
            "error.type": (record.error_code or str(record.status)) if failed else None,
            "evalrouter.request_id": record.request_id or record.id,
            "evalrouter.record": record.id,
            "evalrouter.route": record.route,
            "evalrouter.target": record.target_name() or None,
            "evalrouter.class": record.traffic_class,
            "evalrouter.cached": record.cached,
            "evalrouter.cost_usd": record.cost_usd,
            "evalrouter.attempts": tuple(
                f"{attempt.target} {attempt.result} {attempt.seconds:.3f}s"
                for attempt in record.attempts
            ),
        }
        return {name: value for name, value in attributes.items() if value is not None}


def _context(trace: Trace, span_id: int, *, remote: bool) -> SpanContext:
    return SpanContext(trace.trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))
