"""`/eval/compare`: compares runs, or routes of one run."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.params import FromQuery, QueryParameter

from evaluators.reports.compare import Comparisons, Join
from providers.errors import RequestError
from router.api.injection import Injected
from router.evals.compare import ComparisonRequest, compare_runs, parse_margins


@get("/eval/compare", tags=["eval"], summary="Compare two runs, or routes of one")
async def compare(
    *,
    services: Injected,
    runs: FromQuery[str] = "",
    route_a: FromQuery[str | None] = None,
    route_b: FromQuery[str | None] = None,
    join: FromQuery[Join | None] = None,
    movers: Annotated[int, QueryParameter(ge=0, le=1000)] = 5,
    margin: FromQuery[str] = "",
) -> Comparisons:
    """Compute the differences a - b sample by sample. `runs` is one id, or two as `a,b`.

    Of two runs, each route that both have is compared unless `route_a` and `route_b` name them; of
    one run, every route with its baseline. Runs on different datasets are refused unless `join`
    says how to pair their samples. `margin` is `output=number`, several with a comma between them:
    the largest difference of that output that makes no difference.
    """
    names = [name for name in map(str.strip, runs.split(",")) if name]
    if not 1 <= len(names) <= 2:
        raise RequestError("runs: name one run, or two as runs=a,b", param="runs")
    request = ComparisonRequest(
        route_a=route_a,
        route_b=route_b,
        join=join,
        movers=movers,
        margins=parse_margins(part for part in margin.split(",") if part.strip()),
    )
    return await compare_runs(services.runs, services.store, names, request)
