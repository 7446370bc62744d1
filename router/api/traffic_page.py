"""The pages of requests: the list, which can be followed live, and what they add up to over time.

The list of a live page is made once for all who see the same, however many requests come, and has
the newest `LIVE_ROWS` of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from litestar import Response, get
from litestar.params import FromQuery, QueryParameter
from litestar.response import ServerSentEvent

from evaluators.reports.cells import ABSENT
from providers.errors import EvalrouterError, RequestError
from router.api.access import Caller, InjectedCaller
from router.api.injection import Injected
from router.api.live import InjectedLiveParts
from router.api.page_layout import duration, money, page, part, rendered, utc
from router.api.page_tables import Export, TableColumn, TableView, row_number, table_response
from router.api.traffic import traffic_filter, with_feedback
from router.gateway.key_administration import find_key
from router.loop.moments import length_of_time, period
from router.loop.request_search import (
    MAX_EXCERPT_BYTES,
    RequestQuery,
    prompts_of,
    request_query,
)
from router.records import TrafficClass
from router.services import Services
from router.store.traffic import TotalsBy, TrafficFilter, TrafficRow, TrafficTotal

# Of a page that is followed: each is sent again up to 1.4 times a second.
LIVE_ROWS = 50
_EXPORTED_AT_ONCE = 1000
# Of a prompt, in the list.
_PROMPT_CHARACTERS = 120
# Prompts are read so many at a time, and none more after so long.
_PROMPTS_AT_ONCE = 32
_PROMPTS_S = 1.0
# Requests of one period are added up in so many parts of it.
_PARTS = 30
_GROUPS_SHOWN = 100
# They are added up again so often where they are followed.
_SUMS_EVERY_S = 5.0

Class = Annotated[Literal["", TrafficClass], QueryParameter(name="class")]
Period = Literal["15m", "1h", "24h", "7d"]
_PERIODS: Mapping[Period, str] = {
    "15m": "15 minutes",
    "1h": "hour",
    "24h": "24 hours",
    "7d": "7 days",
}


class TrafficQuery(NamedTuple):
    """Which requests a page shows, as its address says it; "" for what it does not say.

    Attributes:
        route, target, user, conversation, status, since, until: as in `GET /traffic`.
        key: the name or the id of a key.
        traffic_class: `live` or `eval`.
        text, metadata, where: what requests are looked through for, as in `GET /traffic`.
    """

    route: str = ""
    target: str = ""
    key: str = ""
    user: str = ""
    conversation: str = ""
    status: str = ""
    traffic_class: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    metadata: str = ""
    where: str = ""

    def parameters(self) -> dict[str, str]:
        """Return what an address says of it."""
        given = self._asdict()
        given["class"] = given.pop("traffic_class")
        return {name: value for name, value in given.items() if value}

    def totals_parameters(self) -> dict[str, str]:
        """Return what the address of the requests over time says of it."""
        given = self._replace(
            since=self.chart_period() if self.since else "",
            until="",
            text="",
            metadata="",
            where="",
        )
        return given.parameters()

    def sought(self) -> RequestQuery:
        """Return what requests are looked through for. Raises RequestError."""
        return request_query(where=self.where, text=self.text, metadata=self.metadata)

    def chart_period(self) -> Period:
        """Return the period of the requests over time: since then where it is one of theirs."""
        return next((name for name in _PERIODS if name == self.since), "15m")

    async def key_id(self, services: Services) -> str | None:
        """Return the id of the key that it names. Raises NotFoundError."""
        return (await find_key(services.store, self.key)).id if self.key else None

    def matching(self, caller: Caller, key_id: str | None) -> TrafficFilter:
        """Return what selects the requests.

        Raises:
            RequestError, PermissionDeniedError: a value means nothing, or is for others.
        """
        first, last = period(self.since or None, self.until or None, time.time())
        return traffic_filter(
            caller,
            key_id,
            self.status or None,
            route=self.route or None,
            target=self.target or None,
            user=self.user or None,
            request_id=None,
            response_id=None,
            conversation=self.conversation or None,
            rollout=None,
            arm=None,
            traffic_class=self.traffic_class or None,
            since=first,
            until=last,
        )


_COLUMNS = (
    TableColumn("at", "Time (UTC)"),
    TableColumn("route", "Route"),
    TableColumn("prompt", "Prompt"),
    TableColumn("target", "Answered by"),
    TableColumn("status", "Status", number=True),
    TableColumn("tokens", "Tokens in / out", number=True),
    TableColumn("cost", "Cost", number=True),
    TableColumn("seconds", "Time", number=True),
    TableColumn("notes", "Notes"),
    TableColumn("feedback", "Feedback"),
    TableColumn("user", "User"),
    TableColumn("key", "Key"),
)
_EXPORTED_COLUMNS = tuple(
    TableColumn(name, name)
    for name in (
        "at", "id", "route", "target", "status", "error_code", "class", "prompt_tokens",
        "completion_tokens", "cost_usd", "first_byte_s", "total_s", "stream", "cached", "attempts",
        "finish_reason", "feedback", "user", "conversation", "key_id", "request_id", "response_id",
    )
)  # fmt: skip


@page("/pages/traffic")
async def request_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[str] = "",
    target: FromQuery[str] = "",
    key: FromQuery[str] = "",
    user: FromQuery[str] = "",
    conversation: FromQuery[str] = "",
    status: FromQuery[str] = "",
    traffic_class: Class = "",
    since: FromQuery[str] = "",
    until: FromQuery[str] = "",
    text: FromQuery[str] = "",
    metadata: FromQuery[str] = "",
    where: FromQuery[str] = "",
    live: FromQuery[bool] = False,
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show requests, newest first; `after` is the number of the last one of the page before."""
    query = TrafficQuery(
        route,
        target,
        key,
        user,
        conversation,
        status,
        traffic_class,
        since,
        until,
        text,
        metadata,
        where,
    )
    filters = query.parameters()
    view = TableView(
        "/traffic",
        _EXPORTED_COLUMNS if export else _COLUMNS,
        sort="",
        filters=filters,
        after=after,
        export=export,
    )
    shown: dict[str, Any] = {
        "query": query,
        "error": "",
        "live": live and not view.is_later,
        "live_rows": LIVE_ROWS,
        "search": None,
        "parameters": filters,
        "totals_parameters": query.totals_parameters(),
        "routes": services.routes.names(),
        "sees_keys": caller.only is None,
        "statuses": ("error", "2xx", "4xx", "5xx", "429", "499"),
        "classes": get_args(TrafficClass),
    }
    try:
        sought = query.sought()
        matching = query.matching(caller, await query.key_id(services))
        before = row_number(after) if after else None
        # Looking through many requests again and again would take all of a processor.
        shown["live"] = shown["live"] and sought.is_empty
        size = LIVE_ROWS if shown["live"] else view.size
        if sought.is_empty:
            rows = await _rows(services, caller, matching, size + 1, before)
        else:
            limit = size + 1 if view.is_export else size
            searched = await services.request_search.page(
                matching, sought, only=caller.only, limit=limit, before=before
            )
            shown["search"] = searched
            if view.is_export and searched.stopped:
                raise RequestError(
                    f"Only {searched.looked:,} requests were looked through, back to "
                    f"{utc(searched.back_to, precise=True)} UTC. Save a shorter time: set since "
                    "and until."
                )
            rows = await with_feedback(services, caller, searched.rows)
    except EvalrouterError as error:
        if view.is_export:
            raise
        answer = await table_response(
            "traffic", caller, view, (), **shown | {"error": error.message, "live": False}
        )
        answer.status_code = error.status
        return answer
    if view.is_export:
        return await table_response("traffic", caller, view, map(_exported_cells, rows))
    if shown["live"]:
        shown |= await _over_time(services, matching, query.chart_period())
    on_page = rows[:size] if shown["live"] else view.page(rows, lambda row: str(row.number))
    if shown["search"] is not None:
        view.go_on_after(shown["search"].next)
    prompts = await _prompts(services, caller, on_page)
    return await table_response(
        "traffic", caller, view, (_cells(services, row, prompts) for row in on_page), **shown
    )


