"""Keeps the routes: the config file's, and those that were set while the server runs.

`Routes.table` is replaced whole, so a request sees either the old routes or the new ones; requests
in flight keep the plan they were given. Overrides live in the store: they survive a restart, and
every process on the same store follows them within a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from providers.errors import ConfigError, ConflictError, NotFoundError, closest
from router.config.documents import as_stored, stated
from router.config.loading import load
from router.config.routes import Route, parse_route
from router.config.schema import Config
from router.gateway.prices import PriceBook
from router.gateway.routing import Table
from router.store.changes import follow_changes
from router.store.routes import (
    RouteChange,
    RouteOverride,
    RouteOverrides,
    RouteStore,
    RouteVersion,
    UnreadableOverride,
)

log = logging.getLogger("evalrouter")

POLL_S = 1.0


class RouteView(msgspec.Struct, frozen=True):
    """A route, and whether it comes from the config or was set at run time.

    Attributes:
        name: what clients send as the model.
        source: where the route comes from.
        route: the route in effect; None where the only route of the name cannot be used.
        override_error: the reason why a route that was set at run time is left out; "" for none.
        version: a hash of what is set, or else of the config file's route: with `?version=`, a
            change is refused if the route has changed since.
    """

    name: str
    source: Literal["config", "override"]
    route: Route | None
    override_error: str = ""
    version: str = ""


class Routes:
    """Builds the table and keeps it up to date.

    Args:
        config: the config at start.
        source: the file that the config was read from; None for the embedded default.
        store: has the overrides.
        prices: has the prices for the strategy `cheapest`, and follows the routes.
        now: tells the seconds since the epoch.
    """

    def __init__(
        self,
        config: Config,
        source: Path | None,
        store: RouteStore,
        prices: PriceBook,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._source = source
        self._store = store
        self._prices = prices
        self._now = now
        # Of the overrides that were read last: which database they are of, and their version.
        self._version = (0, -1)
        self._documents: RouteOverrides = {}
        self._overrides: dict[str, Route] = {}
        # The reasons why those of the other documents are left out.
        self._left_out: dict[str, str] = {}
        self._read_at = _changed_at(source)
        self.table = self._build()

    def _build(self) -> Table:
        routes = self._config.routes | self._overrides
        self._prices.follow_routes(routes)
        providers = self._config.providers
        timeouts = {name: provider.timeout for name, provider in providers.items()}
        return Table(routes, providers, self._prices.per_million, timeouts)

    def view(self) -> list[RouteView]:
        """Return every route, in the order of the config, new and unusable ones last."""
        return [self._view_of(name) for name in self.names()]

    def names(self) -> list[str]:
        """Return the names of all routes, in the order of `view`."""
        return list(dict.fromkeys([*self.table.routes, *self._left_out]))

    def _view_of(self, name: str) -> RouteView:
        route = self.table.routes.get(name)
        is_override = name in self._overrides or route is None
        return RouteView(
            name,
            "override" if is_override else "config",
            route,
            self._left_out.get(name, ""),
            self._hash_of(name),
        )

    def traffic_days(self) -> dict[str, float]:
        """Return for how many days the records of routes stay; 0 for ever. Others do not say.

        An override that is left out may say anything, so its route's records stay.
        """
        stated = {name: route.traffic_days for name, route in self.table.routes.items()}
        days = {name: days for name, days in stated.items() if days is not None}
        return days | dict.fromkeys(self._left_out, 0.0)

    def read(self, name: str, data: Any) -> Route:
        """Return a route as `put` would set it. Raises ConfigError where it cannot be used."""
        return parse_route(name, data, self._config.providers)

    def find(self, name: str) -> RouteView:
        """Return one route. Raises NotFoundError."""
        names = self.names()
        if name not in names:
            raise NotFoundError(f"The route {name!r} does not exist.{closest(name, names)}")
        return self._view_of(name)

    def document(self, name: str) -> dict[str, Any] | None:
        """Return what is set of a route, or else what the config file says beyond its defaults.

        None where neither can be read.
        """
        override = self._documents.get(name)
        if isinstance(override, dict):
            return override
        route = self._config.routes.get(name)
        return None if override is not None or route is None else stated(route)

    def configured(self, name: str) -> dict[str, Any] | None:
        """Return the config file's route, for the record of versions; None where it has none."""
        route = self._config.routes.get(name)
        return None if route is None else as_stored(route)

    async def versions(
        self, name: str, *, limit: int = 50, before: int | None = None
    ) -> list[RouteVersion]:
        """List what a route was, newest first; nothing where it was never set at run time.

        Raises:
            NotFoundError: no such route, and there was none.
        """
        versions = await self._store.route_versions(name, limit=limit, before=before)
        if not versions and before is None:
            self.find(name)
        return versions

    async def put(
        self, name: str, data: Any, *, actor: str = "", reason: str = "", version: str | None = None
    ) -> RouteView:
        """Set a route, for this process at once and for the others within a second.

        Args:
            name: of the route.
            data: its document.
            actor: who does.
            reason: why.
            version: what it was (`RouteView.version`; "" where there was none); None for anything.

        Raises:
            ConfigError: the route cannot be used; nothing has changed.
            ConflictError: it was changed meanwhile; likewise.
        """
        self.read(name, data)
        await self._change(name, data, actor, reason, version)
        return self.find(name)

    async def remove(
        self, name: str, *, actor: str = "", reason: str = "", version: str | None = None
    ) -> None:
        """Drop the override of a route: the config file's route, if any, is back.

        Raises:
            NotFoundError: no override has that name.
            ConflictError: it was changed meanwhile.
        """
        if name not in await self._store.route_overrides():
            raise NotFoundError(f"The route {name!r} was not set at run time.")
        await self._change(name, None, actor, reason, version)

    async def _change(
        self, name: str, data: Any, actor: str, reason: str, version: str | None
    ) -> None:
        expected: RouteOverride | msgspec.UnsetType | None = msgspec.UNSET
        if version is not None:
            await self.follow()
            expected = self._documents.get(name)
            if self._hash_of(name) != version:
                raise ConflictError(
                    f"The route {name!r} was changed meanwhile; look at it again",
                    code="route_changed",
                )
        await self._store.set_route(
            RouteChange(
                name=name,
                route=data,
                at=self._now(),
                actor=actor,
                reason=reason,
                config=self.configured(name),
                expected=expected,
            )
        )
        await self.follow()

    def _hash_of(self, name: str) -> str:
        """Return a hash of what is set of a route, or else of the config file's; "" without any."""
        route: RouteOverride | Route | None = self._documents.get(name)
        if route is None:
            route = self._config.routes.get(name)
        if route is None:
            return ""
        return hashlib.sha256(msgspec.json.encode(route, order="sorted")).hexdigest()[:16]

    async def follow(self) -> None:
        """Take over what any process has set.

        An override that no longer fits, or cannot be read, is left out: the log and `view` say why.
        """
        version = self._store.generation, await self._store.route_version()
        if version == self._version:
            return
        documents = await self._store.route_overrides()
        self._version = version
        if documents == self._documents:
            return
        self._documents = documents
        self._apply_overrides()
        self.table = self._build()

    def _apply_overrides(self) -> None:
        self._overrides, self._left_out = {}, {}
        for name, data in self._documents.items():
            if isinstance(data, UnreadableOverride):
                self._left_out[name] = data.reason
                continue
            try:
                self._overrides[name] = parse_route(name, data, self._config.providers)
            except ConfigError as error:
                self._left_out[name] = error.message
        for name, reason in self._left_out.items():
            log.error("the override of route %s is left out: %s", name, reason)

    async def reload(self) -> None:
        """Read the config file again: its routes take effect, other changes need a restart.

        A file that cannot be used changes nothing; the log says why.
        """
        if self._source is None:
            return
        self._read_at = _changed_at(self._source)
        try:
            fresh = await asyncio.to_thread(load, self._source)
        except ConfigError as error:
            log.error("the config stays as it was: %s", error.message)
            return
        rest = msgspec.structs.replace(fresh, routes=self._config.routes)
        if rest != self._config:
            log.warning("only changes of routes take effect at once; the others need a restart")
        self._config = msgspec.structs.replace(self._config, routes=fresh.routes)
        self._apply_overrides()
        self.table = self._build()
        log.info("routes reloaded: %s", ", ".join(fresh.routes) or "none")

    async def watch(self) -> None:
        """Follow the config file and the other processes, until cancelled."""
        await follow_changes(
            self._store,
            "routes",
            self._follow_all,
            within=POLL_S,
            failing="cannot look for changed routes",
        )

    async def _follow_all(self) -> None:
        """Take over a change of the config file, and what any process has set."""
        changed = await asyncio.to_thread(_changed_at, self._source)
        if changed not in (None, self._read_at):
            await self.reload()
        await self.follow()


def _changed_at(path: Path | None) -> int | None:
    try:
        return path.stat().st_mtime_ns if path else None
    except OSError:
        return None
