"""`/eval/{id}/slices`: a run's score by the values of a column of its dataset."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath, FromQuery

from evaluators.reports.slices import SliceReport
from router.api.injection import Injected


@get("/eval/{run_id:str}/slices", tags=["eval"], summary="Show a run's score by a column")
async def show_slices(
    services: Injected,
    run_id: FromPath[str],
    column: FromQuery[str],
    output: FromQuery[str] = "",
) -> SliceReport:
    """Show each route's score, and its difference from the baseline, by the values of a column.

    `column` is a column of the run's dataset, or a path into one, such as `metadata.topic`.
    `output` is the score; without it, the one that decides, else the first. Each sample is in one
    slice: rare values are in `other`, numbers of which there are many in ranges, and samples
    without a value in a slice of their own.
    """
    run = await services.runs.find(run_id)
    return await services.runs.slices.report(run, column, output)
