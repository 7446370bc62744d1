"""Reads a run in batches of whole samples, with what judges answered about them.

    async for batch in whole_samples(store.results(run.id), lambda row: row.cell.sample_id):
        stored = await judgements_about(store, run.id, batch)
        stored.by_key[key_of(verdict)], stored.others

A judgement that no score was made of names only its sample, so it is among those of one batch where
no sample is in two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeVar

from evaluators.base import Verdict
from router.store.judgements import JudgementRow, JudgementStore
from router.store.results import ScoredAnswer

# Rows of a batch, and as many more as its last sample has.
_AT_ONCE = 500

JudgementKey = tuple[str, int, int]

_Row = TypeVar("_Row")


async def whole_samples(
    rows: AsyncGenerator[_Row], sample_id: Callable[[_Row], str]
) -> AsyncGenerator[list[_Row]]:
    """Yield rows in batches, all rows of a sample in one of them.

    Args:
        rows: by sample; closed at the end.
        sample_id: returns the sample of a row.
    """
    batch: list[_Row] = []
    async with aclosing(rows):
        async for row in rows:
            if len(batch) >= _AT_ONCE and sample_id(row) != sample_id(batch[-1]):
                yield batch
                batch = []
            batch.append(row)
    if batch:
        yield batch


class StoredJudgements(NamedTuple):
    """The judgements of some cells.

    Attributes:
        by_key: those that the cells' scores may be made of.
        others: those of the cells' samples that no score was made of.
    """

    by_key: dict[JudgementKey, JudgementRow]
    others: list[JudgementRow]


async def judgements_about(
    store: JudgementStore, run_id: str, results: Sequence[ScoredAnswer]
) -> StoredJudgements:
    """Return the judgements of cells; they must be all cells of their samples."""
    used = {
        key_of(verdict)
        for result in results
        for score in result.scores
        for verdict in score.verdicts
    }
    sample_ids = {result.cell.sample_id for result in results}
    stored = await store.judgements_of(
        run_id, sample_ids=sample_ids, request_hashes={request_hash for request_hash, _, _ in used}
    )

    def joined() -> StoredJudgements:
        by_key = {key_of(row): row for row in stored}
        others = [row for row in stored if row.sample_id in sample_ids and key_of(row) not in used]
        return StoredJudgements(by_key, others)

    return await asyncio.to_thread(joined)


def key_of(row: JudgementRow | Verdict) -> JudgementKey:
    """Return what tells a judgement from the others of its run."""
    return row.request_hash, row.repeat, row.attempt
