"""Tools about recorded requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from router.client.types import TrafficRow
from router.mcp.answers import RequestLine, RequestReply, RequestsReply
from router.mcp.fencing import Fence
from router.mcp.tool import (
    LONG_TEXT,
    NOTE,
    Arguments,
    MaxChars,
    Tool,
    ToolCall,
    counted,
    fitting,
    moment,
    rest,
)

_MAX_ATTEMPTS = 20
_MAX_FEEDBACK = 20


class ListTraffic(Arguments, frozen=True, kw_only=True):
    """Which requests."""

    route: str | None = None
    target: Annotated[str | None, msgspec.Meta(description="`provider/model`.")] = None
    status: Annotated[
        str | None, msgspec.Meta(description="A status, `4xx`, or `error` for all from 400.")
    ] = None
    since: Annotated[
        str | None, msgspec.Meta(description="ISO 8601, or how long ago: `7d`, `12h`.")
    ] = None
    until: str | None = None
    user: str | None = None
    conversation: str | None = None
    traffic_class: Annotated[
        Literal["live", "eval"] | None,
        msgspec.Meta(description="Clients' requests, or those of evaluations."),
    ] = None
    before: (
        Annotated[int, msgspec.Meta(ge=0, description="The `next` of the page before.")] | None
    ) = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


async def list_traffic(call: ToolCall, arguments: ListTraffic) -> RequestsReply:
    """Return requests, newest first."""
    filters: dict[str, Any] = {
        "route": arguments.route,
        "target": arguments.target,
        "status": arguments.status,
        "since": arguments.since,
        "until": arguments.until,
        "user": arguments.user,
        "conversation": arguments.conversation,
        "class": arguments.traffic_class,
    }
    rows = await call.client.traffic.list(
        limit=arguments.limit + 1, before=arguments.before, **filters
    )
    page = list(fitting(_line(call.fence, row) for row in rows[: arguments.limit]))
    more = rows[len(page) - 1]["number"] if len(page) < len(rows) else None
    return RequestsReply(
        summary=f"{counted(len(page), 'request')}{rest(more, 'before')}", requests=page, next=more
    )


def _line(fence: Fence, row: TrafficRow) -> RequestLine:
    return RequestLine(
        id=row["id"],
        at=moment(row["at"]),
        # A client may have named one that there is not.
        route=fence.name(row["route"]),
        target=fence.name(row["target"]),
        status=row["status"],
        error_code=fence.name(row["error_code"]),
        user=fence.name(row["user"]),
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cost_usd=row["cost_usd"],
        total_s=row["total_s"],
        has_bodies=row["bodies"],
    )


class ReadRequest(Arguments, frozen=True, kw_only=True):
    """Which request."""

    id: Annotated[str, msgspec.Meta(description="Its id, as of `list_traffic`.")]
    max_chars: MaxChars = LONG_TEXT


async def read_request(call: ToolCall, arguments: ReadRequest) -> RequestReply:
    """Return a request with its bodies."""
    row = await call.client.traffic.show(arguments.id)
    fence = call.fence
    given = [
        fence.value({name: each.get(name) for name in ("name", "kind", "value", "comment")}, NOTE)
        for each in row["feedback"][:_MAX_FEEDBACK]
    ]
    bodies = "with its bodies" if row["bodies"] else "of which no bodies were stored"
    return RequestReply(
        summary=f"A request with status {row['status']}, {bodies}.",
        line=_line(fence, row),
        conversation=fence.name(row["conversation"]),
        finish_reason=fence.name(row["finish_reason"]),
        attempts=[
            f"{fence.name(str(each.get('target')))}: {fence.name(str(each.get('result')))}"
            for each in row["attempts"][:_MAX_ATTEMPTS]
        ],
        request=fence.optional(row["request"], arguments.max_chars),
        response=fence.optional(row["response"], arguments.max_chars),
        feedback=given,
    )


TOOLS = (
    Tool(
        "list_traffic",
        "List recorded requests",
        "List recorded requests, newest first, with their targets, statuses, tokens, costs and "
        "times.",
        ("GET /traffic",),
        ListTraffic,
        RequestsReply,
        list_traffic,
    ),
    Tool(
        "read_request",
        "Read a recorded request",
        "Read a recorded request: its prompt and answer where they were stored, which targets were "
        "tried, and the feedback about it.",
        ("GET /traffic/{request_id}",),
        ReadRequest,
        RequestReply,
        read_request,
    ),
)
