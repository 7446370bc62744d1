"""Processes follow routes that any of them sets, and read them only when one has changed."""

from __future__ import annotations

import sqlite3

import pytest
from stores import sqlite_store

from router.config.loading import parse
from router.gateway.prices import PriceBook
from router.gateway.route_table import Routes


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
    await store.set_route("summarizer", DOCUMENT, 1.0)
    await here.follow()
    await here.follow()
    assert (names(here), watched.reads) == (["summarizer"], 2)
    await store.set_route("summarizer", DOCUMENT | {"strategy": "cheapest"}, 1.0)
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
    await store.set_route("week", DOCUMENT | {"traffic_days": 7}, 1.0)
    await store.set_route("always", DOCUMENT | {"traffic_days": 0}, 1.0)
    await store.set_route("silent", DOCUMENT, 1.0)
    await store.set_route("newer", DOCUMENT | {"traffic_days": 90, "unknown": True}, 1.0)
    await routes.follow()
    assert routes.traffic_days() == {"week": 7.0, "always": 0.0, "newer": 0.0}
