"""Stores in PostgreSQL only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from router.store.postgres import PostgresStore


@pytest.fixture
def make_store(postgres_address, clock) -> Callable[[], PostgresStore]:
    return lambda: PostgresStore(postgres_address, clock=clock)
