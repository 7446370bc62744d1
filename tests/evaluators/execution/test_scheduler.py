"""Lanes side by side: order, bounds, fairness, and what is done again."""

import asyncio
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.execution.scheduler import AHEAD, Lane, OpenGate, work_through


async def items(name, count):
    for n in range(count):
        yield name, n


class Gate:
    """Lets `size` through at a time."""

    def __init__(self, size):
        self.size = size
        self.room = asyncio.Semaphore(size)
        self.inside = 0

    async def enter(self):
        await self.room.acquire()
        self.inside += 1

    def leave(self):
        self.inside -= 1
        self.room.release()

    def limit(self):
        return self.size


async def turns(count):
    """Let everything else go on: what stands still after so many turns does so for good."""
    for _ in range(count):
        await asyncio.sleep(0)


async def finish(work):
    """Wait for what needs no clock; a mutant that never ends is found without one."""
    task = asyncio.ensure_future(work)
    for _ in range(200):
        await turns(20)
        if task.done():
            return await task
    task.cancel()
    raise AssertionError("it stands still")


async def count_up(count):
    for n in range(count):
        yield n


class Work:
    """Items that wait at a stage until it is opened, and how many of each lane have come there."""

    def __init__(self, mosts, counts, *, concurrency, **options):
        self.gates = [Gate(most) for most in mosts]
        self.begun = [0] * len(mosts)
        self.inside = [0] * len(mosts)
        self.done = [0] * len(mosts)
        self.order = []
        self.before, self.open, self.after = asyncio.Event(), asyncio.Event(), asyncio.Event()
        lanes = [
            Lane(items(n, count), gate)
            for n, (gate, count) in enumerate(zip(self.gates, counts, strict=True))
        ]
        self.task = asyncio.ensure_future(
            work_through(lanes, self.do, concurrency=concurrency, **options)
        )

    async def do(self, item, place):
        lane, _ = item
        self.begun[lane] += 1
        await self.before.wait()
        await place.take()
        self.inside[lane] += 1
        self.order.append(item)
        await self.open.wait()
        self.inside[lane] -= 1
        place.leave()
        await self.after.wait()
        self.done[lane] += 1
        return True

    async def end(self):
        for event in (self.before, self.open, self.after):
            event.set()
        await finish(self.task)
        assert [gate.inside for gate in self.gates] == [0] * len(self.gates)


@pytest.mark.parametrize(
    ("slots", "mosts", "counts", "inside"),
    [
        (1, [9], [5], [1]),
        (4, [9], [9], [4]),
        (4, [2], [9], [2]),
        (16, [99], [99], [16]),
        (8, [99, 99], [20, 20], [4, 4]),
        # What does not divide goes to the first.
        (5, [99, 99], [9, 9], [3, 2]),
        (8, [99, 99, 99], [20, 20, 20], [3, 3, 2]),
        # What a gate or the end of a lane leaves unused goes to the others.
        (8, [1, 99], [20, 20], [1, 7]),
        (8, [99, 1], [20, 20], [7, 1]),
        (8, [2, 3, 99], [20, 20, 20], [2, 3, 3]),
        (9, [99, 2, 99], [20, 20, 20], [4, 2, 3]),
        (8, [99, 99], [1, 20], [1, 7]),
        (8, [99, 99], [20, 2], [6, 2]),
        (8, [99, 99], [0, 20], [0, 8]),
        (3, [99, 99], [3, 0], [3, 0]),
        # Fewer slots than lanes.
        (2, [9, 9, 9], [5, 5, 5], [1, 1, 0]),
    ],
)
async def test_slots_are_shared_out(slots, mosts, counts, inside):
    work = Work(mosts, counts, concurrency=slots)
    work.before.set()
    await turns(300)
    assert work.inside == inside
    await work.end()
    assert work.done == counts


@pytest.mark.parametrize(
    ("slots", "begun"),
    # One ahead for eight slots, and one more; with fewer slots, none before it has its place.
    [(1, 1), (7, 7), (AHEAD, 2), (15, 2), (16, 3), (24, 4)],
)
async def test_items_are_prepared_ahead(slots, begun):
    assert AHEAD == 8
    work = Work([99], [99], concurrency=slots)
    await turns(300)
    assert work.begun == [begun]
    assert work.inside == [0]
    await work.end()
    assert work.done == [99]


@pytest.mark.parametrize(("slots", "begun"), [(1, 2), (2, 4), (7, 14), (8, 17), (16, 34)])
async def test_as_many_again_may_have_left_their_place(slots, begun):
    work = Work([99], [99], concurrency=slots)
    work.before.set()
    work.open.set()
    await turns(500)
    assert (work.begun, work.inside, work.done) == ([begun], [0], [0])
    await work.end()
    assert work.done == [99]


