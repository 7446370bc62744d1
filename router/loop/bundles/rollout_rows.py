"""Writes the entries of a rollout: its decisions, and every request, batch by batch."""

from __future__ import annotations

import asyncio

import msgspec

from providers.errors import ConflictError, NotFoundError
from router.loop.bundles.bodies import BundledTexts
from router.loop.bundles.contents import (
    BATCHES,
    DECISIONS,
    LATER_VALUES,
    NUMBERS,
    REQUESTS,
    ROLLOUT,
    CountedRequest,
    LaterValue,
    RolloutNumbers,
    canonical,
)
from router.loop.bundles.entries import EntryWriter
from router.loop.bundles.rollout_replay import RULES
from router.loop.rollout_plan import settings_of
from router.loop.rollout_statistics import statistics_of
from router.store.protocol import Store
from router.store.rollouts import ACTIVE, ArmTotals, Rollout, RolloutDecision

_AT_ONCE = 1000


async def find_rollout(store: Store, rollout_id: str) -> Rollout:
    """Return a rollout. Raises NotFoundError."""
    rollout = await store.rollout(rollout_id)
    if rollout is None:
        raise NotFoundError(
            f"There is no rollout {rollout_id!r}; `evalrouter rollout list` has the ids."
        )
    return rollout


async def write_rollout(
    store: Store, rollout: Rollout, texts: BundledTexts, writer: EntryWriter
) -> None:
    """Write a rollout that has ended.

    Raises:
        ConflictError: it has not ended, or something of it has not been counted.
    """
    if rollout.state in ACTIVE:
        raise ConflictError(
            f"{rollout.id} is {rollout.state}; its evidence is complete when it has ended"
        )
    statistics = statistics_of(await store.rollout_statistics(rollout.id))
    settings = settings_of(rollout)
    numbers = RolloutNumbers(
        signals=() if statistics is None else statistics.readings,
        imbalance=None if statistics is None else statistics.imbalance,
        e_value_limit=len(settings.signals) / settings.alpha,
        totals=await _totals(store, rollout.id, per_protocol=False),
        per_protocol=await _totals(store, rollout.id, per_protocol=True),
        judged=await store.judged(rollout.id),
    )
    writer.whole(NUMBERS, canonical(numbers))
    writer.whole(ROLLOUT, canonical(_rollout(rollout, texts)))
    decisions = await store.rollout_decisions(rollout.id)
    writer.add(DECISIONS, [_decision(decision, texts) for decision in decisions])
    await _write_batches(store, rollout.id, writer)
    await _write_requests(store, rollout.id, writer)
    await _write_later_values(store, rollout.id, writer)


async def _totals(store: Store, rollout_id: str, *, per_protocol: bool) -> dict[str, ArmTotals]:
    totals = await store.rollout_totals(rollout_id, per_protocol=per_protocol)
    return {str(arm): of_arm for arm, of_arm in totals.items()}


def _rollout(rollout: Rollout, texts: BundledTexts) -> Rollout:
    return msgspec.structs.replace(
        rollout,
        reason=texts.document(rollout.reason),
        started_by=texts.document(rollout.started_by),
    )


def _decision(decision: RolloutDecision, texts: BundledTexts) -> RolloutDecision:
    """Return a decision; what people wrote has no personal data where texts are masked."""
    if decision.rule in RULES:
        return decision
    return msgspec.structs.replace(
        decision,
        reason=texts.document(decision.reason),
        actor=texts.document(decision.actor),
    )


async def _write_batches(store: Store, rollout_id: str, writer: EntryWriter) -> None:
    writer.add(BATCHES, ())
    after = 0
    while page := await store.rollout_batches(rollout_id, after=after, limit=_AT_ONCE):
        after = page[-1].number
        await asyncio.to_thread(writer.add, BATCHES, page)


async def _write_requests(store: Store, rollout_id: str, writer: EntryWriter) -> None:
    writer.add(REQUESTS, ())
    after = (0, 0)
    while page := await store.counted_requests(rollout_id, after=after, limit=_AT_ONCE):
        after = page[-1][0], page[-1][1].number
        rows = [CountedRequest(batch=batch, request=request) for batch, request in page]
        await asyncio.to_thread(writer.add, REQUESTS, rows)


async def _write_later_values(store: Store, rollout_id: str, writer: EntryWriter) -> None:
    writer.add(LATER_VALUES, ())
    after = (0, 0)
    while page := await store.counted_scores(rollout_id, after=after, limit=_AT_ONCE):
        after = page[-1][0], page[-1][1].number
        rows = [LaterValue(batch=batch, score=score) for batch, score in page]
        await asyncio.to_thread(writer.add, LATER_VALUES, rows)
