"""The lanes of a run: their gates, their limits, and when a target is asked no more."""

import asyncio

import pytest

from evaluators.base import Answer
from evaluators.document import RunDocument, RunLimits
from router.config.routes import Route, RouteTarget
from router.evals.concurrency import Pacing
from router.evals.lanes import TargetLane, lanes_of
from router.gateway.routing import Table
from router.records import Target

TARGET = Target("up", "m")


def lane_of(*, route="r", max_in_flight=None, slots=None, share=4, pacing=None, **limits):
    return TargetLane(
        route,
        TARGET,
        pacing=pacing or Pacing(),
        limits=RunLimits(**limits),
        max_in_flight=max_in_flight,
        slots=slots,
        share=share,
    )


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        # A window has sixteen places at first, and more where the run's share is larger.
        ({}, 16),
        ({"share": 40}, 40),
        ({"share": 40, "max_in_flight": 30}, 30),
        ({"share": 40, "per_target": {"up/m": 20}}, 20),
        ({"share": 40, "max_in_flight": 30, "per_target": {"up/m": 20}}, 20),
        ({"share": 40, "max_in_flight": 10, "per_target": {"up/m": 20}}, 10),
        ({"share": 40, "per_target": {"up/other": 2}}, 40),
        ({"max_in_flight": 3}, 3),
        ({"per_target": {"up/m": 3}}, 3),
    ],
)
def test_how_many_a_target_takes(options, limit):
    assert lane_of(**options).limit() == limit


def test_a_window_begins_with_no_more_than_may_be_used():
    pacing = Pacing()
    lane_of(pacing=pacing, share=40, max_in_flight=30)
    assert pacing.window(TARGET).size == 30
    pacing.window(TARGET).size = 12.9
    assert lane_of(pacing=pacing, share=1).limit() == 12


async def test_a_lane_passes_the_window_and_the_slots():
    pacing, slots = Pacing(), asyncio.Semaphore(2)
    lane, other = (lane_of(pacing=pacing, slots=slots) for _ in range(2))
    window = pacing.window(TARGET)
    await lane.enter()
    await other.enter()
    assert (window.in_flight, slots.locked()) == (2, True)
    waiting = asyncio.create_task(lane.enter())
    await asyncio.sleep(0)
    assert (waiting.done(), window.in_flight) == (False, 2)
    other.leave()
    await asyncio.wait_for(waiting, 5)
    lane.leave()
    lane.leave()
    assert window.in_flight == 0
    # Both slots are free again, and no more.
    await slots.acquire()
    await slots.acquire()
    assert slots.locked()


async def test_a_lane_without_slots_passes_the_window():
    pacing = Pacing()
    lane = lane_of(pacing=pacing)
    await lane.enter()
    assert pacing.window(TARGET).in_flight == 1
    lane.leave()
    assert pacing.window(TARGET).in_flight == 0


@pytest.mark.parametrize("limited", [True, False])
async def test_who_is_cancelled_at_the_window_gives_the_slot_back(limited):
    pacing, slots = Pacing(), asyncio.Semaphore(1) if limited else None
    lane = lane_of(pacing=pacing, slots=slots)
    pacing.window(TARGET).in_flight = 16
    waiting = asyncio.create_task(lane.enter())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pacing.window(TARGET).in_flight == 16
    if slots is not None:
        assert not slots.locked()
        await slots.acquire()
        assert slots.locked()


GOOD, BAD = Answer(text=""), Answer(text=None, error="It is down.")


def ended(lane, *answers):
    for answer in answers:
        lane.ended(answer)
    return lane.stopped


@pytest.mark.parametrize(
    ("share", "good", "bad", "stopped"),
    [
        (0.5, 10, 10, False),
        (0.5, 9, 11, True),
        (0.5, 0, 19, False),
        (0.5, 0, 20, True),
        (0.25, 15, 5, False),
        (0.25, 14, 6, True),
        (1.0, 0, 99, False),
    ],
)
def test_when_a_target_is_asked_no_more(share, good, bad, stopped):
    lane = lane_of(failure_share=share)
    assert bool(ended(lane, *[GOOD] * good, *[BAD] * bad)) is stopped


@pytest.mark.parametrize(
    ("route", "error", "reason"),
    [
        ("up/m", "It is down.", "up/m failed 20 of 20 requests (the last: It is down), "),
        ("r", "It is down", "r: up/m failed 20 of 20 requests (the last: It is down), "),
        ("r", "", "r: up/m failed 20 of 20 requests, "),
        ("r", None, "r: up/m failed 20 of 20 requests, "),
        ("r", "as in X..", "r: up/m failed 20 of 20 requests (the last: as in X), "),
        ("r", "..", "r: up/m failed 20 of 20 requests, "),
        ("r", "x" * 201, f"r: up/m failed 20 of 20 requests (the last: {'x' * 200}), "),
    ],
)
def test_why_a_target_is_asked_no_more(route, error, reason):
    answer = Answer(text=None, error=error)
    lane = lane_of(route=route, failure_share=0.25)
    assert lane.stopped == ""
    expected = f"{reason}more than limits.failure_share, 0.25; its other cells were not sent"
    assert ended(lane, *[answer] * 20) == expected
    # The first reason stays.
    assert ended(lane, BAD, BAD) == expected


def test_the_lanes_of_a_run():
    targets = (RouteTarget(model="a/1", max_concurrency=3), RouteTarget(model="a/2"))
    table = Table(
        {"r": Route(targets=targets, fallback=("a/9",)), "s": Route(targets=targets[:1])}, "ab"
    )
    document = RunDocument(
        dataset="d.jsonl",
        routes=("s", "dataset/answer", "r", "b/x"),
        metrics=(),
        limits=RunLimits(concurrency=102, per_target={"a/1": 50, "b/x": 7}, failure_share=0.1),
    )
    pacing = Pacing()
    lanes = lanes_of(document, table, pacing)
    assert [(lane.route, str(lane.target)) for lane in lanes] == [
        ("s", "a/1"),
        ("r", "a/1"),
        ("r", "a/2"),
        ("b/x", "b/x"),
    ]
    # A quarter of the run's concurrency each, but for what the route or the run sets lower.
    assert [lane.limit() for lane in lanes] == [3, 3, 25, 7]
    assert pacing.window(Target("a", "2")).size == 25
    assert ended(lanes[3], *[GOOD] * 17, *[BAD] * 3).startswith("b/x failed 3 of 20 requests")


async def test_lanes_to_one_target_share_its_slots():
    target = RouteTarget(model="a/1")
    table = Table({"r": Route(targets=(target,)), "s": Route(targets=(target,))}, ["a", "b"])
    document = RunDocument(
        dataset="d.jsonl",
        routes=("r", "s", "b/x"),
        metrics=(),
        limits=RunLimits(per_target={"a/1": 2}),
    )
    first, second, free = lanes_of(document, table, Pacing())
    await first.enter()
    await second.enter()
    waiting = [asyncio.create_task(lane.enter()) for lane in (first, second)]
    await asyncio.wait_for(free.enter(), 5)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    second.leave()
    await asyncio.wait_for(waiting[0], 5)
    first.leave()
    await asyncio.wait_for(waiting[1], 5)
