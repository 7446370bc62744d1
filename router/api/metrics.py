"""`/metrics`: for Prometheus and whatever reads its formats."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from router.api.injection import Injected


@get("/metrics", tags=["observe"], summary="Metrics for Prometheus")
async def metrics(services: Injected, request: Request[Any, Any, Any]) -> Response[bytes]:
    """All metrics of this server, over all its workers, as Prometheus's text or as OpenMetrics."""
    body, content_type = await services.telemetry.exposition(request.headers.get("accept", ""))
    return Response(body, media_type=content_type)
