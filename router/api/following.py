"""Lets clients follow runs: however many follow one, the database is read once for all.

    async with followers.follow(run.id) as snapshots:
        async for snapshot in snapshots:
            ...

A snapshot comes at once, and another one whenever something has changed, until the run stops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NamedTuple

import msgspec
from litestar.di import NamedDependency

from router.api.feeds import Feeds
from router.evals.stored_runs import find_run
from router.store.protocol import Store
from router.store.runs import STOPPED, Progress, Run

# Often enough for a person to watch, rarely enough for a database of a million rows.
POLL_S = 0.5


class RunSnapshot(NamedTuple):
    """What the followers of a run get.

    Attributes:
        run: the run.
        progress: how far it is.
        logged: the number of the last line of its log, 0 without one.
    """

    run: Run
    progress: Progress
    logged: int

    @property
    def stopped(self) -> bool:
        """Whether no process executes the run, and none will until a user resumes it."""
        return self.run.state in STOPPED

    def differs(self, other: RunSnapshot) -> bool:
        """Return whether anything but the heartbeat has changed."""
        return (self.run.state, self.run.cells, self.progress, self.logged) != (
            other.run.state,
            other.run.cells,
            other.progress,
            other.logged,
        )


class Followers:
    """All followers of runs in this process.

    Args:
        store: where the runs are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: Feeds[RunSnapshot] = Feeds(
            "runs",
            poll_s=POLL_S,
            is_last=lambda snapshot: snapshot.stopped,
            differs=RunSnapshot.differs,
        )

    def check_room(self, holder: str = "") -> None:
        """Raise RateLimitError where as many clients follow runs as may; see `Feeds`."""
        self._feeds.check_room(holder)

    def follow(
        self, run_id: str, *, holder: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[RunSnapshot]]:
        """Give the run's snapshots.

        They raise NotFoundError where the run is deleted, StoreError where the database cannot be
        read.
        """
        return self._feeds.follow(run_id, partial(self._read, run_id), holder=holder)

    async def _read(self, run_id: str) -> RunSnapshot:
        # The run first: what was logged before it stopped is logged by then.
        run = await find_run(self._store, run_id)
        progress = await self._store.progress(run.id)
        return RunSnapshot(run, progress, await self._store.last_logged(run.id))


InjectedFollowers = NamedDependency[Followers]


def progress_of(snapshot: RunSnapshot) -> dict[str, Any]:
    """Return what an event says of a run's progress."""
    run = snapshot.run
    return {"state": run.state, "cells": run.cells, **msgspec.to_builtins(snapshot.progress)}
