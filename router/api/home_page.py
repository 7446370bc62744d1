"""The home page: what goes on, and what waits for people; first steps on a new server."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, Response, get
from litestar.response import ServerSentEvent
from markupsafe import Markup

from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import navigation_of, page, part, rendered
from router.api.pages import route_rows
from router.api.recent_totals import (
    RECENT_S,
    STRETCH_S,
    InjectedRecentTotals,
    RecentTotals,
    RequestsByRoute,
)
from router.api.runs_page import runs_under_way
from router.services import Services
from router.store.review import ReviewFilter
from router.store.runs import RunFilter
from router.web.plots.figure import label
from router.web.plots.history import sparkline

# Routes with a picture of what they cost.
_DRAWN_ROUTES = 20


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

    async def make() -> str:
        return await part("home_part.html", **await _values(services, caller, recent, request))

    return parts.stream(caller, ("home", str(request.base_url)), make)


async def _values(
    services: Services, caller: Caller, recent: RecentTotals, request: Request[Any, Any, Any]
) -> dict[str, Any]:
    def may(operation: str) -> bool:
        return caller.reach_of(operation) == "all"

    store, sees_routes = services.store, may("GET /routes")
    active, newest, requests, alerts, reviews, rollouts = await asyncio.gather(
        runs_under_way(services, caller),
        store.runs(RunFilter(key_id=caller.only), limit=5),
        recent.requests(caller.only),
        store.open_alerts() if may("GET /alerts") else _nothing(),
        store.count_review_rows(ReviewFilter(state="waiting")) if may("GET /review") else _zero(),
        store.rollouts(active=True) if may("GET /rollouts") else _nothing(),
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
        "spark": await asyncio.to_thread(_sparks, requests),
        "pages": {entry.path for entry in navigation_of(caller)},
        "may_start": may("POST /eval"),
        "active": active,
        "newest": newest,
        "firing": [alert for alert in alerts if alert.state == "firing"],
        "sees_alerts": may("GET /alerts"),
        "reviews": reviews,
        "sees_reviews": may("GET /review"),
        "rollouts": rollouts,
        "sees_rollouts": may("GET /rollouts"),
        "routes": route_rows(services) if sees_routes else [],
        "providers": [(name, provider.kind) for name, provider in services.config.providers.items()]
        if sees_routes
        else [],
    }


async def _nothing() -> list[Any]:
    return []


async def _zero() -> int:
    return 0


def _sparks(requests: RequestsByRoute) -> dict[str, Markup]:
    """Draw what routes cost over the time, and under "" what all did."""
    title = f"US dollars in each {STRETCH_S:g} seconds"
    routes = [str(total.group["route"]) for total in requests.totals[:_DRAWN_ROUTES]]
    return {
        name: sparkline(f"{label(name)}: {title}" if name else title, requests.costs[name]).svg
        for name in ("", *routes)
        if any(requests.costs[name])
    }
