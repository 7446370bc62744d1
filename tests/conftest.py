"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from isolation import isolate

# Before a test's module is imported: some read the environment then.
isolate()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(timeout=30) as client:
        yield client
