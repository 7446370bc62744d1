"""The page of the runs: a table whose states and progress follow the runs that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import FromQuery
from litestar.response import ServerSentEvent

from router.api.access import Caller, InjectedCaller
from router.api.evals import dataset_hash
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import duration, money, page, part, utc
from router.api.page_tables import Export, TableColumn, TableView, table_response
from router.services import Services
from router.store.runs import STOPPED, Progress, Run, RunFilter, RunOrder, RunState

# The keys of those that sort are RunSort's.
_COLUMNS = (
    TableColumn("name", "Run", sorts=True),
    TableColumn("state", "State", sorts=True),
    TableColumn("dataset", "Dataset"),
    TableColumn("samples", "Samples", sorts=True, number=True),
    TableColumn("routes", "Routes"),
    TableColumn("experiment", "Experiment"),
    TableColumn("created", "Created (UTC)", sorts=True),
    TableColumn("finished", "Ended (UTC)", sorts=True),
    TableColumn("duration", "Took", sorts=True, number=True),
    TableColumn("cost", "Cost", sorts=True, number=True),
    TableColumn("id", "Id"),
)
# Runs whose answers are counted for a list; more are rarely under way at a time.
MAX_UNDER_WAY = 20


class _Filters(NamedTuple):
    """Which runs the table has; "" for whatever."""

    state_is: Literal["", RunState]
    experiment: str
    tag: str
    dataset: str


@page("/runs")
async def run_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    state_is: FromQuery[Literal["", RunState]] = "",
    experiment: FromQuery[str] = "",
    tag: FromQuery[str] = "",
    dataset: FromQuery[str] = "",
    sort: FromQuery[str] = "-created",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show the runs; `after` is the key of the last run of the page before.

    `dataset` is a registered version, `name@hash`, or `name` for its newest.
    """
    filters = _Filters(state_is, experiment, tag, dataset)
    view = _view(filters, sort, after=after, export=export)
    rows = await _rows(services, caller, view, filters, after)
    return await table_response(
        "runs",
        caller,
        view,
        rows,
        **filters._asdict(),
        live=f"/pages/live/runs{view.query}" + (f"&{urlencode({'after': after})}" if after else ""),
        states=get_args(RunState),
        may_start=caller.reach_of("POST /eval") != "no",
        may_compare=caller.reach_of("GET /compare") != "no",
    )


@get("/pages/live/runs", include_in_schema=False)
async def runs_part(
    *,
    services: Injected,
    caller: InjectedCaller,
    parts: InjectedLiveParts,
    state_is: FromQuery[Literal["", RunState]] = "",
    experiment: FromQuery[str] = "",
    tag: FromQuery[str] = "",
    dataset: FromQuery[str] = "",
    sort: FromQuery[str] = "-created",
    after: FromQuery[str] = "",
) -> ServerSentEvent:
    """Send the table whenever a run begins, gets on or stops."""
    filters = _Filters(state_is, experiment, tag, dataset)
    # An address that is refused is refused before the response begins.
    _view(filters, sort)
    known: tuple[Any, str] = (None, "")

    async def make() -> str:
        nonlocal known
        # The table is only made again where a run has begun, got on or stopped.
        newest = await services.store.runs(RunFilter(key_id=caller.only), limit=1)
        active = await runs_under_way(services, caller)
        counted = await _progress(services, active)
        state = [run.id for run in newest], [(run.id, run.state) for run in active], counted
        if state != known[0]:
            view = _view(filters, sort, after=after)
            rows = await _rows(services, caller, view, filters, after)
            may_start = caller.reach_of("POST /eval") != "no"
            known = state, await part("runs_part.html", view=view, rows=rows, may_start=may_start)
        return known[1]

    return parts.stream(caller, ("runs", filters, sort, after), make)


def _view(filters: _Filters, sort: str, *, after: str = "", export: Export = "") -> TableView:
    return TableView(
        "/runs", _COLUMNS, sort=sort, filters=filters._asdict(), after=after, export=export
    )


async def runs_under_way(services: Services, caller: Caller) -> list[Run]:
    """Return runs that are executed or wait for it, the newest first, those executed before."""
    states: tuple[RunState, ...] = ("running", "queued")
    pages = [
        await services.store.runs(RunFilter(state=state, key_id=caller.only), limit=MAX_UNDER_WAY)
        for state in states
    ]
    return [run for runs in pages for run in runs]


async def _progress(services: Services, runs: Sequence[Run]) -> dict[str, Progress]:
    """Return how far the first runs are that are under way."""
    counted = [run for run in runs if run.state not in STOPPED][:MAX_UNDER_WAY]
    progress = await asyncio.gather(*(services.store.progress(run.id) for run in counted))
    return {run.id: count for run, count in zip(counted, progress, strict=True)}


async def _rows(
    services: Services, caller: Caller, view: TableView, filters: _Filters, after: str
) -> list[dict[str, Any]]:
    matching = RunFilter(
        state=filters.state_is or None,
        experiment=filters.experiment or None,
        tag=filters.tag or None,
        key_id=caller.only,
        dataset_hash=await dataset_hash(services, caller, filters.dataset),
    )
    order = RunOrder.parse(view.order)
    listed = await services.store.runs(
        matching, limit=view.size + 1, before=after or None, order=order
    )
    runs = view.page(listed, order.key)
    if view.is_export:
        return [_cells(run) | {"duration": run.ran_s, "cost": run.cost_usd} for run in runs]
    progress = await _progress(services, runs)
    return [_cells(run) | {"progress": progress.get(run.id)} for run in runs]


def _cells(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "dataset": run.dataset,
        "samples": run.dataset_rows,
        "routes": ", ".join(map(str, run.document.get("routes") or ())),
        "experiment": run.experiment,
        "created": utc(run.created_at),
        "finished": utc(run.finished_at),
        "duration": duration(run.ran_s) if run.ran_s else "",
        "cost": "" if run.cost_usd is None else money(run.cost_usd),
        "id": run.id,
        "cells": run.cells,
    }
