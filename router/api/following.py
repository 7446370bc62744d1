"""Lets clients follow runs: however many follow one, the database is read once for all.

    async with followers.follow(run) as feed:
        async for snapshot in feed:
            ...

A snapshot comes at once, and another one whenever something has changed, until the run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from litestar.di import NamedDependency

from providers.errors import EvalrouterError, RateLimitError
from router.evals.stored_runs import find_run
from router.store.protocol import Store
from router.store.runs import STOPPED, Progress, Run

# Often enough for a person to watch, rarely enough for a database of a million rows.
POLL_S = 0.5
# Of one process; each holds a connection.
MAX_FOLLOWERS = 1000


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

    def differs(self, other: RunSnapshot | None) -> bool:
        """Return whether there is news; heartbeats are none."""
        return other is None or (
            (self.run.state, self.run.cells, self.progress, self.logged)
            != (other.run.state, other.run.cells, other.progress, other.logged)
        )


class _Feed:
    """The newest snapshot of one run, for all who follow it."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._newest: RunSnapshot | None = None
        self._error: EvalrouterError | None = None
        self._changed = asyncio.Condition()
        self.followers = 0
        self.polling = asyncio.create_task(self._poll(), name=f"followers of {run_id}")

    async def snapshots(self) -> AsyncIterator[RunSnapshot]:
        """Yield the newest snapshot, and another one whenever there is one, until the run stops.

        Raises:
            NotFoundError: the run was deleted.
            StoreError: the database cannot be read.
        """
        seen: RunSnapshot | None = None
        while seen is None or not seen.stopped:
            async with self._changed:
                while self._error is None and self._newest is seen:
                    await self._changed.wait()
            if self._error is not None:
                raise self._error
            seen = self._newest
            assert seen is not None
            yield seen

    async def _poll(self) -> None:
        while True:
            try:
                snapshot = await self._read()
            except EvalrouterError as error:
                async with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            if snapshot.differs(self._newest):
                async with self._changed:
                    self._newest = snapshot
                    self._changed.notify_all()
            if snapshot.stopped:
                return
            await asyncio.sleep(POLL_S)

    async def _read(self) -> RunSnapshot:
        # The run first: what was logged before it stopped is logged by then.
        run = await find_run(self._store, self._run_id)
        progress = await self._store.progress(run.id)
        return RunSnapshot(run, progress, await self._store.last_logged(run.id))


class Followers:
    """All followers of runs in this process.

    Args:
        store: where the runs are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: dict[str, _Feed] = {}

    def check_room(self) -> None:
        """Raise RateLimitError where as many clients follow runs as may."""
        if sum(feed.followers for feed in self._feeds.values()) >= MAX_FOLLOWERS:
            raise RateLimitError(
                f"{MAX_FOLLOWERS:,} clients follow runs of this server already.", retry_after=5.0
            )

    @asynccontextmanager
    async def follow(self, run_id: str) -> AsyncIterator[AsyncIterator[RunSnapshot]]:
        """Give the run's snapshots; see `_Feed.snapshots`."""
        # Once more, because many may have been let in before any of them began.
        self.check_room()
        feed = self._feeds.get(run_id)
        # One that has ended would not see that the run was resumed.
        if feed is None or feed.polling.done():
            feed = self._feeds[run_id] = _Feed(self._store, run_id)
        feed.followers += 1
        try:
            yield feed.snapshots()
        finally:
            feed.followers -= 1
            if not feed.followers:
                feed.polling.cancel()
                if self._feeds.get(run_id) is feed:
                    del self._feeds[run_id]


InjectedFollowers = NamedDependency[Followers]


def progress_of(snapshot: RunSnapshot) -> dict[str, Any]:
    """Return what an event tells of a run's progress."""
    run = snapshot.run
    return {"state": run.state, "cells": run.cells, **msgspec.to_builtins(snapshot.progress)}
