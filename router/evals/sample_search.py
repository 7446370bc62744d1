"""Finds samples of a run: in the dataset's order, or by how much one route beats another.

    search = SampleSearch(store)
    matches = await search.find(run, query, after=None, limit=100)

What is read for one page is bounded. Where a filter reads texts, the search ends after so many
samples, and `SampleMatches.searched_to` is where it goes on. Differences are read for the whole run
and cached, because a sorted page needs them all; they are a number for each sample.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.evals.shared_reads import Lasting, SharedReads
from router.store.protocol import Store
from router.store.runs import Run
from router.store.sample_views import SampleFilter

# Samples whose texts are read for one page.
MAX_READ = 10_000
# Samples that are sorted by their differences: the first ones of the run.
MAX_SORTED = 200_000
_AT_ONCE = 2_000
_MAX_CACHED = 16


class PairedScore(msgspec.Struct, frozen=True):
    """A score of two routes whose differences sort a run's samples.

    Attributes:
        output: the score.
        a, b: the routes.
        higher_is_better: of the score; None where neither direction is.
    """

    output: str
    a: str
    b: str
    higher_is_better: bool | None


class SampleQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which samples to find, and in which order.

    Attributes:
        matching: the conditions.
        by: what they are sorted by, those first on which `a` is worse than `b` by most; None for
            the dataset's order.
        descending: whether the last comes first.
    """

    matching: SampleFilter = SampleFilter()
    by: PairedScore | None = None
    descending: bool = False


class SampleMatches(NamedTuple):
    """Samples that were matches.

    Attributes:
        positions: theirs, from 1, in the query's order.
        searched_to: the position of the last sample that was searched, where the search ended
            before it had all that was requested; None where no more match.
    """

    positions: list[int]
    searched_to: int | None = None


class SortedSamples(NamedTuple):
    """The samples of a run that have a score of two routes, sorted.

    Attributes:
        positions: the samples' positions, those first on which `a` is worse than `b` by most.
        gains: by how much `a` is better; where the score has no direction, by how much more it
            has.
    """

    positions: NDArray[np.int64]
    gains: NDArray[np.float64]


class SampleSearch:
    """Finds samples of runs.

    Args:
        store: has them.
        max_read: how many samples' texts are read for one page.
    """

    def __init__(self, store: Store, *, max_read: int = MAX_READ) -> None:
        self._store = store
        self._max_read = max_read
        self._differences = SharedReads[SortedSamples](max_cached=_MAX_CACHED)

    async def find(
        self,
        run: Run,
        query: SampleQuery,
        *,
        after: int | None,
        limit: int,
        backwards: bool = False,
        within: NDArray[np.int64] | None = None,
    ) -> SampleMatches:
        """Return the next samples that match.

        Args:
            run: the run.
            query: which, and in which order.
            after: the position of the sample that they come behind; None for the first ones.
            limit: how many at most.
            backwards: whether to go from `after` to the front.
            within: the positions of the samples that may match, ascending; None for all.
        """
        down = backwards != query.descending
        if query.by is not None:
            ordered = (await self.differences(run, query.by)).positions
            if within is not None:
                ordered = ordered[np.isin(ordered, within)]
            return await self._find_among(run, query, ordered, after, limit, backwards=down)
        if within is not None:
            return await self._find_among(run, query, within, after, limit, backwards=down)
        if after is None:
            after = run.dataset_rows + 1 if down else 0
        low, high = (0, after - 1) if down else (after, run.dataset_rows)
        if query.matching.reads_texts:
            low, high = (
                (max(low, high - self._max_read), high)
                if down
                else (low, min(high, low + self._max_read))
            )
        positions = await self._store.matching_positions(
            run.id, query.matching, after=low, until=high, limit=limit, backwards=down
        )
        is_end = low == 0 if down else high >= run.dataset_rows
        if len(positions) == limit or is_end:
            return SampleMatches(positions)
        return SampleMatches(positions, low + 1 if down else high)

    async def _find_among(
        self,
        run: Run,
        query: SampleQuery,
        ordered: NDArray[np.int64],
        after: int | None,
        limit: int,
        *,
        backwards: bool,
    ) -> SampleMatches:
        if backwards:
            ordered = ordered[::-1]
        start = 0
        if after is not None:
            places = np.nonzero(ordered == after)[0]
            # A sample without a difference is in none of the lists.
            start = int(places[0]) + 1 if len(places) else len(ordered)
        rest = ordered[start:].tolist()
        if query.matching == SampleFilter():
            return SampleMatches(rest[:limit])
        matches: list[int] = []
        bound = self._max_read if query.matching.reads_texts else len(rest)
        for begin in range(0, min(bound, len(rest)), _AT_ONCE):
            chunk = rest[begin : min(begin + _AT_ONCE, bound)]
            matches += await self._among(run, query.matching, chunk)
            if len(matches) >= limit:
                return SampleMatches(matches[:limit])
        return SampleMatches(matches, rest[bound - 1] if bound < len(rest) else None)

    async def _among(self, run: Run, matching: SampleFilter, chunk: Sequence[int]) -> list[int]:
        matched = await self._store.matching_positions(
            run.id,
            matching,
            after=min(chunk) - 1,
            until=max(chunk),
            limit=len(chunk),
            among=chunk,
        )
        chosen = set(matched)
        return [position for position in chunk if position in chosen]

    async def differences(self, run: Run, by: PairedScore) -> SortedSamples:
        """Return the differences of the run's first MAX_SORTED samples, sorted."""
        progress = await self._store.progress(run.id)
        version = (run.finished_at, progress.answered, progress.failed, progress.scored)
        return await self._differences.of((run.id, by), version, partial(self._read, run, by))

    async def _read(self, run: Run, by: PairedScore) -> Lasting[SortedSamples]:
        differences = await self._store.sample_differences(
            run.id, by.a, by.b, by.output, until=MAX_SORTED
        )
        return Lasting(await asyncio.to_thread(_sorted, differences, by.higher_is_better))


def _sorted(differences: list[tuple[int, float]], higher_is_better: bool | None) -> SortedSamples:
    positions = np.array([position for position, _ in differences], dtype=np.int64)
    gains = np.array([difference for _, difference in differences], dtype=np.float64)
    if higher_is_better is False:
        gains = -gains
    order = np.argsort(gains, kind="stable")
    return SortedSamples(positions[order], gains[order])
