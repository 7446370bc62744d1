"""`/routes`: shows and changes the routes while the server runs."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get, put
from litestar.params import FromPath

from providers.errors import NotFoundError
from router.api.bodies import document_of
from router.api.injection import Injected
from router.gateway.route_table import RouteView


class RouteList(msgspec.Struct):
    """All routes."""

    data: list[RouteView]
    object: str = "list"


@get("/routes", tags=["routes"], summary="List routes")
async def list_routes(services: Injected) -> RouteList:
    """List every route with its targets and weights, and whether it was set at run time."""
    return RouteList(services.routes.view())


@get("/routes/{name:str}", tags=["routes"], summary="Show a route")
async def show_route(services: Injected, name: FromPath[str]) -> RouteView:
    """Show one route."""
    for view in services.routes.view():
        if view.name == name:
            return view
    raise NotFoundError(f"The route {name!r} does not exist.")


@put("/routes/{name:str}", tags=["routes"], summary="Set a route")
async def put_route(
    services: Injected, name: FromPath[str], request: Request[Any, Any, Any]
) -> RouteView:
    """Set a route, new or not, without dropping a request. The body is as in the config file."""
    document = await document_of(request)
    route = services.routes.read(name, document.data)
    await services.shadows.check(name, route)
    await services.rollouts.check(route)
    return RouteView(name, "override", await services.routes.put(name, document.data))


@delete("/routes/{name:str}", tags=["routes"], summary="Undo a change of a route")
async def delete_route(services: Injected, name: FromPath[str]) -> None:
    """Drop what was set at run time; the config file's route, if it has one, is back."""
    await services.routes.remove(name)
