"""`/health/live` and `/health/ready`: for load balancers and supervisors."""

from __future__ import annotations

from litestar import Response, get

from providers.errors import StoreError
from router.api.injected import Injected


@get("/health/live", tags=["health"], summary="Is the process alive")
async def live() -> dict[str, str]:
    """200 as long as the event loop turns."""
    return {"status": "alive"}


@get("/health/ready", tags=["health"], summary="Can it take requests")
async def ready(services: Injected) -> Response[dict[str, str]]:
    """200 when the store answers; 503 otherwise, and while the process is about to end."""
    if services.draining:
        return Response({"status": "not ready", "reason": "draining"}, status_code=503)
    try:
        await services.store.runs(limit=1)
    except StoreError as error:
        return Response({"status": "not ready", "reason": error.message}, status_code=503)
    return Response({"status": "ready"})
