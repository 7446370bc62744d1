"""`/routes/{name}/learned`: learns a route, and says whether its model pays."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, post
from litestar.params import FromPath

from router.api.access import InjectedCaller
from router.api.bodies import check_no_options
from router.api.injection import Injected
from router.loop.learned.learned_routes import LearnedReport
from router.store.learned import LearnedModel


@get("/routes/{name:str}/learned", tags=["routes"], summary="Show a learned route")
async def show_learned(services: Injected, name: FromPath[str]) -> LearnedReport:
    """Show the model, what it is worth on requests that it has not seen, and what it did lately.

    `state` says whether it chooses: `applied` only where the held-out test has shown that it pays
    and the route's `mode` is `apply`.
    """
    return await services.learned_routes.report(name)


@post("/routes/{name:str}/learned", tags=["routes"], summary="Learn a route", status_code=202)
async def learn_route(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
) -> LearnedModel:
    """Begin to learn the route from its runs, shadows or feedback, and return the new model.

    It is made in the background; until it is ready the earlier one stays in use.
    """
    await check_no_options(request)
    return await services.learned_routes.begin(name, actor=caller.actor)
