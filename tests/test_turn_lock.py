"""Turns of threads: one at a time, in the order in which they came, whatever becomes of each."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.engines.turn_lock import TurnLock


def test_one_at_a_time():
    turns, inside, seen = TurnLock(), [], []

    def work(name):
        with turns.hold():
            for _ in range(50):
                inside.append(name)
                seen.append(len(inside))
                inside.remove(name)
                turns.next()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert seen == [1] * 400


def test_steps_alternate_once_all_are_there():
    turns, steps = TurnLock(), []
    begun = threading.Barrier(2)

    def second():
        begun.wait(10)
        with turns.hold():
            for _ in range(3):
                steps.append("b")
                turns.next()

    thread = threading.Thread(target=second)
    with turns.hold():
        thread.start()
        begun.wait(10)
        while not turns._waiting:
            pass
        for _ in range(3):
            steps.append("a")
            turns.next()
    thread.join(10)
    assert "".join(steps) == "ababab"


def test_a_turn_that_fails_is_handed_over():
    turns, done = TurnLock(), threading.Event()

    def other():
        with turns.hold():
            done.set()

    thread = threading.Thread(target=other)

    def fail():
        with turns.hold():
            thread.start()
            while not turns._waiting:
                pass
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert done.wait(10)
    thread.join()
    # And nothing is left of it.
    with turns.hold():
        turns.next()
