"""Pages for a browser that show what there is: routes, experiments.

Where the API has the same path, a browser gets the page and a program gets JSON: `page_layout.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from litestar import Response
from litestar.params import FromQuery

from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import page, utc
from router.api.page_tables import Export, TableColumn, TableView, table_response
from router.api.route_sections import section_table
from router.services import Services
from router.store.experiments import Experiment


class RouteRow(NamedTuple):
    """A route as its table shows it.

    Attributes:
        name: what clients send as the model.
        strategy: how it chooses; "" where the route cannot be used.
        targets: its targets with their weights.
        fallback: what follows when all of them failed.
        source: `config` or `override`.
        error: why it, or its override, is not in use.
    """

    name: str
    strategy: str
    targets: str
    fallback: str
    source: str
    error: str


def route_rows(services: Services) -> list[RouteRow]:
    """Return every route as its table shows it."""
    rows = []
    for view in services.routes.view():
        route = view.route
        rows.append(
            RouteRow(
                name=view.name,
                strategy="" if route is None else route.strategy,
                targets=""
                if route is None
                else ", ".join(f"{target.model} ({target.weight:g})" for target in route.targets),
                fallback="" if route is None else ", ".join(route.fallback),
                source=view.source,
                error=view.override_error,
            )
        )
    return rows


_ROUTE_COLUMNS = (
    TableColumn("name", "Route", sorts=True),
    TableColumn("strategy", "Strategy", sorts=True),
    TableColumn("targets", "Targets (weight)"),
    TableColumn("fallback", "Fallback"),
    TableColumn("source", "Set by", sorts=True),
    TableColumn("error", "Problem"),
)


@page("/pages/routes")
async def route_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    q: FromQuery[str] = "",
    sort: FromQuery[str] = "name",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the routes; `q` is a part of a name or of a target."""
    rows = [row for row in route_rows(services) if q.lower() in f"{row.name} {row.targets}".lower()]
    view = TableView(
        "/routes", _ROUTE_COLUMNS, sort=sort, filters={"q": q}, after=after, export=export
    )
    return await section_table(
        "routes",
        caller,
        view,
        (row._asdict() for row in view.page_of(rows, _name)),
        q=q,
        providers=list(services.config.providers),
    )


def _name(row: RouteRow | Experiment) -> str:
    return row.name


_EXPERIMENT_COLUMNS = (
    TableColumn("name", "Experiment", sorts=True),
    TableColumn("runs", "Runs", sorts=True, number=True),
    TableColumn("tags", "Tags"),
    TableColumn("notes", "Notes"),
    TableColumn("last_run_at", "Last run (UTC)", sorts=True),
)


@page("/pages/experiments")
async def experiment_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    tag: FromQuery[str] = "",
    sort: FromQuery[str] = "-last_run_at",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the experiments; `tag` is one that they have."""
    experiments = await services.store.experiments(tag=tag or None)
    view = TableView(
        "/experiments",
        _EXPERIMENT_COLUMNS,
        sort=sort,
        filters={"tag": tag},
        after=after,
        export=export,
    )
    shown = map(_experiment_cells, view.page_of(experiments, _name))
    return await table_response("experiments", caller, view, shown, tag=tag)


def _experiment_cells(experiment: Experiment) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "runs": experiment.runs,
        "tags": ", ".join(experiment.tags),
        "notes": experiment.notes,
        "last_run_at": utc(experiment.last_run_at),
    }
