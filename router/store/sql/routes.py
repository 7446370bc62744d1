"""The table of routes that were set while a server ran."""

from __future__ import annotations

from typing import Any

import msgspec

from router.store.columns.values import UNREADABLE, json_text
from router.store.routes import RouteOverrides, RouteStore, UnreadableOverride
from router.store.sql.connection import Connection, upsert
from router.store.sql.database import SqlPart

_SET = upsert("route_overrides", ("name", "route", "changed_at"), key=("name",))
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SqlRoutes(SqlPart, RouteStore):
    """Overrides of the config's routes."""

    @property
    def generation(self) -> int:
        return self._database.generation

    async def set_route(self, name: str, route: dict[str, Any] | None, now: float) -> None:
        await self._database.write("set a route", set_route, name, route, now)

    async def route_overrides(self) -> RouteOverrides:
        return await self._database.read("read route overrides", _overrides)

    async def route_version(self) -> int:
        return await self._database.read("read whether routes changed", _version)


def set_route(db: Connection, name: str, route: dict[str, Any] | None, now: float) -> None:
    """Override a route, or go back to the config's with None."""
    if route is None:
        db.execute("DELETE FROM route_overrides WHERE name = ?", (name,))
        return
    db.execute(
        _SET,
        (name, json_text(route), now),
    )


def _overrides(db: Connection) -> RouteOverrides:
    with db.lenient_text():
        rows = db.execute("SELECT name, route FROM route_overrides ORDER BY name").fetchall()
    return {str(name): _override(route) for name, route in rows}


def route_override(db: Connection, name: str) -> dict[str, Any] | UnreadableOverride | None:
    """Return the override of a route; None without one."""
    with db.lenient_text():
        row = db.execute("SELECT route FROM route_overrides WHERE name = ?", (name,)).fetchone()
    return None if row is None else _override(row[0])


def _override(route: Any) -> dict[str, Any] | UnreadableOverride:
    try:
        return _decode(route)
    except UNREADABLE as error:
        return UnreadableOverride(f"its row in the database cannot be read: {error}")


def _version(db: Connection) -> int:
    version: int = db.execute("SELECT version FROM route_changes").fetchone()[0]
    return version
