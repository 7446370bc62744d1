"""Claims: which process executes a run, and what that changes."""

from __future__ import annotations

import asyncio

import pytest
from stores import a_run, answered, everything, some_samples

from evaluators.base import Answer, Cell, Score
from providers.errors import ConflictError, NotFoundError
from router.store.runs import Progress
from router.store.usage import EmbeddingUse


async def test_a_claim_counts_and_forgets_the_cells_in_flight(store, at):
    await store.add_run(a_run(interrupted=1), some_samples())
    await answered(store, Cell("r", "s0", 0))
    await store.begin("run_1", Cell("r", "s1", 0), "h", "t")
    await store.begin("run_1", Cell("r", "s2", 0), "h", "t")
    assert await at(100.0).claim_run("run_1", "me", 60.0)
    run = await store.run("run_1")
    assert (run.owner, run.heartbeat_at, run.interrupted) == ("me", 100.0, 3)
    assert await store.progress("run_1") == Progress(answered=1, failed=0, in_flight=0, scored=0)
    await store.begin("run_1", Cell("r", "s1", 0), "h", "t")  # may be asked again


async def test_a_live_owner_keeps_the_run_and_a_silent_one_loses_it(store, at):
    await store.add_run(a_run(), some_samples())
    assert await at(100.0).claim_run("run_1", "first", 60.0)
    await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
    assert not await at(159.0).claim_run("run_1", "second", 60.0)
    assert (await store.progress("run_1")).in_flight == 1
    assert await at(159.0).heartbeat("run_1", "first") == ""
    assert not await at(218.0).claim_run("run_1", "second", 60.0)
    assert await at(219.0).claim_run("run_1", "second", 60.0)
    assert await at(220.0).heartbeat("run_1", "first") is None
    assert (await store.run("run_1")).heartbeat_at == 219.0
    await store.update_run("run_1", owner="", heartbeat_at=None)
    assert await at(221.0).heartbeat("run_1", "second") is None
    assert await at(221.0).claim_run("run_1", "first", 60.0)


@pytest.mark.parametrize("state", ["paused", "completed", "failed", "cancelled"])
async def test_only_a_queued_or_running_run_can_be_claimed(store, state, at):
    await store.add_run(a_run(state=state), some_samples(3))
    assert not await at(1.0).claim_run("run_1", "me", 1.0)
    await at(2.0).requeue_run("run_1", 1.0, runner="server")
    assert await at(3.0).claim_run("run_1", "me", 1.0)
    assert (await store.run("run_1")).runner == "server"


async def test_a_replaced_owner_ends_nothing(store, at):
    await store.add_run(a_run(), some_samples(3))
    assert await at(100.0).claim_run("run_1", "first", 30.0)
    assert await at(131.0).claim_run("run_1", "second", 30.0)
    assert not await at(132.0).end_run("run_1", "first", state="failed")
    assert (await store.run("run_1")).owner == "second"
    assert await at(133.0).end_run("run_1", "second", state="completed", finished_at=133.0)
    run = await store.run("run_1")
    assert (run.state, run.owner, run.heartbeat_at, run.finished_at) == ("completed", "", None, 133)


async def test_the_time_that_a_run_took_adds_up_without_the_gaps(store, at):
    await store.add_run(a_run(), some_samples(3))
    await at(100.0).claim_run("run_1", "me", 30.0)
    await at(101.0).heartbeat("run_1", "me")
    await at(105.0).heartbeat("run_1", "me")
    await at(5000.0).heartbeat("run_1", "me")  # the machine slept: ten seconds at most
    await at(5001.0).end_run("run_1", "me", state="queued")
    assert (await store.run("run_1")).ran_s == pytest.approx(1 + 4 + 10 + 1)
    await at(9000.0).claim_run("run_1", "me", 30.0)
    await at(9002.0).heartbeat("run_1", "me")
    assert (await store.run("run_1")).ran_s == pytest.approx(18)


async def test_a_requested_state_reaches_the_owner_or_is_set_at_once(store, at):
    await store.add_run(a_run(), some_samples(3))
    await at(100.0).claim_run("run_1", "me", 30.0)
    requested = await at(101.0).request_state("run_1", "paused", 30.0)
    assert (requested.state, requested.wish, requested.owner) == ("queued", "paused", "me")
    assert await at(102.0).heartbeat("run_1", "me") == "paused"
    await at(103.0).request_state("run_1", "cancelled", 30.0)
    await at(104.0).request_state("run_1", "paused", 30.0)  # does not call a cancellation off
    assert await at(105.0).heartbeat("run_1", "me") == "cancelled"
    await at(106.0).end_run("run_1", "me", state="cancelled")
    assert (await store.run("run_1")).wish == ""
    await at(107.0).requeue_run("run_1", 30.0)
    done = await at(108.0).request_state("run_1", "paused", 30.0)
    assert (done.state, done.wish, done.finished_at) == ("paused", "", None)
    with pytest.raises(NotFoundError):
        await at(1.0).request_state("run_2", "paused", 1.0)


