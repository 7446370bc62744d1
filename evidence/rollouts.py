"""Simulates rollouts whose truth is known: `python -m evidence.rollouts`, part of `make evidence`.

    python -m evidence.rollouts                        # all cells, 2,000 rollouts each
    python -m evidence.rollouts --rollouts 200         # fewer
    python -m evidence.rollouts arm                    # only the routes whose users stay
    python -m evidence.rollouts --record               # and a page in evidence/results

Both arms' rates drift over the day, and the rules decide every five minutes. The table says how
often a rollout was promoted or rolled back and after how long, beside the common rule that compares
the p95 of the last five minutes. It fails where a share is outside of what the rules promise.

Thousands of rollouts are advanced together, by counts, which is all that the rules need of users
with one request each. A test compares them with `RolloutRules`, and the rows of users call it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.randomised import (
    IMBALANCES,
    MULTIPLES,
    RATIOS,
    RatioTest,
    bets,
    bounds,
    ratio_logs,
)
from evidence.cells import Floats
from evidence.simulation import Simulation
from evidence.table import table
from router.loop.rollout_forecast import (
    Expectation,
    RolloutForecast,
    TrafficLevel,
    rollout_forecast,
)
from router.loop.rollout_rules import (
    DAY,
    Batch,
    Observation,
    RolloutPlan,
    RolloutRules,
    Signal,
)
from router.loop.rollout_sample import RolloutSample, sample_of

Ints = NDArray[np.int64]
ROLLOUTS = 2000
BIN = 300.0
"""Seconds between two decisions."""

NORMAL = NormalDist()
ERROR_RATE = 0.02
JUDGED = 0.1
LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
LATENCY_SD = 0.5
"""Of the logarithm of a request's time."""

_LAG = 5400.0  # how old the control's p95 is, on average, where values fade in an hour
_SHARES = np.array([0.02, 0.06, 0.17, 0.35, 0.40])  # of the judge's levels, at noon


class Truth(NamedTuple):
    """How the candidate differs.

    Attributes:
        errors: added to the control's error rate.
        judge: added to the control's mean score.
        slower: times the control's latency.
        begins_s: when the difference begins.
    """

    errors: float = 0.0
    judge: float = 0.0
    slower: float = 1.0
    begins_s: float = 0.0


class Route(NamedTuple):
    """A route and the rules of its rollout.

    Attributes:
        name: in the table.
        per_day: requests.
        plan: with signals named `error_rate`, `errors`, `latency`, `cost` and `judge`, or some.
    """

    name: str
    per_day: float
    plan: RolloutPlan

    def sample(self, weight: float) -> RolloutSample:
        """Return the sample of a step."""
        return sample_of(weight, requests_per_s=self.per_day / DAY)

    def forecast(self) -> RolloutForecast:
        """Return what is said before the first request."""
        traffic = TrafficLevel(
            requests_per_day=self.per_day,
            units_per_day=self.per_day,
            units_per_week=7 * self.per_day,
        )
        mean = float(_SHARES @ LEVELS)
        sd = float(np.sqrt(_SHARES @ (LEVELS - mean) ** 2))
        return rollout_forecast(
            self.plan,
            traffic,
            {
                "error_rate": Expectation(mean=ERROR_RATE),
                "errors": Expectation(mean=ERROR_RATE),
                "judge": Expectation(mean=mean, sd=sd, share=JUDGED),
            },
        )


class Ends(NamedTuple):
    """How rollouts ended, one entry each.

    Attributes:
        outcome: "promoted", "rolled back", "paused" or "" while it lasts.
        seconds: when.
        exposed: requests that went to the candidate.
    """

    outcome: NDArray[np.str_]
    seconds: Floats
    exposed: Ints

    def share(self, outcome: str, *, within: float = np.inf) -> float:
        """Return the share of rollouts that ended so, within so many seconds."""
        return float(np.mean((self.outcome == outcome) & (self.seconds <= within)))


def day(seconds: float) -> float:
    """Return the day's wave, from -1 at night to 1 in the afternoon."""
    return float(np.sin(2 * np.pi * seconds / DAY))


def error_rate(seconds: float) -> float:
    """Return the control's error rate, which triples between night and day."""
    return ERROR_RATE * (1 + 0.5 * day(seconds))


