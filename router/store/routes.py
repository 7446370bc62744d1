"""Routes that were set while a server ran; they stand before those of the config file."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from router.store.changes import ChangeStore


class UnreadableOverride(NamedTuple):
    """An override whose row cannot be read, and the reason. It must hide no other."""

    reason: str


RouteOverrides = dict[str, dict[str, Any] | UnreadableOverride]


class RouteStore(ChangeStore, Protocol):
    """Stores overrides of the config's routes."""

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        ...

    async def set_route(self, name: str, route: dict[str, Any] | None, now: float) -> None:
        """Override a route of the config (its document, JSON types); None goes back to it."""
        ...

    async def route_overrides(self) -> RouteOverrides:
        """Return all overrides, by name."""
        ...

    async def route_version(self) -> int:
        """Return a number that grows with every change: cheap enough for every second."""
        ...
