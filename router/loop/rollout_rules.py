"""Decides about a rollout from what both arms did: pure, with a state that can be stored as JSON.

    rules = RolloutRules(plan)                 # or RolloutRules(plan, state) after a restart
    rules.observe(Batch(began=t0, until=t1, observations=[...]))
    decision = rules.decide()                  # hold, step_up, promote, roll_back, pause or abort
    rules.apply(decision)                      # then store rules.state() and the decision

What people decide, and what brings a decision into effect, is in `rollouts.py`.

The unit is whatever the route's sticky key names: a user, a conversation, or the request where it
has none. Units are assigned by their position, a hash from 0 to 1: the candidate's are those below
the step's weight. Of each arm, a sample of the units is observed (`rollout_sample.py`). Each step
compares the units that it moves with those that stay. No coin was thrown for the units that were
the candidate's before it, so they are left out. Within a step a unit counts once in each test: with
its first event, or with its mean over `unit_window_s`. So units with many requests weigh no more
than others, and no error rate depends on how many there are.

docs/explanation/rollouts.md has the tests, their sources and the simulations.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np

from evaluators.stats.randomised import (
    BalanceTest,
    Differences,
    MeanTest,
    RatioTest,
    differences,
    ratio_interval,
    rejected,
)
from evaluators.stats.recent_quantile import RecentQuantile, class_of
from router.loop.rollout_sample import RolloutSample

Role: TypeAlias = Literal["guardrail", "goal"]
SignalKind: TypeAlias = Literal["event", "above_p95", "score", "paired_score"]
RolloutStatus: TypeAlias = Literal[
    "running",
    "holding",
    "promoting",
    "promoted",
    "rolling_back",
    "rolled_back",
    "paused",
    "aborted",
]
RolloutAction: TypeAlias = Literal["hold", "step_up", "promote", "roll_back", "pause", "abort"]

DEFAULT_STEPS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
DAY = 86_400.0

_SET_BITS = 1 << 20
_MAX_OPEN = 2048
_CONTROL_QUANTILE = 0.95


class RolloutStateError(ValueError):
    """An action that is not possible in the rollout's state."""


class Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number that both arms are compared by.

    Attributes:
        name: of the signal, such as `error_rate`.
        kind: `event`, something bad that a request does or does not (an error, a refusal, a
            truncation, negative feedback); `above_p95`, a time or cost above the control's recent
            p95; `score`, a number with a range; `paired_score`, the candidate's score minus the
            control's for the same request, judged beside the rollout.
        role: a `guardrail` rolls back when the candidate is shown to be worse; a `goal` has to be
            shown before a step is taken, and rolls back when it is shown to be missed.
        margin: how much worse the candidate may be: a share of requests (0.01 is one percentage
            point) for `event` and `above_p95`, else in the score's unit. Of a goal, 0 means that it
            has to be better, and -0.05 better by more than that.
        higher_is_better: of a score.
        low: the smallest possible score.
        high: the largest.
        min_values: requests of each arm that must have the signal, in each step, before the next.
    """

    name: str
    kind: SignalKind = "event"
    role: Role = "guardrail"
    margin: float = 0.0
    higher_is_better: bool = True
    low: float = 0.0
    high: float = 1.0
    min_values: int = 50

    def __post_init__(self) -> None:
        """Refuse a range or margin with which nothing can be tested."""
        if not self.name:
            raise ValueError("a signal needs a name")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"signal {self.name}: low must be below high")
        if self.kind in {"event", "above_p95"} and (self.low, self.high) != (0.0, 1.0):
            raise ValueError(f"signal {self.name}: low and high belong to scores")
        if not abs(self.margin) < self.high - self.low:
            raise ValueError(
                f"signal {self.name}: the margin must be smaller than the range of its values, "
                f"{self.high - self.low:g}"
            )
        if self.role == "guardrail" and self.margin < 0:
            raise ValueError(f"signal {self.name}: the margin of a guardrail is 0 or more")
        if self.min_values < 1:
            raise ValueError(f"signal {self.name}: min_values is 1 or more, since no data passes")

    @property
    def width(self) -> float:
        """Return the largest value minus the smallest."""
        return self.high - self.low

    @property
    def by_ratio(self) -> bool:
        """Return whether the harm is tested by first events alone."""
        return self.kind in {"event", "above_p95"} and self.role == "guardrail" and not self.margin

    @property
    def good_is_high(self) -> bool:
        """Return whether higher values are better."""
        return self.kind in {"score", "paired_score"} and self.higher_is_better


class RolloutPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules that were fixed before the first request.

    Attributes:
        signals: with different names; at least one.
        steps: the candidate's share of units in each step, rising; the last is 1.
        sticky: whether several requests can be of one unit.
        alpha: the chance of rolling back a candidate that is worse in nothing, over the whole
            rollout; and of a step although a goal is missed by its margin or more.
        imbalance_alpha: the chance of pausing although units are assigned as planned.
        min_step_s: seconds that each step lasts at least.
        cycle_s: a full cycle of the traffic, which each step lasts at least.
        unit_window_s: seconds from a unit's first value over which its mean is taken.
        max_candidate_requests: the exposure budget: requests that may go to the candidate before it
            is promoted; None without one.
        max_s: seconds that the rollout may take, pauses aside; None without a limit.
    """

    signals: tuple[Signal, ...]
    steps: tuple[float, ...] = DEFAULT_STEPS
    sticky: bool = True
    alpha: float = 0.05
    imbalance_alpha: float = 0.001
    min_step_s: float = 3600.0
    cycle_s: float = DAY
    unit_window_s: float = 3600.0
    max_candidate_requests: int | None = None
    max_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a plan that decides nothing."""
        names = [signal.name for signal in self.signals]
        if not names:
            raise ValueError("a rollout needs at least one signal: without data nothing passes")
        if len(set(names)) < len(names):
            raise ValueError("two signals have the same name")
        rising = all(a < b for a, b in zip((0.0, *self.steps), self.steps, strict=False))
        if len(self.steps) < 2 or not rising or self.steps[-1] != 1:
            raise ValueError(
                "steps must rise from above 0 to 1, with at least one below 1, on which the "
                "candidate is compared with the control"
            )
        if not 0 < self.alpha <= 0.5 or not 0 < self.imbalance_alpha <= 0.5:
            raise ValueError("alpha and imbalance_alpha must be above 0 and at most 0.5")
        if min(self.min_step_s, self.cycle_s, self.unit_window_s) < 0:
            raise ValueError("min_step_s, cycle_s and unit_window_s must be 0 or more")
        if self.max_s is not None and self.max_s < self.shortest_s:
            raise ValueError(
                f"max_s is below the {self.shortest_s:g} s that the steps take at least"
            )

    @property
    def step_s(self) -> float:
        """Return the seconds that a step takes at least."""
        return max(self.min_step_s, self.cycle_s)

    @property
    def shortest_s(self) -> float:
        """Return the seconds that the whole rollout takes at least."""
        return self.step_s * (len(self.steps) - 1)

    def before(self, step: int) -> float:
        """Return the share of units that are the candidate's since before a step."""
        return self.steps[step - 1] if self.sticky and step else 0.0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one request, or came to be known of it later.

    Attributes:
        unit: the hash of the sticky key; the record's id where the route has none.
        candidate: whether the unit was assigned to the candidate, whoever answered in the end.
        step: the number of the step that the request was assigned in, from 0.
        position: of the unit, from 0 to 1, by which it was assigned; not read where units are
            requests.
        values: by signal: 0 or 1 of an event; seconds, dollars or the like for `above_p95`; a score
            or a difference of scores. Signals without a value are left out or None.
        mixed: whether both arms answered in this conversation; left out of the per-protocol view.
        later: whether the request itself was observed before, and these are more values of it.
    """

    unit: str
    candidate: bool
    step: int
    position: float = 0.0
    values: dict[str, float | None] = {}
    mixed: bool = False
    later: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The observations of a stretch of time; the next batch begins where this one ends.

    Attributes:
        began: seconds since the epoch.
        until: of its end, not before `began`.
        observations: in the order in which they came to be known.
        candidate_requests: how many requests have gone to the candidate since the start, observed
            or not; None where all of them are observed.
    """

    began: float
    until: float
    observations: Sequence[Observation] = ()
    candidate_requests: int | None = None


