"""`/metrics`: for Prometheus and whatever reads its formats."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from router.api.injection import Injected


@get("/metrics", tags=["observe"], summary="Metrics for Prometheus")
async def metrics(services: Injected, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show the metrics of this server and all its workers, as Prometheus's text or OpenMetrics."""
    body, content_type = await services.telemetry.exposition(request.headers.get("accept", ""))
    return Response(body, media_type=content_type)
