"""`/traffic`: lists requests, with their targets, times and costs."""

from __future__ import annotations

import re
import time
from typing import Annotated, cast, get_args

import msgspec
from litestar import delete, get
from litestar.params import FromPath, FromQuery, QueryParameter

from providers.errors import NotFoundError, PermissionDeniedError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.paging import MAX_OFFSET, PageSize
from router.loop.moments import moment
from router.records import TrafficClass, user_id
from router.sealing.deletion import Deletion
from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow, TrafficTotal

DAY_S = 86400.0
DELETED_AT_ONCE = 10_000
GROUPS = get_args(TotalsBy)
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)")


class TrafficList(msgspec.Struct):
    """A page of requests, newest first.

    Attributes:
        next: `before` of the next page; None when this is the last one.
    """

    data: list[TrafficRow]
    next: int | None
    object: str = "list"


@get("/traffic", tags=["observe"], summary="List requests")
async def list_traffic(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    status: FromQuery[str | None] = None,
    traffic_class: Annotated[TrafficClass | None, QueryParameter(name="class")] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    limit: PageSize = 50,
    before: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
) -> TrafficList:
    """List requests, newest first, from about a tenth of a second after they ended.

    `status` is a number, `4xx`, or `error` for everything from 400; `since` and `until` are
    seconds since the epoch, ISO 8601, or how long ago (`7d`, `12h`); `key` is a key's id; `user` is
    what the client sent as `safety_identifier` or `user`; `class` is `live` or `eval`.
    """
    first = None if since is None else moment(since, time.time(), param="since")
    last = None if until is None else moment(until, time.time(), param="until")
    key_id = _own_key(caller, key)
    matching = _filter(route, target, key_id, user, status, traffic_class, first, last)
    rows = await services.recorded.page(matching, limit=limit + 1, before=before)
    page = rows[:limit]
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
    last = time.time() if until is None else moment(until, time.time(), param="until")
    first = last - DAY_S if since is None else moment(since, time.time(), param="since")
    key_id = _own_key(caller, key)
    matching = _filter(route, target, key_id, user, status, traffic_class, first, last)
    groups = _groups(by)
    totals = await services.recorded.totals(matching, groups, limit=limit + 1)
    return TrafficTotals(totals[:limit], len(totals) <= limit, first, last)


@get("/traffic/{request_id:str}", tags=["observe"], summary="Show a request")
async def show_traffic(
    services: Injected, caller: InjectedCaller, request_id: FromPath[str]
) -> TrafficRow:
    """Show one request by its `x-request-id`, with its bodies where they were stored."""
    row = await services.recorded.request(request_id, key_id=caller.only)
    if row is None:
        raise NotFoundError(
            f"Request {request_id!r} has no record. Records appear a moment after the "
            "answer's end and are stored for traffic_days (of the route, or else the storage); "
            "a route may store none."
        )
    return row


@delete("/traffic", tags=["observe"], summary="Delete requests", status_code=200)
async def delete_traffic(  # noqa: PLR0917 - Litestar passes query parameters by name
    services: Injected,
    route: FromQuery[str | None] = None,
    target: FromQuery[str | None] = None,
    key: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
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
    first = None if since is None else moment(since, time.time(), param="since")
    last = None if until is None else moment(until, time.time(), param="until")
    matching = _filter(route, target, key, user, status, traffic_class, first, last)
    if matching == TrafficFilter():
        raise RequestError(
            "Say which requests to delete, with route, target, key, user, class, status, since or "
            "until."
        )
    deletion = await services.deletion.delete(matching, at_most=DELETED_AT_ONCE)
    await services.cache_sync.follow()
    return deletion


@delete("/traffic/{request_id:str}", tags=["observe"], summary="Delete a request", status_code=200)
async def delete_request(services: Injected, request_id: FromPath[str]) -> Deletion:
    """Delete what is stored of the requests with an `x-request-id`, with their bodies."""
    deletion = await services.deletion.delete(TrafficFilter(id=request_id))
    await services.cache_sync.follow()
    if not deletion.deleted and not deletion.related:
        raise NotFoundError(f"Request {request_id!r} has no record.")
    return deletion


def _own_key(caller: Caller, key: str | None) -> str | None:
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


def _filter(  # noqa: PLR0917 - the query parameters, in their order
    route: str | None,
    target: str | None,
    key: str | None,
    user: str | None,
    status: str | None,
    traffic_class: TrafficClass | None,
    since: float | None,
    until: float | None,
) -> TrafficFilter:
    if user == "":
        # A script's empty variable must not select everybody without one.
        raise RequestError("user must not be empty.", param="user")
    return TrafficFilter(
        route=route,
        target=target,
        key_id=key,
        user=None if user is None else user_id(user),
        traffic_class=traffic_class,
        status=None if status is None else _statuses(status),
        since=since,
        until=until,
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


def _statuses(text: str) -> tuple[int, int]:
    if text == "error":
        return 400, 599
    if not _STATUS.fullmatch(text):
        raise RequestError(
            f"status is a number, a class as 4xx, or error; not {text!r}.", param="status"
        )
    if text.endswith("xx"):
        low = int(text[0]) * 100
        return low, low + 99
    return int(text), int(text)
