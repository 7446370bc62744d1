"""What is expected of a route's traffic during a rollout, from its recorded requests.

A route with records of less than a day is taken to have had only these requests in a day, and one
with records of less than two days to always have the same users. Both make a forecast longer.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.config.rollouts import FEEDBACK, JUDGE, SHARES, RolloutSettings, RolloutSignal
from router.loop.rollout_forecast import Expectation, TrafficLevel
from router.store.rollouts import FeedbackBaseline, RouteBaseline

_DAY_S = 86400.0
_WEEK = 7.0


def traffic_level(baseline: RouteBaseline) -> TrafficLevel:
    """Return how many requests, and how many different units, come to a route.

    Units are users, as requests name them; a request without one is a unit of its own.
    """
    days = max(1.0, baseline.seconds / _DAY_S)
    requests = baseline.requests / days
    nameless = baseline.nameless / days
    a_day = min(requests, nameless + baseline.user_days / days)
    a_week = _WEEK * nameless + baseline.users * max(1.0, _WEEK / days)
    if days < 2:
        a_week = _WEEK * nameless + baseline.users
    return TrafficLevel(
        requests_per_day=requests,
        units_per_day=a_day,
        units_per_week=min(_WEEK * a_day, max(a_day, a_week)),
    )


def expectations(settings: RolloutSettings, baseline: RouteBaseline) -> dict[str, Expectation]:
    """Return what is expected of each signal, by its name."""
    requests = max(1, baseline.requests)
    shares = {
        "errors": baseline.failures / requests,
        "truncations": baseline.truncations / requests,
        "refusals": baseline.refusals / requests,
    }
    return {
        signal.name: _expectation(signal, settings, baseline, shares) for signal in settings.signals
    }


def _expectation(
    signal: RolloutSignal,
    settings: RolloutSettings,
    baseline: RouteBaseline,
    shares: Mapping[str, float],
) -> Expectation:
    if signal.measure in SHARES:
        return Expectation(mean=shares.get(signal.measure, 0.05))
    if signal.measure == JUDGE:
        # How its scores are spread is not known before: as widely as they can be.
        sample = 0.0 if settings.judge is None else settings.judge.sample
        return Expectation(mean=(signal.low + signal.high) / 2, share=sample)
    feedback = baseline.feedback.get(signal.measure.removeprefix(FEEDBACK))
    return _of_feedback(feedback, max(1, baseline.requests))


def _of_feedback(feedback: FeedbackBaseline | None, requests: int) -> Expectation:
    """Return what is expected of feedback; none where there has been none."""
    if feedback is None:
        return Expectation(share=0.0)
    return Expectation(
        mean=feedback.mean, sd=feedback.sd or None, share=min(1.0, feedback.count / requests)
    )
