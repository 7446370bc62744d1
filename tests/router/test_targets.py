"""What is remembered of a target: breaker, budgets, room."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import Breaker, Hedge, Retries
from router.routing import Room, Target
from router.targets import Places, TargetState

BREAKER = Breaker(failures=3, open=10)


@pytest.fixture
def state():
    return TargetState(Target("p", "m"))


def fail(state, times, now=0.0):
    for _ in range(times):
        state.failed(now, BREAKER)


def test_failures_in_a_row_open_the_breaker(state):
    fail(state, 2)
    state.succeeded(0.1)
    fail(state, 2)
    assert state.state(0) == "closed"
    fail(state, 1)
    assert state.state(0) == "open"
    assert not state.allows(9.9, BREAKER)
    assert state.opened == 1


def test_a_half_open_breaker_lets_one_probe_through(state):
    fail(state, 3)
    assert state.state(10) == "half_open"
    assert state.allows(10, BREAKER)
    assert not state.allows(10, BREAKER)
    state.succeeded(0.1)
    assert state.state(10) == "closed"
    assert state.allows(10, BREAKER)
    assert state.allows(10, BREAKER)


def test_a_probe_that_fails_opens_it_again(state):
    fail(state, 3)
    assert state.allows(10, BREAKER)
    fail(state, 1, now=11)
    assert not state.allows(20.9, BREAKER)
    assert state.allows(21, BREAKER)


def test_a_probe_that_never_ends_does_not_close_the_way_for_good(state):
    fail(state, 3)
    assert state.allows(10, BREAKER)
    assert not state.allows(19.9, BREAKER)
    assert state.allows(20, BREAKER)


def test_a_clients_own_mistakes_do_not_count(state):
    fail(state, 2)
    state.refused()
    fail(state, 2)
    assert state.state(0) == "closed"


def test_retries_are_a_share_of_requests(state):
    retries = Retries(budget=0.2)
    saved = sum(state.may_retry() for _ in range(1000))
    assert saved == 10
    for _ in range(100):
        state.asked(retries, None)
    assert sum(state.may_retry() for _ in range(1000)) == 10
    for _ in range(25):
        state.asked(retries, None)
    assert sum(state.may_retry() for _ in range(1000)) == 5


def test_hedging_waits_for_the_slowest_twentieth_of_its_own_times(state):
    assert state.hedge_after(Hedge()) is None
    assert state.hedge_after(Hedge(after=0.5)) == 0.5
    for n in range(100):
        state.succeeded(n / 100)
    assert state.hedge_after(Hedge()) == pytest.approx(0.94)


def test_latency_is_smoothed(state):
    assert state.load.latency is None
    state.succeeded(1.0)
    state.succeeded(2.0)
    assert state.load.latency == pytest.approx(1.2)


async def test_places_are_handed_over_in_order_of_arrival(state):
    room = Room(1, 10)
    assert state.try_enter(room)
    order = []

    async def one(name):
        await state.wait()
        order.append(name)
        await asyncio.sleep(0)
        state.leave()

    tasks = [asyncio.create_task(one(n)) for n in range(4)]
    await asyncio.sleep(0)
    assert state.waiting == 4
    # Nobody overtakes the queue, even while a place is being handed over.
    state.leave()
    assert not state.try_enter(room)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    assert (state.running, state.waiting) == (0, 0)


@given(
    st.lists(st.sampled_from(["enter", "leave", "wait", "cancel"]), max_size=60), st.integers(1, 4)
)
def test_never_more_run_than_there_is_room_for(steps, most):
    async def play():
        state, room, waiting = TargetState(Target("p", "m")), Room(most, 5), []
        inside = 0
        for step in steps:
            if step == "enter":
                inside += state.try_enter(room)
            elif step == "leave" and inside:
                inside -= 1
                state.leave()
            elif step == "wait" and state.running >= most and state.can_wait(room):
                waiting.append(asyncio.create_task(state.wait()))
            elif step == "cancel" and waiting:
                waiting.pop().cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                inside += not task.cancelled()
            assert state.running == inside <= most
            assert state.waiting <= 5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(play())


async def test_live_requests_go_before_those_of_evaluations():
    places, room = Places(), Room(1, 5)
    live = TargetState(Target("p", "m"), "live", places)
    runs = TargetState(Target("p", "m"), "eval", places)
    assert runs.try_enter(room)
    assert not live.try_enter(room)
    order = []

    async def wait(name, state):
        await state.wait()
        order.append(name)
        state.leave()

    waiting = [asyncio.create_task(wait(*one)) for one in (("run", runs), ("live", live))]
    await asyncio.sleep(0)
    assert (live.waiting, runs.waiting) == (1, 1)
    assert not runs.try_enter(room)
    runs.leave()
    await asyncio.gather(*waiting)
    assert order == ["live", "run"]
    assert (live.running, runs.running, places.taken) == (0, 0, 0)


def test_a_run_waits_in_a_queue_of_any_length():
    places, room = Places(), Room(1, 0)
    assert TargetState(Target("p", "m"), "eval", places).can_wait(room)
    assert not TargetState(Target("p", "m"), "live", places).can_wait(room)
