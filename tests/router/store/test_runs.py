"""Runs: what any store promises."""

from __future__ import annotations

import tracemalloc

import pytest
from stores import a_run, answered, answered_cells, everything, some_samples

from evaluators.base import Answer, Cell, Sample, Score
from providers.errors import (
    ConflictError,
    NotFoundError,
    RequestError,
    RunDocumentError,
    StoreError,
)
from router.store.datasets import DatasetRow
from router.store.runs import SORT_FIELDS, Progress, RunFilter, RunOrder


async def test_a_run_comes_back_as_it_went_in(store):
    run = a_run(
        state="failed",
        started_at=13.25,
        finished_at=14.75,
        cells=6,
        interrupted=2,
        error='it "broke" 😕',
        owner="me",
        heartbeat_at=15.5,
        versions={"evalrouter": "0.1"},
    )
    await store.add_run(run, [])
    assert await store.run("run_1") == run
    await store.add_run(a_run("run_2"), [])
    assert await store.run("run_2") == a_run("run_2")


async def test_rows_outlive_the_store(make_store):
    first = make_store()
    await first.open()
    await first.add_run(a_run(), some_samples())
    await answered(first, Cell("r", "s0", 0))
    await first.close()
    second = make_store()
    await second.open()
    assert await second.run("run_1") == a_run()
    assert await answered_cells(second) == {Cell("r", "s0", 0)}
    await second.close()