class ArmValues(msgspec.Struct, kw_only=True):
    """Requests of one arm in the present step, for the reader; no test uses them.

    Attributes:
        requests: that had the signal.
        total: of their values.
        pure_requests: of these, requests of conversations that one arm answered alone.
        pure_total: of their values.
    """

    requests: int = 0
    total: float = 0.0
    pure_requests: int = 0
    pure_total: float = 0.0

    def add(self, value: float, *, mixed: bool) -> None:
        """Count a request."""
        self.requests += 1
        self.total += value
        if not mixed:
            self.pure_requests += 1
            self.pure_total += value


class OpenUnit(msgspec.Struct, kw_only=True, array_like=True):
    """A unit whose mean is still being taken.

    Attributes:
        candidate: its arm.
        since: when its first value came, seconds since the epoch.
        requests: values so far.
        total: of the values.
    """

    candidate: bool
    since: float
    requests: int
    total: float


class SignalState(msgspec.Struct, kw_only=True):
    """What is remembered of a signal.

    Attributes:
        candidate, control: the arms' requests in this step.
        ratio: the test of first events; None where another is used.
        mean: the test of means; None where another is used.
        events: in this step, of the candidate and of the control, each unit's first.
        units: which units have counted in this step, compressed.
        open: units whose mean is being taken.
        closed: how many units' means have been taken, in all steps.
        closed_total: of these means.
        closed_squares: of these means.
        recent: the control's recent values, of `above_p95`.
        passed: whether the goal has been shown in this step.
    """

    candidate: ArmValues
    control: ArmValues
    ratio: RatioTest | None = None
    mean: MeanTest | None = None
    events: tuple[int, int] = (0, 0)
    units: bytes = b""
    open: dict[str, OpenUnit] = {}
    closed: int = 0
    closed_total: float = 0.0
    closed_squares: float = 0.0
    recent: RecentQuantile | None = None
    passed: bool = False


class RolloutState(msgspec.Struct, kw_only=True):
    """All that the rules remember; JSON by `msgspec.json`.

    Attributes:
        status: the state of the rollout.
        step: the number of the present step, from 0.
        elapsed_s: seconds observed in this step, pauses aside.
        total_s: seconds observed in all steps.
        signals: by name.
        balance: the test of the assignment.
        assigned: units compared in this step, of the candidate and of the control.
        units: which units have been counted as assigned in this step, compressed.
        candidate_requests: that went to the candidate since the start, observed or not.
        sample: of the present step's units, those that are observed.
        late: observations of an earlier step, which are not used.
    """

    status: RolloutStatus = "running"
    step: int = 0
    elapsed_s: float = 0.0
    total_s: float = 0.0
    signals: dict[str, SignalState] = {}
    balance: BalanceTest = msgspec.field(default_factory=BalanceTest)
    assigned: tuple[int, int] = (0, 0)
    units: bytes = b""
    candidate_requests: int = 0
    sample: RolloutSample = RolloutSample()
    late: int = 0


class ArmReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader sees of one arm in this step.

    Attributes:
        requests: that had the signal.
        mean: of their values, in the signal's unit; None without requests.
    """

    requests: int
    mean: float | None


class SignalReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision saw of one signal.

    Attributes:
        signal: its name.
        role: guardrail or goal.
        candidate, control: the arms in this step, as assigned (intention to treat).
        harm: the e-value against "no worse" (than the margin allows), over the whole rollout.
        shown: of a goal, the e-value against "worse by the margin or more", in this step.
        passed: whether nothing of this signal stands against the next step.
        scale: `difference`, candidate minus control, or `ratio` of the shares of units with an
            event.
        estimate: on this scale, in this step; None where there is too little.
        low, high: its interval of 95%, which holds at every moment.
        per_protocol: candidate minus control without mixed conversations; None without requests.
        missing: requests that the smaller arm lacks before the step may end.
    """

    signal: str
    role: Role
    candidate: ArmReading
    control: ArmReading
    harm: float
    shown: float | None
    passed: bool
    scale: Literal["difference", "ratio"]
    estimate: float | None
    low: float | None
    high: float | None
    per_protocol: float | None
    missing: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, by which rule, and what was seen.

    Attributes:
        action: what to do.
        status: the state of the rollout after it.
        rule: `guardrails`, `imbalance`, `exposure_budget`, `time_limit`, `min_time`, `no_data`,
            `goals`, `passed`, or `status`.
        reason: in plain English.
        step, next_step: the numbers of the steps.
        from_weight, to_weight: the candidate's share of units.
        signals: those that the rule is about.
        e_value: the largest e-value that decided; None where none did.
        readings: of every signal.
        imbalance: the e-value against the planned assignment.
    """

    action: RolloutAction
    status: RolloutStatus
    rule: str
    reason: str
    step: int
    next_step: int
    from_weight: float
    to_weight: float
    signals: tuple[str, ...]
    e_value: float | None
    readings: tuple[SignalReading, ...]
    imbalance: float


class UnitSet:
    """Units that have counted, by one bit each; now and then it takes a new unit for an old one.

    Which units are lost that way depends on a hash of their name that has nothing to do with their
    arm, so it costs data and no validity: a twentieth of 100,000 units, two fifths of a million.
    """

    def __init__(self, packed: bytes = b"") -> None:
        self._bits = bytearray(zlib.decompress(packed) if packed else _SET_BITS // 8)

    def add(self, unit: str) -> bool:
        """Return whether the unit is new, and remember it."""
        digest = hashlib.blake2b(unit.encode(), digest_size=8, person=b"rollout-unit").digest()
        byte, bit = divmod(int.from_bytes(digest, "big") % _SET_BITS, 8)
        if self._bits[byte] >> bit & 1:
            return False
        self._bits[byte] |= 1 << bit
        return True

    def packed(self) -> bytes:
        """Return what the constructor takes."""
        return zlib.compress(bytes(self._bits), 1)


class _Arms(NamedTuple):
    """How the present step assigns units.

    Attributes:
        before: units at positions below are the candidate's since an earlier step.
        probability: that any other unit which is observed is the candidate's.
    """

    before: float
    probability: float


class RolloutRules:
    """The tests of a rollout and what follows from them.

    Args:
        plan: the rules, which stay the same for the whole rollout.
        state: as `state` returned it; None at the start.
    """

    def __init__(self, plan: RolloutPlan, state: RolloutState | None = None) -> None:
        self.plan = plan
        self._state = state or RolloutState(
            signals={signal.name: _new_state(signal) for signal in plan.signals}
        )
        self._assigned = UnitSet(self._state.units)
        self._counted = {
            name: UnitSet(memory.units) for name, memory in self._state.signals.items()
        }

    @property
    def status(self) -> RolloutStatus:
        """Return the state of the rollout."""
        return self._state.status

    @property
    def weight(self) -> float:
        """Return the candidate's share of units that the route should have now."""
        if self.status in {"promoting", "promoted"}:
            return 1.0
        if self.status in {"rolling_back", "rolled_back", "aborted"}:
            return 0.0
        return self.plan.steps[self._state.step]

    def place(self, status: RolloutStatus, step: int, sample: RolloutSample) -> None:
        """Take over where the rollout is: people, too, decide about it."""
        self._state.status, self._state.step, self._state.sample = status, step, sample

    def state(self) -> RolloutState:
        """Return what to store; it is not changed by later batches."""
        self._state.units = self._assigned.packed()
        for name, units in self._counted.items():
            self._state.signals[name].units = units.packed()
        return msgspec.json.decode(msgspec.json.encode(self._state), type=RolloutState)

    def observe(self, batch: Batch) -> None:
        """Take in a batch; nothing counts while the rollout is paused or has ended.

        Raises:
            ValueError: a value outside of its signal's range, or a batch that ends before it began.
        """
        if batch.until < batch.began:
            raise ValueError("a batch ends before it began")
        _check_values(self.plan.signals, batch.observations)
        if self.status not in {"running", "holding"}:
            return
        state = self._state
        state.elapsed_s += batch.until - batch.began
        state.total_s += batch.until - batch.began
        current = [item for item in batch.observations if item.step == state.step]
        state.late += len(batch.observations) - len(current)
        first = [item for item in batch.observations if not item.later]
        if batch.candidate_requests is None:
            state.candidate_requests += sum(item.candidate for item in first)
        else:
            state.candidate_requests = max(state.candidate_requests, batch.candidate_requests)
        arms = self._arms()
        self._assign([item for item in current if not item.later], arms)
        for signal in self.plan.signals:
            self._observe_signal(signal, current, batch.until, arms)

    def decide(self) -> Decision:
        """Return what to do now. `apply` does it; nothing changes before."""
        if self.status not in {"running", "holding"}:
            return self._decision("hold", "status", f"The rollout is {self.status}.", self.status)
        readings = self.readings()
        state, plan = self._state, self.plan
        harms = [reading.harm for reading in readings]
        worse = [readings[place] for place in rejected(harms, plan.alpha)]
        if worse:
            return self._decision(
                "roll_back",
                "guardrails",
                f"The candidate is worse: {_harms(worse, len(harms), plan.alpha)}.",
                "rolling_back",
                signals=tuple(reading.signal for reading in worse),
                e_value=worse[0].harm,
            )
        imbalance = state.balance.e_value()
        if imbalance * plan.imbalance_alpha >= 1:
            return self._decision(
                "pause",
                "imbalance",
                f"{state.assigned[0]:,} of {sum(state.assigned):,} units in this step are the "
                f"candidate's, where {self._arms().probability:.2%} were planned (e-value "
                f"{imbalance:.3g}, limit {1 / plan.imbalance_alpha:.3g}): requests are lost or "
                "assigned in another way, so the arms cannot be compared.",
                "paused",
                e_value=imbalance,
            )
        budget = plan.max_candidate_requests
        if budget is not None and state.candidate_requests >= budget:
            return self._decision(
                "abort",
                "exposure_budget",
                f"{state.candidate_requests:,} requests went to the candidate, the budget is "
                f"{budget:,}, and it has not been promoted.",
                "aborted",
            )
        return self._next_step(readings) or self._decision(
            "abort",
            "time_limit",
            f"The rollout has taken {_time(state.total_s)}, the limit is "
            f"{_time(plan.max_s or 0)}, and the candidate has not been promoted.",
            "aborted",
        )

    def _next_step(self, readings: Sequence[SignalReading]) -> Decision | None:
        """Return the step, or what it waits for; None where the time is up while it waits."""
        state, plan = self._state, self.plan
        waits = plan.step_s - state.elapsed_s
        short = [reading for reading in readings if reading.missing]
        goals = [reading for reading in readings if not reading.passed]
        out_of_time = plan.max_s is not None and state.total_s >= plan.max_s
        if out_of_time and (waits > 0 or short or goals):
            return None
        if waits > 0:
            return self._decision(
                "hold",
                "min_time",
                f"The step lasts {_time(waits)} more, until a full cycle of traffic is seen.",
                "running",
            )
        if short:
            lacks = ", ".join(f"{reading.signal} ({reading.missing:,} more)" for reading in short)
            return self._decision(
                "hold",
                "no_data",
                f"Too few requests of one arm have the signal: {lacks}. No data is no pass.",
                "holding",
                signals=tuple(reading.signal for reading in short),
            )
        if goals:
            return self._decision(
                "hold",
                "goals",
                f"Not shown yet: {_goals(goals, plan.alpha)}.",
                "holding",
                signals=tuple(reading.signal for reading in goals),
                e_value=max(item.shown for item in goals if item.shown is not None),
            )
        shown = [reading for reading in readings if reading.role == "goal"]
        reason = f"No guardrail speaks against it after {_time(state.elapsed_s)}"
        if shown:
            reason += f", and the goals are shown: {', '.join(item.signal for item in shown)}"
        last = state.step + 1 == len(plan.steps) - 1
        return self._decision(
            "promote" if last else "step_up",
            "passed",
            reason + ".",
            "promoting" if last else "running",
            signals=tuple(reading.signal for reading in shown),
            e_value=min((item.shown for item in shown if item.shown is not None), default=None),
        )

    def apply(self, decision: Decision) -> None:
        """Change the state as a decision says.

        Raises:
            RolloutStateError: the state has changed since, and the action is not possible now.
        """
        if decision.action == "hold" and decision.status == self.status:
            return
        if self.status not in {"running", "holding"}:
            words = decision.action.replace("_", " ")
            raise RolloutStateError(f"the rollout is {self.status}: it cannot {words}")
        if decision.step != self._state.step:
            raise RolloutStateError("the decision is of another step")
        self._state.status = decision.status
        if decision.action == "step_up":
            self._begin_step(decision.next_step)

    def readings(self) -> tuple[SignalReading, ...]:
        """Return what the tests say of each signal now, in the order of the plan."""
        probability = self._arms().probability
        return tuple(
            _reading(signal, self._state.signals[signal.name], probability)
            for signal in self.plan.signals
        )

    def _begin_step(self, step: int) -> None:
        state = self._state
        state.step, state.elapsed_s, state.assigned = step, 0.0, (0, 0)
        self._assigned = UnitSet()
        for name, memory in state.signals.items():
            self._counted[name] = UnitSet()
            memory.candidate, memory.control = ArmValues(), ArmValues()
            memory.events, memory.open, memory.passed = (0, 0), {}, False
            if memory.mean is not None:
                memory.mean.restart()

    def _arms(self) -> _Arms:
        step, sample = self._state.step, self._state.sample
        before = self.plan.before(step)
        return _Arms(before, sample.probability(before=before, weight=self.plan.steps[step]))

    def _compared(self, item: Observation, arms: _Arms) -> bool:
        return not self.plan.sticky or item.position >= arms.before

    def _assign(self, observations: Sequence[Observation], arms: _Arms) -> None:
        counts = [0, 0]
        for item in observations:
            if not self._compared(item, arms):
                continue
            if not self.plan.sticky or self._assigned.add(item.unit):
                counts[not item.candidate] += 1
        candidate, control = counts
        self._state.balance.add(candidate=candidate, control=control, probability=arms.probability)
        before = self._state.assigned
        self._state.assigned = (before[0] + candidate, before[1] + control)

    def _observe_signal(
        self, signal: Signal, observations: Sequence[Observation], until: float, arms: _Arms
    ) -> None:
        """Take in one signal's values; the control's p95 is that of earlier batches."""
        memory = self._state.signals[signal.name]
        limit = None if memory.recent is None else memory.recent.quantile(_CONTROL_QUANTILE)
        controls, compared = [], []
        for item in observations:
            raw = item.values.get(signal.name)
            if raw is None:
                continue
            value = float(raw)
            if signal.kind == "above_p95":
                if not item.candidate:
                    controls.append(value)
                if limit is None:
                    continue
                value = float(class_of(value) > limit)
            arm = memory.candidate if item.candidate else memory.control
            arm.add(value, mixed=item.mixed)
            if signal.kind == "paired_score" or self._compared(item, arms):
                compared.append((item, value))
        if memory.recent is not None:
            memory.recent.add(controls, at=until)
        if memory.ratio is not None:
            self._add_events(signal, memory.ratio, compared, arms.probability)
        if memory.mean is not None:
            self._add_means(signal, memory.mean, compared, until, arms.probability)
            if signal.role == "goal" and memory.mean.shown() * self.plan.alpha >= 1:
                memory.passed = True

    def _add_events(
        self,
        signal: Signal,
        test: RatioTest,
        compared: Sequence[tuple[Observation, float]],
        probability: float,
    ) -> None:
        memory, counts = self._state.signals[signal.name], [0, 0]
        for item, value in compared:
            if value and (not self.plan.sticky or self._counted[signal.name].add(item.unit)):
                counts[not item.candidate] += 1
        candidate, control = counts
        test.add(candidate=candidate, control=control, probability=probability)
        memory.events = (memory.events[0] + candidate, memory.events[1] + control)

    def _add_means(
        self,
        signal: Signal,
        test: MeanTest,
        compared: Sequence[tuple[Observation, float]],
        until: float,
        probability: float,
    ) -> None:
        memory = self._state.signals[signal.name]
        closed: list[tuple[bool, float]] = []
        for item, value in compared:
            if self.plan.sticky:
                closed.extend(self._gather(signal, item, _goodness(signal, value), until))
            else:
                closed.append((item.candidate, _goodness(signal, value)))
        ended = [
            name
            for name, unit in memory.open.items()
            if until - unit.since >= self.plan.unit_window_s
        ]
        closed.extend(_mean(memory.open.pop(name)) for name in ended)
        if not closed:
            return
        values = np.array([value for _, value in closed])
        if signal.kind == "paired_score":
            variance = (memory.closed_squares + 1.0) / (memory.closed + 1)
            drawn = Differences(values, -1.0, 1.0, variance)
        else:
            candidates = np.array([candidate for candidate, _ in closed])
            center = (memory.closed_total + 0.5) / (memory.closed + 1)
            around = memory.closed_squares - memory.closed * center**2
            variance = (max(0.0, around) + 0.25) / (memory.closed + 1)
            drawn = differences(
                values, candidates, probability=probability, center=center, variance=variance
            )
        test.add(drawn)
        memory.closed += len(closed)
        memory.closed_total += float(values.sum())
        memory.closed_squares += float(values @ values)

    def _gather(
        self, signal: Signal, item: Observation, value: float, until: float
    ) -> list[tuple[bool, float]]:
        """Add a value to its unit's mean; return the mean that had to make room for it."""
        memory = self._state.signals[signal.name]
        unit = memory.open.get(item.unit)
        if unit is not None:
            unit.requests += 1
            unit.total += value
            return []
        if not self._counted[signal.name].add(item.unit):
            return []
        oldest = [memory.open.pop(next(iter(memory.open)))] if len(memory.open) >= _MAX_OPEN else []
        memory.open[item.unit] = OpenUnit(
            candidate=item.candidate, since=until, requests=1, total=value
        )
        return [_mean(unit) for unit in oldest]

    def _decision(
        self,
        action: RolloutAction,
        rule: str,
        reason: str,
        status: RolloutStatus,
        *,
        signals: tuple[str, ...] = (),
        e_value: float | None = None,
    ) -> Decision:
        step, steps = self._state.step, self.plan.steps
        next_step = step + 1 if action in {"step_up", "promote"} else step
        to_weight = 0.0 if action in {"roll_back", "abort"} else steps[next_step]
        if action == "hold":
            to_weight = self.weight
        return Decision(
            action=action,
            status=status,
            rule=rule,
            reason=reason,
            step=step,
            next_step=next_step,
            from_weight=self.weight,
            to_weight=to_weight,
            signals=signals,
            e_value=e_value,
            readings=self.readings(),
            imbalance=self._state.balance.e_value(),
        )


