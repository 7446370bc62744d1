"""`/routes/{name}/shadow`: shows what a route's shadow has found out, and pauses or resumes it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath

from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.injection import Injected
from router.loop.shadow import ShadowChange, ShadowReport, ShadowView


class ShadowList(msgspec.Struct):
    """The shadows of all routes."""

    data: list[ShadowView]
    object: str = "list"


@get("/shadows", tags=["routes"], summary="List the shadows of all routes")
async def list_shadows(services: Injected) -> ShadowList:
    """List every route that has a shadow, with what was judged and why the rest was not."""
    return ShadowList(await services.shadows.views())


@get("/routes/{name:str}/shadow", tags=["routes"], summary="Show a route's shadow")
async def show_shadow(services: Injected, name: FromPath[str]) -> ShadowReport:
    """Show the candidates beside what clients got, and what was not judged and why."""
    return await services.shadows.report(name)


@post(
    "/routes/{name:str}/shadow",
    tags=["routes"],
    summary="Pause or resume a route's shadow",
    status_code=200,
)
async def change_shadow(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    name: FromPath[str],
) -> ShadowView:
    """Pause it, so that nothing is sent to candidates, or resume it, and note the reason."""
    change = await body_as(request, ShadowChange)
    return await services.shadows.change(name, change, caller.key_id)
