"""Time limits: never early, not much late, and no cancellation taken for a time-out or lost."""

import asyncio
import gc
import time
import weakref

import pytest
import uvloop

from router.gateway.deadlines import Deadline


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts the timers it makes."""

    timers = 0

    def call_at(self, *args, **kwargs):
        self.timers += 1
        return super().call_at(*args, **kwargs)


class Watched(Deadline):
    """A Deadline that weak references may point to."""


def now():
    return asyncio.get_running_loop().time()


async def forever():
    await asyncio.get_running_loop().create_future()


# The server runs on uvloop, whose timers have a resolution of a millisecond.
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("after", [-1.0, 0.0, 0.001, 0.0104, 0.035, 0.2])
def test_a_deadline_ends_its_block_and_never_early(loop_factory, after):
    async def relay():
        when = now() + after
        with pytest.raises(TimeoutError), Deadline(asyncio.get_running_loop(), when):
            await forever()
        assert now() >= when
        assert asyncio.current_task().cancelling() == 0

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(relay())


async def test_a_block_that_is_done_in_time_leaves_nothing_behind():
    limit = Watched(asyncio.get_running_loop(), now() + 10)
    with limit:
        await asyncio.sleep(0)
    left = weakref.ref(limit)
    # Not even for the collector of cycles: each request has one.
    gc.disable()
    del limit
    try:
        assert left() is None
    finally:
        gc.enable()


def test_a_limit_that_is_put_off_and_brought_forward_keeps_its_timer():
    async def relay():
        loop = asyncio.get_running_loop()
        limit = Deadline(loop, now() + 10)
        with limit:
            for _ in range(100):
                limit.reschedule(now() + 60)
                limit.reschedule(now() + 20)
            assert loop.timers == 1
            limit.reschedule(now() + 5)
            assert loop.timers == 2

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(relay())


async def test_a_deadline_can_be_put_off_and_taken_back():
    limit = Deadline(asyncio.get_running_loop(), now() + 0.02)
    with limit:
        limit.reschedule(now() + 10)
        await asyncio.sleep(0.06)
        limit.reschedule(now() + 0.02)
        limit.reschedule(None)
        await asyncio.sleep(0.06)
        limit.reschedule(now() + 10)
        with pytest.raises(TimeoutError), limit_of(0.02):
            await forever()


async def test_a_limit_that_was_put_off_ends_the_block_at_its_later_time():
    later = now() + 0.06

    async def relay():
        limit = limit_of(0.02)
        with limit:
            limit.reschedule(later)
            await forever()

    with pytest.raises(TimeoutError):
        await relay()
    assert now() >= later


async def test_a_limit_that_was_taken_back_can_be_set_again():
    async def relay():
        limit = limit_of(0.02)
        with limit:
            limit.reschedule(None)
            await asyncio.sleep(0.05)
            limit.reschedule(now() + 0.02)
            await forever()

    with pytest.raises(TimeoutError):
        await relay()


async def test_no_timer_is_left_of_a_limit_that_came_earlier():
    limit = limit_of(0.03)
    with limit:
        limit.reschedule(now() + 0.02)
    await asyncio.sleep(0.06)
    assert asyncio.current_task().cancelling() == 0


async def test_an_error_after_the_time_has_come_is_not_hidden():
    async def fail():
        try:
            await forever()
        except asyncio.CancelledError:
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError), limit_of(0.01):
        await fail()
    assert asyncio.current_task().cancelling() == 0


async def test_a_deadline_can_come_earlier():
    async def relay():
        limit = Deadline(asyncio.get_running_loop(), None)
        with limit:
            limit.reschedule(now() + 10)
            limit.reschedule(now() + 0.02)
            await forever()

    with pytest.raises(TimeoutError):
        await relay()


def limit_of(seconds):
    return Deadline(asyncio.get_running_loop(), now() + seconds)


async def test_the_inner_of_two_deadlines_raises_its_own_error():
    with limit_of(10), pytest.raises(TimeoutError), limit_of(0.01):
        await forever()
    with pytest.raises(TimeoutError), limit_of(0.01), limit_of(10):
        await forever()


async def test_a_cancellation_from_outside_stays_one():
    async def relay():
        with limit_of(10):
            await forever()

    task = asyncio.create_task(relay())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_meets_the_deadline_is_not_swallowed():
    async def relay():
        with limit_of(0.01):
            try:
                await forever()
            except asyncio.CancelledError:
                asyncio.current_task().cancel()
                raise

    task = asyncio.create_task(relay())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_another_error_passes():
    with pytest.raises(ZeroDivisionError), limit_of(10):
        _ = 1 / 0


async def test_many_come_due_in_a_block_of_the_loop_and_all_end():
    async def wait(after):
        when = now() + after
        with pytest.raises(TimeoutError), limit_of(after):
            await forever()
        assert now() >= when

    tasks = [asyncio.create_task(wait(n / 10_000)) for n in range(1000)]
    await asyncio.sleep(0.01)
    time.sleep(0.2)
    await asyncio.gather(*tasks)
