"""The pages beside the list of routes: what steers them, and what watches them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from litestar import Response

from router.api.access import Caller
from router.api.page_layout import NavigationEntry, navigation_of, rendered
from router.api.page_tables import TableView, table_response

SECTIONS = (
    NavigationEntry("Routes", "/routes", "GET /pages/routes"),
    NavigationEntry("Rollouts", "/rollouts", "GET /pages/rollouts"),
    NavigationEntry("Shadows", "/shadows", "GET /pages/shadows"),
    NavigationEntry("Watches", "/watches", "GET /pages/watches"),
    NavigationEntry("Schedules", "/schedules", "GET /pages/schedules"),
    NavigationEntry("Alerts", "/alerts", "GET /pages/alerts"),
)


async def section_page(
    template: str, caller: Caller, *, title: str, **values: Any
) -> Response[str]:
    """Return a page of a section, whose template extends `steering_layout.html`; see `rendered`."""
    sections = navigation_of(caller, SECTIONS)
    return await rendered(
        template, caller, title=title, current="/routes", sections=sections, **values
    )


async def section_table(
    name: str, caller: Caller, view: TableView, rows: Iterable[Mapping[str, Any]], **values: Any
) -> Response[Any]:
    """Return the list of a section as its page, or as a file; see `table_response`."""
    sections = navigation_of(caller, SECTIONS)
    return await table_response(
        name, caller, view, rows, current="/routes", sections=sections, **values
    )
