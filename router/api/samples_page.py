"""The page of a run's samples: one row for each, with the scores of each route.

What is shown is in the address: the score, which two routes are compared, the filter and the order.
The page of one sample has the same parameters, so that the next one is the next in the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
from litestar import Response
from litestar.params import FromPath, FromQuery, QueryParameter
from numpy.typing import NDArray

from evaluators.document import RunDocument
from evaluators.reports.cells import ABSENT, signed
from evaluators.reports.groups import RowGroup
from evaluators.reports.report import infos_of
from evaluators.reports.scores import OutputInfo, decimals
from providers.errors import EvalrouterError, RequestError, closest
from router.api.access import InjectedCaller
from router.api.form_numbers import number_from_digits
from router.api.injection import Injected
from router.api.page_layout import done, page, rendered
from router.api.page_tables import Export, TableColumn, TableView, csv_response
from router.api.run_page import output_named
from router.evals.sample_search import MAX_READ, PairedScore, SampleQuery
from router.evals.stored_runs import stored_document
from router.evals.validation import build_metrics
from router.services import Services
from router.store.runs import Run
from router.store.sample_views import CellScore, ListedSample, SampleFilter

# Routes with a column of their own; a run may have hundreds.
MAX_ROUTES = 12
# Columns of the dataset that the filter names.
_MAX_COLUMNS = 100
_READ_AT_ONCE = 500
POSITION, GAIN = "position", "gain"


class SampleParameters(NamedTuple):
    """The parameters of an address that say which samples are shown, and how.

    Attributes:
        output: the score; "" for that which decides.
        a, b: the routes that are compared; "" for the usual ones.
        failed, short, noted, column, value, q: as SampleFilter has them.
        slice: the key of a slice by `column`; "" for all samples.
        sort: `position` or `gain`, with "-" before it for the other direction.
    """

    output: str = ""
    a: str = ""
    b: str = ""
    failed: bool = False
    short: bool = False
    noted: bool = False
    column: str = ""
    value: str = ""
    slice: str = ""
    q: str = ""
    sort: str = POSITION


# A parameter of that name would hide Python's `slice`.
SliceKey = Annotated[str, QueryParameter(name="slice")]


class SampleView(NamedTuple):
    """A run's samples as an address shows them.

    Attributes:
        run: the run.
        document: its document.
        outputs: its scores.
        output: the score that is shown; None where the run has none.
        a, b: the routes that are compared; "" where there is only one.
        query: which samples, in which order.
        parameters: the address's parameters, without those that say nothing.
        within: the positions of the slice's samples; None where no slice is chosen.
        slices: the slices of that column.
    """

    run: Run
    document: RunDocument
    outputs: Sequence[OutputInfo]
    output: OutputInfo | None
    a: str
    b: str
    query: SampleQuery
    parameters: Mapping[str, str]
    within: NDArray[np.int64] | None = None
    slices: Sequence[RowGroup] = ()

    @property
    def routes(self) -> list[str]:
        """The run's routes; the two that are compared come first."""
        compared = [route for route in (self.a, self.b) if route]
        return [*compared, *(route for route in self.document.routes if route not in compared)]


