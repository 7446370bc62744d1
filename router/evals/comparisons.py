"""Comparisons of runs that are shown again and again: computed once while their numbers stay.

    comparisons = RunComparisons(runs, store)
    compared = await comparisons.of([run_a, run_b], ComparisonRequest(join="id"))

A comparison reads all rows of its runs. Two callers at once wait for the same one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

from evaluators.base import JudgeMetric
from router.evals.compare import (
    ComparedSamples,
    ComparisonRequest,
    compare_samples,
    compared_run,
)
from router.evals.runs import Runs
from router.evals.shared_reads import Lasting, SharedReads
from router.store.protocol import Store
from router.store.runs import Run

_MAX_CACHED = 4
# What is known of judges, calibrations and people's labels, changes while a run does not.
_JUDGED_S = 60.0


class RunComparisons:
    """Compares runs, and caches the last few comparisons.

    Args:
        runs: finds the runs.
        store: has their rows.
    """

    def __init__(self, runs: Runs, store: Store) -> None:
        self._runs = runs
        self._store = store
        self._reads = SharedReads[ComparedSamples](max_cached=_MAX_CACHED)

    async def of(self, runs: Sequence[Run], request: ComparisonRequest) -> ComparedSamples:
        """Return a comparison. Raises as `compare_runs` does."""
        ids = _ids(runs)
        return await self._reads.of(
            (ids, repr(request)), await self._version(runs), partial(self._read, ids, request)
        )

    async def cached(
        self, runs: Sequence[Run], request: ComparisonRequest
    ) -> ComparedSamples | None:
        """Return a comparison that is there without reading rows; None without one."""
        return self._reads.cached((_ids(runs), repr(request)), await self._version(runs))

    async def _version(self, runs: Sequence[Run]) -> Hashable:
        """Return what the numbers of the runs depend on."""
        version = []
        for run in runs:
            progress = await self._store.progress(run.id)
            counts = (progress.answered, progress.failed, progress.scored)
            version.append((run.state, run.finished_at, *counts))
        return tuple(version)

    async def _read(
        self, ids: Sequence[str], request: ComparisonRequest
    ) -> Lasting[ComparedSamples]:
        members = [await compared_run(self._runs, self._store, run_id) for run_id in ids]
        compared = await compare_samples(self._store, members, request)
        judged = any(
            isinstance(metric, JudgeMetric) for member in members for metric in member.metrics
        )
        return Lasting(compared, _JUDGED_S) if judged else Lasting(compared)


def _ids(runs: Sequence[Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.id for run in runs))
