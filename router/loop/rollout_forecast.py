"""Says before a rollout how many requests and days its margins need, or that they cannot be shown.

    forecast = rollout_forecast(
        plan,
        TrafficLevel(requests_per_day=150_000, units_per_day=150_000, units_per_week=1_050_000),
        {"error_rate": Expectation(mean=0.02), "judge": Expectation(mean=0.8, sd=0.2, share=0.1)},
    )
    forecast.days, forecast.possible, forecast.reason

By the growth rate of the rules' own tests where the candidate is as good as the control, with what
chance adds to it. docs/explanation/rollouts.md has how often simulated rollouts keep to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import msgspec
import numpy as np

from evaluators.stats.randomised import MULTIPLES, RATIOS, Differences, bets, bounds, ratio_logs
from evaluators.stats.resampling import Floats
from router.loop.rollout_rules import DAY, RolloutPlan, Signal
from router.loop.rollout_sample import RolloutSample, sample_of

LONGEST_DAYS = 90.0
"""A rollout that needs more is called impossible with its traffic, unless the plan has a limit."""

_MISSES = 0.15  # of the 20% that may take longer; the rest is for the guardrails' false alarms
_DETECTED = 0.9
_TINY = 1e-9


class TrafficLevel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes to the route, counted over its last days.

    Attributes:
        requests_per_day: on average.
        units_per_day: different units of a day, on average; requests where units are requests.
        units_per_week: different units of seven days.
    """

    requests_per_day: float
    units_per_day: float
    units_per_week: float

    def __post_init__(self) -> None:
        """Refuse counts that contradict each other."""
        if not 0 <= self.units_per_day <= self.requests_per_day:
            raise ValueError("units_per_day must be from 0 to requests_per_day")
        if not self.units_per_day <= self.units_per_week <= 7 * self.units_per_day:
            raise ValueError("units_per_week must be from units_per_day to 7 times as many")

    def days(self, units: float) -> float:
        """Return after how many days so many different units have come; inf where they never do.

        Their number grows as a power of the days, between all new every day and always the same.
        """
        if units <= 0:
            return 0.0
        if not self.units_per_day:
            return math.inf
        if units <= self.units_per_day:
            return units / self.units_per_day
        growth = math.log(self.units_per_week / self.units_per_day) / math.log(7)
        if growth <= 0:
            return math.inf
        days = math.log(units / self.units_per_day) / growth
        return math.exp(days) if days < math.log(1e9) else math.inf


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is expected of a signal, from the control's last days.

    Attributes:
        mean: of its values, in the signal's unit; the share of requests with the event. Not read
            of `above_p95`, whose share is 5% by its definition.
        sd: standard deviation of a score, or of paired differences; None for the largest possible.
        share: of requests that have the signal.
        difference: candidate minus control, in the signal's unit; a goal with a margin of 0 or
            below needs one that is better.
    """

    mean: float = 0.05
    sd: float | None = None
    share: float = 1.0
    difference: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no signal can be."""
        if not 0 <= self.share <= 1:
            raise ValueError("share is from 0 to 1")
        if self.sd is not None and not 0 < self.sd < math.inf:
            raise ValueError("sd is above 0")
        if not (math.isfinite(self.mean) and math.isfinite(self.difference)):
            raise ValueError("mean and difference are finite")


class StepForecast(msgspec.Struct, frozen=True, kw_only=True):
    """How long a step takes.

    Attributes:
        weight: the candidate's share of units.
        sample: which users are observed in it, at this traffic.
        signal: what it waits for; "" for the minimum time.
        units: with the signal, that the step compares.
        requests: of the route in that time.
        days: of the step; None where the traffic never brings so many units.
    """

    weight: float
    sample: RolloutSample
    signal: str
    units: int
    requests: int | None
    days: float | None


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """When harm is found in the first step, in nine of ten rollouts.

    Attributes:
        signal: its name.
        harm: in words.
        requests: of the route until then; None where it never is.
    """

    signal: str
    harm: str
    requests: int | None


class RolloutForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan needs.

    Attributes:
        possible: whether the goals can be shown within the limit of time.
        days, requests: of the whole rollout, in at least 80% of those whose candidate is as good as
            the control; None where a step never ends.
        reason: in plain English; where it is not possible, what would make it so.
        steps: those below 1.
        detections: of guardrails and goals.
    """

    possible: bool
    days: float | None
    requests: int | None
    reason: str
    steps: tuple[StepForecast, ...]
    detections: tuple[Detection, ...]


def rollout_forecast(
    plan: RolloutPlan, traffic: TrafficLevel, expected: Mapping[str, Expectation]
) -> RolloutForecast:
    """Return how long a rollout takes whose candidate is as good as the control.

    Args:
        plan: the rules.
        traffic: what comes to the route.
        expected: by signal; one that is left out is expected as `Expectation` is by default.
    """
    steps = _steps(plan, traffic, expected)
    days = _total_days(steps)
    limit = LONGEST_DAYS if plan.max_s is None else plan.max_s / DAY
    detections = tuple(_detection(signal, plan, traffic, expected) for signal in plan.signals)
    possible = days is not None and days <= limit
    budget = plan.max_candidate_requests
    exposed = _exposed(steps)
    if possible and budget is not None and exposed is not None and exposed > budget:
        possible = False
        reason = (
            f"About {exposed:,} requests go to the candidate before it is promoted, and the "
            f"exposure budget is {budget:,}."
        )
    elif possible and days is not None:
        reason = (
            f"A candidate that is as good as the control is promoted after {days:.1f} days, about "
            f"{_requests(days, traffic):,} requests, in at least 80% of rollouts."
        )
    else:
        reason = _impossible(plan, traffic, expected, steps=steps, limit=limit)
    return RolloutForecast(
        possible=possible,
        days=days,
        requests=None if days is None else _requests(days, traffic),
        reason=reason,
        steps=steps,
        detections=detections,
    )


def units_to_show(
    signal: Signal, expected: Expectation, probability: float, *, alpha: float, chance: float
) -> float:
    """Return how many units show a goal with this chance; inf where it is never shown.

    Args:
        signal: the goal.
        expected: of its values.
        probability: that a unit is the candidate's.
        alpha: the level of the test.
        chance: that so many are enough.
    """
    drawn, chances = _drawn(signal, expected, probability)
    margin = signal.margin / signal.width
    up, _ = bets(drawn, margin)
    logs = np.log1p(np.multiply.outer(up, drawn.values + margin))
    return _units(logs, chances, math.log(len(MULTIPLES) / alpha), chance)


def units_to_detect(
    signal: Signal, expected: Expectation, probability: float, *, limit: float, chance: float
) -> float:
    """Return how many units show harm with this chance; inf where they never do.

    Args:
        signal: a guardrail or a goal.
        expected: of its values, with a `difference` that is harm.
        probability: that a unit is the candidate's.
        limit: the e-value that is needed.
        chance: that so many are enough.
    """
    if signal.by_ratio:
        base = _mean(signal, expected)
        worse = min(1.0, base + expected.difference)
        chances = np.array([probability * worse, (1 - probability) * base])
        up, down = ratio_logs(RATIOS, probability)
        logs = np.stack([up, down, np.zeros_like(up)], axis=1)
        chances = np.append(chances, 1 - chances.sum())
        return _units(logs, chances, math.log(len(RATIOS) * limit), chance)
    drawn, chances = _drawn(signal, expected, probability)
    margin = signal.margin / signal.width
    _, down = bets(drawn, margin)
    logs = np.log1p(-np.multiply.outer(down, drawn.values + margin))
    return _units(logs, chances, math.log(len(MULTIPLES) * limit), chance)


def _units(logs: Floats, chances: Floats, needed: float, chance: float) -> float:
    """Return when the best bet's capital, normal about its growth, is enough with this chance.

    Args:
        logs: of the factors, shape (bets, values).
        chances: of the values.
        needed: the log of the capital.
        chance: of having it.
    """
    growth = logs @ chances
    spread = np.sqrt(np.maximum(0.0, logs**2 @ chances - growth**2))
    quantile = NormalDist().inv_cdf(chance) * spread
    usable = growth > 0
    if not usable.any():
        return math.inf
    growth, quantile = growth[usable], quantile[usable]
    roots = (quantile + np.sqrt(quantile**2 + 4 * growth * needed)) / (2 * growth)
    return float(np.min(roots**2))


def _drawn(signal: Signal, expected: Expectation, probability: float) -> tuple[Differences, Floats]:
    """Return the values that stand for a unit's difference, and their chances."""
    gain = expected.difference / signal.width * (1 if signal.good_is_high else -1)
    if signal.kind == "paired_score":
        sd = 1.0 if expected.sd is None else expected.sd / signal.width
        pair = np.clip(np.array([gain - sd, gain + sd]), -1, 1)
        return Differences(pair, -1.0, 1.0, sd**2), np.array([0.5, 0.5])
    center = (_mean(signal, expected) - signal.low) / signal.width
    if not signal.good_is_high:
        center = 1 - center
    center = min(1.0, max(0.0, center))
    shares = (probability, 1 - probability)
    levels = [
        _two_levels(signal, expected, mean) for mean in (min(1.0, max(0.0, center + gain)), center)
    ]
    values = [
        weight * (level - center)
        for weight, pair in zip((1 / shares[0], -1 / shares[1]), levels, strict=True)
        for level, _ in pair
    ]
    chances = [share * part for share, pair in zip(shares, levels, strict=True) for _, part in pair]
    variance = sum(part * (level - center) ** 2 for level, part in levels[1])
    low, high = bounds(probability, center)
    expected_variance = variance / (probability * (1 - probability))
    return (
        Differences(np.array(values), float(low), float(high), expected_variance),
        np.array(chances),
    )


