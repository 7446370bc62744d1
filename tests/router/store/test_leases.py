"""A lease: claimed and renewed by one owner at a time, and left to the next."""

from __future__ import annotations

import asyncio

import pytest

from router.store.leases import Lease


async def test_one_owner_at_a_time_has_a_lease(store):
    mine, theirs = (Lease(store, "work", owner, 30.0) for owner in ("a", "b"))
    assert await mine.claim()
    assert not await theirs.claim()
    assert await mine.claim()
    assert (mine.is_held, theirs.is_held) == (True, False)

    # Who does not have it leaves it where it is.
    await theirs.release()
    assert not await theirs.claim()
    await mine.release()
    assert not mine.is_held
    assert await theirs.claim()


async def test_work_with_a_lease_is_done_by_one_and_leaves_it_free(store):
    mine, theirs = (Lease(store, "work", owner, 30.0) for owner in ("a", "b"))
    async with mine.held() as is_held, theirs.held() as other:
        assert (is_held, other) == (True, False)
    async with theirs.held() as is_held:
        assert is_held
    assert await mine.claim()


async def test_cancelled_work_leaves_its_lease_free(store):
    begun = asyncio.Event()

    async def work() -> None:
        async with Lease(store, "work", "a", 30.0).held():
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await Lease(store, "work", "b", 30.0).claim()


class CountedClaims:
    """A store whose claims of leases are counted."""

    def __init__(self, store):
        self.claims = 0
        self._store = store

    async def claim_lease(self, name, owner, seconds):
        self.claims += 1
        return await self._store.claim_lease(name, owner, seconds)

    async def release_lease(self, name, owner):
        await self._store.release_lease(name, owner)


async def test_a_short_lease_is_renewed_while_the_work_goes_on_and_no_longer(store):
    counted = CountedClaims(store)
    lease = Lease(counted, "work", "a", 0.03)
    async with lease.released_at_the_end():
        assert await lease.claim()
        async with lease.renewed():
            while counted.claims < 4:
                await asyncio.sleep(0)
    after = counted.claims
    assert await Lease(store, "work", "b", 30.0).claim()
    assert counted.claims == after


async def test_a_lost_lease_is_not_released(store):
    lease = Lease(store, "work", "a", 30.0)
    assert await lease.claim()
    lease.lose()
    await lease.release()
    assert not await Lease(store, "work", "b", 30.0).claim()
