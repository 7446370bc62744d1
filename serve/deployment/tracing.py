"""Ray Serve's own spans, sent to an OpenTelemetry collector.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318
    RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=serve.deployment.tracing:processors

With these two in the environment of every machine, Ray makes a span of each request in its proxy,
in the ingress and in the copy that works on it, below the span whose `traceparent` came with the
request: the router's, which is below its client's. Needs the extra `otel`.
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def processors() -> list[SpanProcessor]:
    """Return the span processors; Ray calls this in each of its processes."""
    # It reads the endpoint, headers and time-outs from OpenTelemetry's own variables.
    return [BatchSpanProcessor(OTLPSpanExporter())]
