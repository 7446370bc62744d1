"""`/eval`: create, list, follow, cancel, resume and delete runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import ServerSentEvent
from litestar.types import SSEData

from evaluators.base import Answer, Sample, Score
from evaluators.data.sampling import Rows
from evaluators.document import Repeats
from providers.errors import RunDocumentError
from router.api.bodies import document_of
from router.api.injection import Injected
from router.api.paging import Offset, PageSize
from router.config.documents import convert
from router.evals.estimate import Estimate
from router.evals.results import Outcome
from router.evals.run_document import complete_run
from router.services import Services
from router.store.runs import STOPPED, Progress, Run, RunFilter, RunState

# Often enough for a person to watch, rarely enough for a database of a million rows.
POLL_S = 0.5

T = TypeVar("T")


class RunList(msgspec.Struct):
    """A page of runs, newest first."""

    data: list[Run]
    object: str = "list"


class SampleRow(msgspec.Struct):
    """One cell of a run: what was asked, what was answered, how it scored.

    Attributes:
        route, repeat: with the sample, which cell.
        sample: what was asked.
        answer: None while the request is in flight.
        scores: by output name.
        request_hash: SHA-256 over target and body, hex; "" for an answer that the dataset brought.
        asked_at, answered_at: seconds since the epoch, UTC.
        interrupted: how often the request was in flight when the run's process died; each time it
            was sent once more.
        attempts: the requests sent for the answer: target, result, status, seconds.
    """

    route: str
    repeat: int
    sample: Sample
    answer: Answer | None
    scores: tuple[Score, ...]
    request_hash: str
    asked_at: float | None
    answered_at: float | None
    interrupted: int
    attempts: tuple[dict[str, Any], ...]


# What a row and the store's answer have in common.
_KNOWN = SampleRow.__struct_fields__[3:]


class SamplePage(msgspec.Struct):
    """A page of cells. `next` is what to pass as `after` for the next page; None at the end."""

    data: list[SampleRow]
    next: int | None
    object: str = "list"


@post("/eval", tags=["eval"], summary="Create a run and start it", status_code=202)
async def create_run(
    services: Injected, request: Request[Any, Any, Any], dry_run: FromQuery[bool] = False
) -> Response[Run | Estimate]:
    """Check the run document, keep it, and begin. Follow it on `/eval/{id}/events`.

    With `dry_run=true` nothing is kept and nothing is sent: status 200, and what the run would
    take in calls, tokens, money and time, and the smallest difference that it would show.
    """
    roots = services.config.evaluation.roots
    written = await document_of(request, error=RunDocumentError, default=b"{}")
    document = complete_run(written, base=Path(), within=roots)
    if dry_run:
        found = await services.runs.estimate(document, base=Path(), runner="server")
        return Response(found, status_code=200)
    return Response(await services.runs.create(document, base=Path(), runner="server"))


@get("/eval", tags=["eval"], summary="List runs")
async def list_runs(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    limit: PageSize = 50,
    before: FromQuery[str | None] = None,
    run_state: Annotated[RunState | None, QueryParameter(name="state")] = None,
    experiment: FromQuery[str | None] = None,
    tag: FromQuery[str | None] = None,
) -> RunList:
    """Runs, newest first. `before` is the id of the last run of the page before."""
    wanted = RunFilter(state=run_state, experiment=experiment, tag=tag)
    return RunList(await services.store.runs(wanted, limit=limit, before=before))


@get("/eval/{run_id:str}", tags=["eval"], summary="Show a run with its report")
async def show_run(services: Injected, run_id: FromPath[str]) -> Outcome:
    """The run, its scores as far as it has got, and its gates."""
    return await services.runs.outcome(run_id)


@delete("/eval/{run_id:str}", tags=["eval"], summary="Delete a run", status_code=204)
async def delete_run(services: Injected, run_id: FromPath[str]) -> None:
    """The run with its answers and scores. A run under way has to be cancelled first."""
    await services.runs.delete(run_id)


@post("/eval/{run_id:str}/pause", tags=["eval"], summary="Pause a run", status_code=200)
async def pause_run(services: Injected, run_id: FromPath[str]) -> Run:
    """Ask nothing more. What is in flight is finished and kept, for up to 30 seconds.

    Where that takes longer than 5 seconds, the answer comes before the end and its `wish` says
    `paused`. Whichever process carries the run out obeys, a command's too.
    """
    return await services.jobs.pause(run_id)


@post("/eval/{run_id:str}/cancel", tags=["eval"], summary="Cancel a run", status_code=200)
async def cancel_run(services: Injected, run_id: FromPath[str]) -> Run:
    """Stop it at once. What is answered stays, what is in flight is dropped; it can be resumed."""
    return await services.jobs.cancel(run_id)


@post("/eval/{run_id:str}/resume", tags=["eval"], summary="Resume a run", status_code=202)
async def resume_run(
    services: Injected,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    retry_failed: FromQuery[bool] = False,
) -> Run:
    """Go on where it stopped; no finished request is sent again.

    The body may be empty, or `{"limits": {...}}` with those of the document's limits that change.
    """
    change = await _body(request, _Resumed)
    return await services.runs.resume(
        run_id, runner="server", retry_failed=retry_failed, limits=change.limits
    )


class Rescored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics as in a run document; none for all the run has, as they are installed now."""

    metrics: tuple[str | dict[str, Any], ...] = ()


@post("/eval/{run_id:str}/rescore", tags=["eval"], summary="Score a run again", status_code=202)
async def rescore_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Run:
    """Score the run's answers by more metrics, or by other choices of one; nothing is asked.

    The body is `{"metrics": [...]}`. A metric of a name that the run has replaces it and its
    scores; the others keep theirs. Without metrics, all are scored anew.
    """
    change = await _body(request, Rescored)
    return await services.runs.rescore(run_id, change.metrics, base=Path(), runner="server")


class Extended(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many samples, and how many repeats of each, a run is to have; None for as it is."""

    limit: Rows | None = None
    repeats: Repeats | None = None


@post("/eval/{run_id:str}/extend", tags=["eval"], summary="Extend a run", status_code=202)
async def extend_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Run:
    """Ask more samples of the run's dataset, or more repeats, and go on.

    The body is `{"limit": N}`, `{"repeats": K}` or both. The dataset must be as it was.
    """
    change = await _body(request, Extended)
    return await services.runs.extend(
        run_id, runner="server", limit=change.limit, repeats=change.repeats
    )


class _Resumed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limits: dict[str, Any] = {}


async def _body(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """The request's JSON body as a `kind`; without a body, as it is by default."""
    document = await document_of(request, error=RunDocumentError, default=b"{}")
    return convert(document, kind, error=RunDocumentError)


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
            ended = run.state in STOPPED
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
    after: Offset = 0,
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
            known = {name: getattr(one, name) for name in _KNOWN}
            rows.append(SampleRow(one.cell.route, one.cell.repeat, sample, **known))
    return SamplePage(rows, after + limit if len(wanted) == limit else None)
