"""The sources of alerts about requests, money, breakers, rollouts and shadows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote

from router.config.alerts import WINDOWS, AlertRule, AlertSubject, Severity
from router.gateway.keys import KeyBudget
from router.loop.alert_counts import (
    BREAKER_SLICE_S,
    BREAKERS,
    SHORT_PART,
    counter_of,
    slice_of,
)
from router.loop.alerts import AlertCondition
from router.sealing.traffic import RecordedTraffic
from router.store.alerts import AlertStore, AlertSum
from router.store.keys import BudgetPeriod
from router.store.rollouts import Rollout, RolloutState, RolloutStore
from router.store.shadows import ShadowStore
from router.store.traffic import TotalsBy, TrafficFilter

About = Literal["rates", "money"]
ABOUT: tuple[About, ...] = ("rates", "money")
# How long a decision about a rollout is something to tell people about.
DECISION_S = 86400.0
# A budget without an end is taken to be one for so long, and a month is as long.
_PERIOD_S: Mapping[BudgetPeriod, float] = {
    "day": 86400.0,
    "week": 7 * 86400.0,
    "month": 30 * 86400.0,
    "total": 30 * 86400.0,
}
_DECISIONS: Mapping[RolloutState, tuple[Severity, str]] = {
    "rolled_back": ("critical", "was rolled back"),
    "rolling_back": ("critical", "is being rolled back"),
    "aborted": ("warning", "was aborted without a verdict"),
    "promoted": ("info", "was promoted"),
}
# Rollouts that are looked at: the newest.
_ROLLOUTS = 200
# Requests from before a rule was added are added up in so many steps.
_EARLIER_STEPS = 24
_MAX_GROUPS = 1000
_WORDS: Mapping[AlertSubject, str] = {
    "first_byte": "had no first byte within",
    "duration": "took longer than",
}


class _Measure(NamedTuple):
    """One rule, and when it is measured next."""

    name: str
    rule: AlertRule
    counter: str


class MeasuredSource:
    """Conditions of rules that are measured over requests.

    Args:
        rules: all rules by their names.
        store: has the counts of all processes.
        about: `rates` for shares of requests, of which nothing is known without requests; `money`
            for what was spent, which is nothing then.
        every: seconds between two looks at the rules.
        budgets: returns the keys' budgets.
        traffic: the recorded requests, for what was spent before a rule was added.
        key_name: returns the name of the key with an id.
    """

    def __init__(
        self,
        rules: Mapping[str, AlertRule],
        store: AlertStore,
        *,
        about: About,
        every: float = 5.0,
        budgets: Callable[[], Sequence[KeyBudget]],
        traffic: RecordedTraffic,
        key_name: Callable[[str], str],
    ) -> None:
        money: tuple[AlertSubject, ...] = ("spend", "burn")
        self.tells_all = about == "money"
        self.subjects: Sequence[AlertSubject] = (
            money if self.tells_all else tuple(each for each in WINDOWS if each not in money)
        )
        self._measures = [
            _Measure(name, rule, counter_of(name, rule))
            for name, rule in rules.items()
            if rule.subject in self.subjects
        ]
        self._store = store
        self._every = every
        self._budgets = budgets
        self._traffic = traffic
        self._key_name = key_name
        # What was measured last, and when the next time is, on the event loop's clock.
        self._last: dict[str, tuple[float, list[AlertCondition]]] = {}
        self._with_earlier: set[str] = set()

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return the conditions of every rule, with `holds` for each of its labels."""
        conditions: list[AlertCondition] = []
        for measure in self._measures:
            now = asyncio.get_running_loop().time()
            due, last = self._last.get(measure.name, (0.0, []))
            if now >= due:
                if self.tells_all:
                    await self._add_earlier(measure)
                last = await self._measured(measure)
                # A window of a day is not another one five seconds later.
                every = min(30.0, measure.rule.window() / 60)
                if every <= self._every:
                    every = 0.0
                self._last[measure.name] = (now + every, last)
            conditions += last
        return conditions

    def windows(self) -> dict[str, float]:
        """Return how long each counter's slices are needed, in seconds."""
        return {each.counter: each.rule.window() + slice_of(each.rule) for each in self._measures}

    async def _measured(self, measure: _Measure) -> list[AlertCondition]:
        rule = measure.rule
        sums = await self._store.alert_sums(measure.counter, rule.window())
        if rule.subject == "burn":
            return await self._burning(measure, sums)
        return [self._condition(measure, each) for each in sums]

    def _condition(self, measure: _Measure, seen: AlertSum) -> AlertCondition:
        name, rule = measure.name, measure.rule
        labels: dict[str, str] = dict(zip(rule.groups(), seen.labels, strict=True))
        about, window = _about(labels), _duration(rule.window())
        if rule.subject == "spend":
            value, limit = seen.usd, rule.threshold()
            summary = f"${value:,.2f} spent{about} in the last {window}, more than ${limit:,.2f}"
        elif rule.subject == "errors":
            value, limit = seen.exceeded / max(1, seen.requests), rule.threshold()
            summary = (
                f"{seen.exceeded:,} of {seen.requests:,} requests{about} failed in the last "
                f"{window}: {100 * value:.3g}%, more than {100 * limit:.3g}%"
            )
        else:
            value, limit = seen.exceeded / max(1, seen.requests), round(1 - rule.quantile, 9)
            summary = (
                f"{seen.exceeded:,} of {seen.requests:,} answers{about} {_WORDS[rule.subject]} "
                f"{rule.threshold():g} s in the last {window}: the {100 * rule.quantile:g}th "
                "percentile is above that"
            )
        return AlertCondition(
            subject=rule.subject,
            rule=name,
            labels=labels,
            summary=summary,
            value=value,
            link=_link(labels),
            holds=None if seen.requests < rule.fewest() else value > limit,
        )

    async def _burning(self, measure: _Measure, sums: Sequence[AlertSum]) -> list[AlertCondition]:
        """Return how fast keys use their budgets, over the window and its last twelfth."""
        rule = measure.rule
        window, short = rule.window(), rule.window() / SHORT_PART
        recent = {
            each.labels: each.usd for each in await self._store.alert_sums(measure.counter, short)
        }
        budgets = {budget.key: budget for budget in self._budgets()}
        conditions = []
        for each in sums:
            [key] = each.labels
            budget = budgets.get(key)
            if budget is None or budget.usd <= 0:
                continue
            per_second = budget.usd / _PERIOD_S[budget.period]
            value = each.usd / window / per_second
            now = recent.get(each.labels, 0.0) / short / per_second
            is_known = each.requests >= rule.fewest()
            conditions.append(
                AlertCondition(
                    subject="burn",
                    rule=measure.name,
                    labels={"key": key},
                    summary=(
                        f"The key {key} has spent ${each.usd:,.2f} in the last "
                        f"{_duration(window)}: {value:.1f} times what would use its budget of "
                        f"${budget.usd:,.2f} ({budget.period}) evenly"
                    ),
                    value=value,
                    link="/keys",
                    holds=min(value, now) > rule.threshold() if is_known else None,
                )
            )
        return conditions

    async def _add_earlier(self, measure: _Measure) -> None:
        """Add what the records say was spent in the window before the rule was there; once."""
        if measure.counter in self._with_earlier:
            return
        since, has_earlier = await self._store.begin_counter(measure.counter)
        if not has_earlier:
            await self._store.add_earlier_counts(
                measure.counter, await self._earlier(measure.rule, since)
            )
        self._with_earlier.add(measure.counter)

    async def _earlier(self, rule: AlertRule, since: float) -> list[tuple[float, AlertSum]]:
        by: list[TotalsBy] = ["route", "target", "key"]
        step = rule.window() / _EARLIER_STEPS
        slices: list[tuple[float, AlertSum]] = []
        for n in range(_EARLIER_STEPS):
            began = since - (n + 1) * step
            totals = await self._traffic.totals(
                TrafficFilter(since=began, until=began + step), by, limit=_MAX_GROUPS
            )
            for total in totals:
                names = {
                    "route": str(total.group["route"]),
                    "target": str(total.group["target"]),
                    "key": self._key_name(str(total.group["key"])),
                }
                if rule.allows(names):
                    labels = tuple(names[label] for label in rule.groups())
                    seen = AlertSum(
                        labels=labels, requests=total.requests, exceeded=0, usd=total.cost_usd
                    )
                    slices.append((began + step / 2, seen))
        return slices