async def test_no_more_are_prepared_ahead_later_on():
    begun, hold = [], asyncio.Event()

    async def do(item, place):
        begun.append(item)
        if item >= 10:
            await hold.wait()
        await place.take()
        return True

    task = asyncio.ensure_future(work_through([Lane(count_up(40))], do, concurrency=8))
    await turns(500)
    assert begun == list(range(12))
    hold.set()
    await finish(task)
    assert begun == list(range(40))


async def test_some_items_need_the_gate_and_others_do_not():
    gate, inside = Gate(1), {}

    async def do(item, place):
        await place.take()
        inside[item] = gate.inside
        await turns(3)
        return True

    lanes = [Lane(count_up(6), gate)]
    await finish(work_through(lanes, do, concurrency=1, gated=lambda item: item < 3))
    assert [inside[n] for n in range(3)] == [1, 1, 1]
    assert sorted(inside) == list(range(6))
    inside.clear()
    shut = [Lane(count_up(6), Gate(0))]
    await finish(work_through(shut, do, concurrency=1, gated=lambda item: item > 99))
    assert sorted(inside) == list(range(6))


async def test_a_place_that_becomes_free_goes_to_the_poorest():
    work = Work([99, 99], [20, 1], concurrency=8)
    work.before.set()
    await turns(300)
    assert work.inside == [7, 1]
    work.open.set()
    work.after.set()
    await finish(work.task)
    assert [n for lane, n in work.order if lane == 0] == list(range(20))


async def test_a_lane_that_waits_for_its_stream_keeps_its_share():
    inside, opened = [0, 0, 0], asyncio.Event()

    async def slow():
        yield 1, 0
        yield 1, 1
        await opened.wait()

    async def do(item, place):
        await place.take()
        inside[item[0]] += 1
        await opened.wait()
        return True

    lanes = [Lane(items(0, 20)), Lane(slow()), Lane(items(2, 20))]
    task = asyncio.ensure_future(work_through(lanes, do, concurrency=8))
    await turns(300)
    assert inside == [3, 2, 2]
    opened.set()
    await finish(task)
    assert inside == [20, 2, 20]


