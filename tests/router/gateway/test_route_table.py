"""Processes follow routes that any of them sets, and read them only when one has changed."""

from __future__ import annotations

import sqlite3

import pytest
from stores import sqlite_store

from providers.errors import ConflictError, NotFoundError
from router.config.loading import parse
from router.gateway.prices import PriceBook
from router.gateway.route_table import Routes
from router.store.routes import RouteChange


class Watched:
    """A store that counts how often the overrides are read."""

    def __init__(self, store) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def route_overrides(self):
        self.reads += 1
        return await self._store.route_overrides()


@pytest.fixture
async def store(tmp_path):
    async with sqlite_store(tmp_path / "a.db") as opened:
        yield opened


def a_table(store) -> Routes:
    config = parse("providers: {baseline: {kind: baseline}}", "test.yaml", {})
    return Routes(config, None, store, PriceBook(config.prices, config.providers), now=lambda: 1.0)


def names(routes: Routes) -> list[str]:
    return [view.name for view in routes.view()]


DOCUMENT = {"targets": [{"model": "baseline/lead-3"}]}


async def test_overrides_are_read_only_when_one_was_set_or_removed(store, tmp_path):
    watched = Watched(store)
    here = a_table(watched)
    await here.follow()
    await here.follow()
    assert (names(here), watched.reads) == ([], 1)
    await store.set_route(RouteChange("summarizer", DOCUMENT, 1.0))
    await here.follow()
    await here.follow()
    assert (names(here), watched.reads) == (["summarizer"], 2)
    await store.set_route(RouteChange("summarizer", DOCUMENT | {"strategy": "cheapest"}, 1.0))
    await here.follow()
    assert (here.view()[0].route.strategy, watched.reads) == ("cheapest", 3)
    with sqlite3.connect(tmp_path / "a.db") as other:
        # An older program, or a person.
        other.execute("DELETE FROM route_overrides")
    other.close()
    await here.follow()
    await here.follow()
    assert (names(here), watched.reads) == ([], 4)


async def test_how_long_records_stay_is_said_by_routes_and_not_by_those_that_cannot_be_read(store):
    routes = a_table(store)
    await store.set_route(RouteChange("week", DOCUMENT | {"traffic_days": 7}, 1.0))
    await store.set_route(RouteChange("always", DOCUMENT | {"traffic_days": 0}, 1.0))
    await store.set_route(RouteChange("silent", DOCUMENT, 1.0))
    await store.set_route(
        RouteChange("newer", DOCUMENT | {"traffic_days": 90, "unknown": True}, 1.0)
    )
    await routes.follow()
    assert routes.traffic_days() == {"week": 7.0, "always": 0.0, "newer": 0.0}


async def test_a_change_names_what_it_changes_and_is_refused_where_another_came_first(store):
    here, there = a_table(store), a_table(store)
    first = await here.put("summarizer", DOCUMENT, version="", actor="ann")
    assert first.version
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await there.put("summarizer", DOCUMENT, version="")
    other = DOCUMENT | {"strategy": "cheapest"}
    second = await there.put("summarizer", other, version=first.version, actor="bob", reason="cost")
    assert second.version not in ("", first.version)
    with pytest.raises(ConflictError):
        await here.put("summarizer", DOCUMENT, version=first.version)
    with pytest.raises(ConflictError):
        await here.remove("summarizer", version=first.version)
    assert here.find("summarizer") == second
    versions = await here.versions("summarizer")
    assert [(each.number, each.route, each.actor, each.reason) for each in versions] == [
        (2, other, "bob", "cost"),
        (1, DOCUMENT, "ann", ""),
    ]
    with pytest.raises(NotFoundError):
        await here.versions("nothing")


async def test_what_is_to_be_edited_is_what_was_set_or_what_the_file_says_beyond_defaults(store):
    config = parse(
        "providers: {baseline: {kind: baseline}}\n"
        "routes: {r: {targets: [{model: baseline/echo, weight: 3}], retries: {attempts: 2}}}",
        "test.yaml",
        {},
    )
    routes = Routes(config, None, store, PriceBook(config.prices, config.providers))
    assert routes.document("r") == {
        "targets": [{"model": "baseline/echo", "weight": 3.0}],
        "retries": {"attempts": 2},
    }
    before = routes.find("r").version
    await routes.put("r", DOCUMENT)
    assert (routes.document("r"), routes.document("nothing")) == (DOCUMENT, None)
    await routes.remove("r")
    assert routes.find("r").version == before
    versions = await routes.versions("r")
    assert [(each.number, each.source) for each in versions] == [
        (3, "config"),
        (2, "override"),
        (1, "config"),
    ]
    assert versions[0].route == versions[2].route