def above_p95(seconds: float, slower: float) -> float:
    """Return the share of requests above a p95 of the control that is an hour and a half old.

    The median follows the day, by a tenth in each direction.
    """
    drift = 0.1 * (day(seconds) - day(seconds - _LAG)) + np.log(slower)
    return 1 - NORMAL.cdf(NORMAL.inv_cdf(0.95) - float(drift) / LATENCY_SD)


def judge_shares(seconds: float, shift: float) -> Floats:
    """Return the judge's levels: a part moves from the best to the worst, and more at night."""
    moved = 0.03 * (1 - day(seconds)) - shift
    return _SHARES + moved * np.array([1.0, 0.0, 0.0, 0.0, -1.0])


class _Means:
    """`MeanTest` of one goal, of many rollouts, by counts of levels."""

    def __init__(self, signal: Signal, levels: Floats, rollouts: int) -> None:
        self.margin, self._levels = signal.margin, levels
        self.gains, self.losses = np.zeros((2, rollouts, len(MULTIPLES)))
        self.closed, self.total, self.squares = np.zeros((3, rollouts))

    def add(self, candidate: Ints, control: Ints, probability: Floats) -> None:
        """Add the counts of each level, shape (rollouts, levels)."""
        center = (self.total + 0.5) / (self.closed + 1)
        around = np.maximum(0.0, self.squares - self.closed * center**2)
        variance = (around + 0.25) / (self.closed + 1)
        low, high = bounds(probability, center)
        drawn = _Range(low, high, variance / (probability * (1 - probability)))
        up, down = bets(drawn, self.margin)
        deviations = self._levels - center[:, None]
        for counts, weight in ((candidate, 1 / probability), (control, -1 / (1 - probability))):
            beyond = weight[:, None] * deviations + self.margin
            for logs, sizes in ((self.gains, up), (self.losses, -down)):
                factors = np.log1p(sizes[:, :, None] * beyond[:, None])
                np.add(logs, np.einsum("rbl,rl->rb", factors, counts), out=logs)
        both = candidate + control
        self.closed += both.sum(1)
        self.total += both @ self._levels
        self.squares += both @ self._levels**2

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Go on with these rollouts."""
        self.gains, self.losses = self.gains[rows], self.losses[rows]
        self.closed, self.total = self.closed[rows], self.total[rows]
        self.squares = self.squares[rows]


class _Range(NamedTuple):
    low: Floats
    high: Floats
    variance: Floats


class Rollouts:
    """Many rollouts of one route, advanced together; each request is a user of its own.

    Args:
        route: with its plan.
        truth: how the candidate differs.
        rollouts: their number.
        seed: of the draws.
    """

    def __init__(self, route: Route, truth: Truth, rollouts: int, seed: int) -> None:
        self._route, self._truth = route, truth
        self._random = np.random.default_rng([seed, len(route.name), rollouts])
        self._before, self._moved, self._stay, self._unobserved = _shares(route)
        self._last = len(route.plan.steps) - 2
        self.number = np.arange(rollouts)
        self.step = np.zeros(rollouts, dtype=np.int64)
        self._elapsed = np.zeros(rollouts)
        self._exposed = np.zeros(rollouts, dtype=np.int64)
        self._balance = np.zeros((rollouts, len(IMBALANCES)))
        signals = route.plan.signals
        self._values = {signal.name: np.zeros((rollouts, 2)) for signal in signals}
        self._passed = {
            signal.name: np.zeros(rollouts, dtype=np.bool_)
            for signal in signals
            if signal.role == "goal"
        }
        self.ratios = {
            signal.name: np.zeros((rollouts, len(RATIOS))) for signal in signals if signal.by_ratio
        }
        self.means = {
            signal.name: _Means(
                signal, LEVELS if signal.kind == "score" else np.array([0.0, 1.0]), rollouts
            )
            for signal in signals
            if not signal.by_ratio
        }
        self._ends = Ends(
            np.full(rollouts, "", dtype="<U11"),
            np.full(rollouts, np.inf),
            np.zeros(rollouts, dtype=np.int64),
        )

    def run(self, days: float) -> Ends:
        """Advance all rollouts for so many days, or to their ends."""
        bins = round(days * DAY / BIN)
        for number in range(bins):
            if not len(self.number):
                break
            self.advance(number * BIN)
        self._ends.exposed[self.number] = self._exposed
        return self._ends

    def advance(self, began: float) -> dict[str, tuple[Ints, Ints]]:
        """Draw five minutes of traffic, count them and decide; return the counts by signal."""
        moved = self._moved[self.step]
        probability = moved / (moved + self._stay[self.step])
        drawn = self._draw(began, probability)
        for name, (candidate, control) in drawn.items():
            if name == "requests":
                self._exposed += candidate[:, 1]
                its, others = ratio_logs(IMBALANCES, probability)
                self._balance += candidate[:, 1:] * its + control[:, 1:] * others
                continue
            self._values[name] += np.stack([candidate.sum(1), control.sum(1)], axis=1)
            if name in self.ratios:
                its, others = ratio_logs(RATIOS, probability)
                self.ratios[name] += candidate[:, :1] * its + control[:, :1] * others
            else:
                self.means[name].add(candidate, control, probability)
        self._elapsed += BIN
        self._decide(began + BIN)
        return drawn

    def _draw(self, began: float, probability: Floats) -> dict[str, tuple[Ints, Ints]]:
        """Return counts per level, of which the first is the worst: shape (rollouts, levels).

        They are of users who are compared: of those in the sample whom no earlier step moved.
        """
        random, middle = self._random, began + BIN / 2
        truth = self._truth if began >= self._truth.begins_s else Truth()
        mean = self._route.per_day * BIN / DAY * (1 + 0.6 * day(middle))
        others = self._before[self.step] + self._unobserved[self.step]
        self._exposed += random.poisson(mean * others)
        requests = random.poisson(mean * (self._moved[self.step] + self._stay[self.step]))
        candidate = random.binomial(requests, probability)
        arms = (candidate, requests - candidate)
        drawn = {"requests": _pair(*(np.stack([arm * 0, arm], axis=1) for arm in arms))}
        base, wait = error_rate(middle), above_p95(middle, 1.0)
        chances = {
            "errors": (base + truth.errors, base),
            "latency": (above_p95(middle, truth.slower), wait),
            "cost": (0.05, 0.05),
        }
        events = {
            name: _pair(
                *(
                    _two(arm, random.binomial(arm, rate))
                    for arm, rate in zip(arms, rates, strict=True)
                )
            )
            for name, rates in chances.items()
        }
        for signal in self._route.plan.signals:
            if signal.name == "judge":
                drawn["judge"] = _pair(
                    *(
                        random.multinomial(
                            random.binomial(arm, JUDGED), judge_shares(middle, shift)
                        )
                        for arm, shift in zip(arms, (truth.judge, 0.0), strict=True)
                    )
                )
            else:
                drawn[signal.name] = events["errors" if "error" in signal.name else signal.name]
        return drawn

    def _decide(self, now: float) -> None:
        plan = self._route.plan
        signals = plan.signals
        harms = np.stack(
            [
                _mean(
                    self.ratios[signal.name] if signal.by_ratio else self.means[signal.name].losses
                )
                for signal in signals
            ],
            axis=1,
        )
        ranked = np.sort(harms, axis=1)[:, ::-1] + np.log(np.arange(1, len(signals) + 1))
        back = (ranked >= np.log(len(signals) / plan.alpha)).any(axis=1)
        paused = ~back & (_mean(self._balance) >= -np.log(plan.imbalance_alpha))
        ready = ~back & ~paused & (self._elapsed >= plan.step_s - 1e-6)
        for signal in signals:
            ready &= self._values[signal.name].min(axis=1) >= signal.min_values
            if signal.role == "goal":
                passed = self._passed[signal.name]
                passed |= _mean(self.means[signal.name].gains) >= -np.log(plan.alpha)
                ready &= passed
        promoted = ready & (self.step == self._last)
        for rows, outcome in ((back, "rolled back"), (paused, "paused"), (promoted, "promoted")):
            self._ends.outcome[self.number[rows]] = outcome
            self._ends.seconds[self.number[rows]] = now
            self._ends.exposed[self.number[rows]] = self._exposed[rows]
        self._begin_step(ready & ~promoted)
        self._keep(~(back | paused | promoted))

    def _begin_step(self, rows: NDArray[np.bool_]) -> None:
        self.step[rows] += 1
        self._elapsed[rows] = 0
        for values in self._values.values():
            values[rows] = 0
        for name, passed in self._passed.items():
            passed[rows] = False
            self.means[name].gains[rows] = 0

    def _keep(self, rows: NDArray[np.bool_]) -> None:
        if rows.all():
            return
        self.number, self.step = self.number[rows], self.step[rows]
        self._elapsed, self._exposed = self._elapsed[rows], self._exposed[rows]
        self._balance = self._balance[rows]
        for arrays in (self._values, self.ratios):
            for name in arrays:
                arrays[name] = arrays[name][rows]
        for name in self._passed:
            self._passed[name] = self._passed[name][rows]
        for test in self.means.values():
            test.keep(rows)


def _shares(route: Route) -> Floats:
    """Return shares of the traffic in each step below 1, shape (4, steps).

    Of users whom an earlier step moved; of those in the sample whom this one moves, and of those
    whom it leaves; and of those whom it moves outside of the sample.
    """
    shares = []
    for number, weight in enumerate(route.plan.steps[:-1]):
        before, sample = route.plan.before(number), route.sample(weight)
        moved = weight - before
        observed = moved * sample.candidate
        shares.append((before, observed, (1 - weight) * sample.control, moved - observed))
    return np.array(shares).T


def _pair(candidate: Ints, control: Ints) -> tuple[Ints, Ints]:
    return candidate, control


def _two(requests: Ints, events: Ints) -> Ints:
    """Return counts of events (the worst level, 0) and of the others."""
    return np.stack([events, requests - events], axis=1)


def _mean(logs: Floats) -> Floats:
    top = logs.max(axis=1)
    result: Floats = top + np.log(np.exp(logs - top[:, None]).mean(axis=1))
    return result


def common_rule(per_day: float, weight: float, slower: float, rollouts: int, seed: int) -> Floats:
    """Return when "p95 + 10% in five minutes" rolls back, within a day; inf where it does not.

    Each look compares the p95 of the requests of either arm in the last five minutes. Drawn as the
    order statistics that they are; a look without requests of the candidate decides nothing.
    """
    random = np.random.default_rng([seed, int(per_day), int(1000 * weight)])
    ends = np.full(rollouts, np.inf)
    for number in range(round(DAY / BIN)):
        middle = (number + 0.5) * BIN
        mean = per_day * BIN / DAY * (1 + 0.6 * day(middle))
        counts = [random.poisson(mean * share, rollouts) for share in (weight, 1 - weight)]
        candidate, control = (_log_p95(count, random) for count in counts)
        slow = candidate + np.log(slower) > control + np.log(1.1)
        slow &= np.minimum(*counts) > 0
        ends[slow & ~np.isfinite(ends)] = (number + 1) * BIN
    return ends


def _log_p95(counts: Ints, random: np.random.Generator) -> Floats:
    """Return the logs of the 95th percentiles of so many log-normal times with a median of 1."""
    count = np.maximum(counts, 1)
    rank = np.ceil(0.95 * count)
    shares = random.beta(rank, count - rank + 1)
    return LATENCY_SD * np.array([NORMAL.inv_cdf(float(share)) for share in shares])


class Users(NamedTuple):
    """A day of a route whose users send from one request to a large part of all of them.

    Attributes:
        title: in the table.
        signal: the guardrail or goal of the plan.
        times: the candidate's error rate, as multiples of the control's for the same user.
        added: to the control's error rate.
    """

    title: str
    signal: Signal
    times: float = 1.0
    added: float = 0.0


USERS = 300
REQUESTS = 2000
LOOKS = 16
_FAILING = 0.05
"""Of the users: half of their requests fail, on either arm."""


def users_day(cell: Users, number: int) -> tuple[str, bool]:
    """Return how one rollout ended by the rules, and whether the same test by request rolls back.

    The largest of 300 users, whose activity has a Pareto tail of index 1.1, sends a fifth of all
    requests on average. Some fail most of the time whoever answers, and they are not spread evenly.
    """
    random = np.random.default_rng([number, len(cell.title)])
    activity = random.pareto(1.1, USERS) + 1
    positions = random.random(USERS)
    rates = np.where(random.random(USERS) < _FAILING, 0.5, 0.005)
    weight = 0.2
    rules = RolloutRules(
        RolloutPlan(signals=(cell.signal,), steps=(weight, 1.0), unit_window_s=DAY / 4)
    )
    users = random.choice(USERS, REQUESTS, p=activity / activity.sum())
    moved = np.where(positions < weight, np.minimum(1, rates * cell.times + cell.added), rates)
    events = random.random(REQUESTS) < moved[users]
    arms = positions[users] < weight
    by_request, alarm = RatioTest(), False
    for turn, rows in enumerate(np.array_split(np.arange(REQUESTS), LOOKS)):
        observations = [
            Observation(
                unit=f"{number}-{user}",
                candidate=bool(arm),
                step=0,
                position=float(positions[user]),
                values={cell.signal.name: float(event)},
            )
            for user, arm, event in zip(
                users[rows].tolist(), arms[rows].tolist(), events[rows].tolist(), strict=True
            )
        ]
        began = turn * DAY / LOOKS
        until = began + DAY / LOOKS
        rules.observe(Batch(began=began, until=until, observations=observations))
        of_candidate = int((arms[rows] & events[rows]).sum())
        of_control = int((~arms[rows] & events[rows]).sum())
        by_request.add(candidate=of_candidate, control=of_control, probability=weight)
        alarm |= by_request.e_value() >= 1 / rules.plan.alpha
        decision = rules.decide()
        if decision.action != "hold":
            break
    return {"promote": "promoted", "roll_back": "rolled back"}.get(decision.action, ""), alarm


class Cell(NamedTuple):
    """One row of the first table.

    Attributes:
        route: with its plan.
        title: how the candidate differs, in words.
        truth: how it differs.
        at_least: the outcome that is promised, and its share.
        at_most: outcomes that are excluded but for alpha.
        forecasts: for so many times the forecast's days.
    """

    route: Route
    title: str
    truth: Truth
    at_least: tuple[str, float] | None = None
    at_most: tuple[str, ...] = ()
    forecasts: float = 1.0

    def faults(self, ends: Ends) -> list[str]:
        """Return which promises are broken, with three Monte Carlo errors of room for alpha."""
        alpha, rollouts = self.route.plan.alpha, len(ends.outcome)
        room = 3 * (alpha * (1 - alpha) / rollouts) ** 0.5
        broken = [
            f"{outcome} in {ends.share(outcome):.1%}"
            for outcome in self.at_most
            if ends.share(outcome) > alpha + room
        ]
        if self.at_least is not None:
            outcome, least = self.at_least
            share = ends.share(outcome, within=self.limit_s)
            if share < least:
                broken.append(f"{outcome} in only {share:.1%}")
        return broken

    @property
    def limit_s(self) -> float:
        """Return the seconds of the forecast, which every route here has."""
        days = self.route.forecast().days
        assert days is not None, "the traffic shows the goals"
        return days * DAY


_GUARDRAILS = (
    Signal(name="error_rate"),
    Signal(name="latency", kind="above_p95"),
    Signal(name="cost", kind="above_p95"),
)
_GOALS = (
    Signal(name="errors", role="goal", margin=0.01),
    Signal(name="judge", kind="score", role="goal", margin=0.05),
)
_WIDE = (
    Signal(name="errors", role="goal", margin=0.02),
    Signal(name="judge", kind="score", role="goal", margin=0.1),
)
BUSY = Route("500,000 a day", 500_000, RolloutPlan(signals=_GUARDRAILS + _GOALS, sticky=False))
GOALS_ALONE = Route(
    "500,000 a day, goals alone", 500_000, RolloutPlan(signals=_GOALS, sticky=False)
)
SMALL = Route(
    "20,000 a day",
    20_000,
    RolloutPlan(signals=_GUARDRAILS + _WIDE, sticky=False, steps=(0.1, 0.25, 0.5, 1.0)),
)
STAYING = Route(
    "500,000 a day, users stay in their arm", 500_000, RolloutPlan(signals=_GUARDRAILS + _GOALS)
)
HEAVY = Route(
    "20,000,000 a day, of which a sample is observed",
    20_000_000,
    RolloutPlan(signals=_GUARDRAILS + _GOALS, sticky=False),
)
_LATE = 2.5 * DAY
CELLS = (
    Cell(BUSY, "no difference", Truth(), ("promoted", 0.8), ("rolled back", "paused")),
    Cell(SMALL, "no difference", Truth(), ("promoted", 0.8), ("rolled back", "paused")),
    Cell(
        GOALS_ALONE,
        "errors worse by the margin (+1 point)",
        Truth(errors=0.01),
        None,
        ("promoted",),
        forecasts=2,
    ),
    Cell(
        BUSY,
        "judge worse by the margin (-.05)",
        Truth(judge=-0.05),
        None,
        ("promoted",),
        forecasts=2,
    ),
    Cell(
        SMALL,
        "judge worse by the margin (-.1)",
        Truth(judge=-0.1),
        None,
        ("promoted",),
        forecasts=2,
    ),
    Cell(
        BUSY,
        "errors worse by twice the margin (+2 points)",
        Truth(errors=0.02),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(
        GOALS_ALONE,
        "errors worse by twice the margin (+2 points)",
        Truth(errors=0.02),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(
        BUSY,
        "judge worse by twice the margin (-.1)",
        Truth(judge=-0.1),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(
        SMALL,
        "errors worse by twice the margin (+4 points)",
        Truth(errors=0.04),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(
        SMALL,
        "judge worse by twice the margin (-.2)",
        Truth(judge=-0.2),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(
        BUSY,
        "errors +2 points from the third day on",
        Truth(errors=0.02, begins_s=_LATE),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(BUSY, "25% slower", Truth(slower=1.25), ("rolled back", 0.9), ("promoted",)),
    Cell(BUSY, "10% slower", Truth(slower=1.1)),
    Cell(BUSY, "half of the errors", Truth(errors=-0.005), ("promoted", 0.8)),
    Cell(STAYING, "no difference", Truth(), ("promoted", 0.8), ("rolled back", "paused")),
    Cell(
        STAYING,
        "judge worse by the margin (-.05)",
        Truth(judge=-0.05),
        None,
        ("promoted",),
    ),
    Cell(
        STAYING,
        "judge worse by twice the margin (-.1)",
        Truth(judge=-0.1),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(
        STAYING,
        "errors +2 points from the third day on",
        Truth(errors=0.02, begins_s=_LATE),
        ("rolled back", 0.9),
        ("promoted",),
    ),
    Cell(HEAVY, "no difference", Truth(), ("promoted", 0.8), ("rolled back", "paused")),
    Cell(
        HEAVY,
        "errors worse by twice the margin (+2 points)",
        Truth(errors=0.02),
        ("rolled back", 0.9),
        ("promoted",),
    ),
)
HEAD = (
    "route",
    "the candidate",
    "promoted, %",
    "by the forecast, %",
    "rolled back, %",
    "neither, %",
    "rolled back after: median, 90%",
    "the candidate's requests until then",
    "promised",
)
COMMON_HEAD = (
    "requests a day",
    "weight, %",
    "the candidate",
    'rolled back within a day by "p95 + 10%", %',
    "within the first hour, %",
    "median",
    "by the rules, %",
    "median",
)
USERS_HEAD = (
    "the candidate",
    "promoted, %",
    "rolled back, %",
    "rolled back by the same test of requests, %",
    "promised",
)
DAYS = tuple(
    (per_day, weight, slower)
    for slower in (1.0, 1.25)
    for per_day in (20_000.0, 500_000.0)
    for weight in (0.01, 0.1, 0.5)
)
"""Requests a day, the candidate's weight and how much slower it is."""
USER_CELLS = (
    Users("no difference", Signal(name="error_rate", min_values=1)),
    Users("eight times the errors", Signal(name="error_rate", min_values=1), times=8.0),
    Users(
        "errors worse by the margin (+15 points)",
        Signal(name="error_rate", role="goal", margin=0.15, min_values=1),
        added=0.15,
    ),
)
SIZES = {"rollouts": len(CELLS), "common rule": len(DAYS), "users": len(USER_CELLS)}


