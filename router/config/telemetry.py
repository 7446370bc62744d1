"""`telemetry:` of the config: where traces go."""

from __future__ import annotations

import msgspec

from providers.base import Secret
from router.config.section import Section


class Telemetry(Section, frozen=True, kw_only=True):
    """Where traces go. Metrics are always at `/metrics`.

    Attributes:
        otlp_endpoint: an OpenTelemetry collector's address for OTLP over HTTP, as
            `http://127.0.0.1:4318`; "" for no traces. Needs the extra `otel`.
        otlp_headers: sent with every export; their values are secrets to every log.
        service_name: what the traces call this gateway.
    """

    otlp_endpoint: str = ""
    otlp_headers: dict[str, Secret] = msgspec.field(default_factory=dict)
    service_name: str = "evalrouter"
