"""`/routes/{name}/rollout`: give a candidate a growing share of a route's requests."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery

from router.api.access import Caller, InjectedCaller
from router.api.bodies import body_as, document_of
from router.api.injection import Injected
from router.api.paging import PageSize
from router.config.documents import Document
from router.loop.rollout_report import RolloutReport
from router.loop.rollouts import Action, RolloutAction
from router.services import Services
from router.store.rollouts import Rollout


class RolloutList(msgspec.Struct):
    """Rollouts, newest first."""

    data: list[Rollout]
    object: str = "list"


@get("/rollouts", tags=["rollouts"], summary="List rollouts")
async def list_rollouts(
    services: Injected, route: FromQuery[str | None] = None, limit: PageSize = 50
) -> RolloutList:
    """List rollouts, newest first, of one route or of all."""
    return RolloutList(await services.rollouts.list(route, limit=limit))


@post("/routes/{name:str}/rollout", tags=["rollouts"], summary="Start a rollout")
async def start_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Rollout:
    """Give a candidate the first step's share of the route's requests, in all processes.

    What the body leaves out is as in the route's `rollout`, else the default. The answer's
    `forecast` says how many requests and days the goals will take. A rollout whose goals cannot be
    shown with the route's traffic is refused with 409, unless `force` is true.
    """
    return await begin_rollout(services, caller, name, await document_of(request))


async def begin_rollout(
    services: Services, caller: Caller, name: str, document: Document
) -> Rollout:
    """Start a rollout as a document says; see `Rollouts.start`."""
    requested = services.rollouts.request_of(name, document)
    rollout = await services.rollouts.start(name, requested, actor=caller.actor)
    await services.assignments.follow()
    return rollout


@get("/routes/{name:str}/rollout", tags=["rollouts"], summary="Show a route's rollout")
async def show_rollout(
    services: Injected, name: FromPath[str], rollout: FromQuery[str | None] = None
) -> RolloutReport:
    """Show the route's newest rollout, or the one whose id is `rollout`, with all its decisions."""
    return await services.rollouts.report(name, rollout)


@post(
    "/routes/{name:str}/rollout/pause",
    tags=["rollouts"],
    summary="Pause a rollout",
    status_code=200,
)
async def pause_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Rollout:
    """Keep the candidate's share as it is, and decide nothing until it is resumed."""
    return await _act(services, caller, name, "pause", request)


@post(
    "/routes/{name:str}/rollout/resume",
    tags=["rollouts"],
    summary="Resume a rollout",
    status_code=200,
)
async def resume_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Rollout:
    """Go on where it was paused."""
    return await _act(services, caller, name, "resume", request)


@post(
    "/routes/{name:str}/rollout/promote",
    tags=["rollouts"],
    summary="Promote the candidate",
    status_code=200,
)
async def promote_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Rollout:
    """Give the candidate all of the route's requests, whatever has been shown."""
    return await _act(services, caller, name, "promote", request)


@post(
    "/routes/{name:str}/rollout/rollback",
    tags=["rollouts"],
    summary="Roll back",
    status_code=200,
)
async def rollback_rollout(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> Rollout:
    """Take all requests from the candidate; a route that was promoted is what it was before."""
    return await _act(services, caller, name, "rollback", request)


async def _act(
    services: Services,
    caller: Caller,
    name: str,
    action: Action,
    request: Request[Any, Any, Any],
) -> Rollout:
    requested = await body_as(request, RolloutAction, default=b"{}")
    return await decide_rollout(services, caller, name, action, requested)


async def decide_rollout(
    services: Services, caller: Caller, name: str, action: Action, requested: RolloutAction
) -> Rollout:
    """Do what a person decided about a route's newest rollout; see `Rollouts.act`."""
    rollout = await services.rollouts.act(name, action, requested, actor=caller.actor)
    await services.assignments.follow()
    return rollout
