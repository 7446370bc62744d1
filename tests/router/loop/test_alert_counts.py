"""What rules count, and the conditions that come of it."""

from __future__ import annotations

import pytest
from stores import a_run, sqlite_store

from providers.errors import StoreError
from router.config.loading import parse
from router.gateway.keys import KeyBudget
from router.loop.alert_counts import AlertCounts, counter_of
from router.loop.alert_sources import (
    BreakerSource,
    BudgetSource,
    MeasuredSource,
    RolloutSource,
    ShadowSource,
)
from router.records import Attempt, Record, Target
from router.store.rollouts import Rollout, RolloutDecision
from router.store.shadows import ShadowRow
from router.store.traffic import TrafficTotal


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def store(tmp_path, clock):
    async with sqlite_store(tmp_path / "e.db", clock=clock) as store:
        yield store


class Earlier:
    """Recorded requests from before the rules were there: one dollar in each hour."""

    def __init__(self):
        self.read = []

    async def totals(self, matching, by, *, limit):
        self.read.append((matching.since, matching.until))
        assert by == ["route", "target", "key"]
        group = {"route": "a", "target": "p/m", "key": "key_1"}
        return [
            TrafficTotal(
                group=group,
                requests=2,
                failures=0,
                prompt_tokens=0,
                completion_tokens=0,
                cost_usd=1.0,
                unpriced=0,
            )
        ]


class World:
    """The rules of a config, with what counts for them."""

    def __init__(self, store, *rules, budgets=(), earlier=None):
        lines = "\n".join(f"    r{n}: {{{rule}}}" for n, rule in enumerate(rules))
        config = parse(
            f"routes: {{a: {{targets: [{{model: baseline/echo}}]}}}}\nalerts:\n  rules:\n{lines}\n",
            "test.yaml",
            {},
        )
        self.rules = config.alerts.rules
        self.open_breakers = []
        self.counts = AlertCounts(
            self.rules,
            store,
            key_name=lambda key: {"key_1": "ann"}.get(key, key),
            open_breakers=lambda: self.open_breakers,
        )
        self.store = store
        self.budgets = budgets
        self.earlier = earlier or Earlier()

    def source(self, about):
        return MeasuredSource(
            self.rules,
            self.store,
            about=about,
            budgets=lambda: self.budgets,
            traffic=self.earlier,
            key_name=lambda key: {"key_1": "ann"}.get(key, key),
        )

    async def conditions(self, about="rates"):
        await self.counts.write()
        # A new source, because one measures only so often.
        return await self.source(about).conditions()


def record(**fields):
    return Record(
        **{
            "id": "req_1",
            "at": 0.0,
            "route": "a",
            "target": Target("p", "m"),
            "status": 200,
            "key_id": "key_1",
            "first_byte_s": 0.5,
            "total_s": 1.0,
            "cost_usd": 0.5,
            "attempts": (Attempt("p/m", "ok", 200, 0.5),),
        }
        | fields
    )


def counted(world, number, **fields):
    for _ in range(number):
        world.counts.count(record(**fields))


FAILURES = [
    ({"status": 502}, True),
    ({"status": 504, "error_code": "upstream_timeout"}, True),
    # A stream that breaks off after its status.
    ({"error_code": "upstream_invalid_response"}, True),
    ({"status": 429, "error_code": "upstream_429"}, True),
    # The key's own limit.
    ({"status": 429, "error_code": "rate_limit_exceeded", "attempts": ()}, False),
    ({"status": 400, "error_code": "invalid_request"}, False),
    ({"status": 499, "error_code": "client_closed_request"}, False),
    ({"error_code": "client_closed_request"}, False),
    ({"status": 200}, False),
]


@pytest.mark.parametrize(("fields", "is_failure"), FAILURES)
async def test_what_is_a_failure(store, fields, is_failure):
    world = World(store, "subject: errors, above: 0.5, min_requests: 4")
    counted(world, 4, **fields)
    [condition] = await world.conditions()
    assert condition.holds is is_failure
    assert condition.value == float(is_failure)


async def test_too_few_requests_say_nothing(store):
    world = World(store, "subject: errors, above: 0.1")
    counted(world, 19, status=502)
    [condition] = await world.conditions()
    assert condition.holds is None
    counted(world, 1, status=502)
    [condition] = await world.conditions()
    assert condition.holds is True
    assert condition.labels == {"route": "a"}
    assert condition.summary == (
        "20 of 20 requests for a failed in the last 5 minutes: 100%, more than 10%"
    )
    assert condition.link == "/traffic?route=a"


