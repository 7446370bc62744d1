"""The pages of shadows: what is compared beside the answers that clients get."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from litestar import Request, Response
from litestar.params import FromPath, FromQuery

from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import action, done_or_shown, money, page
from router.api.page_tables import Export, TableColumn, TableView
from router.api.route_sections import section_page, section_table
from router.api.sign_in import read_fields
from router.config.documents import convert_data
from router.loop.shadow import ShadowChange, ShadowView
from router.services import Services

_COLUMNS = (
    TableColumn("route", "Route", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn("candidates", "Candidates"),
    TableColumn(
        "requests", "Requests", sorts=True, number=True, value=attrgetter("funnel.requests")
    ),
    TableColumn("scored", "Scored", sorts=True, number=True, value=attrgetter("funnel.scored")),
    TableColumn("waiting", "Waiting", sorts=True, number=True, value=attrgetter("funnel.waiting")),
    TableColumn(
        "spent", "Spent today", sorts=True, number=True, value=attrgetter("spent_today_usd")
    ),
    TableColumn("why", "Why"),
)


@page("/pages/shadows")
async def shadow_list(
    services: Injected,
    caller: InjectedCaller,
    sort: FromQuery[str] = "route",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the shadows of all routes."""
    view = TableView("/shadows", _COLUMNS, sort=sort, filters={}, after=after, export=export)
    shadows = view.page_of(await services.shadows.views(), lambda shadow: shadow.route)
    return await section_table("shadows", caller, view, map(_cells, shadows))


def _cells(shadow: ShadowView) -> dict[str, Any]:
    return {
        "route": shadow.route,
        "state": shadow.state,
        "candidates": "" if shadow.shadow is None else ", ".join(shadow.shadow.targets),
        "requests": shadow.funnel.requests,
        "scored": shadow.funnel.scored,
        "waiting": shadow.funnel.waiting,
        "spent": money(shadow.spent_today_usd),
        "why": shadow.blocked or shadow.reason,
    }


@page("/pages/routes/{name:str}/shadow")
async def shadow_page(
    services: Injected, caller: InjectedCaller, name: FromPath[str]
) -> Response[str]:
    """Show a route's shadow; what it has found out is on the page of its run."""
    return await _page(services, caller, name)


@action("/pages/routes/{name:str}/shadow")
async def change_shadow(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Any:
    """Pause a shadow, or resume it."""
    fields = await read_fields(request)
    reason = fields.get("reason", "")
    data = {"action": fields.get("do", ""), "reason": reason}

    async def change() -> str:
        typed = convert_data(data, ShadowChange, error=RequestError)
        await services.shadows.change(name, typed, caller.key_id)
        return f"/routes/{name}/shadow"

    async def shown(error: EvalrouterError) -> Response[str]:
        return await _page(services, caller, name, error=error.message, reason=reason)

    return await done_or_shown(change(), shown)


async def _page(
    services: Services, caller: Caller, name: str, *, error: str = "", reason: str = ""
) -> Response[str]:
    view = await services.shadows.view(name)
    funnel = view.funnel
    counts = [
        (words, getattr(funnel, field))
        for field, words in _FUNNEL.items()
        if getattr(funnel, field)
    ]
    return await section_page(
        "shadow.html",
        caller,
        title=f"Shadow of {name}",
        shadow=view,
        counts=counts,
        changed_by=services.keys.name_of(view.changed_by) if view.changed_by else "",
        may_change=caller.reach_of("POST /routes/{name}/shadow") == "all",
        error=error,
        reason=reason,
    )


_FUNNEL = {
    "scored": "answered by every candidate, and scored",
    "waiting": "wait to be sent, or are under way",
    "not_sampled": "were not drawn",
    "excluded": "are excluded: of such a key, or with store: false",
    "paused": "came while it was paused",
    "over_budget": "found the day's money spent",
    "shed": "found the queue full",
    "unjudgeable": "cannot be compared",
    "error": "a candidate or a judge failed, or they waited too long",
    "stopped": "waited when it ended",
    "deleted": "were deleted on demand",
}