async def test_only_runs_of_servers_are_listed_as_unfinished(store):
    for n, (state, runner) in enumerate(
        [("queued", "server"), ("running", "server"), ("queued", "command"), ("paused", "server")]
    ):
        await store.add_run(a_run(f"run_{n}", state=state, runner=runner), some_samples(3))
    assert [run.id for run in await store.unfinished_runs()] == ["run_0", "run_1"]


async def test_a_cell_counts_how_often_it_was_in_flight_at_a_crash(store, at):
    await store.add_run(a_run(), some_samples(3))
    cell = Cell("a", "s1", 0)
    for now in (1.0, 2.0):
        await store.begin("run_1", cell, "h", "t")
        assert await at(now).claim_run("run_1", "me", 0.0)
    await answered(store, cell)
    await answered(store, Cell("a", "s2", 0))
    results = await everything(store.results("run_1"))
    assert {result.cell: result.interrupted for result in results} == {
        cell: 2,
        Cell("a", "s2", 0): 0,
    }
    assert (await store.run("run_1")).interrupted == 2
    await store.delete_run("run_1")
    await store.add_run(a_run("run_2"), some_samples(3))  # may get the number of the one deleted
    await store.begin("run_2", cell, "h", "t")
    [again] = await everything(store.results("run_2"))
    assert again.interrupted == 0


async def test_deaths_in_a_row_are_counted_until_there_is_progress(store, at):
    await store.add_run(a_run(), some_samples(3))
    deaths = []
    for owner in ("1", "2", "3"):
        await at(1.0).claim_run("run_1", owner, 0.0)
        deaths.append((await store.run("run_1")).deaths)
    await answered(store, Cell("a", "s0", 0))
    await at(1.0).claim_run("run_1", "4", 0.0)
    deaths.append((await store.run("run_1")).deaths)
    await at(1.0).claim_run("run_1", "5", 0.0)
    deaths.append((await store.run("run_1")).deaths)
    await at(1.0).end_run("run_1", "5", state="queued")  # which is no death
    await at(1.0).claim_run("run_1", "6", 0.0)
    deaths.append((await store.run("run_1")).deaths)
    assert deaths == [0, 1, 2, 0, 1, 0]


async def test_an_owner_that_was_only_asleep_is_refused(make_store, clock):
    """As after a SIGSTOP: another process has the run, and the first does not know."""
    asleep, other = make_store(), make_store()
    await asleep.open()
    await other.open()
    await asleep.add_run(a_run(), some_samples())
    assert await asleep.claim_run("run_1", "first", 30.0)
    begun, unscored = Cell("r", "s0", 0), Cell("r", "s1", 0)
    await asleep.begin("run_1", begun, "h", "t")
    await answered(asleep, unscored)
    clock.now += 31
    assert await other.claim_run("run_1", "second", 30.0)
    await other.begin("run_1", begun, "h", "t")
    use = EmbeddingUse(route="r", target="t", requests=1, failed=0, tokens=1, cost_usd=0.0,
                       unpriced=0, estimated=0)  # fmt: skip
    for refused in (
        asleep.keep_answer("run_1", begun, "h", Answer(text="late"), []),
        asleep.keep_scores("run_1", {unscored: [Score(output="o", value=1.0)]}),
        asleep.begin("run_1", Cell("r", "s2", 0), "h", "t"),
        asleep.withdraw("run_1", begun),
        asleep.update_run("run_1", state="failed"),
        asleep.add_embedding_use("run_1", use),
        asleep.unscore_some("run_1"),
    ):
        with pytest.raises(ConflictError, match="run_1 was taken over by another process"):
            await refused
    assert await other.progress("run_1") == Progress(answered=1, failed=0, in_flight=1, scored=0)
    await other.keep_answer("run_1", begun, "h", Answer(text="in time"), [])
    assert (await other.run("run_1")).state == "queued"
    assert await asleep.heartbeat("run_1", "first") is None
    assert not await asleep.end_run("run_1", "first", state="failed")
    await asleep.close()
    await other.close()


async def test_of_many_who_claim_at_once_one_gets_the_run(make_store):
    stores = [make_store() for _ in range(4)]
    for store in stores:
        await store.open()
    await stores[0].add_run(a_run(), some_samples())
    claims = [
        store.claim_run("run_1", f"owner {n} {again}", 30.0)
        for n, store in enumerate(stores)
        for again in range(4)
    ]
    assert sorted(await asyncio.gather(*claims)) == [False] * 15 + [True]
    for store in stores:
        await store.close()
