"""A rollout as people look at it: its state, what was seen of it, and every decision."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.loop.rollout_rules import SignalReading
from router.records import Arm
from router.store.rollouts import (
    ArmTotals,
    AssignedRequests,
    JudgedRequests,
    Rollout,
    RolloutDecision,
)


class RolloutReport(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout with what was seen of it.

    Attributes:
        rollout: as it stands.
        signals: what the tests say of each signal, from the last round; none before the first.
        imbalance: the e-value against the planned assignment; None before the first round.
        e_value_limit: the e-value at which a single signal rolls back.
        totals: each arm's requests in the samples of the steps, as they were assigned (intention to
            treat).
        per_protocol: those of users who were only ever in one arm, answered by its own target.
        assigned: all requests of each step and arm, sampled or not.
        uncounted: whether requests wait to be counted.
        judged: requests that the judge was to score, by the day and what became of them: `scored`,
            `unjudgeable` (the answer has no text to score, was cut, or calls tools), `error` (the
            judge failed, or its verdict cannot be read), `over_budget`, `shed` (too many waited, or
            for too long) or `stopped` (the rollout was paused or ended first).
        decisions: in their order.
    """

    rollout: Rollout
    signals: tuple[SignalReading, ...]
    imbalance: float | None
    e_value_limit: float
    totals: Mapping[Arm, ArmTotals]
    per_protocol: Mapping[Arm, ArmTotals]
    assigned: tuple[AssignedRequests, ...]
    uncounted: bool
    judged: list[JudgedRequests]
    decisions: list[RolloutDecision]
