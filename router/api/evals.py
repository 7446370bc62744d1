"""`/eval`: create, list, follow, cancel, resume and delete runs."""

from __future__ import annotations

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
from evaluators.document import Metrics, Repeats
from providers.errors import NotFoundError, RunDocumentError
from router.api.access import Caller, InjectedCaller
from router.api.bodies import body_as, check_no_options, document_of
from router.api.following import Followers, InjectedFollowers, progress_of
from router.api.injection import Injected
from router.api.paging import Offset, PageSize
from router.config.documents import Document
from router.evals.estimate import Estimate
from router.evals.results import Outcome
from router.evals.run_document import complete_run
from router.gateway.key_administration import find_key
from router.services import Services
from router.store.runs import Run, RunFilter, RunOrder, RunState

T = TypeVar("T")


class RunList(msgspec.Struct):
    """A page of runs.

    Attributes:
        next: `before` of the next page; None when this is the last one.
    """

    data: list[Run]
    next: str | None
    object: str = "list"


class SampleRow(msgspec.Struct):
    """One cell of a run: a sample, a route's answer to it, and its scores.

    Attributes:
        route, repeat: the route that answered, and which of its answers to the sample this is.
        sample: the sample that the request was made of.
        position: its place among the run's samples, from 0.
        answer: None while the request is in flight.
        scores: the answer's scores, each with the name of its output.
        request_hash: SHA-256 over target and body, hex; "" for an answer that the dataset brought.
        asked_at, answered_at: seconds since the epoch, UTC.
        interrupted: the number of times that the request was in flight when the run's process
            died; each time it was sent once more.
        attempts: the requests sent for the answer: target, result, status, seconds.
    """

    route: str
    repeat: int
    sample: Sample
    position: int
    answer: Answer | None
    scores: tuple[Score, ...]
    request_hash: str
    asked_at: float | None
    answered_at: float | None
    interrupted: int
    attempts: tuple[dict[str, Any], ...]


# The fields that a row has in common with the store's result.
_KNOWN = SampleRow.__struct_fields__[4:]


class SamplePage(msgspec.Struct):
    """A page of cells. `next` is what to pass as `after` for the next page; None at the end."""

    data: list[SampleRow]
    next: int | None
    object: str = "list"


@post("/eval", tags=["eval"], summary="Create a run and start it", status_code=202)
async def create_run(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    dry_run: FromQuery[bool] = False,
    key: FromQuery[str | None] = None,
) -> Response[Run | Estimate]:
    """Check the run document, store it, and begin. Follow the run on `/eval/{id}/events`.

    With `dry_run=true` nothing is stored and nothing is sent: the answer has status 200, and
    estimates the calls, tokens, money and time that the run would take, and the smallest
    difference that it would show.

    The run belongs to the request's key, or to the one that `key` names by its id or name: its
    client may then follow it and read all of it.
    """
    key_id = caller.key_id if key is None else (await find_key(services.store, key)).id
    written = await document_of(request, error=RunDocumentError, default=b"{}")
    if dry_run:
        return Response(await estimated_run(services, written), status_code=200)
    return Response(await created_run(services, written, key_id=key_id))


async def estimated_run(services: Services, written: Document) -> Estimate:
    """Return what the run of a document that a client wrote would take. Raises as `Runs` does."""
    document = complete_run(written, base=Path(), within=services.config.evaluation.roots)
    return await services.runs.estimate(document, base=Path(), runner="server")


async def created_run(services: Services, written: Document, *, key_id: str) -> Run:
    """Begin the run of a document that a client wrote, for a key. Raises as `Runs` does."""
    document = complete_run(written, base=Path(), within=services.config.evaluation.roots)
    return await services.runs.create(document, base=Path(), runner="server", key_id=key_id)


@get("/eval", tags=["eval"], summary="List runs")
async def list_runs(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    limit: PageSize = 50,
    before: FromQuery[str | None] = None,
    run_state: Annotated[RunState | None, QueryParameter(name="state")] = None,
    experiment: FromQuery[str | None] = None,
    tag: FromQuery[str | None] = None,
    dataset: FromQuery[str | None] = None,
    sort: FromQuery[str] = "-created",
) -> RunList:
    """List runs, newest first, or as `sort` says; `before` is `next` of the page before.

    `sort` is `created`, `name`, `state`, `finished`, `duration`, `cost` or `samples`, with `-`
    before it for descending; runs without such a value come before all others. Newest first,
    `before` is the id of the last run of the page before.
    `dataset` selects the runs of a registered version: `name@hash`, or `name` for its newest.
    """
    run_filter = RunFilter(
        state=run_state,
        experiment=experiment,
        tag=tag,
        key_id=caller.only,
        dataset_hash=await dataset_hash(services, caller, dataset or ""),
    )
    order = RunOrder.parse(sort)
    runs = await services.store.runs(run_filter, limit=limit + 1, before=before, order=order)
    return RunList(runs[:limit], order.key(runs[limit - 1]) if len(runs) > limit else None)


async def dataset_hash(services: Services, caller: Caller, named: str) -> str | None:
    """Return the hash of the version that runs are filtered by; None for a name of "".

    Raises:
        NotFoundError: there is no such version; a client gets the hash of no run instead, because
            which datasets there are is not for clients to know.
    """
    if not named:
        return None
    try:
        return (await services.datasets.find(named)).hash
    except NotFoundError:
        if caller.only is None:
            raise
        return "unknown"