async def sample_view(services: Services, run_id: str, parameters: SampleParameters) -> SampleView:
    """Return a run's samples as the parameters of an address show them.

    Args:
        services: have the run.
        run_id: its id.
        parameters: of the address; a value or slice without a column says nothing.

    Raises:
        NotFoundError: there is no such run.
        RequestError: it has no such score, route, column or slice.
    """
    if not parameters.column:
        parameters = parameters._replace(value="", slice="")
    run = await services.runs.find(run_id)
    document = stored_document(run)
    outputs = await asyncio.to_thread(_outputs, document)
    output = _output(document, outputs, parameters.output)
    a, b = _pair(document, parameters.a, parameters.b)
    sort = parameters.sort
    by = None
    if sort.removeprefix("-") not in {POSITION, GAIN}:
        raise RequestError("sort: samples are sorted by position, or by gain.", param="sort")
    if sort.removeprefix("-") == GAIN and output is not None and b:
        by = PairedScore(output.name, a, b, output.higher_is_better)
    matching = SampleFilter(
        failed=parameters.failed,
        shortfall=parameters.short,
        noted=parameters.noted,
        # Without a value, a column alone stands for the samples that have none there.
        column="" if parameters.slice and not parameters.value else parameters.column,
        value=parameters.value,
        text=parameters.q,
    )
    shown = {
        name: "true" if value is True else str(value)
        for name, value in parameters._asdict().items()
        if value and (name, value) != ("sort", POSITION)
    }
    query = SampleQuery(matching=matching, by=by, descending=sort.startswith("-"))
    view = SampleView(run, document, outputs, output, a, b, query, shown)
    if not parameters.slice:
        return view
    of_runs = services.runs.slices
    within = await of_runs.positions(run, parameters.column, parameters.slice)
    grouping = await of_runs.grouping(run, parameters.column)
    return view._replace(within=within, slices=grouping.groups)


def query_of(parameters: Mapping[str, Any]) -> str:
    """Return the query of an address with its question mark; "" where no parameter has a value."""
    text = urlencode({name: value for name, value in parameters.items() if value not in {"", None}})
    return f"?{text}" if text else ""


def _outputs(document: RunDocument) -> Sequence[OutputInfo]:
    """Return the scores of a run; none where its metrics are not installed any more."""
    try:
        return infos_of(build_metrics(document))
    except EvalrouterError:
        return ()


def _output(document: RunDocument, outputs: Sequence[OutputInfo], name: str) -> OutputInfo | None:
    if name:
        return output_named(outputs, name)
    deciding = (info for info in outputs if info.name == document.deciding)
    return next(deciding, None) or next(iter(outputs), None)


def _pair(document: RunDocument, a: str, b: str) -> tuple[str, str]:
    routes = document.routes
    for name, param in ((a, "a"), (b, "b")):
        if name and name not in routes:
            raise RequestError(
                f"{param}: this run has no route {name!r}.{closest(name, routes)}", param=param
            )
    if a and a == b:
        raise RequestError("b: a route cannot be compared with itself.", param="b")
    second = b or (document.baseline if document.baseline not in (None, a) else None)
    first = a or next((route for route in routes if route != second), "")
    second = second or next((route for route in routes if route != first), "")
    return first, second


@page("/runs/{run_id:str}/samples")
async def samples_page(
    *,
    services: Injected,
    caller: InjectedCaller,
    run_id: FromPath[str],
    output: FromQuery[str] = "",
    a: FromQuery[str] = "",
    b: FromQuery[str] = "",
    failed: FromQuery[bool] = False,
    short: FromQuery[bool] = False,
    noted: FromQuery[bool] = False,
    column: FromQuery[str] = "",
    value: FromQuery[str] = "",
    slice_key: SliceKey = "",
    q: FromQuery[str] = "",
    sort: FromQuery[str] = POSITION,
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
    sample: FromQuery[str] = "",
) -> Response[Any]:
    """Show a run's samples; `after` is the position of the last one of the page before.

    `sample` is the id of one, whose page is shown.
    """
    view = await sample_view(
        services,
        run_id,
        SampleParameters(output, a, b, failed, short, noted, column, value, slice_key, q, sort),
    )
    run = view.run
    path = f"/runs/{run.id}/samples"
    if sample:
        position = await services.store.position_of(run.id, sample)
        if position is None:
            raise RequestError(f"This run has no sample with the id {sample!r}.", param="sample")
        return done(f"{path}/{position}{query_of(view.parameters)}")
    routes = view.routes[:MAX_ROUTES]
    table = TableView(
        path,
        _columns(view, routes),
        sort=sort,
        filters={name: text for name, text in view.parameters.items() if name != "sort"},
        after=after,
        export=export,
    )
    matches = await services.samples.find(
        run, view.query, after=_position(after), limit=table.size + 1, within=view.within
    )
    positions = table.page(matches.positions, str)
    listed: list[ListedSample] = []
    shown = "" if view.output is None else view.output.name
    for start in range(0, len(positions), _READ_AT_ONCE):
        chunk = positions[start : start + _READ_AT_ONCE]
        listed += await services.store.listed_samples(run.id, chunk, output=shown)
    rows = (_row(each, view, routes) for each in listed)
    if table.is_export:
        return await asyncio.to_thread(csv_response, "samples", table.columns, map(_csv_row, rows))
    first = await services.store.sample_at(run.id, 1)
    return await rendered(
        "samples.html",
        caller,
        title=f"Samples of {run.name}",
        current="/runs",
        view=table,
        of=view,
        run=run,
        rows=list(rows),
        routes=routes,
        more_routes=len(view.document.routes) - len(routes),
        dataset_columns=[] if first is None else list(first.fields)[:_MAX_COLUMNS],
        matching=view.query.matching,
        searched_to=matches.searched_to,
        max_read=MAX_READ,
        paired=GAIN in [each.key for each in table.columns],
        score=lambda number: score_cell(view.output, number),
        gain=lambda number: gain_cell(view.output, number),
    )


