"""The table of routes that were set while a server ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from providers.errors import ConflictError
from router.store.columns.values import UNREADABLE, json_text
from router.store.routes import (
    CONFIG_FILE,
    MAX_VERSIONS,
    RouteChange,
    RouteOverride,
    RouteOverrides,
    RouteStore,
    RouteVersion,
    UnreadableOverride,
)
from router.store.sql.connection import Connection, insert, upsert
from router.store.sql.database import SqlPart
from router.store.sql.filters import given

_SET = upsert("route_overrides", ("name", "route", "changed_at"), key=("name",))
_VERSION = RouteVersion.__struct_fields__
_ADD_VERSION = insert("route_versions", ("name", *_VERSION))
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_version = msgspec.json.Decoder(dict[str, Any] | None).decode


class SqlRoutes(SqlPart, RouteStore):
    """Overrides of the config's routes."""

    @property
    def generation(self) -> int:
        return self._database.generation

    async def set_route(self, change: RouteChange) -> None:
        await self._database.write("set a route", set_route, change)

    async def route_versions(
        self, name: str, *, limit: int = 50, before: int | None = None
    ) -> list[RouteVersion]:
        return await self._database.read("read versions of a route", _versions, name, limit, before)

    async def route_overrides(self) -> RouteOverrides:
        return await self._database.read("read route overrides", _overrides)

    async def route_version(self) -> int:
        return await self._database.read("read whether routes changed", _version)


def set_route(db: Connection, change: RouteChange) -> None:
    """Override a route, or go back to the config's, and add the version.

    Raises:
        ConflictError: something else is set than the change expects.
    """
    name = change.name
    before, since = _set_now(db, name)
    if change.expected is not msgspec.UNSET and before != change.expected:
        raise ConflictError(
            "the route was changed meanwhile; look at it again", code="route_changed"
        )
    if change.route is None:
        db.execute("DELETE FROM route_overrides WHERE name = ?", (name,))
    else:
        # First, so that two changes of a route wait for each other.
        db.execute(_SET, (name, json_text(change.route), change.at))
    if before == change.route:
        return
    newest = next(iter(_versions(db, name, 1, None)), None)
    if before is None and change.config is not None:
        # The file may have been changed since its version was added.
        if newest is None or (newest.source, newest.route) != ("config", change.config):
            _add(db, name, (change.at, "config", change.config, CONFIG_FILE, ""))
    elif newest is None and isinstance(before, dict):
        # One that an earlier release has set.
        _add(db, name, (since, "override", before, "", ""))
    source = "config" if change.route is None else "override"
    route = change.config if change.route is None else change.route
    _add(db, name, (change.at, source, route, change.actor, change.reason))


def _add(
    db: Connection, name: str, version: tuple[float, str, dict[str, Any] | None, str, str]
) -> None:
    """Add a version (its fields from `at` on); the oldest makes room where need be."""
    last = db.execute("SELECT max(number) FROM route_versions WHERE name = ?", (name,))
    number = (last.fetchone()[0] or 0) + 1
    at, source, route, actor, reason = version
    db.execute(_ADD_VERSION, (name, number, at, source, json_text(route), actor, reason))
    db.execute(
        "DELETE FROM route_versions WHERE name = ? AND number <= ?", (name, number - MAX_VERSIONS)
    )


def _versions(db: Connection, name: str, limit: int, before: int | None) -> list[RouteVersion]:
    where, values = given({"name = :name": name, "number < :before": before})
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {', '.join(_VERSION)} FROM route_versions WHERE {' AND '.join(where)}"
            " ORDER BY number DESC LIMIT :limit",
            values | {"limit": limit},
        ).fetchall()
    return [version for row in rows if (version := _version_of(row)) is not None]


def _version_of(row: Sequence[Any]) -> RouteVersion | None:
    fields = dict(zip(_VERSION, row, strict=True))
    try:
        return msgspec.convert(fields | {"route": _decode_version(fields["route"])}, RouteVersion)
    except UNREADABLE:
        return None


def _overrides(db: Connection) -> RouteOverrides:
    with db.lenient_text():
        rows = db.execute("SELECT name, route FROM route_overrides ORDER BY name").fetchall()
    return {str(name): _override(route) for name, route in rows}


def _set_now(db: Connection, name: str) -> tuple[RouteOverride | None, float]:
    """Return the override of a route, None without one, and since when it is there."""
    with db.lenient_text():
        row = db.execute(
            "SELECT route, changed_at FROM route_overrides WHERE name = ?", (name,)
        ).fetchone()
    return (None, 0.0) if row is None else (_override(row[0]), row[1])


def _override(route: Any) -> RouteOverride:
    try:
        return _decode(route)
    except UNREADABLE as error:
        return UnreadableOverride(f"its row in the database cannot be read: {error}")


def _version(db: Connection) -> int:
    version: int = db.execute("SELECT version FROM route_changes").fetchone()[0]
    return version
