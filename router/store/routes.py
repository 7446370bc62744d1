"""Routes that were set while a server ran; they stand before those of the config file.

Each change of one leaves a version: what the route has been since then, who changed it and why. So
does the config file's route that was in effect before the first change.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from router.store.changes import ChangeStore

# Versions of a route that are stored; the oldest ones make room.
MAX_VERSIONS = 1000
CONFIG_FILE = "config file"


class UnreadableOverride(NamedTuple):
    """An override whose row cannot be read, and the reason. It must hide no other."""

    reason: str


RouteOverride = dict[str, Any] | UnreadableOverride
RouteOverrides = dict[str, RouteOverride]


class RouteChange(msgspec.Struct, frozen=True):
    """A change of a route.

    Attributes:
        name: of the route.
        route: what it is from now on (its document, JSON types); None for that of the config file.
        at: when, seconds since the epoch.
        actor: who changes it.
        reason: why; "" where the request gives no reason.
        config: the config file's route, for the record; None where that has none of the name.
        expected: what must be set now; UNSET for anything.
    """

    name: str
    route: dict[str, Any] | None
    at: float
    actor: str = ""
    reason: str = ""
    config: dict[str, Any] | None = None
    expected: RouteOverride | msgspec.UnsetType | None = msgspec.UNSET


class RouteVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What a route was from a moment on.

    Attributes:
        number: of the version among those of its route, from 1.
        at: since when, seconds since the epoch; of the config file's route, when it was replaced.
        source: whether it was the config file's, or set at run time.
        route: its document; None where there was no such route any more.
        actor: who made it so: `key NAME (ID)` and the like, or `config file`; "" where that was not
            recorded.
        reason: why; "" where the change gave no reason.
    """

    number: int
    at: float
    source: Literal["config", "override"]
    route: dict[str, Any] | None
    actor: str
    reason: str


class RouteStore(ChangeStore, Protocol):
    """Stores overrides of the config's routes."""

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        ...

    async def set_route(self, change: RouteChange) -> None:
        """Change a route, and add its version.

        Raises:
            ConflictError: something else is set than the change expects.
        """
        ...

    async def route_versions(
        self, name: str, *, limit: int = 50, before: int | None = None
    ) -> list[RouteVersion]:
        """List the versions of a route, newest first; `before` is the number of the last one seen.

        What the row of one cannot be read of is left out.
        """
        ...

    async def route_overrides(self) -> RouteOverrides:
        """Return all overrides, by name."""
        ...

    async def route_version(self) -> int:
        """Return a number that grows with every change: cheap enough for every second."""
        ...
