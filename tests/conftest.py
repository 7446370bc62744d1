"""Fixtures of the whole suite, and the order of its files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from isolation import isolate

# Before a test's module is imported: some read the environment then.
isolate()

# The files that take longest: where several processes share the suite, they are not left for the
# end, when one process would have nothing else to do.
LONG = (
    "tests/test_docs.py",
    "tests/hostile/test_database_faults.py",
    "tests/test_contributing.py",
    "tests/hostile/test_end.py",
)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(timeout=30) as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of LONG first; the others stay in their order."""
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of this session, with the database that others are copied from."""
    # Not before isolate().
    from postgres_server import a_server, folder_of_programs

    programs = folder_of_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    with a_server(programs) as server:
        yield server


@pytest.fixture
def postgres_address(postgres: Any) -> Iterator[str]:
    """The address of an empty PostgreSQL database that is up to date."""
    with postgres.fresh_database() as address:
        yield address
