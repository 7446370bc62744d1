"""`/health/live` and `/health/ready`: for load balancers and supervisors."""

from __future__ import annotations

from litestar import Response, get

from router.api.injection import Injected


@get("/health/live", tags=["health"], summary="Is the process alive")
async def live() -> dict[str, str]:
    """Answer 200 as long as the event loop turns."""
    return {"status": "alive"}


@get("/health/ready", tags=["health"], summary="Can it take requests")
async def ready(services: Injected) -> Response[dict[str, str]]:
    """Answer 200 while the database works; 503 otherwise, and while the process is about to end.

    With `storage.required: false` the answer is 200 while the database does not work, too:
    `status` is `degraded` then. `database` and `reason` say what is wrong.
    """
    if services.draining:
        return Response({"status": "not ready", "reason": "draining"}, status_code=503)
    fault = await services.readiness.fault()
    if fault is None:
        return Response({"status": "ready"})
    required = services.config.storage.required
    return Response(
        {
            "status": "not ready" if required else "degraded",
            "reason": fault.reason,
            "database": fault.fault,
        },
        status_code=503 if required else 200,
    )
