"""`/schedules`: what is executed at which times, and what came of it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery

from router.api.access import InjectedCaller
from router.api.bodies import body_as
from router.api.injection import Injected
from router.api.paging import PageSize
from router.loop.schedule_results import ScheduledRun
from router.loop.schedules import (
    ScheduleAcceptance,
    ScheduleReport,
    ScheduleRequest,
    ScheduleRunRequest,
    ScheduleView,
)


class ScheduleList(msgspec.Struct):
    """All schedules, in the order of the config."""

    data: list[ScheduleView]
    object: str = "list"


@get("/schedules", tags=["schedules"], summary="List schedules")
async def list_schedules(services: Injected) -> ScheduleList:
    """List every schedule of the config, when it is due next, and what came of the last time."""
    return ScheduleList(await services.schedules.views())


@get("/schedules/{name:str}", tags=["schedules"], summary="Show a schedule with its history")
async def show_schedule(
    services: Injected,
    name: FromPath[str],
    limit: PageSize = 50,
    before: FromQuery[float | None] = None,
) -> ScheduleReport:
    """Show a schedule, its document as it would be executed now, and the times that it was due.

    These are the newest first, each with its run's scores and gates; `before` is the `due` of the
    last one of the page before.
    """
    return await services.schedules.report(name, before=before, limit=limit)


@post(
    "/schedules/{name:str}/run",
    tags=["schedules"],
    summary="Run a schedule now",
    status_code=202,
)
async def run_schedule(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> ScheduledRun:
    """Begin a run now, and answer once it is queued; its `run_id` can be followed as any run.

    A document that is wrong by now is a `failed` one, and `result.error` says why. While a run of
    the schedule is under way, the answer is 409.
    """
    requested = await body_as(request, ScheduleRunRequest, default=b"{}")
    return await services.schedules.begin(name, requested, actor=caller.actor)


@post(
    "/schedules/{name:str}/pause",
    tags=["schedules"],
    summary="Pause a schedule",
    status_code=200,
)
async def pause_schedule(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> ScheduleView:
    """Begin no run at its times until it is resumed; a run that is under way goes on."""
    requested = await body_as(request, ScheduleRequest, default=b"{}")
    return await services.schedules.pause(name, requested, actor=caller.actor)


@post(
    "/schedules/{name:str}/resume",
    tags=["schedules"],
    summary="Resume a schedule",
    status_code=200,
)
async def resume_schedule(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> ScheduleView:
    """Execute it at its times again; what was due while it was paused is not caught up with."""
    requested = await body_as(request, ScheduleRequest, default=b"{}")
    return await services.schedules.resume(name, requested, actor=caller.actor)


@post(
    "/schedules/{name:str}/accept",
    tags=["schedules"],
    summary="Accept a run of a schedule",
    status_code=200,
)
async def accept_scheduled_run(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> ScheduleView:
    """Compare the next runs with this one: gates that name `last` are about it from now on.

    `run` is a run of the schedule that has completed; without it, the last one is accepted,
    if it passed its gates.
    """
    requested = await body_as(request, ScheduleAcceptance, default=b"{}")
    return await services.schedules.accept(name, requested, actor=caller.actor)