async def _prompts(
    services: Services,
    caller: Caller,
    rows: Sequence[TrafficRow],
    known: Mapping[int, str] = MappingProxyType({}),
) -> dict[int, str]:
    """Return the beginnings of prompts, by the requests' numbers, as far as the caller sees them.

    Args:
        services: the parts of the process.
        caller: whose page it is.
        rows: the requests.
        known: beginnings that were read before.
    """
    prompts = {row.number: known[row.number] for row in rows if row.number in known}
    if caller.reach_of("GET /traffic/{request_id}") == "no":
        return prompts
    unread = [
        row.number
        for row in rows
        if row.bodies and row.request_bytes <= MAX_EXCERPT_BYTES and row.number not in known
    ]
    until = time.monotonic() + _PROMPTS_S
    for start in range(0, len(unread), _PROMPTS_AT_ONCE):
        if time.monotonic() >= until:
            break
        some = unread[start : start + _PROMPTS_AT_ONCE]
        async for requests in services.recorded.with_bodies(some):
            prompts |= await asyncio.to_thread(prompts_of, requests, _PROMPT_CHARACTERS)
    return prompts


async def _rows(
    services: Services, caller: Caller, matching: TrafficFilter, limit: int, before: int | None
) -> list[TrafficRow]:
    """Return the newest requests with their feedback, read some at a time."""
    rows: list[TrafficRow] = []
    while len(rows) < limit:
        size = min(_EXPORTED_AT_ONCE, limit - len(rows))
        some = await services.recorded.page(matching, limit=size, before=before)
        rows += await with_feedback(services, caller, some)
        if len(some) < size:
            break
        before = some[-1].number
    return rows


