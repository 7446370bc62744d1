"""Pages for a browser: `/` lists routes and runs, `/runs/{id}` shows one run's report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from litestar import MediaType, Request, get
from litestar.datastructures import ResponseHeader
from litestar.params import FromPath

from evaluators.reports.cells import verdict_words
from evaluators.stats.comparison import Comparison
from router.api.injection import Injected

WEB = Path(__file__).parent.parent / "web"
# A page loads nothing, runs nothing, and is part of no other site's page.
PAGE_HEADERS = [
    ResponseHeader(
        name="content-security-policy",
        value="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
    ),
    ResponseHeader(name="x-content-type-options", value="nosniff"),
    ResponseHeader(name="x-frame-options", value="DENY"),
    ResponseHeader(name="referrer-policy", value="no-referrer"),
]


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _verdict_class(comparison: Comparison | None) -> str:
    verdict = comparison.verdict if comparison else None
    return verdict if verdict in ("better", "worse") else ""


_pages = Environment(loader=FileSystemLoader(WEB), autoescape=True, trim_blocks=True)
_pages.filters |= {"number": _number, "utc": _utc}
_pages.globals |= {"verdict_class": _verdict_class, "verdict_words": verdict_words}


@get("/", media_type=MediaType.HTML, include_in_schema=False, response_headers=PAGE_HEADERS)
async def home(services: Injected, request: Request[Any, Any, Any]) -> str:
    """Show the routes, the providers and the newest runs."""
    config = services.config
    return _pages.get_template("home.html").render(
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


@get(
    "/runs/{run_id:str}",
    media_type=MediaType.HTML,
    include_in_schema=False,
    response_headers=PAGE_HEADERS,
)
async def run_page(services: Injected, run_id: FromPath[str]) -> str:
    """Show one run's report."""
    outcome = await services.runs.outcome(run_id)
    return _pages.get_template("run.html").render(
        run=outcome.run,
        report=outcome.report,
        gates=outcome.gates,
        comparisons={
            (comparison.route, comparison.output): comparison
            for comparison in outcome.report.comparisons
        },
    )
