"""Which users of a rollout are evidence: how many of each arm, and that nothing else decides it."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from hashlib import blake2b

import pytest

from router.config.documents import as_stored
from router.config.loading import parse
from router.config.routes import Route, RouteTarget
from router.gateway.prices import PriceBook
from router.gateway.route_table import Routes
from router.gateway.routing import position_of
from router.loop.assignment import (
    MAX_SAMPLED_AT_ONCE,
    MAX_SAMPLED_PER_S,
    Assignments,
    unit_of,
)
from router.loop.rollout_sample import SAMPLED_PER_S, RolloutSample, sample_of
from router.records import Record
from router.store.rollouts import Rollout, RolloutDecision
from router.store.selection import open_store

WEIGHTS = (0.0001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db"}}
providers:
  up: {{kind: scripted, script: {{old: [{{}}], new: [{{}}]}}}}
routes:
  r: {{targets: [{{model: up/old}}]}}
"""
ROUTE = Route(targets=(RouteTarget(model="up/old"),))
START = RolloutDecision(rollout="ro_1", revision=1, at=0.0, rule="start")


# how many


@pytest.mark.parametrize(
    ("weight", "sample"),
    [
        (0.01, (1.0, 0.1 / 0.99)),  # ten of the control for each of the candidate's
        (0.05, (1.0, 0.5 / 0.95)),
        (0.1, (1.0, 1.0)),
        (0.5, (1.0, 1.0)),
        (0.9, (1.0, 1.0)),
        (0.99, (0.1 / 0.99, 1.0)),
        (1.0, (1.0, 1.0)),
    ],
)
def test_the_smaller_arm_is_whole_beside_ten_times_as_many(weight, sample):
    chosen = sample_of(weight, requests_per_s=1.0)
    assert (chosen.candidate, chosen.control) == pytest.approx(sample)


@pytest.mark.parametrize(
    ("weight", "sample"),
    [
        (0.5, (0.05, 0.05)),  # 25 of 500 requests a second in each arm
        (0.01, (1.0, 40 / 990)),  # all 10, and the 40 that are left
        (0.1, (0.25, 25 / 900)),
        (0.9, (25 / 900, 0.25)),
    ],
)
def test_a_busy_route_has_so_many_requests_a_second_in_the_sample(weight, sample):
    chosen = sample_of(weight, requests_per_s=1000.0)
    assert (chosen.candidate, chosen.control) == pytest.approx(sample)


def test_the_sample_is_never_larger_than_it_may_be_nor_empty():
    for weight, rate in itertools.product(WEIGHTS, (0.0, 0.5, 60.0, 1e4, 1e9)):
        sample = sample_of(weight, requests_per_s=rate)
        assert 0 < sample.candidate <= 1
        assert 0 < sample.control <= 1
        sampled = rate * (weight * sample.candidate + (1 - weight) * sample.control)
        assert sampled <= SAMPLED_PER_S * (1 + 1e-9)
        odds = weight * sample.candidate / ((1 - weight) * sample.control)
        assert odds >= 1 / 10 - 1e-9 or rate > 60


def test_the_probability_is_that_of_a_sampled_user():
    everybody = RolloutSample()
    assert everybody.probability(before=0.0, weight=0.25) == 0.25
    assert everybody.probability(before=0.2, weight=0.4) == pytest.approx(0.25)
    assert everybody.share(before=0.2, weight=0.4) == pytest.approx(1.0)
    some = RolloutSample(candidate=0.5, control=0.1)
    assert some.probability(before=0.2, weight=0.4) == pytest.approx(0.1 / 0.16)
    assert some.share(before=0.2, weight=0.4) == pytest.approx(0.16 / 0.8)


# who


def a_rollout(**fields):
    return Rollout(
        **{
            "id": "ro_1",
            "route": "r",
            "candidate": "up/new",
            "state": "running",
            "reason": "",
            "step": 0,
            "weight": 0.2,
            "revision": 1,
            "settings": {},
            "base": as_stored(ROUTE),
            "override": None,
            "forecast": {},
            "started_by": "",
            "created_at": 0.0,
            "step_at": 0.0,
        }
        | fields
    )


@asynccontextmanager
async def assigning(folder, rollout, clock=lambda: 0.0):
    """How a process whose database has a rollout assigns its route's requests."""
    folder.mkdir(exist_ok=True)
    config = parse(CONFIG.format(folder=folder), "c.yaml", {})
    async with open_store(config.storage) as store:
        await store.add_rollout(rollout, START)
        routes = Routes(config, None, store, PriceBook(config.prices, config.providers))
        assignments = Assignments(store, routes, config.providers, clock=clock)
        await assignments.follow()
        yield lambda key: assignments.by_route["r"].choose(routes.table.routes["r"], key)


