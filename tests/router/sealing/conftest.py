"""A store of each database, and a server over it whose requests are of several days."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sealed_requests import Server, records

from router.datasets.artifacts import LocalArtifacts
from router.store.postgres import PostgresStore
from router.store.protocol import Store
from router.store.sqlite import SqliteStore


@pytest.fixture(params=["sqlite", "postgres"])
def make_store(request, tmp_path) -> Callable[[], Store]:
    """Makes stores over the same data."""
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_address")
        return lambda: PostgresStore(address)
    return lambda: SqliteStore(tmp_path / "store.db")


@pytest.fixture
async def store(make_store):
    store = make_store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def server(store, tmp_path):
    """A server with requests, none of them sealed yet."""
    server = Server(store, LocalArtifacts(tmp_path / "artifacts"))
    await store.keep_traffic(records())
    yield server
    server.files.close()
