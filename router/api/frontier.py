"""`/frontier`: the targets of a route by quality, cost and time."""

from __future__ import annotations

from litestar import get
from litestar.params import FromQuery

from router.api.injection import Injected
from router.loop.frontier import Frontier, FrontierRequest


@get("/frontier", tags=["routes"], summary="Compare the targets of a route")
async def show_frontier(
    services: Injected,
    *,
    route: FromQuery[str],
    quality: FromQuery[str] = "errors",
    since: FromQuery[str | None] = None,
    run: FromQuery[str] = "",
) -> Frontier:
    """Compare the targets of a route by quality, cost and time, and say which are worth having.

    `quality` is `feedback:NAME`, `errors`, `shadow:OUTPUT`, or the output of a run: of `run`, or of
    the newest one since `since` that has it and two of the targets.
    """
    return await services.frontiers.of(
        FrontierRequest(route=route, quality=quality, since=since, run=run)
    )