async def test_a_percentile_is_exact(store):
    world = World(store, "subject: first_byte, above: 0.7, quantile: 0.9, min_requests: 1")
    counted(world, 90, first_byte_s=0.7)
    counted(world, 10, first_byte_s=0.71)
    [condition] = await world.conditions()
    assert condition.holds is False
    counted(world, 1, first_byte_s=0.71)
    # None of these has a first byte of a target that answered.
    counted(world, 50, cached=True)
    counted(world, 50, status=502, first_byte_s=None)
    [condition] = await world.conditions()
    assert condition.holds is True
    assert condition.summary == (
        "11 of 101 answers for a had no first byte within 0.7 s in the last 5 minutes: the 90th "
        "percentile is above that"
    )


async def test_filters_and_groups(store):
    world = World(
        store,
        "subject: errors, above: 0.1, min_requests: 1, keys: [ann], by: [target, key]",
        "subject: errors, above: 0.1, min_requests: 1, routes: [a], by: []",
        "subject: errors, above: 0.1, min_requests: 1, targets: [baseline/echo]",
    )
    counted(world, 1, status=500)
    counted(world, 1, status=500, key_id="key_2")
    counted(world, 1, status=500, route="b", key_id="")
    counted(world, 9, status=500, traffic_class="eval")
    first, second = await world.conditions()
    assert (first.rule, first.labels) == ("r0", {"target": "p/m", "key": "ann"})
    assert (second.rule, second.labels) == ("r1", {})
    assert second.summary.startswith("2 of 2 requests failed")


async def test_names_that_clients_make_up_are_no_labels(store):
    world = World(store, "subject: errors, above: 0.1, min_requests: 1")
    for n in range(10):
        counted(world, 1, route=f"x{n}", target=None, status=404, error_code="model_not_found")
    assert await world.conditions() == []


async def test_labels_without_end_are_bounded(store):
    world = World(store, "subject: errors, above: 0.1, min_requests: 1")
    for n in range(1500):
        counted(world, 1, route=f"x{n}")
    conditions = await world.conditions()
    assert len(conditions) == 1001
    assert sum(condition.labels == {"route": "other"} for condition in conditions) == 1


async def test_money_that_is_not_spent_is_known_to_be_nothing(store, clock):
    earlier = Earlier()
    world = World(store, "subject: spend, above: 30, by: [key]", earlier=earlier)
    assert world.source("money").tells_all
    assert not world.source("rates").tells_all
    # The hours before the rule was there count, of all classes of requests.
    counted(world, 2, cost_usd=1.0, traffic_class="eval")
    counted(world, 1, cost_usd=None)
    [condition] = await world.conditions("money")
    assert condition.labels == {"key": "ann"}
    assert condition.value == pytest.approx(26.0)
    assert condition.holds is False
    assert len(earlier.read) == 24
    assert earlier.read[0] == (pytest.approx(clock.now - 3600), pytest.approx(clock.now))
    counted(world, 5, cost_usd=1.0)
    [condition] = await world.conditions("money")
    assert condition.holds is True
    assert condition.summary == ("$31.00 spent of the key ann in the last day, more than $30.00")
    # They are read once.
    assert len(earlier.read) == 24
    clock.now += 86400
    assert await world.conditions("money") == []


async def test_a_budget_burns_in_the_long_window_and_the_short_one(store, clock):
    budgets = [KeyBudget("ann", 24.0, "day", 0.0)]
    world = World(store, "subject: burn, above: 5, window_seconds: 3600", budgets=budgets)
    world.earlier.totals = nothing
    counted(world, 12, cost_usd=0.5)
    [condition] = await world.conditions("money")
    # A dollar an hour would use it evenly.
    assert condition.value == pytest.approx(6.0)
    assert condition.holds is True
    assert condition.labels == {"key": "ann"}
    # It was a moment: the last twelfth of the window is quiet.
    clock.now += 600
    [condition] = await world.conditions("money")
    assert condition.value == pytest.approx(6.0)
    assert condition.holds is False


async def nothing(*_, **__):
    return []


