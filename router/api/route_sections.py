"""The pages beside the list of routes: what steers them, and what watches them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Response

from providers.errors import EvalrouterError
from router.api.access import Caller
from router.api.page_layout import NavigationEntry, done

SECTIONS = (
    NavigationEntry("Routes", "/routes", "GET /pages/routes"),
    NavigationEntry("Rollouts", "/rollouts", "GET /pages/rollouts"),
    NavigationEntry("Shadows", "/shadows", "GET /pages/shadows"),
    NavigationEntry("Watches", "/watches", "GET /pages/watches"),
    NavigationEntry("Schedules", "/schedules", "GET /pages/schedules"),
    NavigationEntry("Alerts", "/alerts", "GET /pages/alerts"),
)


def sections_of(caller: Caller) -> list[NavigationEntry]:
    """Return those that a caller may see."""
    return [entry for entry in SECTIONS if caller.reach_of(entry.operation) == "all"]


async def done_or_shown(
    change: Awaitable[object], path: str, shown: Callable[[str], Awaitable[Response[str]]]
) -> Response[Any]:
    """Make a change, and lead on to a page; or show the form again with what is wrong.

    Args:
        change: what a form is for.
        path: of the page that shows what came of it.
        shown: returns the page of the form, with a message.
    """
    try:
        await change
    except EvalrouterError as error:
        if error.status >= 500:
            raise
        response = await shown(error.message)
        response.status_code = error.status
        return response
    return done(path)