async def test_a_unique_prefix_finds_a_run_and_an_ambiguous_one_is_an_error(store):
    for run_id in ("run_ab", "run_abc", "run_b%", "run_bx"):
        await store.add_run(a_run(run_id), [])
    assert (await store.run("run_abc")).id == "run_abc"
    assert (await store.run("run_ab")).id == "run_ab"  # exact wins over run_abc
    assert (await store.run("run_b%")).id == "run_b%"
    assert await store.run("run_c") is None
    assert await store.run("") is None
    with pytest.raises(NotFoundError, match="several runs begin with 'run_a': run_ab, run_abc"):
        await store.run("run_a")


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("by", SORT_FIELDS)
async def test_runs_are_sorted_and_paged_by_what_they_are_sorted_by(store, by, descending):
    values = [("b", "failed", 3.5, 0.5), ("a", "queued", None, None), ("B", "failed", 1.0, 0.0),
              ("a", "running", None, 2.0), ("", "completed", 3.5, None)]  # fmt: skip
    for n, (name, state, finished_at, cost_usd) in enumerate(values):
        fields = {"name": name, "state": state, "finished_at": finished_at, "cost_usd": cost_usd}
        fields |= {"ran_s": n % 2 * 0.1, "dataset_rows": n // 2, "experiment": "e" if n else ""}
        run = a_run(f"run_{n}", **fields)
        await store.add_run(run, [])
    order = RunOrder.parse(f"{'-' if descending else ''}{by}")
    assert order == RunOrder(by, descending)

    def place(run):
        value = getattr(run, SORT_FIELDS[by])
        return value is not None, value, run.id

    for matching in (RunFilter(), RunFilter(experiment="e")):
        every = await store.runs(matching, order=order)
        assert len(every) == (5 if matching.experiment is None else 4)
        assert every == sorted(every, key=place, reverse=descending)
        paged, before = [], None
        while some := await store.runs(matching, limit=2, before=before, order=order):
            paged += some
            before = order.key(some[-1])
        assert paged == every


@pytest.mark.parametrize(
    ("sort", "before"),
    [
        ("name", "run_1"),
        ("name", "run_1~1"),
        ("cost", 'run_1~"much"'),
        ("cost", "run_1~1e999"),
        ("samples", "run_1~99999999999999999999"),
        ("finished", "run_1~nan"),
        ("duration", "run_1~null"),
    ],
)
async def test_what_is_no_key_of_an_order_is_refused(store, sort, before):
    with pytest.raises(RequestError, match="before is `next`"):
        await store.runs(before=before, order=RunOrder.parse(sort))
    with pytest.raises(RequestError, match="sort is one of"):
        RunOrder.parse("colour")


async def test_runs_are_listed_newest_first_in_pages(store):
    for i in range(5):
        await store.add_run(a_run(f"run_{i}", state="completed" if i % 2 else "queued"), [])
    assert [run.id for run in await store.runs(limit=2)] == ["run_4", "run_3"]
    assert [run.id for run in await store.runs(limit=2, before="run_3")] == ["run_2", "run_1"]
    assert [run.id for run in await store.runs(RunFilter(state="completed"))] == ["run_3", "run_1"]


async def test_an_id_is_taken_once(store):
    await store.add_run(a_run(), some_samples(1))
    with pytest.raises(StoreError, match="there is a run 'run_1' already"):
        await store.add_run(a_run(name="other"), [])
    assert (await store.run("run_1")).name == "a name"
    assert len(await everything(store.samples("run_1"))) == 1


async def test_a_run_with_bad_samples_leaves_nothing(store):
    twice = [*some_samples(1500), *some_samples(1)]
    with pytest.raises(StoreError, match="same id"):
        await store.add_run(a_run(), twice)
    assert await store.run("run_1") is None
    assert await store.runs() == []
    await store.add_run(a_run(), some_samples(2))  # the id is free again
    assert [sample.id for sample in await everything(store.samples("run_1"))] == ["s0", "s1"]


async def test_a_run_over_rows_that_were_deleted_meanwhile_leaves_nothing(store):
    version = DatasetRow(
        name="d", hash="h1", path="p", format="jsonl", rows=2, columns=(), created_at=1.0
    )
    await store.add_dataset(version)
    await store.add_run(a_run(), some_samples(2), registered="h1")
    await store.replace_versions("h1", [], ())
    other = a_run("run_2")
    with pytest.raises(ConflictError, match="deleted while the run was created"):
        await store.add_run(other, some_samples(2), registered="h1")
    assert [run.id for run in await store.runs()] == ["run_1"]
    await store.add_run(other, some_samples(2))


async def test_samples_that_fail_on_their_way_leave_nothing(store):
    def samples():
        yield from some_samples(1500)
        raise RunDocumentError("row 1501 is bad", param="dataset")

    with pytest.raises(RunDocumentError, match="row 1501"):
        await store.add_run(a_run(), samples())
    assert await store.runs() == []


async def test_samples_are_taken_as_they_are_written(store):
    """Neither many samples nor large ones pile up between the file and the database."""
    taken = []

    def samples():
        for n in range(12):
            taken.append(n)
            yield Sample(id=f"s{n}", messages=(), fields={"x": "y" * 4_000_000}, answer=f"a{n}")

    tracemalloc.start()
    try:
        await store.add_run(a_run(), samples())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken == list(range(12))
    assert peak < 40_000_000
    stored = await everything(store.samples("run_1"))
    assert [(sample.id, sample.answer) for sample in stored] == [
        (f"s{n}", f"a{n}") for n in range(12)
    ]


async def test_fields_of_a_run_change(store):
    await store.add_run(a_run(), [])
    await store.update_run("run_1", state="running", started_at=20, versions={"a": "1"})
    assert await store.run("run_1") == a_run(state="running", started_at=20.0, versions={"a": "1"})
    with pytest.raises(StoreError, match=r"no field 'stat' .*'state'"):
        await store.update_run("run_1", stat="running")
    with pytest.raises(StoreError, match="cannot be 'odd'"):
        await store.update_run("run_1", error="x", state="odd")
    assert (await store.run("run_1")).error == ""
    with pytest.raises(NotFoundError, match="no run 'run_2'"):
        await store.update_run("run_2", state="running")


async def test_deleting_a_run_leaves_the_others(store):
    for run_id in ("run_1", "run_2"):
        await store.add_run(a_run(run_id), some_samples(1200))
        await answered(store, Cell("r", "s0", 0), run_id=run_id)
        await store.keep_scores(run_id, {Cell("r", "s0", 0): [Score(output="o", value=1.0)]})
    await store.delete_run("run_1")
    assert await store.run("run_1") is None
    assert [run.id for run in await store.runs()] == ["run_2"]
    assert (await store.progress("run_2")).scored == 1
    assert len(await everything(store.samples("run_2"))) == 1200
    with pytest.raises(NotFoundError):
        await store.delete_run("run_1")
    await store.add_run(a_run("run_1"), some_samples())
    assert await store.progress("run_1") == Progress(answered=0, failed=0, in_flight=0, scored=0)


async def test_an_unknown_run_is_an_error_not_an_empty_list(store):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    for missing in (
        everything(store.samples("run_")),
        everything(store.results("run_")),
        store.progress("run_"),
        everything(store.open_samples("run_", 1)),
        store.begin("run_", cell, "h", "t"),
        store.keep_answer("run_", cell, "h", Answer(text="a"), []),
        store.keep_scores("run_", {cell: []}),
        store.claim_run("run_", "me", 1.0),
    ):
        with pytest.raises(NotFoundError, match="there is no run 'run_'"):
            await missing
    with pytest.raises(NotFoundError, match="run 'run_1' has no sample 's9'"):
        await store.begin("run_1", Cell("r", "s9", 0), "h", "t")
