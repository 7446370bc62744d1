"""Work in the background that is done again and again."""

import asyncio
import logging

import pytest

from providers.errors import StoreError
from router.rounds import OFTEN_S, Rounds


class Work:
    """Fails as it is told, then has done all that it has to."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.done = asyncio.Event()
        self.is_cancelled = False

    async def __call__(self):
        if self.failures:
            if failure := self.failures.pop(0):
                raise failure
            return
        self.done.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise


def messages(caplog):
    return [record.message for record in caplog.records if record.name == "evalrouter"]


async def at_once(_seconds):
    await asyncio.sleep(0)


async def run(work, every):
    rounds = Rounds(work, every=every, name="work", failing="no work", sleep=at_once)
    rounds.open()
    await work.done.wait()
    await rounds.close()
    await rounds.close()
    assert work.is_cancelled


async def test_a_message_is_logged_once_until_a_round_succeeds(caplog):
    locked, full = StoreError("locked"), StoreError("full")
    await run(Work(locked, locked, full, None, full), 0.0)
    assert messages(caplog) == ["no work: locked", "no work: full", "no work: full"]


async def test_an_unexpected_failure_does_not_end_the_rounds(caplog):
    caplog.set_level(logging.ERROR)
    await run(Work(ValueError("a bug")), 0.0)
    assert messages(caplog) == ["no work"]
    assert "a bug" in caplog.text


async def test_the_wait_may_depend_on_the_round():
    waits = []
    await run(Work(None, None), lambda: waits.append(0) or 0.0)
    assert waits == [0, 0]


@pytest.mark.parametrize(("every", "times"), [(OFTEN_S, 2), (OFTEN_S - 1, 1)])
async def test_rare_rounds_log_a_message_each_time(caplog, every, times):
    await run(Work(StoreError("locked"), StoreError("locked")), every)
    assert messages(caplog) == ["no work: locked"] * times


@pytest.mark.parametrize("finishes", [True, False])
async def test_a_round_that_has_begun_is_finished_where_it_has_to_be(finishes):
    begun, may_end = asyncio.Event(), asyncio.Event()
    ended = []

    async def work():
        begun.set()
        await may_end.wait()
        ended.append(True)

    rounds = Rounds(work, every=0.0, name="work", failing="no work", finishes=finishes)
    rounds.open()
    await begun.wait()
    closing = asyncio.create_task(rounds.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert closing.done() is not finishes
    may_end.set()
    await closing
    assert ended == [True] * finishes