class BudgetSource:
    """Keys that have used a part of their budget.

    Args:
        rules: all rules by their names.
        budgets: returns the keys' budgets.
    """

    subjects: Sequence[AlertSubject] = ("budget",)
    tells_all = True

    def __init__(
        self, rules: Mapping[str, AlertRule], budgets: Callable[[], Sequence[KeyBudget]]
    ) -> None:
        self._rules = {name: rule for name, rule in rules.items() if rule.subject == "budget"}
        self._budgets = budgets

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return the share of its budget that each key has used."""
        return [
            AlertCondition(
                subject="budget",
                rule=name,
                labels={"key": budget.key},
                summary=(
                    f"The key {budget.key} has used ${budget.spent_usd:,.2f} of its budget of "
                    f"${budget.usd:,.2f} ({budget.period})"
                ),
                value=budget.spent_usd / budget.usd,
                link="/keys",
                holds=budget.spent_usd / budget.usd > rule.threshold(),
            )
            for name, rule in self._rules.items()
            for budget in self._budgets()
            if budget.usd > 0
        ]


class BreakerSource:
    """Targets whose breaker is open in any process, as `alert_counts.py` wrote down."""

    subjects: Sequence[AlertSubject] = ("breaker",)
    tells_all = True

    def __init__(self, store: AlertStore) -> None:
        self._store = store

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return these targets."""
        sums = await self._store.alert_sums(BREAKERS, 4 * BREAKER_SLICE_S)
        return [
            AlertCondition(
                subject="breaker",
                labels={"target": target},
                summary=f"The breaker of {target} is open: requests go to other targets, or fail",
                link=f"/traffic?target={quote(target, safe='')}",
            )
            for (target,) in (each.labels for each in sums)
        ]


