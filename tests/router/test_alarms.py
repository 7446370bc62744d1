"""Time limits: never early, not much late, and no cancellation taken for a time-out or lost."""

import asyncio

import pytest

from router.alarms import Alarms, Deadline


class Alarm:
    """Rings as a Deadline does, and says so instead of cancelling a task."""

    def __init__(self, call):
        self.slot = 0
        self.call = call

    def ring(self, now):
        self.call()


def now():
    return asyncio.get_running_loop().time()


@pytest.fixture
async def alarms():
    return Alarms()


async def forever():
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("after", [-1.0, 0.0, 0.001, 0.01, 0.035, 0.2])
async def test_a_deadline_ends_its_block_and_never_early(alarms, after):
    when = now() + after
    with pytest.raises(TimeoutError), Deadline(alarms, when):
        await forever()
    assert now() >= when
    assert asyncio.current_task().cancelling() == 0


async def test_a_block_that_is_done_in_time_leaves_nothing_behind(alarms):
    for _ in range(100):
        with Deadline(alarms, now() + 10):
            await asyncio.sleep(0)
    assert not alarms._slots


async def test_a_deadline_can_be_put_off_and_taken_back(alarms):
    limit = Deadline(alarms, now() + 0.02)
    with limit:
        limit.reschedule(now() + 10)
        await asyncio.sleep(0.06)
        limit.reschedule(now() + 0.02)
        limit.reschedule(None)
        await asyncio.sleep(0.06)
        limit.reschedule(now() + 10)
        with pytest.raises(TimeoutError), limit_of(alarms, 0.02):
            await forever()


async def test_a_deadline_can_come_earlier(alarms):
    async def work():
        limit = Deadline(alarms, None)
        with limit:
            limit.reschedule(now() + 10)
            limit.reschedule(now() + 0.02)
            await forever()

    with pytest.raises(TimeoutError):
        await work()


def limit_of(alarms, seconds):
    return Deadline(alarms, now() + seconds)


async def test_the_inner_of_two_deadlines_is_told_apart(alarms):
    with limit_of(alarms, 10), pytest.raises(TimeoutError), limit_of(alarms, 0.01):
        await forever()
    with pytest.raises(TimeoutError), limit_of(alarms, 0.01), limit_of(alarms, 10):
        await forever()


async def test_a_cancellation_from_outside_stays_one(alarms):
    async def work():
        with limit_of(alarms, 10):
            await forever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alarms._slots


async def test_a_cancellation_that_meets_the_deadline_is_not_swallowed(alarms):
    async def work():
        with limit_of(alarms, 0.01):
            try:
                await forever()
            except asyncio.CancelledError:
                asyncio.current_task().cancel()
                raise

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_error_passes(alarms):
    with pytest.raises(ZeroDivisionError), limit_of(alarms, 10):
        _ = 1 / 0


async def test_many_ring_each_once_after_a_block_of_the_loop(alarms):
    rung = []
    start = now()
    for n in range(1000):
        alarms.put(Alarm(lambda n=n: rung.append(n)), start + n / 10_000)
    dropped = Alarm(lambda: rung.append("dropped"))
    alarms.put(dropped, start + 0.05)
    alarms.drop(dropped)
    alarms.drop(dropped)
    import time

    time.sleep(0.3)
    while len(rung) < 1000:
        await asyncio.sleep(0.01)
    assert sorted(rung) == list(range(1000))
    # All are done: the next begins the walk anew.
    await asyncio.sleep(0.05)
    again = Alarm(lambda: rung.append("again"))
    alarms.put(again, now() + 0.02)
    while rung[-1] != "again":
        await asyncio.sleep(0.01)
