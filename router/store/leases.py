"""Leases: work that one process at a time does for all, as long as it gives signs of life.

lease = Lease(store, "decide about rollouts", owner, seconds=10.0)
if await lease.claim():         # renews it, too
    ...
await lease.release()

async with lease.held() as is_held:
    ...                         # released at the end
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from providers.errors import StoreError


class LeaseStore(Protocol):
    """Gives each lease to one owner, by the clock of the store."""

    async def claim_lease(self, name: str, owner: str, seconds: float) -> bool:
        """Take a lease for so long, or renew it; False while another owner has it."""
        ...

    async def release_lease(self, name: str, owner: str) -> None:
        """Give a lease up, where the owner has it."""
        ...


class Lease:
    """One lease, for one owner.

    Args:
        store: has the leases.
        name: what may be done with it.
        owner: a name for this part of the process, which no other has.
        seconds: how long it lasts where it is not renewed.

    Attributes:
        is_held: whether it was claimed, as far as its owner knows.
    """

    def __init__(self, store: LeaseStore, name: str, owner: str, seconds: float) -> None:
        self.is_held = False
        self._store = store
        self._name = name
        self._owner = owner
        self._seconds = seconds

    async def claim(self) -> bool:
        """Take the lease, or renew it; return whether the owner has it.

        Raises:
            StoreError: the database does not work.
        """
        try:
            self.is_held = await self._store.claim_lease(self._name, self._owner, self._seconds)
        except asyncio.CancelledError:
            # The store may have given it all the same.
            self.is_held = True
            raise
        return self.is_held

    async def release(self) -> None:
        """Leave the lease to another owner; does nothing where it is not held.

        Raises:
            StoreError: the database does not work; the lease ends by itself.
        """
        if self.is_held:
            self.is_held = False
            await self._store.release_lease(self._name, self._owner)

    def lose(self) -> None:
        """Note that another owner has it, as a write that was refused has shown."""
        self.is_held = False

    @asynccontextmanager
    async def renewed(self) -> AsyncGenerator[None]:
        """Renew a lease that is held, thrice as often as it takes, until the end.

        So one that a killed process leaves ends soon, however long the work takes.
        """
        renewing = asyncio.create_task(self._renew(), name=f"renew the lease {self._name}")
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            # It is tried again soon, and the work goes on meanwhile.
            with suppress(StoreError):
                await self.claim()

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[bool]:
        """Claim the lease, yield whether the owner has it, and release it, even when cancelled.

        Raises:
            StoreError: the database does not work.
        """
        async with self.released_at_the_end():
            yield await self.claim()

    @asynccontextmanager
    async def released_at_the_end(self) -> AsyncGenerator[None]:
        """Release the lease at the end where it was claimed, even when cancelled.

        Raises:
            StoreError: the database does not work.
        """
        try:
            yield
        finally:
            await asyncio.shield(self.release())
