"""A store of each database, for the tests of what any store promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from router.store.postgres import PostgresStore
from router.store.protocol import Store
from router.store.sqlite import SqliteStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def make_store(request, tmp_path, clock) -> Callable[[], Store]:
    """Makes stores over the same data."""
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_address")
        return lambda: PostgresStore(address, clock=clock)
    return lambda: SqliteStore(tmp_path / "store.db", clock=clock)


@pytest.fixture
def at(store, clock) -> Callable[[float], Store]:
    """Sets the clock and returns the store."""

    def at(now: float) -> Store:
        clock.now = now
        return store

    return at


@pytest.fixture
async def store(make_store):
    store = make_store()
    await store.open()
    yield store
    await store.close()