async def test_the_arm_is_that_of_the_position_whether_sampled_or_not(tmp_path):
    sampled = {"candidate": 0, "control": 0}
    rollout = a_rollout(sampled_candidate=0.5, sampled_control=0.1)
    async with assigning(tmp_path, rollout) as choose:
        for number in range(5000):
            key = b"user %d" % number
            assignment, unit = choose(key)
            is_candidate = position_of(unit) < 0.2
            assert assignment.assigned == ("ro_1", 0, "candidate" if is_candidate else "control")
            assert (assignment.target is not None) == is_candidate
            assert unit == unit_of(rollout, key)
            assert choose(key) == (assignment, unit)
            sampled[assignment.assigned.arm] += assignment.sampled
    # Of 1,000 and 4,000.
    assert 400 < sampled["candidate"] < 600
    assert 320 < sampled["control"] < 480


async def test_users_stay_where_an_earlier_version_has_put_them(tmp_path):
    rollout = a_rollout(placement="message", sampled_candidate=0.5, sampled_control=0.1)
    arms = {"candidate": 0, "control": 0}
    async with assigning(tmp_path, rollout) as choose:
        for number in range(1000):
            key = b"user %d" % number
            digest = blake2b(key, digest_size=8, key=b"ro_1").hexdigest()
            arm = "candidate" if int(digest, 16) / 2**64 < 0.2 else "control"
            assignment, unit = choose(key)
            assert unit == unit_of(rollout, key) == digest
            assert assignment.assigned.arm == arm
            is_sampled = int(digest[8:], 16) / 2**32 < (0.5 if arm == "candidate" else 0.1)
            assert assignment.sampled == is_sampled
            arms[arm] += assignment.sampled
    assert min(arms.values()) > 50


async def test_who_is_sampled_says_nothing_about_the_position(tmp_path):
    rollout = a_rollout(weight=0.5, sampled_candidate=0.3, sampled_control=0.3)
    async with assigning(tmp_path, rollout) as choose:
        users = [choose(b"user %d" % n) for n in range(4000)]
    positions = [position_of(unit) for assignment, unit in users if assignment.sampled]
    assert 1000 < len(positions) < 1400
    tenths = [sum(n <= 10 * position < n + 1 for position in positions) for n in range(10)]
    assert min(tenths) > 70
    assert max(tenths) < 170


async def test_a_larger_sample_has_everybody_of_a_smaller_one(tmp_path):
    samples = []
    for share in (0.1, 0.3, 1.0):
        rollout = a_rollout(sampled_candidate=share, sampled_control=share)
        async with assigning(tmp_path / str(share), rollout) as choose:
            samples.append({n for n in range(1000) if choose(b"user %d" % n)[0].sampled})
    assert samples[0] < samples[1] < samples[2] == set(range(1000))


@pytest.mark.parametrize(
    ("weight", "arm"), [(0.0, "control"), (1.0, "candidate"), (2.0**-60, "control")]
)
async def test_at_either_end_all_are_in_one_arm(tmp_path, weight, arm):
    async with assigning(tmp_path, a_rollout(weight=weight)) as choose:
        assert {choose(b"user %d" % n)[0].assigned.arm for n in range(200)} == {arm}


async def test_traffic_that_has_grown_does_not_make_the_sample_dearer(tmp_path):
    now, at_once = 0.0, int(MAX_SAMPLED_AT_ONCE)
    async with assigning(tmp_path, a_rollout(), lambda: now) as choose:
        burst = [choose(b"user %d" % n)[0] for n in range(at_once + 500)]
        assert [each.sampled for each in burst] == [True] * at_once + [False] * 500
        # They are in their arms all the same.
        assert {each.assigned.arm for each in burst[-500:]} == {"candidate", "control"}
        now = 2.5
        later = [choose(b"user %d" % n)[0] for n in range(1000)]
        assert sum(each.sampled for each in later) == 2.5 * MAX_SAMPLED_PER_S


async def test_a_record_names_the_rollout_only_where_it_is_sampled(tmp_path):
    rollout = a_rollout(sampled_candidate=0.5, sampled_control=0.5)
    async with assigning(tmp_path, rollout) as choose:
        assignments = [choose(b"user %d" % n)[0] for n in range(50)]
    assert {each.sampled for each in assignments} == {False, True}
    for assignment in assignments:
        record = Record(id="1", at=0.0)
        assignment.note(record)
        assert record.assigned == assignment.assigned
        named = record.rollout, record.step, record.arm
        assert named == (assignment.assigned if assignment.sampled else ("", 0, ""))