@get("/pages/live/traffic", include_in_schema=False)
async def live_requests(
    *,
    services: Injected,
    caller: InjectedCaller,
    parts: InjectedLiveParts,
    route: FromQuery[str] = "",
    target: FromQuery[str] = "",
    key: FromQuery[str] = "",
    user: FromQuery[str] = "",
    conversation: FromQuery[str] = "",
    status: FromQuery[str] = "",
    traffic_class: Class = "",
    since: FromQuery[str] = "",
    until: FromQuery[str] = "",
) -> ServerSentEvent:
    """Send the newest requests of a filter and how many there were over time, as they change."""
    query = TrafficQuery(
        route, target, key, user, conversation, status, traffic_class, since, until
    )
    key_id = await query.key_id(services)
    # What is wrong is an error of the usual form, which can only be sent before the first part.
    query.matching(caller, key_id)
    view = TableView("/traffic", _COLUMNS, sort="", filters=query.parameters())

    over_time: dict[str, Any] = {}
    prompts: dict[int, str] = {}
    due = 0.0

    async def make() -> str:
        nonlocal over_time, prompts, due
        matching = query.matching(caller, key_id)
        rows = await _rows(services, caller, matching, LIVE_ROWS, None)
        prompts = await _prompts(services, caller, rows, prompts)
        cells = [_cells(services, row, prompts) for row in rows]
        if time.monotonic() >= due:
            over_time = await _over_time(services, matching, query.chart_period())
            due = time.monotonic() + _SUMS_EVERY_S
        return await part("traffic_live_part.html", view=view, rows=cells, **over_time)

    return parts.stream(caller, ("traffic", query), make)


def _cells(services: Services, row: TrafficRow, prompts: Mapping[int, str]) -> dict[str, Any]:
    notes = [
        *(["run"] if row.traffic_class == "eval" else ()),
        *(["cache"] if row.cached else ()),
        *(["stream"] if row.stream else ()),
        *([f"{len(row.attempts)} attempts"] if len(row.attempts) > 1 else ()),
        *([f"not {row.first_target}"] if is_fallback(row) else ()),
        *([row.error_code] if row.error_code else ()),
        *(["fields dropped"] if row.translation is not None and row.translation.dropped else ()),
    ]
    return {
        "id": row.id,
        "at": utc(row.at, precise=True),
        "route": row.route,
        "prompt": prompts.get(row.number, ""),
        "target": row.target,
        "status": row.status,
        "failed": row.status >= 400 or bool(row.error_code),
        "tokens": tokens(row),
        "cost": money(row.cost_usd),
        "seconds": duration(row.total_s),
        "notes": ", ".join(notes),
        "feedback": _feedback(row),
        "user": row.user,
        "key": services.keys.name_of(row.key_id),
    }


