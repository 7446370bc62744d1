"""Lanes side by side: order, bounds, fairness, and what is done again."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.lanes import Lane, work_through


async def items(name, count):
    for n in range(count):
        yield name, n


class Gate:
    """Lets `most` through at a time."""

    def __init__(self, most):
        self.limit = most
        self.room = asyncio.Semaphore(most)
        self.inside = 0

    async def enter(self):
        await self.room.acquire()
        self.inside += 1

    def leave(self):
        self.inside -= 1
        self.room.release()

    def most(self):
        return self.limit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 3))
def test_everything_is_done_once_in_order_and_within_the_bounds(counts, places, most):
    async def main():
        started, running, peak = [], 0, 0
        gates = [Gate(most) for _ in counts]

        async def do(item, place):
            await place.take()
            nonlocal running, peak
            started.append(item)
            running += 1
            peak = max(peak, running)
            assert gates[item[0]].inside <= most
            await asyncio.sleep(0)
            running -= 1
            return True

        lanes = [Lane(items(n, count), gates[n]) for n, count in enumerate(counts)]
        await work_through(lanes, do, places=places)
        for n, count in enumerate(counts):
            assert [at for lane, at in started if lane == n] == list(range(count))
        assert peak <= places
        assert [gate.inside for gate in gates] == [0] * len(counts)

    asyncio.run(main())


async def test_a_lane_that_stands_still_holds_up_no_other():
    stuck, done = asyncio.Event(), []

    async def do(item, place):
        await place.take()
        if item[0] == "stuck":
            await stuck.wait()
        done.append(item)
        if len(done) == 40:
            stuck.set()
        return True

    lanes = [Lane(items("stuck", 40)), Lane(items("quick", 40))]
    await asyncio.wait_for(work_through(lanes, do, places=4), 10)
    assert done[:40] == [("quick", n) for n in range(40)]
    assert len(done) == 80


async def test_what_a_gate_leaves_unused_goes_to_the_others():
    running, peak = 0, 0

    async def do(item, place):
        await place.take()
        nonlocal running, peak
        if item[0] == "wide":
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.001)
            running -= 1
        else:
            await asyncio.sleep(0.01)
        return True

    lanes = [Lane(items("narrow", 20), Gate(1)), Lane(items("wide", 60))]
    await work_through(lanes, do, places=8)
    assert peak == 7


async def test_fewer_places_than_lanes_go_round():
    started = []

    async def do(item, place):
        await place.take()
        started.append(item)
        await asyncio.sleep(0)
        return True

    await work_through([Lane(items(name, 4)) for name in "abc"], do, places=1)
    assert sorted(started[:6], key=lambda item: item[1])[:3] == [(name, 0) for name in "abc"]


async def test_what_could_not_be_done_comes_first_the_next_time():
    tried = []

    async def do(item, place):
        await place.take()
        tried.append(item[1])
        return tried.count(item[1]) > item[1] % 3

    await work_through([Lane(items("a", 4))], do, places=1)
    # The next one had been read already when the first came back.
    assert tried[:5] == [0, 1, 2, 1, 2]
    assert sorted(tried) == [0, 1, 1, 2, 2, 2, 3]


async def test_the_last_item_can_be_done_again():
    tried = []

    async def do(item, place):
        await place.take()
        await asyncio.sleep(0)
        tried.append(item)
        return len(tried) == 3

    await work_through([Lane(items("a", 1))], do, places=2)
    assert len(tried) == 3


async def test_items_that_need_no_gate_pass_a_shut_one():
    done = []

    async def do(item, place):
        await place.take()
        done.append(item)
        return True

    shut = Gate(0)
    await work_through([Lane(items("a", 3), shut)], do, places=1, gated=lambda _: False)
    assert len(done) == 3


async def test_a_failure_ends_everything_and_gives_the_gates_back():
    gate = Gate(3)

    async def do(item, place):
        await place.take()
        if item[1] == 2:
            raise ValueError("no")
        await asyncio.sleep(60)
        return True

    with pytest.raises(ValueError, match="no"):
        await work_through([Lane(items("a", 9), gate), Lane(items("b", 1))], do, places=4)
    await asyncio.sleep(0)
    assert gate.inside == 0


async def test_cancelling_gives_the_gates_back():
    gate = Gate(2)

    async def do(item, place):
        await place.take()
        await asyncio.sleep(60)
        return True

    work = asyncio.create_task(work_through([Lane(items("a", 9), gate)], do, places=1))
    await asyncio.sleep(0.01)
    assert gate.inside == 2
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert gate.inside == 0


async def test_a_place_that_is_given_back_early_goes_to_the_next():
    asking, keeping, peak, kept = 0, asyncio.Event(), 0, []

    async def do(item, place):
        await place.take()
        nonlocal asking, peak
        asking += 1
        peak = max(peak, asking)
        await asyncio.sleep(0)
        asking -= 1
        place.leave()
        if item[1] >= 3:
            keeping.set()
        await keeping.wait()
        kept.append(item)
        return True

    gate = Gate(2)
    await work_through([Lane(items("a", 8), gate)], do, places=2)
    assert peak == 2
    assert len(kept) == 8
    assert gate.inside == 0
