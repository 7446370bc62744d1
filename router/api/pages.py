"""Pages for a browser: `/` lists routes and runs, `/runs/{id}` shows one run's report."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.params import FromPath

from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import page, rendered


@page("/")
async def home(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> Response[str]:
    """Show the routes, the providers and the newest runs."""
    config = services.config
    return await rendered(
        "home.html",
        caller,
        title="Home",
        current="/",
        base_url=str(request.base_url).rstrip("/"),
        routes=[
            {
                "name": name,
                "targets": ", ".join(
                    f"{target.model} ({target.weight:g})" for target in route.targets
                ),
            }
            for name, route in services.routes.table.routes.items()
        ],
        providers=[(name, provider.kind) for name, provider in config.providers.items()],
        runs=await services.store.runs(limit=50),
    )


@page("/runs/{run_id:str}")
async def run_page(
    services: Injected, caller: InjectedCaller, run_id: FromPath[str]
) -> Response[str]:
    """Show one run's report."""
    outcome = await services.runs.outcome(run_id)
    return await rendered(
        "run.html",
        caller,
        title=outcome.run.name,
        run=outcome.run,
        report=outcome.report,
        gates=outcome.gates,
        comparisons={
            (comparison.route, comparison.output): comparison
            for comparison in outcome.report.comparisons
        },
    )