def is_fallback(row: TrafficRow) -> bool:
    """Return whether another target answered than the one that was tried first."""
    return bool(row.first_target) and row.target not in {"", row.first_target}


def tokens(row: TrafficRow) -> str:
    """Return a request's tokens as pages show them; an estimate has a `~`."""
    if row.prompt_tokens is None and row.completion_tokens is None:
        return ABSENT
    counts = [
        ABSENT if count is None else f"{count:,}"
        for count in (row.prompt_tokens, row.completion_tokens)
    ]
    return f"{'~' if row.estimated else ''}{' / '.join(counts)}"


def _feedback(row: TrafficRow) -> str:
    return ", ".join(
        f"{each.name} {ABSENT if each.mean is None else f'{each.mean:.2g}'} ({each.count})"
        for each in row.feedback
    )


def _exported_cells(row: TrafficRow) -> dict[str, Any]:
    return {
        "at": utc(row.at, precise=True),
        "class": row.traffic_class,
        "attempts": len(row.attempts),
        "feedback": _feedback(row),
    } | {
        column.key: getattr(row, column.key)
        for column in _EXPORTED_COLUMNS
        if column.key not in {"at", "class", "attempts", "feedback"}
    }


class PeriodPart(NamedTuple):
    """What the requests of a part of a period took.

    Attributes:
        at: when it began, seconds since the epoch.
        total: the sums; None where no request came.
    """

    at: float
    total: TrafficTotal | None


@page("/pages/traffic/totals")
async def request_totals(
    *,
    services: Injected,
    caller: InjectedCaller,
    route: FromQuery[str] = "",
    target: FromQuery[str] = "",
    key: FromQuery[str] = "",
    user: FromQuery[str] = "",
    conversation: FromQuery[str] = "",
    status: FromQuery[str] = "",
    traffic_class: Class = "",
    by: FromQuery[Literal["", TotalsBy]] = "",
    since: FromQuery[Period] = "15m",
) -> Response[Any]:
    """Show requests over time, and added up in groups; all of the period are read."""
    query = TrafficQuery(route, target, key, user, conversation, status, traffic_class)
    matching = query.matching(caller, await query.key_id(services))
    shown = await _over_time(services, matching, since)
    groups: list[TrafficTotal] = []
    if by:
        end = shown["over_time"][-1].at + shown["step"]
        whole = _of_time(matching, shown["over_time"][0].at, end)
        groups = await services.recorded.totals(whole, (by,), limit=_GROUPS_SHOWN)
    return await rendered(
        "traffic_totals.html",
        caller,
        title="Requests over time",
        current="/traffic",
        query=query,
        parameters=query.parameters(),
        by=by,
        groups=groups,
        max_groups=_GROUPS_SHOWN,
        group_names=get_args(TotalsBy),
        key_name=services.keys.name_of,
        **shown,
    )


async def _over_time(services: Services, matching: TrafficFilter, since: Period) -> dict[str, Any]:
    """Return what `over_time_part.html` shows: the requests of each part of a period up to now."""
    seconds = length_of_time(since, param="since")
    step = seconds / _PARTS
    end = math.ceil(time.time() / step) * step
    over_time = [
        await _total(services, matching, end - seconds + n * step, step) for n in range(_PARTS)
    ]
    return {
        "since": since,
        "periods": _PERIODS,
        "step": step,
        "over_time": over_time,
        "requests": sum(each.total.requests for each in over_time if each.total),
    }


async def _total(services: Services, matching: TrafficFilter, at: float, step: float) -> PeriodPart:
    totals = await services.recorded.totals(_of_time(matching, at, at + step), (), limit=1)
    return PeriodPart(at, totals[0] if totals and totals[0].requests else None)


def _of_time(matching: TrafficFilter, since: float, until: float) -> TrafficFilter:
    return msgspec.structs.replace(matching, since=since, until=until)
