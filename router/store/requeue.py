"""How a run that stopped is executed once more: resumed, scored by other metrics, or extended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from evaluators.base import Sample


class RequeueStore(Protocol):
    """Queues runs that no living process executes.

    An owner that has not renewed its claim for `stale_after` seconds of the store's clock is taken
    for dead. `changes` are fields of the run to set with it. Every method raises NotFoundError
    where no run has the id.
    """

    async def requeue_run(
        self,
        run_id: str,
        stale_after: float,
        *,
        retry_failed: bool = False,
        **changes: Any,
    ) -> None:
        """Queue a run for execution; `retry_failed` drops its errors, to send them once more.

        Raises:
            ConflictError: its owner gave a sign of life within the last `stale_after` seconds.
        """
        ...

    async def rescore_run(
        self,
        run_id: str,
        stale_after: float,
        *,
        keep_outputs: Sequence[str],
        **changes: Any,
    ) -> None:
        """Queue a run for scoring all its answers; only scores of `keep_outputs` stay.

        The owner that claims it calls `unscore_some` until that returns False.

        Raises:
            ConflictError: its owner gave a sign of life within the last `stale_after` seconds.
        """
        ...

    async def unscore_some(self, run_id: str) -> bool:
        """Delete some of the scores that `rescore_run` gave up; return whether more are left."""
        ...

    async def extend_run(
        self,
        run_id: str,
        stale_after: float,
        *,
        samples: Iterable[Sample],
        **changes: Any,
    ) -> None:
        """Queue a run with more samples behind its own, all or nothing.

        `changes` contains the new `dataset_rows`.

        Raises:
            ConflictError: its owner gave a sign of life lately, or another process extends it too.
            StoreError: two samples have the same id.
            Exception: whatever `samples` raises; the run stays as it was.
        """
        ...
