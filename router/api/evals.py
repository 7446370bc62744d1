"""`/eval`: create, list, follow, cancel, resume and delete runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import ServerSentEvent
from litestar.types import SSEData

from evaluators.base import Answer, Sample, Score
from evaluators.document import RunDocument
from evaluators.metrics.registry import runs_code
from providers.errors import ConflictError, RunDocumentError
from providers.wire import UNREADABLE
from router.api.injected import Injected
from router.demo import SHIPPED
from router.documents import Document, convert
from router.outcome import Outcome
from router.services import Services
from router.store.base import ENDED, Progress, Run, RunState

# Often enough for a person to watch, rarely enough for a database of a million rows.
POLL_S = 0.5

PageSize = Annotated[int, QueryParameter(ge=1, le=1000)]


class RunList(msgspec.Struct):
    """A page of runs, newest first."""

    data: list[Run]
    object: str = "list"


class SampleRow(msgspec.Struct):
    """One cell of a run: what was asked, what was answered, how it scored."""

    route: str
    repeat: int
    sample: Sample
    answer: Answer | None
    scores: tuple[Score, ...]


class SamplePage(msgspec.Struct):
    """A page of cells. `next` is what to pass as `after` for the next page; None at the end."""

    data: list[SampleRow]
    next: int | None
    object: str = "list"


@post("/eval", tags=["eval"], summary="Create a run and start it", status_code=202)
async def create_run(services: Injected, request: Request[Any, Any, Any]) -> Run:
    """Check the run document, keep it, and begin. Follow it on `/eval/{id}/events`."""
    body = await request.body()
    try:
        data = msgspec.json.decode(body)
    except UNREADABLE as error:
        raise RunDocumentError(f"The body is not JSON: {error}", code="bad_json") from None
    document = convert(Document(data, "", {}), RunDocument, error=RunDocumentError)
    run = await services.runs.create(_confined(document), base=Path())
    services.runs.start(run.id)
    return run


def _confined(document: RunDocument) -> RunDocument:
    """Refuse what a caller over HTTP may not name.

    A dataset must lie below the server's working directory, and a metric must not be a program.
    """
    for n, spec in enumerate(document.metrics):
        if runs_code(spec):
            raise RunDocumentError(
                f"metrics[{n}]: a metric that is a program is run from the command line only, or "
                "as an installed entry point",
                param=f"metrics[{n}]",
            )
    here = Path.cwd().resolve()
    if document.dataset in SHIPPED:
        return document
    if not (here / document.dataset).resolve().is_relative_to(here):
        raise RunDocumentError(
            f"dataset: {document.dataset!r} is outside the server's working directory",
            param="dataset",
        )
    return document


@get("/eval", tags=["eval"], summary="List runs")
async def list_runs(
    services: Injected,
    limit: PageSize = 50,
    before: FromQuery[str | None] = None,
    run_state: Annotated[RunState | None, QueryParameter(name="state")] = None,
) -> RunList:
    """Runs, newest first. `before` is the id of the last run of the page before."""
    return RunList(await services.store.runs(limit=limit, before=before, state=run_state))


@get("/eval/{run_id:str}", tags=["eval"], summary="Show a run with its report")
async def show_run(services: Injected, run_id: FromPath[str]) -> Outcome:
    """The run, its scores as far as it has got, and its gates."""
    return await services.runs.outcome(run_id)


@delete("/eval/{run_id:str}", tags=["eval"], summary="Delete a run", status_code=204)
async def delete_run(services: Injected, run_id: FromPath[str]) -> None:
    """The run with its answers and scores. A run under way has to be cancelled first."""
    run = await services.runs.find(run_id)
    if run.state not in ENDED:
        raise ConflictError(f"{run.id} is {run.state}: cancel it first")
    await services.store.delete_run(run.id)


@post("/eval/{run_id:str}/cancel", tags=["eval"], summary="Cancel a run", status_code=200)
async def cancel_run(services: Injected, run_id: FromPath[str]) -> Run:
    """Stop it. What is answered stays, and it can be resumed."""
    return await services.runs.cancel(run_id)


@post("/eval/{run_id:str}/resume", tags=["eval"], summary="Resume a run", status_code=202)
async def resume_run(
    services: Injected, run_id: FromPath[str], retry_failed: FromQuery[bool] = False
) -> Run:
    """Go on where it stopped; no finished request is sent again."""
    run = await services.runs.find(run_id)
    services.runs.start(run.id, retry_failed=retry_failed)
    return await services.runs.find(run_id)


@get(
    "/eval/{run_id:str}/events",
    tags=["eval"],
    summary="Follow a run",
    media_type="text/event-stream",
)
async def follow_run(services: Injected, run_id: FromPath[str]) -> ServerSentEvent:
    """Server-sent events: `progress` whenever it changes, `end` with the run's last state."""
    run = await services.runs.find(run_id)
    return ServerSentEvent(_events(services, run.id))


async def _events(services: Services, run_id: str) -> AsyncIterator[SSEData]:
    before: tuple[Progress, RunState] | None = None
    while True:
        run = await services.runs.find(run_id)
        now = (await services.store.progress(run_id), run.state)
        if now != before:
            before = now
            told = {"state": run.state, "cells": run.cells, **msgspec.to_builtins(now[0])}
            ended = run.state in ENDED
            yield {
                "event": "end" if ended else "progress",
                "data": msgspec.json.encode(told).decode(),
            }
            if ended:
                return
        await asyncio.sleep(POLL_S)


@get("/eval/{run_id:str}/samples", tags=["eval"], summary="Page through a run's answers")
async def list_samples(
    services: Injected,
    run_id: FromPath[str],
    route: FromQuery[str | None] = None,
    limit: PageSize = 100,
    after: Annotated[int, QueryParameter(ge=0)] = 0,
) -> SamplePage:
    """Cells by sample; `after` counts samples, and a page holds whole samples only."""
    run = await services.runs.find(run_id)
    wanted: dict[str, Sample] = {}
    async with aclosing(services.store.samples(run.id, after=after)) as samples:
        async for sample in samples:
            wanted[sample.id] = sample
            if len(wanted) == limit:
                break
    rows = []
    async with aclosing(services.store.results(run.id, route=route, after=after)) as results:
        async for one in results:
            if one.cell.sample_id not in wanted:
                break
            sample = wanted[one.cell.sample_id]
            rows.append(SampleRow(one.cell.route, one.cell.repeat, sample, one.answer, one.scores))
    return SamplePage(rows, after + limit if len(wanted) == limit else None)
