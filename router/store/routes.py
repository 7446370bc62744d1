"""Routes that were set while a server ran; they stand before those of the config file."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class UnreadableOverride(NamedTuple):
    """An override whose row cannot be read, and the reason. It must hide no other."""

    reason: str


RouteOverrides = dict[str, dict[str, Any] | UnreadableOverride]


class RouteStore(Protocol):
    """Stores overrides of the config's routes."""

    async def set_route(self, name: str, route: dict[str, Any] | None, now: float) -> None:
        """Override a route of the config (its document, JSON types); None goes back to it."""
        ...

    async def route_overrides(self) -> RouteOverrides:
        """Return all overrides, by name. Every process reads them about once a second."""
        ...