class RolloutSource:
    """Decisions about rollouts, for a day, and rollouts that wait for a person.

    Args:
        store: has the rollouts.
        clock: tells the seconds since the epoch.
    """

    subjects: Sequence[AlertSubject] = ("rollout",)
    tells_all = True

    def __init__(self, store: RolloutStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return what was decided last about each route's newest rollout."""
        newest: dict[str, Rollout] = {}
        for rollout in await self._store.rollouts(limit=_ROLLOUTS):
            newest.setdefault(rollout.route, rollout)
        described = (self._described(rollout) for rollout in newest.values())
        return [condition for condition in described if condition is not None]

    def _described(self, rollout: Rollout) -> AlertCondition | None:
        if rollout.state == "paused" and rollout.pause in ("route", "imbalance"):
            severity: Severity = "warning"
            words, since = "is paused and waits for a person", None
        elif rollout.state in _DECISIONS:
            severity, words = _DECISIONS[rollout.state]
            since = rollout.ended_at
            if since is not None and self._clock() - since > DECISION_S:
                return None
        else:
            return None
        return AlertCondition(
            subject="rollout",
            labels={
                "route": rollout.route,
                "candidate": rollout.candidate,
                "decision": rollout.state,
                "rollout": rollout.id,
            },
            severity=severity,
            summary=f"{rollout.candidate} on {rollout.route} {words}: {rollout.reason}",
            link=f"/routes/{quote(rollout.route, safe='')}/rollout?rollout={rollout.id}",
            since=since,
        )


class ShadowSource:
    """Shadows that send nothing although they are on."""

    subjects: Sequence[AlertSubject] = ("shadow",)
    tells_all = True

    def __init__(self, store: ShadowStore) -> None:
        self._store = store

    async def conditions(self) -> Sequence[AlertCondition]:
        """Return these shadows."""
        return [
            AlertCondition(
                subject="shadow",
                labels={"route": row.route},
                summary=f"The shadow of {row.route} sends nothing: {row.blocked}",
                link=f"/routes/{quote(row.route, safe='')}/shadow",
            )
            for row in await self._store.shadows()
            if row.ended_at is None and row.state == "running" and row.blocked
        ]


def _about(labels: Mapping[str, str]) -> str:
    words = {"route": "for", "target": "at", "key": "of the key"}
    return "".join(f" {words[name]} {value or 'none'}" for name, value in labels.items())


def _link(labels: Mapping[str, str]) -> str:
    named = {name: value for name, value in labels.items() if name in ("route", "target") and value}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in named.items())
    return f"/traffic?{query}" if query else "/traffic"


def _duration(seconds: float) -> str:
    """Return a length of time in the largest unit that it is whole in."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            number = int(seconds // unit)
            return name if number == 1 else f"{number} {name}s"
    return f"{seconds:g} seconds"