def _new_state(signal: Signal) -> SignalState:
    return SignalState(
        candidate=ArmValues(),
        control=ArmValues(),
        ratio=RatioTest() if signal.by_ratio else None,
        mean=None if signal.by_ratio else MeanTest(margin=signal.margin / signal.width),
        recent=RecentQuantile() if signal.kind == "above_p95" else None,
    )


def _check_values(signals: Sequence[Signal], observations: Sequence[Observation]) -> None:
    for signal in signals:
        low, high = signal.low, signal.high
        if signal.kind == "paired_score":
            low, high = -signal.width, signal.width
        elif signal.kind == "above_p95":
            low, high = 0.0, math.inf
        for item in observations:
            value = item.values.get(signal.name)
            if value is None:
                continue
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(
                    f"signal {signal.name}: {value} is not a number from {low:g} to {high:g}"
                )
            if signal.kind == "event" and value not in {0.0, 1.0}:
                raise ValueError(f"signal {signal.name}: an event is 0 or 1, not {value}")


def _goodness(signal: Signal, value: float) -> float:
    """Return a value as a number from 0 to 1 of which more is better; -1 to 1 of pairs."""
    if signal.kind == "paired_score":
        share = value / signal.width
        return share if signal.good_is_high else -share
    share = (value - signal.low) / signal.width
    return share if signal.good_is_high else 1 - share


