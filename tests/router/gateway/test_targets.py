"""What is remembered of a target: breaker, budgets, room."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.routes import Breaker, Hedge, Retries
from router.gateway.routing import ConcurrencyLimit
from router.gateway.targets import ConcurrencySlots, TargetState
from router.records import Target

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


def test_a_breaker_says_when_it_opens_and_closes(state):
    assert [state.failed(0.0, BREAKER) for _ in range(4)] == [False, False, True, False]
    assert state.allows(10, BREAKER)
    # A probe that fails opens no breaker of a target that was well.
    assert not state.failed(11, BREAKER)
    assert state.refused()
    assert not state.refused()
    assert [state.cut_off(12.0, BREAKER) for _ in range(4)] == [False, False, True, False]
    assert state.succeeded(0.1)
    assert not state.succeeded(0.1)


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
        state.count_request(retries, None)
    assert sum(state.may_retry() for _ in range(1000)) == 10
    for _ in range(25):
        state.count_request(retries, None)
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
    room = ConcurrencyLimit(1, 10)
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
def test_never_more_run_than_there_is_room_for(steps, limit):
    async def play():
        state, room, waiting = TargetState(Target("p", "m")), ConcurrencyLimit(limit, 5), []
        inside = 0
        for step in steps:
            if step == "enter":
                inside += state.try_enter(room)
            elif step == "leave" and inside:
                inside -= 1
                state.leave()
            elif step == "wait" and state.running >= limit and state.can_wait(room):
                waiting.append(asyncio.create_task(state.wait()))
            elif step == "cancel" and waiting:
                waiting.pop().cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                inside += not task.cancelled()
            assert state.running == inside <= limit
            assert state.waiting <= 5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(play())


async def test_live_requests_go_before_those_of_evaluations():
    slots, room = ConcurrencySlots(), ConcurrencyLimit(1, 5)
    live = TargetState(Target("p", "m"), "live", slots)
    runs = TargetState(Target("p", "m"), "eval", slots)
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
    assert (live.running, runs.running, slots.taken) == (0, 0, 0)


def test_a_run_waits_in_a_queue_of_any_length():
    slots, room = ConcurrencySlots(), ConcurrencyLimit(1, 0)
    assert TargetState(Target("p", "m"), "eval", slots).can_wait(room)
    assert not TargetState(Target("p", "m"), "live", slots).can_wait(room)


# The breaker as a table: what happens at which second, and what is seen then.


def fails(state, now):
    state.failed(now, BREAKER)


def answers(state, now):
    state.succeeded(0.1)


def begins(state, now):
    state.succeeded(0.1, whole=False)


def ends(state, now):
    state.completed()


def breaks_off(state, now):
    state.cut_off(now, BREAKER)


def refuses(state, now):
    state.refused()


def probes(state, now):
    assert state.allows(now, BREAKER)


def may_not(state, now):
    assert not state.allows(now, BREAKER)


OPEN = [(fails, 0), (fails, 1), (fails, 2)]
CUT = [(begins, 0), (breaks_off, 0)]


@pytest.mark.parametrize(
    ("steps", "now", "seen"),
    [
        ([], 0, "closed"),
        (OPEN[:2], 2, "closed"),
        (OPEN, 2, "open"),
        (OPEN, 11.9, "open"),
        (OPEN, 12, "half_open"),
        # What fails while it is open keeps it open, and for longer.
        ([*OPEN, (fails, 5)], 14.9, "open"),
        ([*OPEN, (fails, 5)], 15, "half_open"),
        ([*OPEN, (may_not, 11.9), (probes, 12)], 12, "half_open"),
        ([*OPEN, (probes, 12), (may_not, 21.9), (probes, 22)], 22, "half_open"),
        # A probe that fails opens it at once.
        ([*OPEN, (probes, 12), (fails, 13)], 13, "open"),
        ([*OPEN, (probes, 12), (fails, 13)], 22.9, "open"),
        ([*OPEN, (probes, 12), (fails, 13)], 23, "half_open"),
        ([*OPEN, (probes, 12), (answers, 13)], 13, "closed"),
        ([*OPEN, (probes, 12), (answers, 13), (fails, 14), (fails, 14)], 14, "closed"),
        ([*OPEN, (probes, 12), (refuses, 13)], 13, "closed"),
        ([*OPEN, (probes, 12), (refuses, 13), (probes, 13), (probes, 13)], 13, "closed"),
        ([(fails, 0), (fails, 0), (refuses, 0), (fails, 0), (fails, 0)], 0, "closed"),
        ([(fails, 0), (fails, 0), (begins, 0), (fails, 0), (fails, 0)], 0, "closed"),
        # Streams that break off count although each began well; one that ends starts anew.
        ([*CUT, *CUT], 0, "closed"),
        ([*CUT, *CUT, *CUT], 0, "open"),
        ([*CUT, *CUT, *CUT], 9.9, "open"),
        ([*CUT, *CUT, *CUT], 10, "half_open"),
        ([*CUT, *CUT, *CUT, (probes, 10), (breaks_off, 10)], 10, "open"),
        ([*CUT, *CUT, (ends, 0), *CUT, *CUT], 0, "closed"),
        ([*CUT, *CUT, (answers, 0), *CUT, *CUT], 0, "closed"),
        ([*CUT, *CUT, (answers, 0), *CUT, *CUT, *CUT], 0, "open"),
        ([*CUT, (fails, 0), (fails, 0)], 0, "closed"),
    ],
)
def test_the_breaker(state, steps, now, seen):
    for step, at in steps:
        step(state, at)
    assert state.state(now) == seen


@pytest.mark.parametrize(
    ("requests", "retries", "hedges"),
    # 10 are there at first, and never more; each request brings half a retry, an eighth of a hedge.
    [(0, 10, 10), (1, 10, 10)],
)
def test_budgets_are_full_at_first(state, requests, retries, hedges):
    for _ in range(requests):
        state.count_request(Retries(budget=0.5), Hedge(budget=0.125))
    assert sum(state.may_retry() for _ in range(50)) == retries
    assert sum(state.may_hedge() for _ in range(50)) == hedges


@pytest.mark.parametrize(
    ("requests", "retries", "hedges"),
    [(1, 0, 0), (2, 1, 0), (7, 3, 0), (8, 4, 1), (20, 10, 2), (24, 10, 3), (800, 10, 10)],
)
def test_budgets_grow_with_the_requests(state, requests, retries, hedges):
    while state.may_retry() or state.may_hedge():
        pass
    for _ in range(requests):
        state.count_request(Retries(budget=0.5), Hedge(budget=0.125))
    assert sum(state.may_retry() for _ in range(50)) == retries
    assert sum(state.may_hedge() for _ in range(50)) == hedges


def test_a_route_without_hedging_saves_up_none(state):
    while state.may_hedge():
        pass
    for _ in range(100):
        state.count_request(Retries(), None)
    assert not state.may_hedge()


@pytest.mark.parametrize(
    ("times", "after"),
    [
        ([0.1] * 19, None),
        ([0.1] * 20, 0.1),
        # The 95th percentile, rounded down to one of the times.
        ([n / 10 for n in range(21)], 1.9),
        ([n / 10 for n in reversed(range(21))], 1.9),
        ([n / 10 for n in range(20)], 1.8),
        # The last 128 only.
        ([9.0] * 100 + [0.1] * 121, 0.1),
        ([9.0] * 100 + [0.1] * 120, 9.0),
    ],
)
def test_what_hedging_waits_for(state, times, after):
    assert state.hedge_after(Hedge()) is None
    for seconds in times:
        state.succeeded(seconds)
        # What was found before must not stand for what is true now.
        state.hedge_after(Hedge())
    assert state.hedge_after(Hedge()) == after
    assert state.hedge_after(Hedge(after=7.0)) == 7.0


def test_a_new_target_has_done_nothing():
    state = TargetState(Target("p", "m"))
    assert state.target == Target("p", "m")
    assert (state.running, state.waiting) == (0, 0)
    assert state.load == (0, None)


async def test_load_counts_those_who_wait(state):
    state.enter()
    state.enter()
    waiting = [asyncio.create_task(state.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert state.load == (5, None)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert state.load == (2, None)
    # Those who left are not handed a place.
    state.leave()
    assert (state.running, state.waiting) == (1, 0)


@pytest.mark.parametrize(
    ("taken", "waiting", "traffic_class", "may"),
    [
        (0, [], "live", True),
        (1, [], "live", True),
        (2, [], "live", False),
        (3, [], "live", False),
        (1, ["live"], "live", False),
        (1, ["live"], "eval", False),
        # A run's request does not keep a client's from a place; another one of a run's waits.
        (1, ["eval"], "live", True),
        (1, ["eval"], "eval", False),
        (1, [], "eval", True),
    ],
)
def test_who_may_enter(taken, waiting, traffic_class, may):
    slots = ConcurrencySlots()
    state = TargetState(Target("p", "m"), traffic_class, slots)
    for _ in range(taken):
        state.enter()
    for other in waiting:
        slots.waiting[other].append((None, state))
    assert slots.may_enter(ConcurrencyLimit(2, 5), traffic_class) is may
    assert state.try_enter(ConcurrencyLimit(2, 5)) is may
    assert (state.running, slots.taken) == (taken + may, taken + may)
    assert state.try_enter(None)


@pytest.mark.parametrize(("queue", "may"), [(0, False), (2, False), (3, True)])
async def test_a_queue_has_places(state, queue, may):
    waiting = [asyncio.create_task(state.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    assert state.can_wait(ConcurrencyLimit(1, queue)) is may
    for task in waiting:
        task.cancel()


async def test_a_place_handed_to_who_is_cancelled_goes_to_the_next(state):
    state.enter()
    first, second = (asyncio.create_task(state.wait()) for _ in range(2))
    await asyncio.sleep(0)
    state.leave()
    first.cancel()
    await asyncio.wait_for(second, 5)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (state.running, state.waiting, state._slots.taken) == (1, 0, 1)


async def test_a_place_is_not_handed_to_who_was_cancelled_before(state):
    state.enter()
    first, second = (asyncio.create_task(state.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    # Its task has not run since, and still stands in the queue.
    state.leave()
    await asyncio.wait_for(second, 5)
    assert (state.running, state.waiting) == (1, 0)
    assert first.cancelled()


def test_a_probe_that_fails_opens_it_whatever_the_config_says_by_now(state):
    fail(state, 3)
    assert state.allows(10, BREAKER)
    patient = Breaker(failures=9, open=5)
    state.failed(11, patient)
    assert state.state(11) == "open"
    assert state.state(16) == "half_open"
