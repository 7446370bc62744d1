"""Leases: work that one process at a time does for all, as long as it gives signs of life."""

from __future__ import annotations

from typing import Protocol


class LeaseStore(Protocol):
    """Gives each lease to one owner, by the clock of the store."""

    async def claim_lease(self, name: str, owner: str, seconds: float) -> bool:
        """Take a lease for so long, or renew it; False while another owner has it."""
        ...

    async def release_lease(self, name: str, owner: str) -> None:
        """Give a lease up, where the owner has it."""
        ...
