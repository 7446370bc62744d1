"""Pages for a browser that show what there is: routes, runs, experiments, datasets.

Where the API has the same path, a browser gets the page and a program gets JSON: `page_layout.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, NamedTuple, get_args

from litestar import Request, Response, get
from litestar.params import FromQuery
from litestar.response import ServerSentEvent

from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import page, part, rendered, utc
from router.api.page_tables import Export, TableColumn, TableView, table_response
from router.api.recent_totals import RECENT_S, InjectedRecentTotals, RecentTotals
from router.api.route_sections import sections_of
from router.services import Services
from router.store.experiments import Experiment
from router.store.review import ReviewFilter
from router.store.runs import Run, RunFilter, RunState


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


def _routes(services: Services) -> list[RouteRow]:
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
        **await _home_values(services, caller, recent, request),
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
        return await part("home_part.html", **await _home_values(services, caller, recent, request))

    return parts.stream(("home", caller.audience, str(request.base_url)), make)


async def _home_values(
    services: Services, caller: Caller, recent: RecentTotals, request: Request[Any, Any, Any]
) -> dict[str, Any]:
    def may(operation: str) -> bool:
        return caller.reach_of(operation) == "all"

    store, sees_routes = services.store, may("GET /routes")
    active, newest, totals, alerts, reviews, rollouts = await asyncio.gather(
        _active_runs(services, caller),
        store.runs(RunFilter(key_id=caller.only), limit=5),
        recent.totals(caller.only),
        store.open_alerts() if may("GET /alerts") else _nothing(),
        store.count_review_rows(ReviewFilter(state="waiting")) if may("GET /review") else _zero(),
        store.rollouts(active=True) if may("GET /rollouts") else _nothing(),
    )
    return {
        "base_url": str(request.base_url).rstrip("/"),
        "minutes": round(RECENT_S / 60),
        "totals": totals,
        "requests": sum(total.requests for total in totals),
        "failures": sum(total.failures for total in totals),
        "cost_usd": sum(total.cost_usd for total in totals),
        "unpriced": sum(total.unpriced for total in totals),
        "active": active,
        "newest": newest,
        "firing": [alert for alert in alerts if alert.state == "firing"],
        "sees_alerts": may("GET /alerts"),
        "reviews": reviews,
        "sees_reviews": may("GET /review"),
        "rollouts": rollouts,
        "sees_rollouts": may("GET /rollouts"),
        "routes": _routes(services) if sees_routes else [],
        "providers": [(name, provider.kind) for name, provider in services.config.providers.items()]
        if sees_routes
        else [],
    }


async def _nothing() -> list[Any]:
    return []


async def _zero() -> int:
    return 0


async def _active_runs(services: Services, caller: Caller) -> list[Run]:
    states: tuple[RunState, ...] = ("running", "queued")
    pages = [
        await services.store.runs(RunFilter(state=state, key_id=caller.only), limit=20)
        for state in states
    ]
    return [run for runs in pages for run in runs]


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
    rows = [row for row in _routes(services) if q.lower() in f"{row.name} {row.targets}".lower()]
    view = TableView(
        "/routes", _ROUTE_COLUMNS, sort=sort, filters={"q": q}, after=after, export=export
    )
    return await table_response(
        "routes",
        caller,
        view,
        (row._asdict() for row in view.page_of(rows, _name)),
        q=q,
        sections=sections_of(caller),
        providers=list(services.config.providers),
    )


def _name(row: RouteRow | Experiment) -> str:
    return row.name


_RUN_COLUMNS = (
    TableColumn("name", "Run"),
    TableColumn("state", "State"),
    TableColumn("dataset", "Dataset"),
    TableColumn("samples", "Samples", number=True),
    TableColumn("routes", "Routes"),
    TableColumn("experiment", "Experiment"),
    TableColumn("created", "Created (UTC)", sorts=True),
    TableColumn("id", "Id"),
)


@page("/runs")
async def run_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    state_is: FromQuery[Literal["", RunState]] = "",
    experiment: FromQuery[str] = "",
    tag: FromQuery[str] = "",
    sort: FromQuery[str] = "-created",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the runs; `after` is the id of the last run of the page before."""
    filters = {"state_is": state_is, "experiment": experiment, "tag": tag}
    view = TableView("/runs", _RUN_COLUMNS, sort=sort, filters=filters, after=after, export=export)
    matching = RunFilter(
        state=state_is or None,
        experiment=experiment or None,
        tag=tag or None,
        key_id=caller.only,
    )
    runs = await services.store.runs(
        matching,
        limit=view.size + 1,
        before=after or None,
        oldest_first=not view.descending,
    )
    return await table_response(
        "runs",
        caller,
        view,
        map(_run_cells, view.page(runs, lambda run: run.id)),
        **filters,
        states=get_args(RunState),
        may_start=caller.reach_of("POST /eval") != "no",
    )


def _run_cells(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "dataset": run.dataset,
        "samples": run.dataset_rows,
        "routes": ", ".join(map(str, run.document.get("routes") or ())),
        "experiment": run.experiment,
        "created": utc(run.created_at),
        "id": run.id,
    }


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
    last = experiment.last_run_at
    return {
        "name": experiment.name,
        "runs": experiment.runs,
        "tags": ", ".join(experiment.tags),
        "notes": experiment.notes,
        "last_run_at": "" if last is None else utc(last),
    }
