"""The section of a run's page that has its score by a column of the dataset."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from evaluators.data.rows import KNOWN
from evaluators.reports.slices import SliceReport
from providers.errors import RequestError
from router.services import Services
from router.store.protocol import Store
from router.store.runs import Run
from router.web.plots.figure import Plot
from router.web.plots.forest import slice_difference_forest, slice_forest

# Routes that have plots, and a column in the table.
PLOTTED_ROUTES = 4
MAX_ROUTES = 12
# Columns that are suggested; those with the texts of samples have a value for each.
_NEVER_SUGGESTED = {*KNOWN} - {"cluster"}
_LONGEST_SUGGESTED = 80
_MAX_SUGGESTED = 100


class ShownSlices(NamedTuple):
    """Slices of a run as its page shows them.

    Attributes:
        report: their numbers; None where no column is chosen, or `error` says why there are none.
        plots: of the first routes.
        routes: those with a column in the table.
        more_routes: how many others there are.
        error: what is wrong with the column.
    """

    report: SliceReport | None = None
    plots: Sequence[Plot] = ()
    routes: Sequence[str] = ()
    more_routes: int = 0
    error: str = ""


async def slices_of(services: Services, run: Run, column: str, output: str) -> ShownSlices:
    """Return a score by a column, with plots."""
    try:
        report = await services.runs.slices.report(run, column, output)
    except RequestError as error:
        return ShownSlices(error=str(error))
    routes = [score.route for score in report.whole]
    shown = routes[:MAX_ROUTES]
    plots = await asyncio.to_thread(_slice_plots, report, routes[:PLOTTED_ROUTES])
    return ShownSlices(report, plots, shown, len(routes) - len(shown))


async def suggested_columns(store: Store, run: Run) -> list[str]:
    """Return columns of a run's first sample that may make slices, and what is within them."""
    first = await store.sample_at(run.id, 1)
    names: list[str] = []
    for name, value in () if first is None else first.fields.items():
        if name in _NEVER_SUGGESTED or len(name) > _LONGEST_SUGGESTED:
            continue
        if isinstance(value, dict):
            names += [f"{name}.{inner}" for inner in value if len(inner) <= _LONGEST_SUGGESTED]
        elif not isinstance(value, str) or len(value) <= _LONGEST_SUGGESTED:
            names.append(name)
    return names[:_MAX_SUGGESTED]


def _slice_plots(report: SliceReport, routes: Sequence[str]) -> list[Plot]:
    plots = [slice_forest(report, route) for route in routes]
    if any(each.comparisons for each in report.slices):
        plots += [
            slice_difference_forest(report, route) for route in routes if route != report.baseline
        ]
    return plots