def _mean(unit: OpenUnit) -> tuple[bool, float]:
    return unit.candidate, unit.total / unit.requests


def _reading(signal: Signal, memory: SignalState, probability: float) -> SignalReading:
    arms = (memory.candidate, memory.control)
    candidate, control = (
        ArmReading(requests=arm.requests, mean=arm.total / arm.requests if arm.requests else None)
        for arm in arms
    )
    pure = [arm.pure_total / arm.pure_requests for arm in arms if arm.pure_requests]
    requests = (
        [candidate.requests + control.requests]
        if signal.kind == "paired_score"
        else [arm.requests for arm in arms]
    )
    estimate, ends = _estimate(signal, memory, probability)
    return SignalReading(
        signal=signal.name,
        role=signal.role,
        candidate=candidate,
        control=control,
        harm=_harm(memory),
        shown=memory.mean.shown() if memory.mean is not None and signal.role == "goal" else None,
        passed=signal.role == "guardrail" or memory.passed,
        scale="ratio" if memory.ratio is not None else "difference",
        estimate=estimate,
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
        per_protocol=pure[0] - pure[1] if len(pure) == 2 else None,
        missing=max(0, signal.min_values - min(requests)),
    )


def _harm(memory: SignalState) -> float:
    if memory.ratio is not None:
        return memory.ratio.e_value()
    assert memory.mean is not None, "a signal has one of two tests"
    return memory.mean.worse()