@get("/eval/{run_id:str}", tags=["eval"], summary="Show a run with its report")
async def show_run(services: Injected, run_id: FromPath[str]) -> Outcome:
    """Show the run, its scores so far, and its gates."""
    return await services.runs.outcome(run_id)


@delete("/eval/{run_id:str}", tags=["eval"], summary="Delete a run", status_code=204)
async def delete_run(services: Injected, run_id: FromPath[str]) -> None:
    """Delete the run with its answers and scores. A run under way has to be cancelled first."""
    await services.runs.delete(run_id)


@post("/eval/{run_id:str}/pause", tags=["eval"], summary="Pause a run", status_code=200)
async def pause_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Run:
    """Send no more requests. Those in flight are finished and stored, for up to 30 seconds.

    Where that takes longer than 5 seconds, the answer comes before the end and its `wish` says
    `paused`. The process that executes the run obeys, also that of a command.

    The body may be empty, or `{}`.
    """
    await check_no_options(request, error=RunDocumentError)
    return await services.jobs.pause(run_id)


@post("/eval/{run_id:str}/cancel", tags=["eval"], summary="Cancel a run", status_code=200)
async def cancel_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Run:
    """Stop the run at once. Its answers stay, requests in flight are dropped; it can be resumed.

    The body may be empty, or `{}`.
    """
    await check_no_options(request, error=RunDocumentError)
    return await services.jobs.cancel(run_id)


@post("/eval/{run_id:str}/resume", tags=["eval"], summary="Resume a run", status_code=202)
async def resume_run(
    services: Injected,
    request: Request[Any, Any, Any],
    run_id: FromPath[str],
    retry_failed: FromQuery[bool] = False,
) -> Run:
    """Go on where the run stopped; no finished request is sent again.

    The body may be empty, or `{"limits": {...}}` with those of the document's limits that change.
    """
    change = await _body(request, Resumed)
    return await services.runs.resume(
        run_id, runner="server", retry_failed=retry_failed, limits=change.limits
    )


class Rescored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run's answers are scored by once more.

    Attributes:
        metrics: as in a run document; without any, all of the run's, as they are installed now.
    """

    metrics: Metrics = ()


@post("/eval/{run_id:str}/rescore", tags=["eval"], summary="Score a run again", status_code=202)
async def rescore_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Run:
    """Score the run's answers by more metrics, or by one with other options; no request is sent.

    The body is `{"metrics": [...]}`. A metric of a name that the run has replaces it and its
    scores; the others keep theirs. Without metrics, all are scored anew.
    """
    change = await _body(request, Rescored)
    return await services.runs.rescore(run_id, change.metrics, base=Path(), runner="server")


class Extended(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run is to have more of.

    Attributes:
        limit: the number of samples; None for as it is.
        repeats: the number of answers to each; likewise.
    """

    limit: Rows | None = None
    repeats: Repeats | None = None


@post("/eval/{run_id:str}/extend", tags=["eval"], summary="Extend a run", status_code=202)
async def extend_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Run:
    """Send more samples of the run's dataset, or more repeats, and go on.

    The body is `{"limit": N}`, `{"repeats": K}` or both. The dataset must be as it was.
    """
    change = await _body(request, Extended)
    return await services.runs.extend(
        run_id, runner="server", limit=change.limit, repeats=change.repeats
    )


class Resumed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a run that was stopped goes on.

    Attributes:
        limits: those of the document's `limits` that change.
    """

    limits: dict[str, Any] = {}


async def _body(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """Return the request's JSON body as a `kind`; without a body, the defaults."""
    return await body_as(request, kind, error=RunDocumentError, default=b"{}")


@get(
    "/eval/{run_id:str}/events",
    tags=["eval"],
    summary="Follow a run",
    media_type="text/event-stream",
)
async def follow_run(
    services: Injected, caller: InjectedCaller, followers: InjectedFollowers, run_id: FromPath[str]
) -> ServerSentEvent:
    """Send events: `progress` whenever it changes, and `end` with the run's last state."""
    run = await services.runs.find(run_id)
    followers.check_room(caller.key_id)
    return ServerSentEvent(_events(followers, run.id, caller.key_id))


async def _events(followers: Followers, run_id: str, holder: str) -> AsyncIterator[SSEData]:
    before = None
    async with followers.follow(run_id, holder=holder) as snapshots:
        async for snapshot in snapshots:
            progress = progress_of(snapshot)
            if progress == before:
                continue
            before = progress
            event = "end" if snapshot.stopped else "progress"
            yield {"event": event, "data": msgspec.json.encode(progress).decode()}


@get("/eval/{run_id:str}/samples", tags=["eval"], summary="Page through a run's answers")
async def list_samples(
    services: Injected,
    run_id: FromPath[str],
    route: FromQuery[str | None] = None,
    limit: PageSize = 100,
    after: Offset = 0,
) -> SamplePage:
    """Page through cells by sample; `after` counts samples, and a page has whole samples only."""
    run = await services.runs.find(run_id)
    page: dict[str, tuple[int, Sample]] = {}
    async with aclosing(services.store.samples(run.id, after=after)) as samples:
        async for sample in samples:
            page[sample.id] = (after + len(page), sample)
            if len(page) == limit:
                break
    rows = []
    async with aclosing(services.store.results(run.id, route=route, after=after)) as results:
        async for result in results:
            cell = result.cell
            if cell.sample_id not in page:
                break
            known = {name: getattr(result, name) for name in _KNOWN}
            position, sample = page[cell.sample_id]
            rows.append(SampleRow(cell.route, cell.repeat, sample, position, **known))
    return SamplePage(rows, after + limit if len(page) == limit else None)
