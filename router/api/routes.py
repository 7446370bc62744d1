"""`/routes`: shows and changes the routes while the server runs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.params import FromPath, FromQuery, QueryParameter

from providers.errors import ConfigError
from router.api.access import Caller, InjectedCaller
from router.api.bodies import document_of
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET, PageSize
from router.config.routes import Route
from router.gateway.route_table import RouteView
from router.services import Services
from router.store.routes import RouteVersion

ChangeReason = Annotated[str, QueryParameter(max_length=2000)]
VersionNumber = Annotated[int | None, QueryParameter(ge=1, le=MAX_OFFSET)]


class RouteList(msgspec.Struct):
    """All routes."""

    data: list[RouteView]
    object: str = "list"


@get("/routes", tags=["routes"], summary="List routes")
async def list_routes(services: Injected) -> RouteList:
    """List every route with its targets and weights, and whether it was set at run time."""
    return RouteList(services.routes.view())


class RouteVersionList(msgspec.Struct):
    """Versions of a route, newest first."""

    data: list[RouteVersion]
    object: str = "list"


async def set_route(
    services: Services,
    caller: Caller,
    name: str,
    data: Any,
    *,
    version: str | None = None,
    reason: str = "",
) -> RouteView:
    """Set a route, new or not; see `Routes.put`.

    Raises:
        ConfigError: it cannot be used, and RequestError where its shadow or its rollout cannot.
        ConflictError: it was changed meanwhile.
    """
    route = services.routes.read(name, data)
    _check_listed(services, name, route)
    await services.shadows.check(name, route)
    await services.rollouts.check(route)
    return await services.routes.put(name, data, actor=caller.actor, reason=reason, version=version)


def _check_listed(services: Services, name: str, route: Route) -> None:
    """Refuse a target that is new in a route, and that its provider's list is known to lack.

    Raises:
        ConfigError: naming it.
    """
    current = services.routes.table.routes.get(name)
    known = frozenset(() if current is None else current.named)
    for target in route.named:
        if target not in known and (problem := services.model_lists.unlisted(target)):
            raise ConfigError(f"routes.{name}: {problem}")


@get("/routes/{name:str}", tags=["routes"], summary="Show a route")
async def show_route(services: Injected, name: FromPath[str]) -> RouteView:
    """Show one route."""
    return services.routes.find(name)


@put("/routes/{name:str}", tags=["routes"], summary="Set a route")
async def put_route(
    *,
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    request: Request[Any, Any, Any],
    version: FromQuery[str | None] = None,
    reason: ChangeReason = "",
) -> RouteView:
    """Set a route, new or not, without dropping a request. The body is as in the config file.

    With the `version` that it was shown with, it is refused with 409 if it has changed since; a
    route that does not exist has the version "". `reason` is stored with the new version.
    """
    document = await document_of(request)
    return await set_route(services, caller, name, document.data, version=version, reason=reason)


@delete("/routes/{name:str}", tags=["routes"], summary="Undo a change of a route")
async def delete_route(
    services: Injected,
    caller: InjectedCaller,
    name: FromPath[str],
    version: FromQuery[str | None] = None,
    reason: ChangeReason = "",
) -> None:
    """Drop what was set at run time; the config file's route, if it has one, is back.

    `version` and `reason` are as for setting one.
    """
    await services.routes.remove(name, actor=caller.actor, reason=reason, version=version)


@get("/routes/{name:str}/versions", tags=["routes"], summary="List what a route was")
async def list_route_versions(
    services: Injected, name: FromPath[str], before: VersionNumber = None, limit: PageSize = 50
) -> RouteVersionList:
    """List the versions of a route, newest first: what it was, who made it so, when and why.

    A change of the config file is a version once the route is set at run time. `before` is the
    number of the previous page's last one. The last 1,000 are stored.
    """
    return RouteVersionList(await services.routes.versions(name, limit=limit, before=before))
