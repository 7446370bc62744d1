"""The pages beside the list of routes: what steers them, and what watches them."""

from __future__ import annotations

from router.api.access import Caller
from router.api.page_layout import NavigationEntry

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
