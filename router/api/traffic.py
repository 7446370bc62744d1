"""`/traffic`: lists requests, with their targets, times and costs."""

from __future__ import annotations

import time
from typing import Annotated, Any, cast, get_args

import msgspec
from litestar import delete, get
from litestar.params import FromPath, FromQuery, QueryParameter

from providers.errors import NotFoundError, PermissionDeniedError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET, PageSize
from router.loop.moments import period
from router.loop.request_search import request_query, statuses_of
from router.records import TrafficClass, stored_name
from router.sealing.deletion import Deletion
from router.services import Services
from router.store.feedback import FeedbackRow, conversation_subject
from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow, TrafficTotal

DAY_S = 86400.0
DELETED_AT_ONCE = 10_000
GROUPS = get_args(TotalsBy)


class SearchExtent(msgspec.Struct, frozen=True, kw_only=True):
    """How far requests were looked through for a page of them.

    Attributes:
        looked: how many were looked through.
        stopped: whether looking was stopped before the page was full: `before` goes on from there.
        back_to: when the last of them came, seconds since the epoch; None without any.
    """

    looked: int
    stopped: bool
    back_to: float | None


class TrafficList(msgspec.Struct):
    """A page of requests, newest first.

    Attributes:
        next: `before` of the next page; None when this is the last one.
        search: how far requests were looked through; None where no parameter needs that.
    """

    data: list[TrafficRow]
    next: int | None
    search: SearchExtent | None = None
    object: str = "list"


@get("/traffic", tags=["observe"], summary="List requests")
async def list_traffic(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    request_id: FromQuery[str | None] = None,
    response_id: FromQuery[str | None] = None,
    conversation: FromQuery[str | None] = None,
    rollout: FromQuery[str | None] = None,
    arm: FromQuery[str | None] = None,
    status: FromQuery[str | None] = None,
    traffic_class: Annotated[TrafficClass | None, QueryParameter(name="class")] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    where: FromQuery[str] = "",
    text: FromQuery[str] = "",
    metadata: FromQuery[str] = "",
    limit: PageSize = 50,
    before: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
) -> TrafficList:
    """List requests, newest first, from about a tenth of a second after they ended.

    `status` is a number, `4xx`, or `error` for everything from 400; `since` and `until` are
    seconds since the epoch, ISO 8601, or how long ago (`7d`, `12h`); `key` is a key's id; `user` is
    what the client sent as `safety_identifier` or `user`; `request_id` is its `x-request-id`, of
    requests of `key` or else of the caller's key; `response_id` is the `id` of the answer;
    `conversation` is what the client sent as `x-evalrouter-conversation`; `arm` is one of
    `rollout`; `class` is `live` or `eval`.

    `where` is a condition on the record, its feedback and its texts, as of `POST
    /datasets/from-traffic` (`has feedback.thumb`, `feedback.score < 3`); `text` is a part of a
    message or the answer; `metadata` is `NAME=VALUE` in the request's `metadata`, or `NAME`. For
    these three, requests are looked through: at most 20,000, or 2,000 where their bodies have to
    be read, and none is begun after three seconds. `search` says how far that went.
    """
    first, last = period(since, until, time.time())
    matching = traffic_filter(
        caller,
        key,
        status,
        route=route,
        target=target,
        user=user,
        request_id=request_id,
        response_id=response_id,
        conversation=conversation,
        rollout=rollout,
        arm=arm,
        traffic_class=traffic_class,
        since=first,
        until=last,
    )
    query = request_query(where=where, text=text, metadata=metadata)
    if not query.is_empty:
        searched = await services.request_search.page(
            matching, query, only=caller.only, limit=limit, before=before
        )
        extent = SearchExtent(
            looked=searched.looked, stopped=searched.stopped, back_to=searched.back_to
        )
        given = await with_feedback(services, caller, searched.rows)
        return TrafficList(given, searched.next, extent)
    rows = await services.recorded.page(matching, limit=limit + 1, before=before)
    page = await with_feedback(services, caller, rows[:limit])
    return TrafficList(page, page[-1].number if len(rows) > limit else None)


