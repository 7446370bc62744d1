"""From a rollout's settings and requests to what the rules read: a plan and observations."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.config.rollouts import FEEDBACK, JUDGE, SHARES, RolloutSettings, RolloutSignal
from router.gateway.routing import position_of
from router.loop.rollout_rules import Observation, RolloutPlan, Signal, SignalKind
from router.store.rollouts import CountedScore, Rollout, RolloutRequest

_KINDS: Mapping[str, SignalKind] = {
    "errors": "event",
    "refusals": "event",
    "truncations": "event",
    "first_byte": "above_p95",
    "duration": "above_p95",
    "cost": "above_p95",
}
# As hosts write it for an answer that was refused, by the model or by a filter.
_REFUSED = frozenset({"content_filter", "refusal"})


def settings_of(rollout: Rollout) -> RolloutSettings:
    """Return a rollout's settings."""
    return msgspec.convert(rollout.settings, RolloutSettings)


def feedback_names(settings: RolloutSettings) -> list[str]:
    """Return the names of the feedback that signals are made of."""
    measures = {signal.measure for signal in settings.signals}
    return sorted(
        measure.removeprefix(FEEDBACK) for measure in measures if measure.startswith(FEEDBACK)
    )


def is_judged(settings: RolloutSettings) -> bool:
    """Return whether a signal is made of a judge's scores."""
    return settings.judge is not None and any(
        signal.measure == JUDGE for signal in settings.signals
    )


def plan_of(settings: RolloutSettings) -> RolloutPlan:
    """Return the rules' plan."""
    shares = tuple(step / 100 for step in settings.steps)
    return RolloutPlan(
        signals=tuple(map(_signal, settings.signals)),
        steps=shares if shares[-1] == 1 else (*shares, 1.0),
        alpha=settings.alpha,
        min_step_s=settings.step_seconds,
        cycle_s=settings.cycle_seconds,
        unit_window_s=settings.unit_seconds,
        max_candidate_requests=settings.max_requests,
        max_s=settings.max_seconds,
    )


def _signal(signal: RolloutSignal) -> Signal:
    return Signal(
        name=signal.name,
        kind=_KINDS.get(signal.measure, "score"),
        role=signal.role,
        margin=signal.margin,
        higher_is_better=signal.better != "lower",
        low=signal.low,
        high=signal.high,
        min_values=signal.min_requests,
    )


def observation_of(request: RolloutRequest, settings: RolloutSettings) -> Observation:
    """Return a request as an observation.

    A refusal or a truncation is that of an answer, a time one to an answer: requests that failed
    have neither.
    """
    answered = not request.failed
    values: dict[str, float | None] = {
        "errors": float(request.failed),
        "refusals": float(request.finish_reason in _REFUSED) if answered else None,
        "truncations": float(request.finish_reason == "length") if answered else None,
        "first_byte": request.first_byte_s if answered else None,
        "duration": request.total_s if answered else None,
        "cost": request.cost_usd if answered else None,
    }
    return Observation(
        unit=request.unit,
        candidate=request.arm == "candidate",
        step=request.step,
        position=position_of(request.unit),
        values={
            signal.name: values[signal.measure]
            for signal in settings.signals
            if signal.measure in SHARES
        },
        mixed=bool(request.seen - {request.arm}),
    )


def observation_of_score(score: CountedScore, settings: RolloutSettings) -> Observation:
    """Return a value that came after its request's answer as an observation."""
    return Observation(
        unit=score.unit,
        candidate=score.arm == "candidate",
        step=score.step,
        position=position_of(score.unit),
        values={
            signal.name: min(max(score.value, signal.low), signal.high)
            for signal in settings.signals
            if signal.measure == score.signal
        },
        mixed=bool(score.seen - {score.arm}),
        later=True,
    )
