"""Which process executes a run: its owner, who claims the run and renews the claim.

An owner that has not renewed its claim for `stale_after` seconds is taken for dead, by the clock of
the store: where hosts share a database, that is the database's. Every method is atomic, also
between processes on the same store.

What a store writes to a run that it has claimed is refused with a ConflictError once another
process has claimed the run: an owner that was only asleep does no harm when it wakes.
"""

from __future__ import annotations

from typing import Any, Protocol

from router.store.changes import ChangeStore
from router.store.runs import RequestedState, Run


class ClaimStore(ChangeStore, Protocol):
    """Gives each run to one owner at a time."""

    async def claim_run(self, run_id: str, owner: str, stale_after: float) -> bool:
        """Become the owner of a run that is queued or running; return whether that succeeded.

        It fails when the run is in another state, or another owner gave a sign of life lately. The
        owner may claim its run a second time, with the same effect. Cells in flight are counted
        into `interrupted` and forgotten, so that their requests are sent once more.

        Raises:
            NotFoundError: no such run.
        """
        ...

    async def heartbeat(self, run_id: str, owner: str) -> RequestedState | None:
        """Renew the claim and return the state requested of the owner.

        None when the run belongs to another owner, or was deleted.
        """
        ...

    async def end_run(self, run_id: str, owner: str, **changes: Any) -> bool:
        """Give the run up with its last state; return False when another owner has it now.

        Raises:
            NotFoundError: no such run.
        """
        ...

    async def request_state(self, run_id: str, state: RequestedState, stale_after: float) -> Run:
        """Request a state of the owner, or set it at once where no living process owns the run.

        Returns:
            The run after that.

        Raises:
            NotFoundError: no such run.
        """
        ...

    async def now(self) -> float:
        """Return the time by the clock of the store, in seconds since the epoch."""
        ...

    async def unfinished_runs(self) -> list[Run]:
        """List the queued and running runs of servers, oldest first."""
        ...