def _two_levels(
    signal: Signal, expected: Expectation, mean: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return two values from 0 to 1, with their chances, that have this mean and the deviation."""
    if expected.sd is None or signal.kind in {"event", "above_p95"}:
        return (1.0, mean), (0.0, 1 - mean)
    variance = min((expected.sd / signal.width) ** 2, mean * (1 - mean))
    sd = math.sqrt(variance)
    if sd <= min(mean, 1 - mean):
        return (mean - sd, 0.5), (mean + sd, 0.5)
    if mean < 0.5:  # one value is at the end of the range
        share = mean**2 / (mean**2 + variance)
        return (0.0, 1 - share), (mean / share, share)
    share = (1 - mean) ** 2 / ((1 - mean) ** 2 + variance)
    return (1.0, 1 - share), (1 - (1 - mean) / share, share)


def _mean(signal: Signal, expected: Expectation) -> float:
    return 0.05 if signal.kind == "above_p95" else expected.mean


def _steps(
    plan: RolloutPlan, traffic: TrafficLevel, expected: Mapping[str, Expectation]
) -> tuple[StepForecast, ...]:
    """Return the steps; most of what may take longer is left to the slowest of them."""
    below = plan.steps[:-1]
    goals = max(1, sum(signal.role == "goal" for signal in plan.signals))
    chances = [1 - _MISSES / (len(below) * goals)] * len(below)
    steps = [
        _step(plan, traffic, expected, number, chance) for number, chance in enumerate(chances)
    ]
    days = [math.inf if step.days is None else step.days for step in steps]
    slowest = days.index(max(days))
    for number in range(len(below)):
        part = 2 / 3 if number == slowest else 1 / 3 / max(1, len(below) - 1)
        steps[number] = _step(plan, traffic, expected, number, 1 - _MISSES * part / goals)
    return tuple(steps)


def _step(
    plan: RolloutPlan,
    traffic: TrafficLevel,
    expected: Mapping[str, Expectation],
    number: int,
    chance: float,
) -> StepForecast:
    """Return how long a step takes with this chance, for each goal."""
    weight, before = plan.steps[number], plan.before(number)
    sample = sample_of(weight, requests_per_s=traffic.requests_per_day / DAY)
    probability = sample.probability(before=before, weight=weight)
    compared = (1 - before) * sample.share(before=before, weight=weight)
    longest, slowest, units = plan.step_s / DAY, "", 0.0
    for signal in plan.signals:
        values = expected.get(signal.name, Expectation())
        needed = 0.0
        if signal.role == "goal":
            needed = units_to_show(signal, values, probability, alpha=plan.alpha, chance=chance)
        smaller_arm = min(weight * sample.candidate, (1 - weight) * sample.control)
        smaller_arm *= values.share * traffic.requests_per_day
        days = max(
            traffic.days(needed / (compared * _unit_share(values, traffic, plan))),
            signal.min_values / smaller_arm if smaller_arm > 0 else math.inf,
        )
        if days > longest:
            longest, slowest, units = days, signal.name, needed
    return StepForecast(
        weight=weight,
        sample=sample,
        signal=slowest,
        units=math.ceil(min(units, 1e15)),
        requests=_requests(longest, traffic) if longest < math.inf else None,
        days=longest if longest < math.inf else None,
    )


def _unit_share(values: Expectation, traffic: TrafficLevel, plan: RolloutPlan) -> float:
    """Return the share of units that have the signal: one of their requests is enough."""
    if not plan.sticky or not traffic.units_per_day:
        return max(_TINY, values.share)
    each = traffic.requests_per_day / traffic.units_per_day
    return max(_TINY, 1.0 - float((1 - values.share) ** each))


def _total_days(steps: tuple[StepForecast, ...]) -> float | None:
    days = [step.days for step in steps]
    return None if None in days else sum(day for day in days if day is not None)


def _requests(days: float, traffic: TrafficLevel) -> int:
    return math.ceil(days * traffic.requests_per_day)


def _exposed(steps: tuple[StepForecast, ...]) -> int | None:
    """Return how many requests go to the candidate."""
    if any(step.requests is None for step in steps):
        return None
    return math.ceil(sum(step.weight * (step.requests or 0) for step in steps))


def _detection(
    signal: Signal, plan: RolloutPlan, traffic: TrafficLevel, expected: Mapping[str, Expectation]
) -> Detection:
    """Say when twice the margin is found, or twice the events where there is no margin."""
    values = expected.get(signal.name, Expectation())
    first = plan.steps[0]
    sample = sample_of(first, requests_per_s=traffic.requests_per_day / DAY)
    bad = -1 if signal.good_is_high else 1
    margin = abs(signal.margin)
    if margin:
        worse, words = 2 * margin, f"{2 * margin:g} worse"
    elif signal.kind in {"event", "above_p95"}:
        worse, words = _mean(signal, values), "twice as many"
    else:
        worse, words = 0.1 * signal.width, f"{0.1 * signal.width:g} worse"
    units = units_to_detect(
        signal,
        msgspec.structs.replace(values, difference=bad * worse),
        sample.probability(before=0.0, weight=first),
        limit=len(plan.signals) / plan.alpha,
        chance=_DETECTED,
    )
    observed = sample.share(before=0.0, weight=first) * _unit_share(values, traffic, plan)
    days = traffic.days(units / observed)
    return Detection(
        signal=signal.name,
        harm=words,
        requests=None if days == math.inf else _requests(days, traffic),
    )


def _impossible(
    plan: RolloutPlan,
    traffic: TrafficLevel,
    expected: Mapping[str, Expectation],
    *,
    steps: tuple[StepForecast, ...],
    limit: float,
) -> str:
    """Say what cannot be shown, what it would need, and with which first step it can be."""
    slowest = max(steps, key=lambda step: math.inf if step.days is None else step.days)
    words = f"{slowest.signal or 'The minimum time of the steps'} cannot be shown with the traffic"
    if slowest.units:
        words += f": at {_percent(slowest.weight)} of the users it needs {slowest.units:,} of them"
    total = _total_days(steps)
    if total is None:
        words += ", more than the route ever has."
    else:
        words += f"; the rollout would take {total:.0f} days"
        words += f" at {traffic.requests_per_day:,.0f} requests a day, the limit is {limit:.0f}."
    for first in range(1, len(plan.steps) - 1):
        later = msgspec.structs.replace(plan, steps=plan.steps[first:], max_s=None)
        days = _total_days(_steps(later, traffic, expected))
        if days is not None and days <= limit:
            step = _percent(plan.steps[first])
            return f"{words} With a first step of {step} it takes {days:.1f} days."
    return f"{words} A wider margin or more traffic is needed."


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
