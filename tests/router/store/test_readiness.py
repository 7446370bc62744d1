"""Whether the database works, asked often: one check at a time, good for a second, never long."""

from __future__ import annotations

import asyncio

import pytest

from providers.errors import StoreUnavailableError
from router.store.readiness import FRESH_S, HUNG_S, LIMIT_S, Readiness


class Store:
    """A store whose checks end when they are told to."""

    def __init__(self) -> None:
        self.checks = 0
        self.free = asyncio.Event()
        self.error: Exception | None = None
        self.held_up_by: StoreUnavailableError | None = None

    async def check(self) -> None:
        self.checks += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error

    def delay(self) -> StoreUnavailableError | None:
        return self.held_up_by


def locked() -> StoreUnavailableError:
    return StoreUnavailableError("a.db: it is locked", fault="locked", reason="it is locked")


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def readiness(store, now):
    readiness = Readiness(store, clock=lambda: now[0])
    yield readiness
    await readiness.close()


async def test_a_check_is_shared_and_good_for_a_second(store, readiness, now):
    callers = [asyncio.ensure_future(readiness.fault()) for _ in range(100)]
    await asyncio.sleep(0)
    store.free.set()
    assert set(await asyncio.gather(*callers)) == {None}
    assert await readiness.fault() is None
    assert store.checks == 1
    now[0] += FRESH_S
    assert await readiness.fault() is None
    assert store.checks == 2


async def test_a_slow_check_reports_what_holds_it_up_or_else_the_last_result(
    store, readiness, now, caplog
):
    first = asyncio.ensure_future(readiness.fault())
    await asyncio.sleep(0)
    now[0] += LIMIT_S
    # The first check is not waited for any more.
    assert await readiness.fault() is None
    store.held_up_by = locked()
    assert (await readiness.fault()).fault == "locked"
    store.held_up_by = None
    now[0] += HUNG_S
    assert (await readiness.fault()).fault == "slow"
    store.free.set()
    await first
    assert store.checks == 1
    assert await readiness.fault() is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING"]


async def test_whatever_a_check_raises_is_a_fault_and_is_logged_once(store, readiness, now, caplog):
    store.free.set()
    store.error = RuntimeError("no more threads")
    for _ in range(3):
        assert (await readiness.fault()).fault == "failing"
        now[0] += FRESH_S
    store.error = locked()
    assert (await readiness.fault()).fault == "locked"
    now[0] += FRESH_S
    store.error = None
    assert await readiness.fault() is None
    assert caplog.text.count("no more threads") == 1
    assert caplog.text.count("works again") == 1