def _estimate(
    signal: Signal, memory: SignalState, probability: float
) -> tuple[float | None, tuple[float, float] | None]:
    """Return the estimate and its interval, in the signal's unit and direction."""
    if memory.mean is None:
        candidate, control = memory.events
        if not candidate + control:
            return None, None
        ends = ratio_interval(candidate, control, probability)
        ratio = candidate * (1 - probability) / (control * probability) if control else None
        return ratio, ends
    estimate, interval = memory.mean.estimate(), memory.mean.interval()
    if estimate is None:
        return None, None
    sign = signal.width if signal.good_is_high else -signal.width
    if interval is None:
        return sign * estimate, None
    low, high = sorted(sign * end for end in interval)
    return sign * estimate, (low, high)


def _harms(readings: Sequence[SignalReading], count: int, alpha: float) -> str:
    """Say which signals are worse, with e-values and the limit of e-BH."""
    limit = count / (alpha * len(readings))
    return "; ".join(
        f"{reading.signal} {_shares(reading)} (e-value {reading.harm:.3g}, limit {limit:.3g})"
        for reading in readings
    )


def _goals(readings: Sequence[SignalReading], alpha: float) -> str:
    return "; ".join(
        f"{reading.signal} {_shares(reading)} (e-value {reading.shown or 0.0:.3g}, needs "
        f"{1 / alpha:.3g})"
        for reading in readings
    )


def _shares(reading: SignalReading) -> str:
    if reading.candidate.mean is None or reading.control.mean is None:
        return "has no values of one arm in this step"
    return (
        f"is {reading.candidate.mean:.4g} in {reading.candidate.requests:,} requests of the "
        f"candidate and {reading.control.mean:.4g} in {reading.control.requests:,} of the control"
    )


def _time(seconds: float) -> str:
    """Return a time as days, hours or seconds."""
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:.3g} days"
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} hours"
    return f"{seconds:.3g} s"