def row(cell: Cell, ends: Ends) -> tuple[str, ...]:
    """Return the columns of a cell."""
    back = ends.outcome == "rolled back"
    late = ends.seconds[back] - cell.truth.begins_s
    neither = 1 - ends.share("promoted") - ends.share("rolled back")
    promises = [f"{outcome} at most {cell.route.plan.alpha:.0%}" for outcome in cell.at_most]
    if cell.at_least is not None:
        promises.append(f"{cell.at_least[0]} by the forecast at least {cell.at_least[1]:.0%}")
    faults = [f"**{fault}**" for fault in cell.faults(ends)]
    many = back.sum() >= len(back) / 10
    return (
        cell.route.name,
        cell.title,
        _percent(ends.share("promoted")),
        _percent(ends.share("promoted", within=cell.limit_s)),
        _percent(ends.share("rolled back")),
        _percent(neither),
        f"{_hours(np.median(late))}, {_hours(np.quantile(late, 0.9))}" if many else "",
        f"{np.median(ends.exposed[back]):,.0f}" if many else "",
        "; ".join(promises + faults),
    )


def common_row(
    per_day: float, weight: float, slower: float, rollouts: int, seed: int
) -> tuple[str, ...]:
    """Return the columns of one day at a weight: the common rule beside the rules."""
    common = common_rule(per_day, weight, slower, rollouts, seed)
    plan = RolloutPlan(signals=_GUARDRAILS, steps=(weight, 1.0), sticky=False)
    ends = Rollouts(Route("a day", per_day, plan), Truth(slower=slower), rollouts, seed).run(1.0)
    back = ends.outcome == "rolled back"
    return (
        f"{per_day:,.0f}",
        f"{100 * weight:g}",
        "no difference" if slower == 1 else f"{slower - 1:.0%} slower",
        _percent(float(np.isfinite(common).mean())),
        _percent(float((common <= 3600).mean())),
        _median(common),
        _percent(float(back.mean())),
        _median(np.where(back, ends.seconds, np.inf)),
    )


