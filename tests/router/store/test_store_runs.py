"""What a Store promises about who carries a run out, what is left of it, and what is added."""

import sqlite3
from contextlib import closing

import pytest

from evaluators.base import Answer, Cell, Sample, Score
from providers.errors import ConflictError, NotFoundError, StoreError
from router.store.runs import Run, UnreadableRun
from router.store.sqlite import SqliteStore
from router.store.usage import Spent


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "store.db", clock=lambda: 1000.0)
    await store.open()
    yield store
    await store.close()


def a_run(run_id="run_1", rows=3, **fields):
    return Run(
        **{
            "id": run_id,
            "name": "a name",
            "state": "queued",
            "document": {"routes": ["a", "b"]},
            "dataset": "d.jsonl",
            "dataset_hash": "ab" * 32,
            "dataset_rows": rows,
            "metrics": {},
            "created_at": 12.5,
        }
        | fields
    )


def samples(count, start=0):
    return [
        Sample(id=f"s{n}", messages=({"role": "user", "content": f"ask {n}"},))
        for n in range(start, start + count)
    ]


async def answer(store, cell, *scores, text="text", **fields):
    await store.begin("run_1", cell, "h", "p/m")
    await store.keep_answer("run_1", cell, "h", Answer(text=text, target="p/m", **fields), [])
    if scores:
        kept = [Score(output=output, value=1.0) for output in scores]
        await store.keep_scores("run_1", cell, kept)


async def everything(iterator):
    return [item async for item in iterator]


@pytest.mark.parametrize("state", ["paused", "completed", "failed", "cancelled"])
async def test_a_run_that_is_not_to_be_done_cannot_be_claimed(store, state):
    await store.add_run(a_run(state=state), samples(3))
    assert not await store.claim_run("run_1", "me", 1.0, 1.0)
    await store.requeue_run("run_1", 2.0, 1.0, runner="server")
    assert await store.claim_run("run_1", "me", 3.0, 1.0)
    assert (await store.run("run_1")).runner == "server"


async def test_a_replaced_owner_ends_nothing(store):
    await store.add_run(a_run(), samples(3))
    assert await store.claim_run("run_1", "first", 100.0, 30.0)
    assert await store.claim_run("run_1", "second", 131.0, 30.0)
    assert not await store.end_run("run_1", "first", 132.0, state="failed")
    assert (await store.run("run_1")).owner == "second"
    assert await store.end_run("run_1", "second", 133.0, state="completed", finished_at=133.0)
    run = await store.run("run_1")
    assert (run.state, run.owner, run.heartbeat_at, run.finished_at) == ("completed", "", None, 133)


async def test_the_time_that_a_run_took_adds_up_without_the_gaps(store):
    await store.add_run(a_run(), samples(3))
    await store.claim_run("run_1", "me", 100.0, 30.0)
    await store.heartbeat("run_1", "me", 101.0)
    await store.heartbeat("run_1", "me", 105.0)
    await store.heartbeat("run_1", "me", 5000.0)  # the machine slept: ten seconds at most
    await store.end_run("run_1", "me", 5001.0, state="queued")
    assert (await store.run("run_1")).ran_s == pytest.approx(1 + 4 + 10 + 1)
    await store.claim_run("run_1", "me", 9000.0, 30.0)
    await store.heartbeat("run_1", "me", 9002.0)
    assert (await store.run("run_1")).ran_s == pytest.approx(18)


async def test_a_wish_reaches_the_owner_or_is_done_at_once(store):
    await store.add_run(a_run(), samples(3))
    await store.claim_run("run_1", "me", 100.0, 30.0)
    wished = await store.request_state("run_1", "paused", 101.0, 30.0)
    assert (wished.state, wished.wish, wished.owner) == ("queued", "paused", "me")
    assert await store.heartbeat("run_1", "me", 102.0) == "paused"
    await store.request_state("run_1", "cancelled", 103.0, 30.0)
    await store.request_state("run_1", "paused", 104.0, 30.0)  # does not call a cancellation off
    assert await store.heartbeat("run_1", "me", 105.0) == "cancelled"
    await store.end_run("run_1", "me", 106.0, state="cancelled")
    assert (await store.run("run_1")).wish == ""
    await store.requeue_run("run_1", 107.0, 30.0)
    done = await store.request_state("run_1", "paused", 108.0, 30.0)
    assert (done.state, done.wish, done.finished_at) == ("paused", "", None)
    with pytest.raises(NotFoundError):
        await store.request_state("run_2", "paused", 1.0, 1.0)


