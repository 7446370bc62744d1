"""Comparisons of runs that are shown again and again: computed once while their numbers stay.

    comparisons = RunComparisons(runs, store)
    compared = await comparisons.of(["run_a", "run_b"], ComparisonRequest(join="id"))

A comparison reads all rows of its runs. Two callers at once wait for the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from evaluators.base import JudgeMetric
from router.evals.compare import (
    ComparedSamples,
    ComparisonRequest,
    compare_samples,
    compared_run,
)
from router.evals.runs import Runs
from router.store.protocol import Store

_MAX_CACHED = 4
# What is known of judges, calibrations and people's labels, changes while a run does not.
_JUDGED_S = 60.0

# The runs with what their numbers depend on, and the request.
_Key = tuple[tuple[tuple[str, str, float | None, int, int, int], ...], str]


class _Cached(NamedTuple):
    compared: ComparedSamples
    until: float


class RunComparisons:
    """Compares runs, and keeps the last few comparisons.

    Args:
        runs: finds the runs.
        store: has their rows.
    """

    def __init__(self, runs: Runs, store: Store) -> None:
        self._runs = runs
        self._store = store
        self._cached: dict[_Key, _Cached] = {}
        self._reading: dict[_Key, asyncio.Task[ComparedSamples]] = {}

    async def of(self, run_ids: Sequence[str], request: ComparisonRequest) -> ComparedSamples:
        """Return a comparison. Raises as `compare_runs` does."""
        key = await self._key(run_ids, request)
        cached = self._fresh(key)
        if cached is not None:
            return cached
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(key, run_ids, request))
            task.add_done_callback(lambda _: self._reading.pop(key))
        # A caller that goes away must not take the others' answer with it.
        return await asyncio.shield(task)

    async def is_cached(self, run_ids: Sequence[str], request: ComparisonRequest) -> bool:
        """Return whether a comparison is there without reading rows."""
        return self._fresh(await self._key(run_ids, request)) is not None

    def _fresh(self, key: _Key) -> ComparedSamples | None:
        cached = self._cached.get(key)
        if cached is None or asyncio.get_running_loop().time() > cached.until:
            return None
        return cached.compared

    async def _key(self, run_ids: Sequence[str], request: ComparisonRequest) -> _Key:
        runs = []
        for run_id in dict.fromkeys(run_ids):
            run = await self._runs.find(run_id)
            progress = await self._store.progress(run.id)
            counts = (progress.answered, progress.failed, progress.scored)
            runs.append((run.id, run.state, run.finished_at, *counts))
        return tuple(runs), repr(request)

    async def _read(
        self, key: _Key, run_ids: Sequence[str], request: ComparisonRequest
    ) -> ComparedSamples:
        members = [
            await compared_run(self._runs, self._store, run_id) for run_id in dict.fromkeys(run_ids)
        ]
        compared = await compare_samples(self._store, members, request)
        judged = any(
            isinstance(metric, JudgeMetric) for member in members for metric in member.metrics
        )
        while len(self._cached) >= _MAX_CACHED:
            del self._cached[next(iter(self._cached))]
        until = asyncio.get_running_loop().time() + _JUDGED_S if judged else float("inf")
        self._cached[key] = _Cached(compared, until)
        return compared