class TrafficTotals(msgspec.Struct):
    """Requests that were added up in groups, the largest first.

    Attributes:
        complete: whether these are all groups.
        since, until: the time of the requests, seconds since the epoch.
    """

    data: list[TrafficTotal]
    complete: bool
    since: float
    until: float
    object: str = "list"


@get("/traffic/totals", tags=["observe"], summary="Add up requests")
async def add_up_traffic(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    by: FromQuery[str | None] = None,
    route: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    request_id: FromQuery[str | None] = None,
    response_id: FromQuery[str | None] = None,
    conversation: FromQuery[str | None] = None,
    rollout: FromQuery[str | None] = None,
    arm: FromQuery[str | None] = None,
    status: FromQuery[str | None] = None,
    traffic_class: Annotated[TrafficClass | None, QueryParameter(name="class")] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    limit: PageSize = 50,
) -> TrafficTotals:
    """Add up requests, their failures, tokens and cost, from `since` (a day ago) to `until` (now).

    `by` names what to group by, with commas: `route`, `target`, `key`, `user`, `class`,
    `status`. The rest
    is as in `GET /traffic`. Every request of the time is read, some hundred thousand in a second.
    """
    now = time.time()
    first, last = period(since, until, now)
    last = now if last is None else last
    first = last - DAY_S if first is None else first
    matching = traffic_filter(
        caller,
        key,
        status,
        route=route,
        target=target,
        user=user,
        request_id=request_id,
        response_id=response_id,
        conversation=conversation,
        rollout=rollout,
        arm=arm,
        traffic_class=traffic_class,
        since=first,
        until=last,
    )
    groups = _groups(by)
    totals = await services.recorded.totals(matching, groups, limit=limit + 1)
    return TrafficTotals(totals[:limit], len(totals) <= limit, first, last)


class ShownRequest(TrafficRow, frozen=True, kw_only=True):
    """A request, with all that is said of it.

    Attributes:
        feedback_rows: the feedback about it and about its conversation, without what its authors
            have superseded.
    """

    feedback_rows: tuple[FeedbackRow, ...]


@get("/traffic/{request_id:str}", tags=["observe"], summary="Show a request")
async def show_traffic(
    services: Injected,
    caller: InjectedCaller,
    request_id: FromPath[str],
    key: FromQuery[str | None] = None,
) -> ShownRequest:
    """Show one request with its feedback, and with its bodies where they were stored.

    The path names its `x-evalrouter-record`; or its `x-request-id`, which clients choose: that is
    looked up among the requests of `key`, or else of the caller's key.
    """
    return await shown_request(services, caller, request_id, key)


async def shown_request(
    services: Services, caller: Caller, request_id: str, key: str | None
) -> ShownRequest:
    """Return one request as `show_traffic` shows it.

    Raises:
        NotFoundError: it has no record.
        PermissionDeniedError: `key` is another one than the caller's, who may see only theirs.
    """
    row = await services.recorded.request(
        request_id, key_id=own_key(caller, key), named_by=caller.key_id if key is None else key
    )
    if row is None:
        raise NotFoundError(
            f"Request {request_id!r} has no record. Records appear a moment after the "
            "answer's end and are stored for traffic_days (of the route, or else the storage); "
            "a route may store none."
        )
    [row] = await with_feedback(services, caller, [row])
    conversation = conversation_subject(row.key_id, row.conversation)
    given = await services.store.feedback_about(
        [row.id], conversations=[conversation] if row.conversation else (), key_id=caller.only
    )
    return ShownRequest(**msgspec.structs.asdict(row), feedback_rows=tuple(given))


@delete("/traffic", tags=["observe"], summary="Delete requests", status_code=200)
async def delete_traffic(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    request_id: FromQuery[str | None] = None,
    response_id: FromQuery[str | None] = None,
    conversation: FromQuery[str | None] = None,
    status: FromQuery[str | None] = None,
    traffic_class: Annotated[TrafficClass | None, QueryParameter(name="class")] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
) -> Deletion:
    """Delete the records of requests with their bodies: those that `GET /traffic` would list.

    At least one filter is needed. At most 10,000 are deleted at a time, the newest first; repeat
    the request until `complete` is true. The response cache forgets all its answers, in other
    processes within a second.
    """
    for name, value in (("route", route), ("target", target), ("key", key)):
        if value == "":
            # A script's empty variable must not select everything without one.
            raise RequestError(f"{name} must not be empty.", param=name)
    first, last = period(since, until, time.time())
    matching = traffic_filter(
        caller,
        key,
        status,
        route=route,
        target=target,
        user=user,
        request_id=request_id,
        response_id=response_id,
        conversation=conversation,
        rollout=None,
        arm=None,
        traffic_class=traffic_class,
        since=first,
        until=last,
    )
    if matching == TrafficFilter():
        raise RequestError(
            "Say which requests to delete, with route, target, key, user, request_id, response_id, "
            "conversation, class, status, since or until."
        )
    deletion = await services.deletion.delete(matching, at_most=DELETED_AT_ONCE)
    await services.cache_sync.follow()
    return deletion