async def test_only_unfinished_runs_of_servers_are_to_be_taken_up(store):
    for n, (state, runner) in enumerate(
        [("queued", "server"), ("running", "server"), ("queued", "command"), ("paused", "server")]
    ):
        await store.add_run(a_run(f"run_{n}", state=state, runner=runner), samples(3))
    assert [run.id for run in await store.unfinished_runs()] == ["run_0", "run_1"]


@pytest.mark.parametrize(
    "damage",
    [
        "document = 'not JSON'",
        "document = x'00'",
        "document = CAST(x'7bff' AS TEXT)",
        "document = replace(printf('%2000s', ''), ' ', '[')",
        "metrics = NULL",
        "tags = '[1]'",
        "dataset_rows = 'many'",
        "heartbeat_at = 'late'",
    ],
)
async def test_a_run_that_cannot_be_read_hides_no_other(store, damage):
    for run_id in ("run_1", "run_2", "run_3"):
        await store.add_run(a_run(run_id, runner="server"), samples(3))
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(f"UPDATE runs SET {damage} WHERE id = 'run_2'")
    field = damage.split()[0]
    for runs in (await store.unfinished_runs(), (await store.runs())[::-1]):
        assert [run.id for run in runs] == ["run_1", "run_2", "run_3"]
        assert [isinstance(run, UnreadableRun) for run in runs] == [False, True, False]
        assert runs[1].state == "failed"
        assert field in runs[1].error
        assert "run_2" in runs[1].error
    unreadable = await store.run("run_2")
    assert (unreadable.name, unreadable.runner) == ("a name", "server")
    assert (await store.run("run_3")) == a_run("run_3", runner="server")
    # It can be given up and deleted.
    assert await store.claim_run("run_2", "me", 1.0, 1.0)
    assert await store.end_run("run_2", "me", 1.0, state="failed", error="it cannot be read")
    assert [run.id for run in await store.unfinished_runs()] == ["run_1", "run_3"]
    await store.delete_run("run_2")
    assert await store.run("run_2") is None


async def test_text_that_is_not_unicode_is_read_as_far_as_it_is(store):
    await store.add_run(a_run(runner="server"), samples(3))
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE runs SET name = CAST(x'61ff62' AS TEXT)")
    [run] = await store.unfinished_runs()
    assert run == a_run(name="a\\xffb", runner="server")


async def test_a_run_under_way_is_not_queued_again(store):
    await store.add_run(a_run(), samples(3))
    await answer(store, Cell("a", "s0", 0), text=None, error="no")
    await store.claim_run("run_1", "me", 100.0, 30.0)
    with pytest.raises(ConflictError):
        await store.requeue_run("run_1", 110.0, 30.0, retry_failed=True)
    assert (await store.progress("run_1")).failed == 1
    await store.requeue_run("run_1", 131.0, 30.0, retry_failed=True)
    assert (await store.progress("run_1")).failed == 0


async def test_a_cell_says_how_often_it_was_in_flight_at_a_crash(store):
    await store.add_run(a_run(), samples(3))
    cell = Cell("a", "s1", 0)
    for now in (1.0, 2.0):
        await store.begin("run_1", cell, "h", "t")
        assert await store.claim_run("run_1", "me", now, 0.0)
    await answer(store, cell)
    await answer(store, Cell("a", "s2", 0))
    found = {one.cell: one.interrupted for one in await everything(store.results("run_1"))}
    assert found == {cell: 2, Cell("a", "s2", 0): 0}
    assert (await store.run("run_1")).interrupted == 2
    await store.delete_run("run_1")
    await store.add_run(a_run("run_2"), samples(3))  # may get the number of the one deleted
    await store.begin("run_2", cell, "h", "t")
    [again] = await everything(store.results("run_2"))
    assert again.interrupted == 0