def users_row(cell: Users, rollouts: int, seed: int) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns of a cell of users, and which promises are broken."""
    days = [users_day(cell, seed * rollouts + number) for number in range(rollouts)]
    promoted, back = (
        float(np.mean([outcome == word for outcome, _ in days]))
        for word in ("promoted", "rolled back")
    )
    excluded = {"no difference": ("rolled back", back)}.get(cell.title)
    if cell.added:
        excluded = ("promoted", promoted)
    faults = []
    if excluded is not None and excluded[1] > 0.05 + 3 * (0.05 * 0.95 / rollouts) ** 0.5:
        faults.append(f"{excluded[0]} in {excluded[1]:.1%}")
    guardrail = cell.signal.role == "guardrail"
    promise = "" if excluded is None else f"{excluded[0]} at most 5%"
    columns = (
        cell.title,
        _percent(promoted),
        _percent(back),
        _percent(float(np.mean([alarm for _, alarm in days]))) if guardrail else "",
        "; ".join([promise, *(f"**{fault}**" for fault in faults)]),
    )
    return columns, faults


def _percent(share: float) -> str:
    # What is left over of others may be a rounding error below zero.
    return f"{max(0.0, 100 * share):.1f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _median(seconds: Floats) -> str:
    """Return the median of times of which inf are those that never came; "" where it is one."""
    middle = float(np.median(seconds))
    return _hours(middle) if np.isfinite(middle) else ""


class Job(NamedTuple):
    """A row to be counted by another process; `number` is its place among those of its table."""

    name: str
    number: int
    rollouts: int
    seed: int


def count(job: Job) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns of a row and its broken promises."""
    if job.name == "common rule":
        return common_row(*DAYS[job.number], job.rollouts, job.seed), []
    if job.name == "users":
        return users_row(USER_CELLS[job.number], job.rollouts, job.seed)
    cell = CELLS[job.number]
    days = cell.limit_s / DAY * cell.forecasts
    ends = Rollouts(cell.route, cell.truth, job.rollouts, job.seed).run(days)
    return row(cell, ends), cell.faults(ends)