async def test_a_budget_that_is_nearly_used():
    rules = parse("alerts: {rules: {b: {subject: budget}}}", "test.yaml", {}).alerts.rules
    used = [KeyBudget("ann", 10.0, "month", 9.5), KeyBudget("bob", 10.0, "total", 1.0)]
    ann, bob = await BudgetSource(rules, lambda: used).conditions()
    assert (ann.labels, ann.holds, ann.value) == ({"key": "ann"}, True, 0.95)
    assert bob.holds is False


async def test_breakers_of_all_processes(store, clock):
    world = World(store, "subject: breaker")
    world.open_breakers = ["p/m"]
    await world.counts.write()
    [condition] = await BreakerSource(store).conditions()
    assert condition.labels == {"target": "p/m"}
    world.open_breakers = []
    clock.now += 30
    await world.counts.write()
    assert await BreakerSource(store).conditions() == []


async def test_another_definition_counts_anew():
    rules = parse(
        "alerts: {rules: {a: {subject: duration, above: 1}, b: {subject: duration, above: 2},"
        " c: {subject: errors, above: 0.1}, d: {subject: errors, above: 0.2}}}",
        "test.yaml",
        {},
    ).alerts.rules
    assert counter_of("x", rules["a"]) != counter_of("x", rules["b"])
    # What fails does not depend on the threshold.
    assert counter_of("x", rules["c"]) == counter_of("x", rules["d"])


class Failing:
    """A store that cannot be written at first."""

    def __init__(self, store):
        self.failures = 3
        self.store = store

    async def add_alert_counts(self, counts):
        if self.failures:
            self.failures -= 1
            raise StoreError("locked")
        await self.store.add_alert_counts(counts)


async def test_what_cannot_be_written_is_written_later(store):
    rules = ("subject: errors, above: 0.1, min_requests: 1", "subject: spend, above: 1")
    failing = World(Failing(store), *rules)
    counted(failing, 3, status=500)
    for _ in range(3):
        with pytest.raises(StoreError):
            await failing.counts.write()
        counted(failing, 1)
    world = World(store, *rules)
    world.earlier.totals = nothing
    await failing.counts.write()
    [errors] = await world.conditions()
    [spend] = await world.conditions("money")
    assert errors.value == 0.5
    assert spend.value == 3.0


ROLLOUT = {
    "route": "a",
    "candidate": "p/n",
    "reason": "errors: 5% more",
    "step": 0,
    "weight": 0.1,
    "revision": 1,
    "settings": {},
    "base": {},
    "override": None,
    "forecast": {},
    "started_by": "ann",
    "created_at": 1.0,
    "step_at": 1.0,
}


@pytest.mark.parametrize(
    ("fields", "severity"),
    [
        ({"state": "rolled_back", "ended_at": 999_000.0}, "critical"),
        ({"state": "aborted", "ended_at": 999_000.0}, "warning"),
        ({"state": "promoted", "ended_at": 999_000.0}, "info"),
        ({"state": "paused", "pause": "imbalance"}, "warning"),
        ({"state": "paused", "pause": "person"}, None),
        ({"state": "running"}, None),
        # A day later it is no news.
        ({"state": "rolled_back", "ended_at": 900_000.0}, None),
    ],
)
async def test_decisions_about_rollouts(store, clock, fields, severity):
    rollout = Rollout(id="ro_1", **ROLLOUT | fields)
    decision = RolloutDecision(rollout="ro_1", revision=1, at=1.0, rule="start")
    await store.add_rollout(rollout, decision)
    conditions = await RolloutSource(store, clock).conditions()
    assert [condition.severity for condition in conditions] == [severity] * bool(severity)
    if severity:
        assert conditions[0].labels["decision"] == fields["state"]
        assert conditions[0].link == "/routes/a/rollout?rollout=ro_1"


async def test_a_shadow_that_is_blocked(store):
    for n, blocked in enumerate(("", "its judge fails")):
        await store.add_run(a_run(f"run_{n}", dataset_rows=0, cells=0), [])
        await store.add_shadow(
            ShadowRow(
                run=f"run_{n}",
                route=f"r{n}",
                config={},
                changed_at=1.0,
                created_at=1.0,
                blocked=blocked,
            )
        )
    [condition] = await ShadowSource(store).conditions()
    assert condition.labels == {"route": "r1"}
    assert condition.summary == "The shadow of r1 sends nothing: its judge fails"