def _position(after: str) -> int | None:
    if not after:
        return None
    position = number_from_digits(after)
    if position is None:
        raise RequestError(
            "after: this is the position of a sample, as the link to the next page has it.",
            param="after",
        )
    return position


def _columns(view: SampleView, routes: Sequence[str]) -> list[TableColumn]:
    columns = [
        TableColumn(POSITION, "#", sorts=True, number=True),
        TableColumn("id", "Sample"),
        TableColumn("excerpt", "Last message"),
        *(TableColumn(f"score {route}", route, number=True) for route in routes),
    ]
    if view.output is not None and view.b:
        columns.append(TableColumn(GAIN, "A better by", sorts=True, number=True))
    return [*columns, TableColumn("problems", "Problems"), TableColumn("labels", "Labels")]


def _row(sample: ListedSample, view: SampleView, routes: Sequence[str]) -> dict[str, Any]:
    means = {route: _mean(sample.cells, route) for route in view.routes}
    ours, theirs = means.get(view.a), means.get(view.b)
    gain = None if ours is None or theirs is None else ours - theirs
    if gain and view.output is not None and view.output.higher_is_better is False:
        gain = -gain
    return {
        POSITION: sample.position,
        "id": sample.id,
        "excerpt": sample.excerpt,
        **{f"score {route}": means[route] for route in routes},
        GAIN: gain,
        "problems": list(_problems(sample.cells)),
        "labels": list(sample.labels),
        "notes": sample.notes,
    }


def _mean(cells: Iterable[CellScore], route: str) -> float | None:
    values = [cell.value for cell in cells if cell.route == route and cell.value is not None]
    return sum(values) / len(values) if values else None


def _problems(cells: Iterable[CellScore]) -> Iterable[str]:
    """Name what befell the answers, each once for a route."""
    texts = []
    for cell in cells:
        if cell.state == "failed":
            texts.append(f"{cell.route}: {cell.error_code or 'failed'}")
        elif cell.shortfall:
            texts.append(f"{cell.route}: {cell.shortfall}")
        elif cell.state == "sent":
            texts.append(f"{cell.route}: under way")
    return dict.fromkeys(texts)


def _csv_row(row: Mapping[str, Any]) -> dict[str, Any]:
    joined = {name: "; ".join(row[name]) for name in ("problems", "labels")}
    return {**row, **joined}


def score_cell(info: OutputInfo | None, value: float | None) -> str:
    """Return a score of one sample."""
    if value is None or info is None:
        return ABSENT
    return f"{value:,.{decimals(info, value)}f}"


def gain_cell(info: OutputInfo | None, value: float | None) -> str:
    """Return by how much one route is better on a sample."""
    if value is None or info is None:
        return ABSENT
    return signed(value, decimals(info, value))
