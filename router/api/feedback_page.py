"""The page of feedback: what people and programs said of answers, with links to the requests."""

from __future__ import annotations

import time
from typing import Any, Literal, get_args

from litestar import Response
from litestar.params import FromQuery

from providers.errors import EvalrouterError
from router.api.access import InjectedCaller
from router.api.injection import Injected
from router.api.page_layout import page, utc
from router.api.page_tables import Export, TableColumn, TableView, row_number, table_response
from router.gateway.key_administration import find_key
from router.loop.moments import period
from router.loop.recorded_conversations import text_of
from router.records import stored_name
from router.store.feedback import FeedbackFilter, FeedbackKind, FeedbackRow

# Characters of a text in a cell.
_SHOWN = 300
_COLUMNS = (
    TableColumn("at", "Time (UTC)", sorts=True),
    TableColumn("name", "Name"),
    TableColumn("value", "Value"),
    TableColumn("comment", "Comment"),
    TableColumn("route", "Route"),
    TableColumn("target", "Answered by"),
    TableColumn("user", "User"),
    TableColumn("key", "Key"),
    TableColumn("request", "Request"),
)


@page("/pages/feedback")
async def feedback_list(
    *,
    services: Injected,
    caller: InjectedCaller,
    name: FromQuery[str] = "",
    kind: FromQuery[Literal["", FeedbackKind]] = "",
    route: FromQuery[str] = "",
    user: FromQuery[str] = "",
    key: FromQuery[str] = "",
    since: FromQuery[str] = "",
    sort: FromQuery[str] = "-at",
    after: FromQuery[str] = "",
    export: FromQuery[Export] = "",
) -> Response[Any]:
    """Show feedback: of each author what they said last.

    `after` is the number of the last row of the page before.
    """
    filters = {"name": name, "kind": kind, "route": route, "user": user, "key": key, "since": since}
    view = TableView("/feedback", _COLUMNS, sort=sort, filters=filters, after=after, export=export)
    shown: dict[str, Any] = {
        "query": filters,
        "error": "",
        "kinds": get_args(FeedbackKind),
        "sees_keys": caller.only is None,
    }
    try:
        first, _ = period(since or None, None, time.time())
        key_id = (await find_key(services.store, key)).id if key else None
        matching = FeedbackFilter(
            key_id=caller.only or key_id,
            user=stored_name(user) if user else None,
            name=name or None,
            kind=kind or None,
            route=route or None,
            since=first,
        )
        rows = await services.store.feedback(
            matching,
            limit=view.size + 1,
            before=row_number(after) if after else None,
            oldest_first=not view.descending,
        )
    except EvalrouterError as error:
        if view.is_export:
            raise
        answer = await table_response(
            "feedback", caller, view, (), **shown | {"error": error.message}
        )
        answer.status_code = error.status
        return answer
    on_page = view.page(rows, lambda row: str(row.number))
    name_of = services.keys.name_of
    limit = None if view.is_export else _SHOWN
    cells = (_cells(row, limit) | {"key": name_of(row.key_id)} for row in on_page)
    return await table_response("feedback", caller, view, cells, **shown)


def _cells(row: FeedbackRow, limit: int | None) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": utc(row.at, precise=True),
        "name": row.name,
        "value": _cut(value_text(row), limit),
        "comment": _cut(row.comment, limit),
        "route": row.route,
        "target": row.target,
        "user": row.user,
        "request": row.record_id,
    }


def value_text(row: FeedbackRow) -> str:
    """Return what feedback says as pages show it."""
    value = row.value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return text_of(value) or "a message without a text"
    return f"{value:g}"


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else f"{text[:limit]}\u2026"
