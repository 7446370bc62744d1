"""Stores in SQLite files only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from router.store.sqlite import SqliteStore


@pytest.fixture
def make_store(tmp_path, clock) -> Callable[[], SqliteStore]:
    return lambda: SqliteStore(tmp_path / "store.db", clock=clock)