@delete("/traffic/{request_id:str}", tags=["observe"], summary="Delete a request", status_code=200)
async def delete_request(
    services: Injected,
    caller: InjectedCaller,
    request_id: FromPath[str],
    key: FromQuery[str | None] = None,
) -> Deletion:
    """Delete what is stored of a request, with its bodies.

    The path names its `x-evalrouter-record`, or else the `x-request-id` of requests of `key`, or
    of the caller's key.
    """
    return await delete_named(services, caller, request_id, key)


async def delete_named(
    services: Services, caller: Caller, request_id: str, key: str | None
) -> Deletion:
    """Delete one request as `delete_request` does. Raises NotFoundError."""
    deletion = await services.deletion.delete_named(
        request_id, key_id=key, named_by=caller.key_id if key is None else key
    )
    await services.cache_sync.follow()
    if not deletion.deleted and not deletion.related:
        raise NotFoundError(f"Request {request_id!r} has no record.")
    return deletion


async def with_feedback(
    services: Services, caller: Caller, rows: list[TrafficRow]
) -> list[TrafficRow]:
    """Return the requests with what is said of them, as far as the caller may see it."""
    summaries = await services.store.feedback_summaries(
        [row.id for row in rows], key_id=caller.only
    )
    return [
        msgspec.structs.replace(row, feedback=summaries[row.id]) if row.id in summaries else row
        for row in rows
    ]


def own_key(caller: Caller, key: str | None) -> str | None:
    """Return the key whose requests are selected.

    Raises:
        PermissionDeniedError: another one than the caller's is requested, who may see only theirs.
    """
    if caller.only is not None and key not in (None, caller.only):
        raise PermissionDeniedError(
            f"This key may only see its own requests: key={caller.only}.",
            param="key",
            code="admin_required",
        )
    return key if caller.only is None else caller.only


def traffic_filter(
    caller: Caller,
    key: str | None,
    status: str | None,
    *,
    user: str | None,
    conversation: str | None,
    response_id: str | None,
    **others: Any,
) -> TrafficFilter:
    """Return what the query selects: `others` are fields of the filter, with their values.

    Raises:
        RequestError: a name is empty, or is only one together with another.
        PermissionDeniedError: requests of another key than the caller's, who may see only theirs.
    """
    names = {"user": user, "conversation": conversation, "response_id": response_id}
    for name, value in (names | others).items():
        if name not in {"route", "target"} and value == "":
            # A script's empty variable must not select everybody without one.
            raise RequestError(f"{name} must not be empty.", param=name)
    if others["arm"] is not None and others["rollout"] is None:
        raise RequestError("arm needs rollout, whose it is.", param="arm")
    key_id = own_key(caller, key)
    if others["request_id"] is not None and key_id is None:
        # Clients choose it, and others may have chosen the same.
        key_id = caller.key_id
    given: dict[str, Any] = {
        name: stored_name(value) for name, value in names.items() if value is not None
    }
    return TrafficFilter(
        key_id=key_id,
        status=None if status is None else statuses_of(status),
        **given,
        **others,
    )


def _groups(text: str | None) -> list[TotalsBy]:
    names = [] if text is None else text.split(",")
    for name in names:
        if name not in GROUPS:
            raise RequestError(
                f"by is any of {', '.join(GROUPS)}, with commas; not {name!r}.", param="by"
            )
    if len(set(names)) < len(names):
        raise RequestError("by names something twice.", param="by")
    return cast("list[TotalsBy]", names)
