"""The home page: what goes on, and what waits for people; first steps on a new server."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from litestar import Request, Response, get
from litestar.response import ServerSentEvent
from markupsafe import Markup

from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import ShownPart, navigation_of, page, rendered
from router.api.pages import route_rows
from router.api.recent_totals import (
    GOING_ON,
    RECENT_S,
    STRETCH_S,
    InjectedRecentTotals,
    RecentTotals,
    RequestsByRoute,
)
from router.api.runs_page import MAX_UNDER_WAY
from router.services import Services
from router.web.plots.figure import label
from router.web.plots.history import sparkline

# Routes with a picture of what they cost.
_DRAWN_ROUTES = 20
_NEWEST_RUNS = 5


@page("/")
async def home(
    services: Injected,
    caller: InjectedCaller,
    recent: InjectedRecentTotals,
    request: Request[Any, Any, Any],
) -> Response[str]:
    """Show what goes on: requests, runs, and what waits for people; first steps on a new server."""
    return await rendered(
        "home.html",
        caller,
        title="Home",
        current="/",
        **await _values(services, caller, recent, request),
    )


@get("/pages/live/home", include_in_schema=False)
async def home_part(
    services: Injected,
    caller: InjectedCaller,
    parts: InjectedLiveParts,
    recent: InjectedRecentTotals,
    request: Request[Any, Any, Any],
) -> ServerSentEvent:
    """Send what goes on whenever it changes."""
    shown = ShownPart("home_part.html")

    async def make() -> str:
        return await shown.html(await _values(services, caller, recent, request))

    return parts.stream(caller, ("home", str(request.base_url)), make)


async def _values(
    services: Services, caller: Caller, recent: RecentTotals, request: Request[Any, Any, Any]
) -> dict[str, Any]:
    def may(operation: str) -> bool:
        return caller.reach_of(operation) == "all"

    sees_routes = may("GET /routes")
    overview, requests = await asyncio.gather(
        services.store.overview(
            caller.only,
            active=MAX_UNDER_WAY,
            newest=_NEWEST_RUNS,
            alerts=may("GET /alerts"),
            reviews=may("GET /review"),
            rollouts=may("GET /rollouts"),
        ),
        recent.requests(caller.only),
    )
    return {
        "base_url": str(request.base_url).rstrip("/"),
        "minutes": round(RECENT_S / 60),
        "totals": requests.totals,
        "times": requests.times,
        "timed": sum(times.n for times in requests.times.values()),
        "requests": sum(total.requests for total in requests.totals),
        "failures": sum(total.failures for total in requests.totals),
        "cost_usd": sum(total.cost_usd for total in requests.totals),
        "unpriced": sum(total.unpriced for total in requests.totals),
        "spark": await _sparks(requests),
        "pages": {entry.path for entry in navigation_of(caller)},
        "may_start": may("POST /eval"),
        "active": overview.active,
        "newest": overview.newest,
        "firing": [alert for alert in overview.alerts if alert.state == "firing"],
        "sees_alerts": may("GET /alerts"),
        "reviews": overview.reviews,
        "sees_reviews": may("GET /review"),
        "rollouts": overview.rollouts,
        "sees_rollouts": may("GET /rollouts"),
        "routes": route_rows(services) if sees_routes else [],
        "providers": [(name, provider.kind) for name, provider in services.config.providers.items()]
        if sees_routes
        else [],
    }


async def _sparks(requests: RequestsByRoute) -> dict[str, Markup]:
    """Draw what routes cost in the stretches that are over, and under "" what all did."""
    names = ["", *(str(total.group["route"]) for total in requests.totals[:_DRAWN_ROUTES])]
    costs = {name: tuple(requests.costs[name][:-GOING_ON]) for name in names}
    return await asyncio.to_thread(
        lambda: {name: _spark(name, cost) for name, cost in costs.items() if any(cost)}
    )


# A stretch that is over seldom changes, and a page is made twice a second.
@lru_cache(1000)
def _spark(route: str, costs: tuple[float, ...]) -> Markup:
    title = f"US dollars in each {STRETCH_S:g} seconds"
    return sparkline(f"{label(route)}: {title}" if route else title, costs).svg
