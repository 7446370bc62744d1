"""`/review`: the rows that wait for a person before they become part of a dataset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get, patch, post
from litestar.params import FromPath, FromQuery, QueryParameter

from router.api.access import InjectedCaller
from router.api.bodies import body_as, check_no_options
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET
from router.loop.review import (
    MAX_REASON,
    MAX_ROWS,
    PublishedRows,
    ReviewArrival,
    ReviewCandidate,
    ReviewEdit,
)
from router.store.review import ReviewFilter, ReviewOrigin, ReviewRow, ReviewState


class ReviewList(msgspec.Struct):
    """Rows, oldest first, and how many there are on all pages."""

    data: list[ReviewRow]
    total: int
    object: str = "list"


class ImportedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row to be reviewed.

    Attributes:
        messages: the conversation, as OpenAI's API has it.
        answer: what a model answered.
        reference: what should have been answered.
        metadata: further columns.
    """

    messages: list[dict[str, Any]]
    answer: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] = {}


class ImportedRows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows to be reviewed.

    Attributes:
        rows: at most 1,000.
        dataset: what they are to become rows of; by default the config's `review.dataset`.
    """

    rows: Annotated[list[ImportedRow], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]
    dataset: str = ""


class ReviewArrivals(msgspec.Struct):
    """What became of the rows, in their order."""

    data: list[ReviewArrival]
    object: str = "list"


class Rejection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a row is rejected.

    Attributes:
        reason: for people.
        version: the row's version that was read; a later one is a conflict.
    """

    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""
    version: int | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dataset gets a new version.

    Attributes:
        dataset: its name; by default the config's `review.dataset`.
    """

    dataset: str = ""


@get("/review", tags=["review"], summary="List rows to review")
async def list_review(
    services: Injected,
    *,
    # `state` is a word of Litestar's.
    shown: Annotated[ReviewState | Literal["all"], QueryParameter(name="state")] = "waiting",
    dataset: FromQuery[str | None] = None,
    origin: FromQuery[ReviewOrigin | None] = None,
    route: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
    after: Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)] = 0,
) -> ReviewList:
    """List rows, oldest first; `after` is the number of the last row of the page before."""
    matching = ReviewFilter(
        state=None if shown == "all" else shown, dataset=dataset, origin=origin, route=route
    )
    rows = await services.store.review_rows(matching, limit=limit, after=after)
    return ReviewList(rows, await services.store.count_review_rows(matching))


@post("/review", tags=["review"], summary="Add rows to review")
async def add_review(services: Injected, request: Request[Any, Any, Any]) -> ReviewArrivals:
    """Check rows and let those wait for a person that no check leaves out (`id` is null there)."""
    new = await body_as(request, ImportedRows)
    candidates = [
        ReviewCandidate(
            messages=row.messages,
            answer=row.answer,
            reference=row.reference,
            metadata=row.metadata,
            dataset=new.dataset,
        )
        for row in new.rows
    ]
    return ReviewArrivals(await services.review.add(candidates))


@get("/review/{row_id:str}", tags=["review"], summary="Show a row to review")
async def show_review(services: Injected, row_id: FromPath[str]) -> ReviewRow:
    """Show a row, what its checks noticed, and what was decided."""
    return await services.store.review_row(row_id)


@patch("/review/{row_id:str}", tags=["review"], summary="Edit a row to review")
async def edit_review(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    row_id: FromPath[str],
) -> ReviewRow:
    """Change the fields that the body has. The same checks are made as when the row came."""
    edit = await body_as(request, ReviewEdit, default=b"{}")
    return await services.review.edit(row_id, edit, caller.actor)


@post(
    "/review/{row_id:str}/accept", tags=["review"], summary="Accept a reviewed row", status_code=200
)
async def accept_review(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    row_id: FromPath[str],
) -> ReviewRow:
    """Accept a row, with the changes that the body has; 409 where it was changed meanwhile."""
    edit = await body_as(request, ReviewEdit, default=b"{}")
    return await services.review.accept(row_id, caller.actor, edit)


@post(
    "/review/{row_id:str}/reject", tags=["review"], summary="Reject a reviewed row", status_code=200
)
async def reject_review(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    row_id: FromPath[str],
) -> ReviewRow:
    """Reject a row, which is deleted when it expires; 409 where it was changed meanwhile."""
    rejection = await body_as(request, Rejection, default=b"{}")
    return await services.review.reject(
        row_id, caller.actor, reason=rejection.reason, version=rejection.version
    )


@post("/review/{row_id:str}/undo", tags=["review"], summary="Undo a decision", status_code=200)
async def undo_review(
    services: Injected,
    caller: InjectedCaller,
    request: Request[Any, Any, Any],
    row_id: FromPath[str],
) -> ReviewRow:
    """Let a row wait again; 409 where a version of the dataset has it already."""
    await check_no_options(request)
    return await services.review.undo(row_id, caller.actor)


@post("/review/publish", tags=["review"], summary="Make a version of accepted rows")
async def publish_review(
    services: Injected, caller: InjectedCaller, request: Request[Any, Any, Any]
) -> PublishedRows:
    """Register a new version of a dataset: the newest one's rows, and those accepted for it."""
    publication = await body_as(request, Publication, default=b"{}")
    name = publication.dataset or services.config.review.dataset
    return await services.review.publish(name, caller.actor)
