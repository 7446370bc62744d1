"""`/watches`: what is sent to targets again and again, and whether they have changed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from router.api.access import InjectedCaller
from router.api.bodies import body_as, check_no_options
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET, PageSize
from router.loop.watches import WatchPin, WatchReport, WatchView
from router.store.watches import WatchProbe

Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_OFFSET)]


class WatchList(msgspec.Struct):
    """The watches of the config."""

    data: list[WatchView]
    object: str = "list"


@get("/watches", tags=["watches"], summary="List watches")
async def list_watches(services: Injected) -> WatchList:
    """List every watch, with its state and the evidence of a change so far."""
    return WatchList(await services.watches.views())


@get("/watches/{name:str}", tags=["watches"], summary="Show a watch and its probes")
async def show_watch(
    services: Injected,
    name: FromPath[str],
    signal: FromQuery[str | None] = None,
    before: Before = None,
    limit: PageSize = 100,
) -> WatchReport:
    """Show a watch, its references, its newest probes, and what the target claimed to be.

    `signal` selects the probes of one signal; `before` those with smaller numbers, for the next
    page.
    """
    return await services.watches.report(name, signal=signal, before=before, limit=limit)


@post("/watches/{name:str}/probe", tags=["watches"], summary="Probe now", status_code=200)
async def probe_watch(
    services: Injected, name: FromPath[str], request: Request[Any, Any, Any]
) -> WatchProbe:
    """Send a probe now, and answer with what came of it; 409 while another one is under way."""
    await check_no_options(request)
    return await services.watches.probe(name)


@post("/watches/{name:str}/pin", tags=["watches"], summary="Pin a new reference", status_code=200)
async def pin_watch(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> WatchView:
    """Begin a new reference: the next probes say what answers should look like from now on."""
    pin = await body_as(request, WatchPin)
    return await services.watches.pin(name, pin, caller.actor)
