"""What follows from a batch of a rollout's requests, computed alike now and by whoever checks it.

    decision = count_batch(rules, batch, observations_of(requests, scores, settings))
    if is_change(decision, batch.state, rule_before):
        row = audited(decision, sample)          # what its row in the audit says

No IO: `rollout_controller.py` reads and stores, and evidence is verified by the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from router.config.rollouts import RolloutSettings
from router.loop.rollout_plan import observation_of, observation_of_score
from router.loop.rollout_rules import Batch, Decision, Observation, RolloutRules
from router.loop.rollout_sample import RolloutSample
from router.store.rollouts import (
    CountedScore,
    Rollout,
    RolloutBatch,
    RolloutRequest,
    RolloutState,
)


def sample_of_rollout(rollout: Rollout | RolloutBatch) -> RolloutSample:
    """Return the sample of a rollout's present step."""
    return RolloutSample(candidate=rollout.sampled_candidate, control=rollout.sampled_control)


def observations_of(
    requests: Iterable[RolloutRequest], scores: Iterable[CountedScore], settings: RolloutSettings
) -> list[Observation]:
    """Return requests and values that came later as the rules observe them."""
    return [
        *(observation_of(request, settings) for request in requests),
        *(observation_of_score(score, settings) for score in scores),
    ]


def count_batch(
    rules: RolloutRules, batch: RolloutBatch, observations: Sequence[Observation]
) -> Decision:
    """Let the rules observe a batch, decide and do what they decide; return the decision."""
    rules.place(batch.state, batch.step, sample_of_rollout(batch))
    rules.observe(
        Batch(
            began=batch.began,
            until=batch.until,
            observations=observations,
            candidate_requests=batch.candidate_requests,
        )
    )
    decision = rules.decide()
    rules.apply(decision)
    return decision


def is_change(decision: Decision, state: RolloutState, rule: str) -> bool:
    """Return whether a decision is one of its own.

    It is none where the rollout goes on as before, for the same reason.

    Args:
        decision: the decision.
        state: the rollout's before it.
        rule: of the decision before it.
    """
    if decision.rule == "status":
        return False
    is_same = decision.status == state and decision.rule in (rule, "min_time")
    return decision.action != "hold" or not is_same


def audited(decision: Decision, sample: RolloutSample) -> dict[str, Any]:
    """Return what the row of a decision says of why it was taken."""
    first = next(
        (reading for reading in decision.readings if reading.signal in decision.signals), None
    )
    return {
        "rule": decision.rule,
        "reason": decision.reason,
        "signal": ", ".join(decision.signals),
        "e_value": decision.e_value,
        "low": None if first is None else first.low,
        "high": None if first is None else first.high,
        "seen": {
            "sample": msgspec.to_builtins(sample),
            "signals": msgspec.to_builtins(decision.readings),
            "imbalance": decision.imbalance,
        },
    }