def main() -> int:
    """Print the tables; return 1 where a promise is broken."""
    simulation = Simulation(
        "rollouts",
        __doc__,
        units="rollouts",
        least=ROLLOUTS,
        page="rollouts",
        words="only the rows of the first table whose route ends with one",
    )
    numbers: dict[str, Sequence[int]] = {name: range(size) for name, size in SIZES.items()}
    if simulation.words:
        numbers = {
            "rollouts": [
                number
                for number, cell in enumerate(CELLS)
                if cell.route.name.endswith(simulation.words)
            ]
        }
    jobs = [
        Job(name, number, simulation.size, simulation.seed)
        for name, chosen in numbers.items()
        for number in chosen
    ]
    rows: dict[tuple[str, int], tuple[str, ...]] = {}
    broken = 0
    for job, (columns, faults) in simulation.results(count, jobs):
        rows[job.name, job.number] = columns
        broken += bool(faults)
        print(f"{len(rows)} of {len(jobs)}: {' | '.join(columns)}", file=sys.stderr)
    lines: list[str] = []
    heads = {"rollouts": HEAD, "common rule": COMMON_HEAD, "users": USERS_HEAD}
    for name, chosen in numbers.items():
        lines += [*table(heads[name], [rows[name, number] for number in chosen]), ""]
    return simulation.end(lines[:-1], rows=len(jobs), broken=broken)


if __name__ == "__main__":
    sys.exit(main())