async def test_slots_that_are_given_back_together_are_all_taken_again():
    inside, batches = 0, [asyncio.Event() for _ in range(3)]

    async def do(item, place):
        nonlocal inside
        await place.take()
        inside += 1
        await batches[item // 4].wait()
        inside -= 1
        return True

    task = asyncio.ensure_future(work_through([Lane(count_up(12))], do, concurrency=4))
    for batch in batches:
        await turns(300)
        assert inside == 4
        batch.set()
    await finish(task)


async def test_lanes_take_turns_where_slots_are_few():
    order = []

    async def do(item, place):
        await place.take()
        order.append(item[0])
        await asyncio.sleep(0)
        return True

    await finish(work_through([Lane(items(name, 4)) for name in "abc"], do, concurrency=1))
    # The first comes before there are others; from then on whoever has waited longest is next.
    assert "".join(order[1:10]) == "abcabcabc"


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_nothing_more_is_begun_once_it_is_halted(after):
    begun, closed = [], []

    async def numbers():
        try:
            for n in range(99):
                yield n
        finally:
            closed.append(True)

    async def do(item, place):
        begun.append(item)
        await place.take()
        return True

    await finish(
        work_through([Lane(numbers())], do, concurrency=1, halted=lambda: len(begun) >= after)
    )
    # One that had been begun comes to its end.
    assert begun == list(range(after + bool(after)))
    assert closed == [True]


async def test_what_was_left_is_not_begun_again_once_it_is_halted():
    begun = []

    async def do(item, place):
        begun.append(item)
        await place.take()
        return False

    await finish(
        work_through([Lane(count_up(9))], do, concurrency=1, halted=lambda: len(begun) >= 4)
    )
    assert len(begun) == 5


async def test_a_stream_that_is_no_generator():
    class Numbers:
        def __init__(self):
            self.left = [3, 2, 1]

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    done = []

    async def do(item, place):
        await place.take()
        done.append(item)
        return True

    await finish(work_through([Lane(Numbers())], do, concurrency=2))
    assert done == [1, 2, 3]


async def test_a_stream_is_closed_when_something_fails():
    closed = []

    async def numbers():
        try:
            for n in range(9):
                yield n
        finally:
            closed.append(True)

    async def do(item, place):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        await finish(work_through([Lane(numbers())], do, concurrency=2))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert closed == [True]


async def test_a_stream_that_fails_ends_everything():
    async def broken():
        yield 1
        raise ValueError("broken")

    work = []

    async def do(item, place):
        await place.take()
        work.append(item)
        await asyncio.Event().wait()

    with pytest.raises(ValueError, match="broken"):
        await finish(work_through([Lane(broken())], do, concurrency=1))
    assert work == [1]


@pytest.mark.parametrize(("gated", "times"), [(True, 3), (False, 0)])
async def test_a_place_is_taken_once_and_given_back_once(gated, times):
    class Counting(OpenGate):
        entered = left = 0

        async def enter(self):
            self.entered += 1

        def leave(self):
            self.left += 1

    gate = Counting()

    async def do(item, place):
        await place.take()
        await place.take()
        place.leave()
        place.leave()
        # It is not early any more, and cannot have another.
        await place.take()
        return True

    lanes = [Lane(count_up(3), gate)]
    await finish(work_through(lanes, do, concurrency=1, gated=lambda _: gated))
    assert (gate.entered, gate.left) == (times, times)


async def test_an_item_that_takes_no_place():
    async def do(item, place):
        place.leave()
        return True

    gate = Gate(1)
    await finish(work_through([Lane(count_up(40), gate)], do, concurrency=16))
    assert gate.inside == 0


async def test_items_without_a_gate_are_done_in_turn():
    order, running = [], []

    async def do(item, place):
        await place.take()
        running.append(item)
        order.append((item, len(running)))
        await turns(3)
        running.remove(item)
        place.leave()
        return False

    lanes = [Lane(count_up(4), Gate(0))]
    await finish(work_through(lanes, do, concurrency=4, gated=lambda _: False))
    assert order == [(n, 1) for n in range(4)]


async def test_an_open_gate_lets_everyone_through():
    gate = OpenGate()
    await finish(gate.enter())
    gate.leave()
    assert gate.limit() == sys.maxsize
    assert isinstance(Lane(count_up(0)).gate, OpenGate)


async def test_without_lanes_there_is_nothing_to_do():
    async def do(item, place):
        raise AssertionError

    await finish(work_through([], do, concurrency=1))
    await finish(work_through([Lane(count_up(0))], do, concurrency=1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 3))
def test_everything_is_done_once_in_order_and_within_the_bounds(counts, slots, most):
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
        await finish(work_through(lanes, do, concurrency=slots))
        for n, count in enumerate(counts):
            assert [at for lane, at in started if lane == n] == list(range(count))
        assert peak <= slots
        assert [gate.inside for gate in gates] == [0] * len(counts)

    asyncio.run(finish(main()))


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
    await finish(work_through(lanes, do, concurrency=4))
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
            await turns(20)
            running -= 1
        else:
            await turns(60)
        return True

    lanes = [Lane(items("narrow", 20), Gate(1)), Lane(items("wide", 60))]
    await finish(work_through(lanes, do, concurrency=8))
    assert peak == 7


async def test_fewer_slots_than_lanes_go_round():
    started = []

    async def do(item, place):
        await place.take()
        started.append(item)
        await asyncio.sleep(0)
        return True

    await finish(work_through([Lane(items(name, 4)) for name in "abc"], do, concurrency=1))
    assert sorted(started[:6], key=lambda item: item[1])[:3] == [(name, 0) for name in "abc"]


async def test_what_could_not_be_done_comes_first_the_next_time():
    tried = []

    async def do(item, place):
        await place.take()
        tried.append(item[1])
        return tried.count(item[1]) > item[1] % 3

    await finish(work_through([Lane(items("a", 4))], do, concurrency=1))
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

    await finish(work_through([Lane(items("a", 1))], do, concurrency=2))
    assert len(tried) == 3


async def test_items_that_need_no_gate_pass_a_shut_one():
    done = []

    async def do(item, place):
        await place.take()
        done.append(item)
        return True

    shut = Gate(0)
    await finish(
        work_through([Lane(items("a", 3), shut)], do, concurrency=1, gated=lambda _: False)
    )
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
        await finish(
            work_through([Lane(items("a", 9), gate), Lane(items("b", 1))], do, concurrency=4)
        )
    await asyncio.sleep(0)
    assert gate.inside == 0


@pytest.mark.parametrize("given", [False, True])
async def test_a_place_that_is_given_up_goes_to_another_item(given):
    """It is given up while it is waited for, or when the slot has just been given."""
    entered, places = [], []
    first, second = asyncio.Event(), asyncio.Event()
    gate = Gate(99)

    async def do(item, place):
        if item == 8:
            waiting = asyncio.ensure_future(place.take())
            await turns(20)
            assert not waiting.done()
            if given:
                places[0].leave()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return True
        await place.take()
        entered.append(item)
        places.append(place)
        await (first if item < 8 else second).wait()
        return True

    task = asyncio.ensure_future(work_through([Lane(count_up(40), gate)], do, concurrency=8))
    await turns(300)
    assert entered == [*range(8), *([9] if given else [])]
    first.set()
    await turns(300)
    # All eight slots are in use again.
    assert entered == [*range(8), *range(9, 17)]
    second.set()
    await finish(task)
    assert sorted(entered) == [*range(8), *range(9, 40)]
    assert gate.inside == 0


async def test_cancelling_gives_the_gates_back():
    gate = Gate(2)

    async def do(item, place):
        await place.take()
        await asyncio.sleep(60)
        return True

    work = asyncio.create_task(work_through([Lane(items("a", 9), gate)], do, concurrency=1))
    await turns(100)
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
    await finish(work_through([Lane(items("a", 8), gate)], do, concurrency=2))
    assert peak == 2
    assert len(kept) == 8
    assert gate.inside == 0
