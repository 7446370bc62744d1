"""`rollout:` of a route, and the body that starts one: a candidate, its steps, and what decides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec

from providers.base import NotNegative, Positive
from router.config.section import Count, KeyNames, Section
from router.config.shadow import ShadowLimits

STICKY = "^(user|conversation|header:[A-Za-z0-9-]{1,64})$"

Step = Annotated[float, msgspec.Meta(gt=0, le=100)]
FEEDBACK = "feedback:"
JUDGE = "judge"
# What sends texts to it, in messages.
JUDGE_SENDER = "rollout's judge"
Reason = Annotated[str, msgspec.Meta(max_length=2000)]
Measure = Annotated[
    str,
    msgspec.Meta(
        pattern="^(errors|refusals|truncations|first_byte|duration|cost|judge"
        "|feedback:[A-Za-z0-9][A-Za-z0-9._ -]{0,99})$"
    ),
]
# Of these, the others are shares of requests.
SHARES = frozenset({"errors", "refusals", "truncations", "first_byte", "duration", "cost"})


class RolloutSignal(Section, frozen=True, kw_only=True):
    """What the candidate is compared with the control by.

    Attributes:
        measure: `errors`, `refusals` or `truncations` (the requests that failed, were refused, or
            were cut at their limit), `first_byte`, `duration` or `cost` (the requests that took
            longer, or cost more, than all but 5 % of the control's), `feedback:NAME` (values of
            feedback of that name), or `judge` (the scores of the rollout's judge).
        role: a `guardrail` rolls back where the candidate is shown to be worse by more than the
            margin; a `goal` has to be shown to be not worse by the margin before each step, and
            rolls back where it is shown to be missed.
        margin: how much worse the candidate may be: 0.02 is two percentage points of the requests;
            in the values' own unit for feedback and judges. A goal's may be negative: better by so
            much.
        better: whether `higher` or `lower` values of feedback or of the judge are better. `lower`
            for the others.
        low, high: the range of the values of feedback or of the judge.
        min_requests: the requests of each arm that must have the signal in a step.
    """

    measure: Measure
    role: Literal["guardrail", "goal"] = "guardrail"
    margin: Annotated[float, msgspec.Meta(gt=-(10**9), lt=10**9)] = 0.0
    better: Literal["lower", "higher"] | None = None
    low: Annotated[float, msgspec.Meta(gt=-(10**9), lt=10**9)] = 0.0
    high: Annotated[float, msgspec.Meta(gt=-(10**9), lt=10**9)] = 1.0
    min_requests: Count = 50

    @property
    def name(self) -> str:
        """The name that tells it from the others of a rollout."""
        return f"{self.measure} ({self.role})"


class RolloutJudge(Section, frozen=True, kw_only=True):
    """Who scores answers of both arms, each by itself, after clients have them.

    Attributes:
        metric: a metric of a judge that scores one answer, as in a run document; its first output
            is what counts. The route's `share_bodies_with` names the providers of its judges.
        sample: share of the requests in the rollout's sample, drawn by a hash of their record's id.
        limits: as a shadow's. `usd_per_day` holds for all processes; `rps`, `concurrency` and
            `waiting` for each.
        exclude_keys: names of keys whose requests are never sent.
    """

    metric: str | dict[str, Any]
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    limits: ShadowLimits = ShadowLimits()
    exclude_keys: KeyNames = ()


DEFAULT_SIGNALS = (
    RolloutSignal(measure="errors"),
    RolloutSignal(measure="errors", role="goal", margin=0.02),
    RolloutSignal(measure="first_byte", margin=0.05),
)


class RolloutSettings(Section, frozen=True, kw_only=True):
    """How a candidate gets a growing share of a route's requests.

    Attributes:
        steps: the candidate's shares in percent, growing; at 100 it is promoted, which follows the
            last one in any case.
        signals: what decides, see RolloutSignal; at least one is a goal.
        judge: see RolloutJudge; for signals with the measure `judge`.
        alpha: the chance that a candidate which is worse in nothing is rolled back, and that steps
            are taken with one that misses a goal by its margin, over the whole rollout.
        step_seconds: how long a step takes at least.
        cycle_seconds: how long the traffic's pattern takes to repeat, which a step takes at least.
        unit_seconds: how long a user's values are collected, from the first one on, before their
            mean counts; for goals and for guardrails with a margin.
        max_requests: how many requests may be the candidate's before it is promoted; then it is
            aborted without a verdict. None for any number.
        max_seconds: how long the rollout may take, without its pauses; likewise.
        sticky: what keeps a user in one arm, as the route's `sticky`, which it is in the place of.
            Without either it is the request's user, or else its conversation. Requests without
            what it names are assigned one by one.
    """

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=100)] = (
        1.0,
        5.0,
        10.0,
        25.0,
        50.0,
        100.0,
    )
    signals: Annotated[tuple[RolloutSignal, ...], msgspec.Meta(min_length=1, max_length=20)] = (
        DEFAULT_SIGNALS
    )
    judge: RolloutJudge | None = None
    alpha: Annotated[float, msgspec.Meta(ge=0.0001, le=0.5)] = 0.05
    step_seconds: NotNegative = 3600.0
    cycle_seconds: NotNegative = 86400.0
    unit_seconds: NotNegative = 3600.0
    max_requests: Count | None = None
    max_seconds: Positive | None = None
    sticky: Annotated[str, msgspec.Meta(pattern=STICKY)] | None = None


class RouteRollout(RolloutSettings, frozen=True, kw_only=True):
    """A rollout to start; in the config, also the defaults of those that requests start.

    Attributes:
        candidate: `provider/model`. A server that finds it in its config starts the rollout, once.
            None, in the config: rollouts are started by requests or commands.
        reason: why it is started, for the record.
        force: whether to start it although its provider does not list the candidate, or its goals
            cannot be shown with the traffic that there is, or nothing is known of that.
    """

    candidate: str | None = None
    reason: Reason = ""
    force: bool = False


SettingsPlace = tuple[str | int, ...]


def settings_problems(settings: RolloutSettings) -> Iterator[tuple[SettingsPlace, str]]:
    """Yield what types cannot say: the place within the settings, and what is wrong there."""
    steps = settings.steps
    if any(later <= earlier for earlier, later in pairwise(steps)):
        yield ("steps",), "each step must be larger than the one before"
    if steps[0] == 100:
        yield (
            ("steps",),
            "at least one must be below 100, where the candidate is compared with the control",
        )
    if not any(signal.role == "goal" for signal in settings.signals):
        yield (
            ("signals",),
            "at least one must be a goal; otherwise nothing would have to be shown before a step",
        )
    names: set[str] = set()
    for n, signal in enumerate(settings.signals):
        place = ("signals", n)
        if signal.name in names:
            yield place, f"{signal.measure} is a {signal.role} twice"
        names.add(signal.name)
        for key, message in _signal_problems(signal):
            yield (*place, key), message
        if signal.measure == JUDGE and settings.judge is None:
            yield (*place, "measure"), "name the judge, under judge"
    fewest = max(settings.step_seconds, settings.cycle_seconds) * sum(step < 100 for step in steps)
    if settings.max_seconds is not None and settings.max_seconds < fewest:
        yield ("max_seconds",), f"the steps take {fewest:g} seconds at least"


def _signal_problems(signal: RolloutSignal) -> Iterator[tuple[str, str]]:
    if signal.low >= signal.high:
        yield "low", "must be below high"
    elif abs(signal.margin) >= signal.high - signal.low:
        yield "margin", f"must be smaller than the range, {signal.high - signal.low:g}"
    if signal.role == "guardrail" and signal.margin < 0:
        yield "margin", "must be 0 or more, for a guardrail"
    if signal.measure not in SHARES:
        return
    if (signal.low, signal.high) != (0.0, 1.0):
        yield "low", "low and high are for feedback and judges"
    if signal.better == "higher":
        yield "better", f"lower is better for {signal.measure}"