async def test_deaths_in_a_row_are_counted_until_there_is_progress(store):
    await store.add_run(a_run(), samples(3))
    found = []
    for owner in ("1", "2", "3"):
        await store.claim_run("run_1", owner, 1.0, 0.0)
        found.append((await store.run("run_1")).deaths)
    await answer(store, Cell("a", "s0", 0))
    await store.claim_run("run_1", "4", 1.0, 0.0)
    found.append((await store.run("run_1")).deaths)
    await store.claim_run("run_1", "5", 1.0, 0.0)
    found.append((await store.run("run_1")).deaths)
    await store.end_run("run_1", "5", 1.0, state="queued")  # which is no death
    await store.claim_run("run_1", "6", 1.0, 0.0)
    found.append((await store.run("run_1")).deaths)
    assert found == [0, 1, 2, 0, 1, 0]


async def test_open_samples_are_those_with_something_left_to_do(store):
    await store.add_run(a_run(rows=1203), samples(1203))
    await answer(store, Cell("a", "s0", 0), "x")
    await answer(store, Cell("b", "s0", 0), text=None, error="no")
    await answer(store, Cell("a", "s1", 0), "x")
    await answer(store, Cell("b", "s1", 0))
    await store.begin("run_1", Cell("a", "s2", 0), "h", "t")
    found = await everything(store.open_samples("run_1", 2))
    assert [one.sample for one in found] == samples(1202, start=1)
    assert found[0].settled == {("a", 0)}
    assert found[0].unscored["b", 0].answer.text == "text"
    assert (found[1].settled, found[1].unscored) == (frozenset(), {})


async def test_what_a_run_spent_leaves_out_what_was_cached(store):
    await store.add_run(a_run(), samples(3))
    await answer(store, Cell("a", "s0", 0), cost_usd=0.25)
    await answer(store, Cell("a", "s1", 0), cost_usd=0.5, cached=True)
    await answer(store, Cell("a", "s2", 0))
    assert await store.spent("run_1") == Spent(cost_usd=0.25, tokens=0)


async def test_a_rescore_cut_off_goes_on_and_keeps_what_it_may(store):
    count = 2500
    await store.add_run(a_run(rows=count, state="completed"), samples(count))
    for n in (0, 1500, 2499):
        await answer(store, Cell("a", f"s{n}", 0), "x", "y")
    await store.rescore_run("run_1", 1.0, 1.0, keep_outputs=["y"])
    assert (await store.run("run_1")).only_scores
    assert await store.unscore_some("run_1")  # and then it dies
    await store.rescore_run("run_1", 2.0, 1.0, keep_outputs=["x", "y"])
    steps = 1
    while await store.unscore_some("run_1"):
        steps += 1
    assert steps == 3
    assert (await store.progress("run_1")).scored == 0
    found = await everything(store.results("run_1"))
    assert [[score.output for score in one.scores] for one in found] == [["y"]] * 3
    assert not await store.unscore_some("run_1")


async def test_samples_are_added_all_or_nothing(store):
    await store.add_run(a_run(), samples(3))

    def broken():
        yield from samples(1500, start=3)
        raise StoreError("the file ends here")

    with pytest.raises(StoreError, match="the file ends here"):
        await store.extend_run("run_1", 1.0, 1.0, samples=broken(), dataset_rows=1503)
    assert (await store.run("run_1")).dataset_rows == 3
    assert len(await everything(store.open_samples("run_1", 2))) == 3
    more = samples(2, start=3)
    await store.extend_run("run_1", 1.0, 1.0, samples=more, dataset_rows=5, cells=10)
    assert await everything(store.samples("run_1")) == samples(5)
    with pytest.raises(ConflictError):  # somebody else was quicker
        await store.extend_run("run_1", 1.0, 1.0, samples=samples(1, start=5), dataset_rows=9)
    await store.claim_run("run_1", "me", 1.0, 1.0)
    assert await everything(store.samples("run_1")) == samples(5)
    with pytest.raises(ConflictError):
        await store.extend_run("run_1", 1.5, 1.0, samples=samples(1, start=5), dataset_rows=6)


async def test_each_result_is_handed_over_in_order(store):
    await store.add_run(a_run(rows=700), samples(700))
    for n in range(700):
        await answer(store, Cell("a", f"s{n}", 0), "x")
    taken = []
    await store.each_result("run_1", taken.append)
    assert taken == await everything(store.results("run_1"))
    with pytest.raises(NotFoundError):
        await store.each_result("run_2", taken.append)
