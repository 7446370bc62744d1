"""The window of requests at a target: how it grows, shrinks, pauses, and whom it lets in."""

import asyncio
import gc
import time
import weakref

import pytest

from providers.errors import TargetBusyError, UpstreamStatusError, UpstreamTimeoutError
from router.evals.concurrency import LONGEST_PAUSE_S, MAX_START, START, TRIES, Pacing, Window
from router.gateway.routing import MAX_TARGETS
from router.records import Target

TARGET = Target("up", "m")


class Clock:
    """Time that only the test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def window_of(clock, *, size, in_flight):
    window = Window(start=size, clock=clock, random=lambda: 1.0)
    window.in_flight = in_flight
    return window


def a_round(window, clock):
    """Every place is used, and every request answered."""
    clock.now += 1
    sent_at, full = clock.now, int(window.size)
    clock.now += 1
    for _ in range(full):
        window.in_flight = int(window.size)
        window.succeeded(sent_at)


def test_it_doubles_each_round_until_the_first_refusal_then_grows_by_one(clock):
    window = window_of(clock, size=4, in_flight=4)
    clock.now += 1
    for _ in range(4):
        # The window stays full: for each that is answered, two are sent.
        window.succeeded(100.5)
        window.in_flight = int(window.size)
    assert window.size == 8

    window.refused(clock.now, None)
    assert window.size == 4
    a_round(window, clock)
    assert 4.9 < window.size <= 5
    a_round(window, clock)
    assert 5.6 < window.size <= 6


def test_it_begins_with_what_a_run_expects_of_the_target(clock):
    window = window_of(clock, size=16, in_flight=0)
    window.expect(64)
    assert window.size == 64
    window.expect(8)
    assert window.size == 64
    window.expect(1024)
    assert window.size == MAX_START


async def test_whoever_waits_is_let_in_when_more_is_expected(clock):
    window = window_of(clock, size=1, in_flight=1)
    entering = asyncio.ensure_future(window.enter())
    await asyncio.sleep(0)
    assert not entering.done()
    window.expect(2)
    await entering
    assert window.in_flight == 2


def test_a_target_that_has_refused_is_believed_more_than_a_run(clock):
    window = window_of(clock, size=8, in_flight=8)
    clock.now += 1
    window.refused(100.5, None)
    window.expect(64)
    assert window.size == 4


def test_it_does_not_grow_while_it_is_not_used(clock):
    window = window_of(clock, size=8, in_flight=7)
    clock.now += 1
    window.succeeded(100.5)
    assert window.size == 8


def test_many_refusals_of_one_episode_shrink_it_once(clock):
    window = window_of(clock, size=32, in_flight=32)
    sent = [100 + n / 100 for n in range(32)]
    clock.now += 5
    for sent_at in sent:
        window.refused(sent_at, 2.0)
    assert (window.size, window.episodes) == (16, 1)
    # Sent after the decrease: the smaller window is too large as well.
    window.in_flight = 16
    window.refused(clock.now + 1, 2.0)
    assert (window.size, window.episodes) == (8, 2)


def test_it_shrinks_from_what_was_in_flight_and_never_below_one(clock):
    window = window_of(clock, size=64, in_flight=6)
    window.refused(100.0, None)
    assert window.size == 3
    for n in range(10):
        clock.now += 100
        window.in_flight = 1
        window.refused(clock.now - 1 + n / 100, None)
    assert window.size == 1


def test_answers_to_requests_of_before_a_refusal_do_not_let_it_grow(clock):
    window = window_of(clock, size=8, in_flight=8)
    window.refused(100.0, None)
    window.succeeded(100.0)
    assert window.size == 4


def test_failures_pause_growth_and_do_not_shrink_it(clock):
    window = window_of(clock, size=8, in_flight=8)
    clock.now += 1
    window.failed()
    window.succeeded(100.5)
    assert window.size == 8
    clock.now += 1
    window.succeeded(101.5)
    assert window.size == 9


def test_without_a_retry_after_pauses_double_until_an_answer(clock):
    window, pauses = window_of(clock, size=4, in_flight=4), []
    for _ in range(8):
        clock.now += 200
        window.refused(clock.now - 1, None)
        pauses.append(window.paused_until - clock.now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    clock.now += 100
    window.succeeded(clock.now)
    clock.now += 1
    window.refused(clock.now, None)
    assert window.paused_until == clock.now + 1


def test_a_late_refusal_of_the_same_episode_still_prolongs_the_pause(clock):
    window = window_of(clock, size=8, in_flight=8)
    window.refused(100.0, 1.0)
    window.refused(100.0, 30.0)
    assert (window.size, window.paused_until) == (4, 130.0)


async def test_who_waits_gets_in_as_places_are_given_back_in_order():
    window, entered = Window(start=2), []

    async def enter(name):
        await window.enter()
        entered.append(name)

    await window.enter()
    await window.enter()
    tasks = [asyncio.create_task(enter(n)) for n in range(4)]
    await asyncio.sleep(0)
    assert entered == []
    window.leave()
    await asyncio.gather(tasks[0])
    # One that waits no more gives its turn to the next.
    tasks[1].cancel()
    window.leave()
    await asyncio.gather(tasks[2])
    assert entered == [0, 2]
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert window.in_flight == 2


def status(code, body=b"{}", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamStatusError(code, body, named, "no")


BUSY = TargetBusyError("full", retry_after=9)


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (BUSY, 0.0),
        (status(429), 0.0),
        (status(429, retry_after="7"), 7.0),
        (status(429, retry_after="1.5"), 1.5),
        (status(429, retry_after_ms="250", retry_after="9"), 0.25),
        (status(429, retry_after="Thu, 01 Jan 1970 00:16:50 GMT"), 10.0),
        (status(429, retry_after="soon"), 0.0),
        (status(429, retry_after=str(LONGEST_PAUSE_S)), LONGEST_PAUSE_S),
        (status(429, retry_after=str(LONGEST_PAUSE_S + 1)), None),
        (status(429, x_should_retry="False", retry_after="7"), None),
        (status(429, x_should_retry="true", retry_after="7"), 7.0),
        (status(429, b'{"error": {"message": "x", "code": "insufficient_quota"}}'), None),
        (status(503, retry_after="7"), None),
        (UpstreamTimeoutError("slow", phase="total"), None),
    ],
)
def test_what_is_worth_waiting_for(error, wait):
    assert Pacing(now=lambda: 1000.0).wait_of(error) == wait


async def test_the_dispatchers_word_reaches_the_targets_window():
    pacing = Pacing()
    window = pacing.window(TARGET)
    before = window.size
    await window.enter()
    loop = asyncio.get_running_loop()
    pacing.ended(TARGET, status(429, retry_after="0.01"), loop.time())
    assert window.size < before
    assert window.paused_until > loop.time() - 0.01
    pacing.ended(Target("up", "other"), status(429), loop.time())
    assert pacing.window(TARGET).episodes == 1


def test_what_documents_and_reports_name():
    assert (START, MAX_START, LONGEST_PAUSE_S, TRIES) == (16, 256, 600.0, 10)


def test_a_window_at_first(clock):
    window = Window()
    assert (window.size, window.in_flight, window.episodes, window.paused_until) == (16, 0, 0, 0)
    # A clock that has just begun, and answers of its first moment, count as well.
    clock.now = 0.0
    window = window_of(clock, size=2, in_flight=2)
    window.succeeded(0.0)
    assert window.size == 3


@pytest.mark.parametrize(
    ("size", "in_flight", "grown"),
    [(4, 4, 5), (4, 9, 5), (4, 3, 4), (4.9, 4, 5.9), (1, 0, 1), (1, 1, 2)],
)
def test_growth_by_one_answer(clock, size, in_flight, grown):
    window = window_of(clock, size=size, in_flight=in_flight)
    window.succeeded(100.0)
    assert window.size == pytest.approx(grown)


@pytest.mark.parametrize(("sent_at", "size"), [(99.0, 4), (100.0, 4), (100.1, 4.25), (200.0, 4.25)])
def test_growth_after_a_refusal_is_by_a_part_of_one(clock, sent_at, size):
    window = window_of(clock, size=8, in_flight=8)
    window.refused(100.0, None)
    window.succeeded(sent_at)
    assert window.size == size


@pytest.mark.parametrize(("sent_at", "size"), [(99.0, 8), (100.0, 8), (100.1, 9)])
def test_growth_after_a_failure(clock, sent_at, size):
    window = window_of(clock, size=8, in_flight=8)
    window.failed()
    window.succeeded(sent_at)
    assert window.size == size


@pytest.mark.parametrize(
    ("size", "in_flight", "shrunk"), [(8, 8, 4), (8, 6, 3), (8, 9, 4), (3, 3, 1.5), (1, 1, 1)]
)
def test_shrinking(clock, size, in_flight, shrunk):
    window = window_of(clock, size=size, in_flight=in_flight)
    window.refused(100.0, None)
    assert (window.size, window.episodes) == (shrunk, 1)


@pytest.mark.parametrize(
    ("random", "pauses"), [(0.0, [0.5, 1, 2, 4]), (0.5, [0.75, 1.5, 3, 6]), (1.0, [1, 2, 4, 8])]
)
def test_pauses_have_jitter(clock, random, pauses):
    window = Window(start=4, clock=clock, random=lambda: random)
    seen = []
    for _ in pauses:
        clock.now += 200
        window.refused(clock.now, None)
        seen.append(window.paused_until - clock.now)
    assert seen == pauses


def test_a_shorter_pause_takes_nothing_from_a_longer_one(clock):
    window = window_of(clock, size=8, in_flight=8)
    window.refused(100.0, 30.0)
    window.refused(100.0, 1.0)
    clock.now += 1
    window.refused(101.0, None)
    assert window.paused_until == 130.0


async def test_nobody_enters_during_a_pause(clock):
    window = window_of(clock, size=8, in_flight=0)
    window.paused_until = clock.now + 0.01
    entering = asyncio.ensure_future(window.enter())
    await asyncio.sleep(0.03)
    assert not entering.done()
    clock.now += 1
    await asyncio.wait_for(entering, 5)
    assert window.in_flight == 1


async def test_a_pause_that_is_over_holds_up_nobody(clock):
    window = window_of(clock, size=1, in_flight=0)
    window.paused_until = clock.now
    await asyncio.wait_for(window.enter(), 5)
    assert window.in_flight == 1


async def waiters(window, count):
    """Tasks that enter, in this order, and the list of those that have."""
    entered = []

    async def enter(n):
        await window.enter()
        entered.append(n)

    tasks = [asyncio.create_task(enter(n)) for n in range(count)]
    await asyncio.sleep(0)
    return tasks, entered


async def test_a_full_window_wakes_nobody():
    window = Window(start=1)
    await window.enter()
    tasks, entered = await waiters(window, 3)
    window.expect(1)
    await asyncio.sleep(0)
    for _ in tasks:
        window.leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    # In the order in which they came, although all were woken or might have been.
    assert entered == [0, 1, 2]
    assert window.in_flight == 1


async def test_a_wider_window_wakes_as_many_as_fit():
    window = Window(start=1)
    await window.enter()
    tasks, entered = await waiters(window, 4)
    window.expect(4)
    await asyncio.gather(*tasks[:3])
    await asyncio.sleep(0)
    assert (entered, window.in_flight) == ([0, 1, 2], 4)
    window.leave()
    await tasks[3]
    window.leave()
    assert window.in_flight == 3


async def test_growth_wakes_who_waits(clock):
    window = window_of(clock, size=1, in_flight=1)
    tasks, entered = await waiters(window, 1)
    window.succeeded(100.0)
    await tasks[0]
    assert entered == [0]


async def test_a_turn_that_comes_as_its_waiter_leaves_is_passed_on():
    window = Window(start=1)
    await window.enter()
    tasks, entered = await waiters(window, 2)
    window.leave()
    tasks[0].cancel()
    await asyncio.wait_for(tasks[1], 5)
    assert (entered, window.in_flight) == ([1], 1)
    assert tasks[0].cancelled()


async def test_whoever_comes_back_at_once_goes_to_the_end_of_the_queue():
    window, entered = Window(start=1), []

    async def send(name, times):
        for _ in range(times):
            await window.enter()
            entered.append(name)
            await asyncio.sleep(0)
            window.leave()

    await asyncio.wait_for(asyncio.gather(send("a", 3), send("b", 2), send("c", 1)), 5)
    assert entered == ["a", "b", "c", "a", "b", "a"]
    assert window.in_flight == 0


async def test_a_pause_lets_in_those_who_waited_in_their_order(clock):
    window = window_of(clock, size=1, in_flight=0)
    window.paused_until = clock.now + 0.01
    tasks, entered = await waiters(window, 3)
    clock.now += 1
    for task in tasks:
        await asyncio.wait_for(task, 5)
        window.leave()
    assert (entered, window.in_flight) == ([0, 1, 2], 0)


async def test_a_pause_that_begins_as_a_turn_comes_is_waited_out(clock):
    window = window_of(clock, size=1, in_flight=1)
    tasks, entered = await waiters(window, 1)
    window.leave()
    window.paused_until = clock.now + 0.01
    await asyncio.sleep(0.03)
    assert entered == []
    clock.now += 1
    await asyncio.wait_for(tasks[0], 5)
    assert (entered, window.in_flight) == ([0], 1)


async def test_who_leaves_during_a_pause_keeps_no_place_in_the_queue(clock):
    window = window_of(clock, size=1, in_flight=0)
    window.paused_until = clock.now + 0.01
    tasks, entered = await waiters(window, 2)
    tasks[0].cancel()
    clock.now += 1
    await asyncio.wait_for(tasks[1], 5)
    assert (entered, window.in_flight) == ([1], 1)
    assert tasks[0].cancelled()


async def test_who_comes_as_a_pause_is_over_is_behind_those_who_waited(clock):
    window = window_of(clock, size=1, in_flight=0)
    window.paused_until = clock.now + 60
    tasks, entered = await waiters(window, 1)
    # Over, and nobody has been let in yet.
    clock.now += 61
    late = asyncio.ensure_future(window.enter())
    await asyncio.wait_for(tasks[0], 5)
    assert (entered, window.in_flight, late.done()) == ([0], 1, False)
    window.leave()
    await asyncio.wait_for(late, 5)


def full(pacing):
    window = pacing.window(TARGET)
    window.in_flight = int(window.size)
    return window


@pytest.mark.parametrize(
    ("error", "grows"),
    [
        (UpstreamTimeoutError("slow", phase="total"), False),
        (status(500), False),
        (status(503), False),
        # What the target refuses says nothing about how much it takes.
        (status(499), True),
        (status(404), True),
        (status(429, x_should_retry="false"), True),
        (None, True),
    ],
)
def test_how_a_request_ended(error, grows):
    pacing = Pacing()
    window = full(pacing)
    sent_at = time.monotonic()
    pacing.ended(TARGET, error, sent_at)
    before = window.size
    window.in_flight = int(before)
    pacing.ended(TARGET, None, sent_at)
    assert (window.size > before) is grows
    assert window.episodes == 0
    assert pacing.window(TARGET) is window


@pytest.mark.parametrize(
    ("error", "low", "high"),
    [(status(429), 0.5, 1), (BUSY, 0.5, 1), (status(429, retry_after="30"), 30, 30)],
)
def test_how_long_a_refusal_pauses(error, low, high):
    pacing = Pacing()
    window = full(pacing)
    before = time.monotonic()
    pacing.ended(TARGET, error, before)
    after = time.monotonic()
    assert before + low <= window.paused_until <= after + high
    assert window.size == 8


def test_the_windows_of_many_targets_are_bounded_and_those_of_runs_stay():
    pacing = Pacing()
    held = pacing.window(TARGET)
    forgotten = weakref.ref(pacing.window(Target("up", "other")))
    for n in range(MAX_TARGETS):
        pacing.window(Target("up", f"n{n}"))
    gc.collect()
    assert forgotten() is None
    assert pacing.window(TARGET) is held


def test_a_known_target_makes_no_other_be_forgotten():
    pacing = Pacing()
    oldest = weakref.ref(pacing.window(TARGET))
    for n in range(MAX_TARGETS - 1):
        pacing.window(Target("up", f"n{n}"))
    pacing.window(Target("up", "n0"))
    gc.collect()
    assert oldest() is not None
