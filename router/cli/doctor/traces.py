"""Checks of where traces go: whether the collector and Phoenix take what they are sent."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from router.cli.doctor.findings import Finding
from router.config.telemetry import Telemetry

# A collector that takes longer is too slow for the spans of a server as well.
_LIMIT_S = 3.0


def traces(telemetry: Telemetry, limit_s: float) -> Iterator[Finding]:
    """Yield whether an export of no spans, and none of no scores, is taken.

    Args:
        telemetry: the config's section, with a collector.
        limit_s: seconds that each may take.
    """
    try:
        from router.gateway.otlp import CollectorClient  # noqa: PLC0415 - an extra, which another check misses
        from router.gateway.phoenix import PhoenixAnnotations  # noqa: PLC0415 - likewise
    except ImportError:
        return
    limited = msgspec.structs.replace(telemetry, otlp_timeout=min(limit_s, _LIMIT_S))
    collector = CollectorClient(limited)
    result = collector.send(b"")
    collector.abort()
    yield _finding("otlp_endpoint", telemetry.otlp_endpoint, result.failure)
    if telemetry.phoenix:
        phoenix = PhoenixAnnotations(limited)
        failure = phoenix.post([])
        phoenix.close()
        yield _finding("phoenix", telemetry.phoenix, failure)


def _finding(key: str, address: str, failure: str) -> Finding:
    if not failure:
        return Finding("traces", "ok", f"telemetry.{key}: {address} takes what it is sent")
    return Finding(
        "traces",
        "warning",
        f"telemetry.{key}: {address}: {failure[:300]}",
        f"start the collector, or correct telemetry.{key} and its headers; requests do not wait "
        "for it, but their spans are lost",
    )
