"""Runs that are executed once more: resumed, scored again, extended."""

from __future__ import annotations

import pytest
from stores import a_run, answered, answered_cells, everything, failed, some_samples

from evaluators.base import Cell
from providers.errors import ConflictError, StoreError
from router.store.runs import Progress


async def test_a_run_under_way_is_not_queued_again(store, at):
    await store.add_run(a_run(), some_samples(3))
    await failed(store, Cell("a", "s0", 0))
    await at(100.0).claim_run("run_1", "me", 30.0)
    with pytest.raises(ConflictError):
        await at(110.0).requeue_run("run_1", 30.0, retry_failed=True)
    assert (await store.progress("run_1")).failed == 1
    await at(131.0).requeue_run("run_1", 30.0, retry_failed=True)
    assert (await store.progress("run_1")).failed == 0


async def test_errors_that_are_retried_empty_their_cells(store, at):
    await store.add_run(a_run(), some_samples())
    await answered(store, Cell("r", "s0", 0))
    await failed(store, Cell("r", "s1", 0))
    await failed(store, Cell("r", "s2", 0))
    assert await store.progress("run_1") == Progress(answered=1, failed=2, in_flight=0, scored=0)
    await at(1.0).requeue_run("run_1", 1.0, retry_failed=True)
    assert await answered_cells(store) == {Cell("r", "s0", 0)}
    assert await store.progress("run_1") == Progress(answered=1, failed=0, in_flight=0, scored=0)
    await failed(store, Cell("r", "s1", 0))


async def test_a_rescore_that_was_cut_off_continues_and_keeps_the_scores_of_both(store, at):
    count = 2500
    await store.add_run(a_run(dataset_rows=count, state="completed"), some_samples(count))
    for n in (0, 1500, 2499):
        await answered(store, Cell("a", f"s{n}", 0), "x", "y")
    await at(1.0).rescore_run("run_1", 1.0, keep_outputs=["y"])
    assert (await store.run("run_1")).only_scores
    assert await store.unscore_some("run_1")  # and then it dies
    await at(2.0).rescore_run("run_1", 1.0, keep_outputs=["x", "y"])
    steps = 1
    while await store.unscore_some("run_1"):
        steps += 1
    assert steps == 3
    assert (await store.progress("run_1")).scored == 0
    results = await everything(store.results("run_1"))
    assert [[score.output for score in result.scores] for result in results] == [["y"]] * 3
    assert not await store.unscore_some("run_1")


async def test_samples_are_added_all_or_nothing(store, at):
    await store.add_run(a_run(), some_samples(3))

    def broken():
        yield from some_samples(1500, start=3)
        raise StoreError("the file ends here")

    with pytest.raises(StoreError, match="the file ends here"):
        await at(1.0).extend_run("run_1", 1.0, samples=broken(), dataset_rows=1503)
    assert (await store.run("run_1")).dataset_rows == 3
    assert len(await everything(store.open_samples("run_1", 2))) == 3
    more = some_samples(2, start=3)
    await at(1.0).extend_run("run_1", 1.0, samples=more, dataset_rows=5, cells=10)
    assert await everything(store.samples("run_1")) == some_samples(5)
    with pytest.raises(ConflictError):  # the run was queued meanwhile
        await at(1.0).extend_run("run_1", 1.0, samples=some_samples(1, start=5), dataset_rows=9)
    await at(1.0).claim_run("run_1", "me", 1.0)
    assert await everything(store.samples("run_1")) == some_samples(5)
    with pytest.raises(ConflictError):
        await at(1.5).extend_run("run_1", 1.0, samples=some_samples(1, start=5), dataset_rows=6)
