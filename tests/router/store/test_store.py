"""What any Store promises (the tests that take `store`), then what SqliteStore promises beyond."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
from sqlite_utils import Database

from evaluators.base import Answer, Cell, Sample, Score, Usage
from evaluators.data.columns import Column
from providers.errors import NotFoundError, RunDocumentError, StoreError, StoreUnavailableError
from router.store.datasets import DatasetRow
from router.store.protocol import Store
from router.store.runs import Progress, Run, RunFilter
from router.store.sqlite import SqliteStore
from router.store.sqlite.migrations import STEPS, migrate
from router.store.sqlite.runs import ABANDONED_S
from router.store.usage import EmbeddingUse

ROOT = Path(__file__).parents[3]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite"])
def make_store(request, tmp_path, clock) -> Callable[[], Store]:
    """Makes stores over the same data; a later back end adds a param and a branch."""
    assert request.param == "sqlite"
    return lambda: SqliteStore(tmp_path / "store.db", clock=clock)


@pytest.fixture
async def store(make_store):
    store = make_store()
    await store.open()
    yield store
    await store.close()


def a_run(run_id: str = "run_1", **fields) -> Run:
    return Run(
        **{
            "id": run_id,
            "name": "a name",
            "state": "queued",
            "document": {"routes": ["r"], "parameters": {"temperature": 0.5, "stop": None}},
            "dataset": "d.jsonl",
            "dataset_hash": "ab" * 32,
            "dataset_rows": 3,
            "metrics": {"rouge": "rouge|v1"},
            "created_at": 12.5,
        }
        | fields
    )


def some_samples(n: int = 3) -> list[Sample]:
    return [
        Sample(id=f"s{i}", messages=({"role": "user", "content": f"ask {i}"},)) for i in range(n)
    ]


async def everything(iterator) -> list:
    return [item async for item in iterator]


async def answered_cells(store: Store) -> set[Cell]:
    return {one.cell async for one in store.results("run_1") if one.answer is not None}


async def answered(store: Store, cell: Cell, text: str = "text", run_id: str = "run_1") -> None:
    await store.begin(run_id, cell, "hash", "p/m")
    await store.keep_answer(run_id, cell, "hash", Answer(text=text, target="p/m"), [])


async def failed(store: Store, cell: Cell, run_id: str = "run_1") -> None:
    await store.begin(run_id, cell, "hash", "p/m")
    await store.keep_answer(run_id, cell, "hash", Answer(text=None, error="it is down"), [])


# runs


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


async def test_what_was_kept_outlives_the_store(make_store):
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


async def test_a_unique_prefix_finds_a_run_and_an_ambiguous_one_says_so(store):
    for run_id in ("run_ab", "run_abc", "run_b%", "run_bx"):
        await store.add_run(a_run(run_id), [])
    assert (await store.run("run_abc")).id == "run_abc"
    assert (await store.run("run_ab")).id == "run_ab"  # exact wins over run_abc
    assert (await store.run("run_b%")).id == "run_b%"
    assert await store.run("run_c") is None
    assert await store.run("") is None
    with pytest.raises(NotFoundError, match="several runs begin with 'run_a': run_ab, run_abc"):
        await store.run("run_a")


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
    found = await everything(store.samples("run_1"))
    assert [(one.id, one.answer) for one in found] == [(f"s{n}", f"a{n}") for n in range(12)]


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
        await store.keep_scores(run_id, Cell("r", "s0", 0), [Score(output="o", value=1.0)])
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
        store.forget_failed("run_"),
        store.begin("run_", cell, "h", "t"),
        store.keep_answer("run_", cell, "h", Answer(text="a"), []),
        store.keep_scores("run_", cell, []),
        store.claim_run("run_", "me", 1.0, 1.0),
    ):
        with pytest.raises(NotFoundError, match="there is no run 'run_'"):
            await missing
    with pytest.raises(NotFoundError, match="run 'run_1' has no sample 's9'"):
        await store.begin("run_1", Cell("r", "s9", 0), "h", "t")


# claims


async def test_a_claim_counts_and_forgets_what_was_in_flight(store):
    await store.add_run(a_run(interrupted=1), some_samples())
    await answered(store, Cell("r", "s0", 0))
    await store.begin("run_1", Cell("r", "s1", 0), "h", "t")
    await store.begin("run_1", Cell("r", "s2", 0), "h", "t")
    assert await store.claim_run("run_1", "me", 100.0, 60.0)
    run = await store.run("run_1")
    assert (run.owner, run.heartbeat_at, run.interrupted) == ("me", 100.0, 3)
    assert await store.progress("run_1") == Progress(answered=1, failed=0, in_flight=0, scored=0)
    await store.begin("run_1", Cell("r", "s1", 0), "h", "t")  # may be asked again


async def test_a_live_owner_keeps_the_run_and_a_silent_one_loses_it(store):
    await store.add_run(a_run(), some_samples())
    assert await store.claim_run("run_1", "first", 100.0, 60.0)
    await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
    assert not await store.claim_run("run_1", "second", 159.0, 60.0)
    assert (await store.progress("run_1")).in_flight == 1
    assert await store.heartbeat("run_1", "first", 159.0) == ""
    assert not await store.claim_run("run_1", "second", 218.0, 60.0)
    assert await store.claim_run("run_1", "second", 219.0, 60.0)
    assert await store.heartbeat("run_1", "first", 220.0) is None
    assert (await store.run("run_1")).heartbeat_at == 219.0
    await store.update_run("run_1", owner="", heartbeat_at=None)
    assert await store.heartbeat("run_1", "second", 221.0) is None
    assert await store.claim_run("run_1", "first", 221.0, 60.0)


# samples, answers, scores


async def test_samples_come_back_in_order_across_pages(store):
    samples = [
        Sample(
            id=f"{(i * 7919) % 1201}",
            messages=({"role": "system", "content": "s"}, {"role": "user", "content": [{"x": i}]}),
            references=("one", "zwei 😀") if i % 2 else (),
            fields={"i": i, "f": i / 3, "none": None, "nested": {"a": [1, True]}},
        )
        for i in range(1201)
    ]
    await store.add_run(a_run(), samples)
    assert await everything(store.samples("run_1")) == samples
    assert await everything(store.samples("run_1", after=1000)) == samples[1000:]
    assert await everything(store.samples("run_1", after=1201)) == []


FULL_ANSWER = Answer(
    text="an answer\0 with 😀",
    target="openai/gpt",
    model="gpt-2026",
    system_fingerprint="fp",
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
    cost_usd=0.1 + 0.2,
    estimated=True,
    logprob_sum=-1 / 7,
    logprob_tokens=2,
    first_byte_s=1 / 3,
    total_s=2.5,
    attempts=2,
    cached=True,
)


@pytest.mark.parametrize(
    "answer",
    [
        FULL_ANSWER,
        Answer(text=""),
        Answer(text=None, error="time-out", error_code="upstream_timeout", attempts=3),
    ],
)
async def test_an_answer_comes_back_as_it_went_in(store, answer):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s1", 0)
    await store.begin("run_1", cell, "hash", "openai/gpt")
    [before] = await everything(store.results("run_1"))
    assert (before.cell, before.answer, before.scores) == (cell, None, ())
    await store.keep_answer("run_1", cell, "hash", answer, [{"status": 429}, {"status": 200}])
    [after] = await everything(store.results("run_1"))
    assert (after.cell, after.answer) == (cell, answer)
    assert await answered_cells(store) == {cell}


async def test_a_cell_is_asked_and_answered_once(store):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    await store.begin("run_1", cell, "h", "t")
    with pytest.raises(StoreError, match=r"cell \(r, s0, repeat 0\) is sent already"):
        await store.begin("run_1", cell, "h", "t")
    await store.keep_answer("run_1", cell, "h", Answer(text="first"), [])
    with pytest.raises(StoreError, match="is answered already"):
        await store.keep_answer("run_1", cell, "h", Answer(text="second"), [])
    with pytest.raises(StoreError, match="is answered already"):
        await store.begin("run_1", cell, "h", "t")
    [result] = await everything(store.results("run_1"))
    assert result.answer == Answer(text="first")
    # Other repeats and routes are other cells; an answer without begin is kept as well.
    await store.keep_answer("run_1", Cell("r", "s0", 1), "h", Answer(text="other"), [])
    await store.begin("run_1", Cell("q", "s0", 0), "h", "t")
    assert await store.progress("run_1") == Progress(answered=2, failed=0, in_flight=1, scored=0)


async def test_scores_come_back_and_are_replaced_by_output(store):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    await answered(store, cell)
    scores = (
        Score(output="bleu", value=1 / 3, statistics=(1.0, 2.5, 1e300)),
        Score(output="none", value=None, error="no reference"),
        Score(output="pass", value=1.0, passed=True),
        Score(output="qualified", value=0.5, note="the text was cut"),
        Score(output="refuse", value=0.0, passed=False),
    )
    await store.keep_scores("run_1", cell, scores)
    [result] = await everything(store.results("run_1"))
    assert result.scores == scores
    await store.keep_scores("run_1", cell, [Score(output="bleu", value=2.0)])
    [result] = await everything(store.results("run_1"))
    assert result.scores == (Score(output="bleu", value=2.0), *scores[1:])
    assert (await store.progress("run_1")).scored == 1


async def test_only_an_answer_can_be_scored(store):
    await store.add_run(a_run(), some_samples())
    score = [Score(output="o", value=1.0)]
    with pytest.raises(StoreError, match="no answer that could be scored: it does not exist"):
        await store.keep_scores("run_1", Cell("r", "s0", 0), score)
    await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
    with pytest.raises(StoreError, match="it is sent"):
        await store.keep_scores("run_1", Cell("r", "s0", 0), score)
    await failed(store, Cell("r", "s1", 0))
    with pytest.raises(StoreError, match="it is failed"):
        await store.keep_scores("run_1", Cell("r", "s1", 0), score)
    await answered(store, Cell("r", "s2", 0))
    await store.keep_scores("run_1", Cell("r", "s2", 0), [])
    assert (await store.progress("run_1")).scored == 1  # by no metrics


NAN = float("nan")


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
async def test_numbers_that_are_none_are_refused(store, bad):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    await answered(store, cell)
    other = Cell("r", "s1", 0)
    for refused in (
        store.keep_scores("run_1", cell, [Score(output="o", value=bad)]),
        store.keep_scores("run_1", cell, [Score(output="o", value=1.0, statistics=(1.0, bad))]),
        store.keep_answer("run_1", other, "h", Answer(text="a", cost_usd=bad), []),
        store.keep_answer("run_1", other, "h", Answer(text="a"), [{"seconds": [bad]}]),
        store.add_run(a_run("run_2", document={"p": {"t": bad}}), []),
        store.add_run(a_run("run_2"), [Sample(id="s", messages=(), fields={"x": bad})]),
        store.update_run("run_1", started_at=bad),
    ):
        with pytest.raises(StoreError, match="not a finite number"):
            await refused
    assert await store.progress("run_1") == Progress(answered=1, failed=0, in_flight=0, scored=0)
    assert await store.run("run_2") is None


async def test_what_cannot_be_stored_is_a_store_error(store):
    await store.add_run(a_run(), some_samples())
    for text in ("lone surrogate \ud800", object()):
        with pytest.raises(StoreError, match="cannot keep an answer"):
            await store.keep_answer("run_1", Cell("r", "s0", 0), "h", Answer(text=text), [])
    assert await answered_cells(store) == set()


async def test_forgotten_errors_are_asked_again(store):
    await store.add_run(a_run(), some_samples())
    await answered(store, Cell("r", "s0", 0))
    await failed(store, Cell("r", "s1", 0))
    await failed(store, Cell("r", "s2", 0))
    assert await store.progress("run_1") == Progress(answered=1, failed=2, in_flight=0, scored=0)
    assert await store.forget_failed("run_1") == 2
    assert await answered_cells(store) == {Cell("r", "s0", 0)}
    assert await store.progress("run_1") == Progress(answered=1, failed=0, in_flight=0, scored=0)
    await failed(store, Cell("r", "s1", 0))


async def test_results_are_ordered_and_paged(store):
    samples = some_samples(60)  # pages of 500 end within a sample and within a route
    cells = [
        Cell(route, sample.id, repeat)
        for sample in samples
        for route in ("a", "b", "c/d")
        for repeat in range(7)
    ]
    await store.add_run(a_run(), samples)
    shuffled = random.Random(7).sample(cells, len(cells))
    shuffled.sort(key=lambda cell: cell.route, reverse=True)  # "c/d" is known to the store first
    await asyncio.gather(*(answered(store, cell, text=str(cell)) for cell in shuffled))
    results = await everything(store.results("run_1"))
    assert [result.cell for result in results] == cells
    assert all(result.answer.text == str(result.cell) for result in results)
    of_b = await everything(store.results("run_1", route="b"))
    assert [result.cell for result in of_b] == [cell for cell in cells if cell.route == "b"]
    assert await everything(store.results("run_1", route="z")) == []


async def test_the_cache_has_the_newest_answer_never_an_error(store, clock):
    for run_id in ("run_1", "run_2"):
        await store.add_run(a_run(run_id), some_samples())

    async def keep(run_id: str, sample: str, repeat: int, request_hash: str, **answer) -> None:
        clock.now += 1
        kept = Answer(**answer)
        await store.keep_answer(run_id, Cell("r", sample, repeat), request_hash, kept, [])

    assert await store.cached_answer("x", 0) is None
    await store.begin("run_2", Cell("r", "s2", 0), "x", "t")  # newest row, but the oldest answer
    await keep("run_2", "s2", 0, "x", text="oldest")
    await keep("run_2", "s0", 0, "x", text="newest", total_s=1.5)
    await keep("run_1", "s0", 1, "x", text="other repeat")
    await keep("run_1", "s1", 0, "y", text="other request")
    await keep("run_1", "s2", 0, "x", text=None, error="failed later")
    assert await store.cached_answer("x", 0) == Answer(text="newest", total_s=1.5)
    assert await store.cached_answer("x", 1) == Answer(text="other repeat")
    assert await store.cached_answer("x", 2) is None
    await store.delete_run("run_2")
    assert await store.cached_answer("x", 0) is None


async def test_answers_count_as_newest_by_when_they_came(store, clock):
    await store.add_run(a_run(), some_samples())
    for sample in ("s0", "s1"):
        await store.begin("run_1", Cell("r", sample, 0), "x", "t")
    for sample in ("s1", "s0"):
        clock.now += 1
        await store.keep_answer("run_1", Cell("r", sample, 0), "x", Answer(text=sample), [])
    assert await store.cached_answer("x", 0) == Answer(text="s0")


# datasets


async def test_datasets_are_registered_once_per_content(store):
    row = DatasetRow(
        name="d", hash="h1", path="d.csv", format="csv", rows=2, columns=("a", "b"), created_at=1.5
    )
    await store.add_dataset(row)
    await store.add_dataset(msgspec.structs.replace(row, path="moved", created_at=9.0))
    assert await store.datasets() == [row]
    newer = msgspec.structs.replace(row, hash="h2", created_at=2.5)
    other = msgspec.structs.replace(row, name="e", created_at=2.0)
    await store.add_dataset(newer)
    await store.add_dataset(other)
    assert await store.datasets() == [newer, other, row]
    assert await store.datasets("d") == [newer, row]
    assert await store.datasets("f") == []


async def test_a_dataset_keeps_all_that_is_known_of_it(store):
    row = DatasetRow(
        name="d",
        hash="h1",
        path="datasets/h1.csv",
        format="csv",
        rows=2,
        columns=("a",),
        created_at=1.5,
        size=12,
        mapping={"a": "input"},
        source="hf://a/b",
        provenance={"commit": "c", "targets": {"t": 3}},
        statistics=(Column(name="a", kinds={"text": 2}, missing=0, blank=0, distinct=2, mean=0.5),),
    )
    await store.add_dataset(row)
    assert await store.datasets() == [row]


async def test_deleting_a_dataset_tells_whether_its_content_is_needed_still(store):
    row = DatasetRow(name="d", hash="h1", path="p", format="csv", rows=1, columns=(), created_at=1)
    await store.add_dataset(row)
    await store.add_dataset(msgspec.structs.replace(row, name="e"))
    assert await store.delete_dataset("d", "h1")
    with pytest.raises(NotFoundError, match="no version h1 of a dataset 'd'"):
        await store.delete_dataset("d", "h1")
    assert not await store.delete_dataset("e", "h1")
    assert await store.datasets() == []


# many writers


async def test_writes_are_seen_by_reads_once_acknowledged(store):
    await store.add_run(a_run(), some_samples(50))

    async def ask(i: int) -> None:
        cell = Cell("r", f"s{i}", 0)
        await answered(store, cell)
        assert cell in await answered_cells(store)

    await asyncio.gather(*(ask(i) for i in range(50)))


async def test_a_write_that_fails_leaves_its_neighbours(store):
    await store.add_run(a_run(), some_samples(100))
    writes = [answered(store, Cell("r", f"s{i}", 0)) for i in range(100)]
    bad = [store.begin("run_1", Cell("r", f"missing {i}", 0), "h", "t") for i in range(100)]
    both = [write for pair in zip(writes, bad, strict=True) for write in pair]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert outcomes[::2] == [None] * 100
    assert all(isinstance(outcome, NotFoundError) for outcome in outcomes[1::2])
    assert len(await answered_cells(store)) == 100


async def test_closing_writes_what_was_asked_for(make_store):
    store = make_store()
    await store.open()
    await store.add_run(a_run(), some_samples(100))
    cells = [Cell("r", f"s{i}", 0) for i in range(100)]
    writes = [
        asyncio.ensure_future(store.keep_answer("run_1", cell, "h", Answer(text="a"), []))
        for cell in cells
    ]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(StoreError, match="not open"):
        await store.begin("run_1", cells[0], "h", "t")
    with pytest.raises(StoreError, match="not open"):
        await store.progress("run_1")
    await store.close()
    await store.open()
    assert await answered_cells(store) == set(cells)
    await store.close()


# SqliteStore: the queue


@asynccontextmanager
async def sqlite_store(path: Path, **options):
    store = SqliteStore(path, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def locked(path: Path):
    """Another connection holds the write lock, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_a_thousand_writers_pass_through_little_room(tmp_path):
    async with sqlite_store(tmp_path / "a.db", room=2) as store:
        await store.add_run(a_run(), some_samples(1000))
        cells = [Cell("r", f"s{i}", 0) for i in range(1000)]
        await asyncio.gather(*(answered(store, cell) for cell in cells))
        assert await answered_cells(store) == set(cells)


async def test_writes_are_kept_in_the_order_they_came(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path, room=16) as store:
        await store.add_run(a_run(), some_samples(500))
        cells = [Cell("r", f"s{i * 37 % 500}", 0) for i in range(500)]
        async with locked(path):
            writes = [asyncio.ensure_future(store.begin("run_1", cell, "h", "t")) for cell in cells]
            await asyncio.sleep(0.05)
            assert not any(write.done() for write in writes)
        await asyncio.gather(*writes)
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute(
            "SELECT sample_id FROM answers JOIN samples USING (run, position) ORDER BY id"
        ).fetchall()
    assert [sample for (sample,) in kept] == [cell.sample_id for cell in cells]


async def test_closing_waits_for_those_who_wait_for_room(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path, room=2) as store:
        await store.add_run(a_run(dataset_rows=20), some_samples(20))
        cells = [Cell("r", f"s{i}", 0) for i in range(20)]
        writes = [asyncio.ensure_future(answered(store, cell)) for cell in cells]
        single = [
            asyncio.ensure_future(store.keep_answer("run_1", cell, "h", Answer(text="a"), []))
            for cell in [Cell("q", f"s{i}", 0) for i in range(20)]
        ]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*single)
        await asyncio.gather(*writes, return_exceptions=True)  # their second half came too late
        await store.open()
        kept = await answered_cells(store)
    assert {cell for cell in kept if cell.route == "q"} == {
        Cell("q", f"s{i}", 0) for i in range(20)
    }


async def test_the_loop_runs_on_while_writes_wait(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path, room=1) as store:
        await store.add_run(a_run(), some_samples(10))
        async with locked(path):
            writes = [
                asyncio.ensure_future(store.begin("run_1", Cell("r", f"s{i}", 0), "h", "t"))
                for i in range(10)
            ]
            for _ in range(100):
                await asyncio.sleep(0)
            assert (await store.progress("run_1")).in_flight == 0  # readers do not wait either
        await asyncio.gather(*writes)
        assert (await store.progress("run_1")).in_flight == 10


async def test_a_cancelled_caller_loses_only_the_result(tmp_path, caplog):
    """Whether the write waited for room (s2, s3) or for its commit (s0, s1)."""
    path = tmp_path / "a.db"
    async with sqlite_store(path, room=2) as store:
        await store.add_run(a_run(), some_samples(5))
        async with locked(path):
            writes = [
                asyncio.ensure_future(
                    store.keep_answer("run_1", Cell("r", f"s{i}", 0), "h", Answer(text="a"), [])
                )
                for i in range(5)
            ]
            refused = asyncio.ensure_future(store.begin("run_1", Cell("r", "missing", 0), "h", "t"))
            await asyncio.sleep(0.02)
            for write in [*writes[:4], refused]:
                write.cancel()
            outcomes = await asyncio.gather(*writes[:4], refused, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await writes[4]
        await store.heartbeat("run_1", "nobody", 1.0)  # queued behind all of them
        assert await answered_cells(store) == {Cell("r", f"s{i}", 0) for i in range(5)}
        assert (await store.progress("run_1")).answered == 5
    assert "no sample 'missing'" in caplog.text  # nobody was left to be told


async def test_a_cancelled_add_run_leaves_nothing(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        adding = asyncio.ensure_future(store.add_run(a_run(), some_samples(20_000)))
        while True:
            with closing(sqlite3.connect(path)) as connection:
                if connection.execute("SELECT 1 FROM samples").fetchone():
                    break
            await asyncio.sleep(0.001)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert await store.runs() == []
    with closing(sqlite3.connect(path)) as connection:
        for table in ("runs", "samples", "counts"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


# SqliteStore: the file


async def test_a_deleted_run_leaves_no_rows(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(1500))
        for i in range(1500):
            await answered(store, Cell("r", f"s{i}", 0))
        scored = Cell("r", "s0", 0)
        await store.keep_scores("run_1", scored, [Score(output="o", value=1.0)])
        await store.delete_run("run_1")
    with closing(sqlite3.connect(path)) as connection:
        for table in ("runs", "samples", "answers", "scores", "counts"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


async def test_a_deletion_that_was_cut_off_is_finished_later(tmp_path, clock):
    path = tmp_path / "a.db"
    async with sqlite_store(path, clock=clock) as store:
        await store.add_run(a_run(), some_samples())
        await answered(store, Cell("r", "s0", 0))
    with closing(sqlite3.connect(path)) as connection, connection:  # as the first step leaves it
        connection.execute("UPDATE runs SET hidden_since = ?", (clock.now,))
    for waited, left in ((ABANDONED_S - 1, 1), (2, 0)):
        clock.now += waited
        async with sqlite_store(path, clock=clock) as store:
            assert await store.run("run_1") is None
            with pytest.raises(NotFoundError):
                await store.keep_answer("run_1", Cell("r", "s1", 0), "h", Answer(text="a"), [])
            with pytest.raises(NotFoundError):
                await store.progress("run_1")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (left,)


async def test_the_record_of_attempts_is_kept(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples())
        attempts = [{"target": "p/m", "status": 429}, {"target": "p/m", "status": 200}]
        await store.keep_answer("run_1", Cell("r", "s0", 0), "h", Answer(text="a"), attempts)
    with closing(sqlite3.connect(path)) as connection:
        [(kept,)] = connection.execute("SELECT attempts FROM answers").fetchall()
    assert msgspec.json.decode(kept) == attempts


async def test_an_empty_file_and_one_that_is_up_to_date(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    schemas = []
    for _ in range(2):
        async with sqlite_store(path) as store:
            await store.runs()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            schemas.append(
                connection.execute("SELECT name, sql, rootpage FROM sqlite_schema").fetchall()
            )
            applied = connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
            assert [name for (name,) in applied] == [step.__name__ for step in STEPS]
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize("step", [step.__name__ for step in STEPS])
async def test_a_file_of_an_older_version_is_migrated_with_its_rows(tmp_path, step):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before=step)
        has_runs = db.table("runs").exists()
        if has_runs:
            row = msgspec.to_builtins(a_run())
            columns = db.table("runs").columns_dict
            db.table("runs").insert(
                {name: value for name, value in row.items() if name in columns} | {"number": 1}
            )
            db.table("counts").insert({"run": 1})
    async with sqlite_store(path) as store:
        assert await store.runs() == ([a_run()] if has_runs else [])
        await store.add_run(a_run("run_2"), some_samples())
        await answered(store, Cell("r", "s0", 0), run_id="run_2")
        assert await store.datasets() == []


async def test_answers_of_an_older_version_are_no_estimates(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before="m022_estimated_answers")
        row = msgspec.to_builtins(a_run(dataset_rows=1))
        columns = db.table("runs").columns_dict
        db.table("runs").insert(
            {name: row[name] for name in row if name in columns} | {"number": 1}
        )
        db.table("counts").insert({"run": 1})
        db.execute("INSERT INTO samples (run, position, sample_id, refs, messages, fields)"
                   " VALUES (1, 1, 's0', '[]', '[]', '{}')")  # fmt: skip
        db.execute("INSERT INTO routes (id, name) VALUES (1, 'r')")
        db.execute("INSERT INTO answers (run, position, route, repeat, state, asked_at, target,"
                   " request_hash, text, model, system_fingerprint, finish_reason, attempt_count,"
                   " cached) VALUES (1, 1, 1, 0, 'answered', 1.0, 'p/m', 'h', 'old', '', '', '', 1,"
                   " 0)")  # fmt: skip
    async with sqlite_store(path) as store:
        [one] = await everything(store.results("run_1"))
        assert (one.answer.text, one.answer.estimated) == ("old", False)
        assert await store.embedding_use("run_1") == []


async def test_what_embeddings_took_is_added_up_by_route_and_target(store):
    await store.add_run(a_run(), [])
    use = EmbeddingUse(
        route="r",
        target="p/m",
        requests=1,
        failed=0,
        tokens=2**40,
        cost_usd=0.25,
        unpriced=0,
        estimated=1,
    )
    other = msgspec.structs.replace(use, route="q")
    for one in (use, other, use):
        await store.add_embedding_use("run_1", one)
    assert await store.embedding_use("run_1") == [
        other,
        msgspec.structs.replace(use, requests=2, tokens=2**41, cost_usd=0.5, estimated=2),
    ]
    for work in (store.add_embedding_use("run_9", use), store.embedding_use("run_9")):
        with pytest.raises(NotFoundError):
            await work
    await store.delete_run("run_1")
    await store.add_run(a_run(), [])
    assert await store.embedding_use("run_1") == []


async def test_a_file_of_a_newer_version_is_refused_and_untouched(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before=STEPS[-1].__name__)
        db.table("_sqlite_migrations").insert(
            {"migration_set": "evalrouter", "name": "m999_from_the_future", "applied_at": "x"}
        )
        before = db.schema
    with pytest.raises(StoreError, match=r"a\.db.*newer evalrouter.*m999_from_the_future"):
        await SqliteStore(path).open()
    with closing(sqlite3.connect(path)) as connection:
        assert Database(connection).schema == before


def _folder(tmp_path: Path) -> Path:
    return tmp_path


def _text_file(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("These are notes, not a database. " * 100)
    return path


def _no_folder(tmp_path: Path) -> Path:
    return tmp_path / "missing" / "a.db"


def _under_a_file(tmp_path: Path) -> Path:
    return _text_file(tmp_path) / "a.db"


def _unwritable_folder(tmp_path: Path) -> Path:
    if os.geteuid() == 0:  # permissions do not hold root back, the kernel's own folders do
        if not Path("/proc/self").exists():
            pytest.skip("no folder that root cannot write")
        return Path("/proc/a.db")
    tmp_path.chmod(0o500)
    return tmp_path / "a.db"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (_folder, "it is a folder"),
        (_text_file, "not a SQLite database"),
        (_no_folder, "is its folder there and writable"),
        (_under_a_file, "is its folder there and writable"),
        (_unwritable_folder, "is its folder there and writable"),
    ],
)
async def test_a_path_that_cannot_be_a_database_says_why(tmp_path, place, reason):
    path = place(tmp_path)
    store = SqliteStore(path)
    with pytest.raises(StoreError, match=reason) as caught:
        await store.open()
    assert str(path) in caught.value.message
    with pytest.raises(StoreError, match="not open"):
        await store.runs()


async def test_a_write_that_fails_halfway_leaves_no_half(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(2))
        await answered(store, Cell("r", "s0", 0))
        good, bad = Score(output="good", value=1.0), Score(output=None, value=1.0)
        with pytest.raises(StoreError, match="NOT NULL"):
            await store.keep_scores("run_1", Cell("r", "s0", 0), [good, bad])
        [result] = await everything(store.results("run_1"))
        assert result.scores == ()


async def test_a_write_ruined_by_a_constraint_is_a_store_error_with_the_path(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples())
        with closing(sqlite3.connect(path)) as connection, connection:
            # What an unforeseen error inside SQLite does to the whole transaction.
            connection.execute(
                "CREATE TRIGGER ruin BEFORE INSERT ON answers WHEN new.position = 2"
                " BEGIN SELECT RAISE(ROLLBACK, 'ruined'); END"
            )
        async with locked(path):  # so that the three travel together
            writes = [
                asyncio.ensure_future(store.begin("run_1", Cell("r", f"s{i}", 0), "h", "t"))
                for i in range(3)
            ]
            await asyncio.sleep(0.02)
        first, second, third = await asyncio.gather(*writes, return_exceptions=True)
        assert (first, third) == (None, None)
        assert isinstance(second, StoreError)
        assert "a.db: ruined" in second.message
        assert (await store.progress("run_1")).in_flight == 2


# SqliteStore: a file that does not work


async def test_a_damaged_page_is_remembered_until_every_page_can_be_read(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(500))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            page, size = connection.execute(
                "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size"
                " WHERE name = 'samples'"
            ).fetchone()
    whole = path.read_bytes()
    at = (page - 1) * size
    async with sqlite_store(path) as store:
        await store.check()
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"\x7f" * size)
        # Nothing that a check reads.
        await store.check()
        with pytest.raises(StoreUnavailableError, match=r"read samples: .*damaged") as caught:
            await everything(store.samples("run_1"))
        assert caught.value.fault == "corrupt"
        assert str(path) not in caught.value.reason
        with pytest.raises(StoreUnavailableError, match="damaged"):
            await store.check()
        assert store.delay().fault == "corrupt"
        with path.open("r+b") as file:
            file.seek(at)
            file.write(whole[at : at + size])
        while True:
            try:
                await store.check()
                break
            except StoreUnavailableError:
                await asyncio.sleep(0.02)
        assert len(await everything(store.samples("run_1"))) == 500


async def test_a_file_that_is_gone_is_neither_written_nor_made_anew(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(2))
        path.rename(tmp_path / "b.db")
        results = await asyncio.gather(
            *(store.runs() for _ in range(8)),
            *(store.begin("run_1", Cell("r", f"s{n}", 0), "h", "t") for n in range(2)),
            store.check(),
            return_exceptions=True,
        )
        assert {one.fault for one in results} == {"deleted"}
        assert len({id(one) for one in results}) == len(results)
        assert not path.exists()
        (tmp_path / "b.db").rename(path)
        await store.check()
        assert len(await store.runs()) == 1
        assert (await store.progress("run_1")).in_flight == 0


async def test_what_takes_the_place_of_the_file_is_noticed_by_those_who_only_read(tmp_path):
    path, other = tmp_path / "a.db", tmp_path / "other.db"
    async with sqlite_store(other) as store:
        await store.add_run(a_run("run_2"), some_samples(1))
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(1))
        assert [run.id for run in await store.runs()] == ["run_1"]
        generation = store.generation
        other.replace(path)
        assert [run.id for run in await store.runs()] == ["run_2"]
        assert store.generation != generation


async def test_a_file_behind_a_link_is_watched_as_any_other(tmp_path):
    path, real, backup = tmp_path / "link.db", tmp_path / "data" / "a.db", tmp_path / "backup.db"
    real.parent.mkdir()
    path.symlink_to(real)
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(1))
        with closing(sqlite3.connect(real)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        log = real.with_name("a.db-wal")
        log.rename(tmp_path / "away")
        with pytest.raises(StoreUnavailableError, match="write-ahead log"):
            await store.check()
        (tmp_path / "away").rename(log)
        await store.check()
        await store.add_run(a_run("run_2"), some_samples(200))
        # The log that is left is that of another file.
        backup.replace(real)
        await store.check()
        assert [run.id for run in await store.runs()] == ["run_1"]
        await store.add_run(a_run("run_3"), some_samples(200))
    with closing(sqlite3.connect(real)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT id FROM runs").fetchall() == [("run_1",), ("run_3",)]


async def test_a_locked_database_is_waited_for_only_until_the_end(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store, locked(path):
        write = asyncio.ensure_future(store.add_run(a_run(), []))
        while store.delay() is None:
            await asyncio.sleep(0.01)
        assert store.delay().fault == "locked"
        store.end_within(0.0)
        with pytest.raises(StoreUnavailableError, match="locked"):
            await write
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.add_run(a_run(), [])


# SqliteStore: other processes


def start(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, str(Path(__file__).with_name("store_process.py")), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_one_of_several_processes_gets_the_run(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples())
        processes = [start("claim", str(path), "run_1", f"process {i}") for i in range(3)]
        try:
            for process in processes:
                assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            said = [(await asyncio.to_thread(p.communicate, timeout=60))[0] for p in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert sorted(said) == ["False\n", "False\n", "True\n"]
        winner = said.index("True\n")
        assert (await store.run("run_1")).owner == f"process {winner}"


async def test_stores_that_open_a_new_file_at_once(tmp_path):
    """One migrates, the others wait and find it done (stores stand for processes: same locks)."""
    path = tmp_path / "a.db"
    stores = [SqliteStore(path) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].add_run(a_run(), some_samples())
    assert [len(await store.runs()) for store in stores] == [1] * 8
    await asyncio.gather(*(store.close() for store in stores))


async def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(dataset_rows=20), some_samples(20))
    process = start("write", str(path), "run_1")
    lines = []
    try:
        while len(lines) < 1000:
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, "the process ended by itself"
            lines.append(line)
        process.send_signal(signal.SIGKILL)
        lines += await asyncio.to_thread(process.stdout.readlines)
    finally:
        process.kill()
        process.communicate()
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    kept = {(i, int(n)) for what, i, n in acknowledged if what == "kept"}
    begun = {(i, int(n)) for what, i, n in acknowledged if what == "begun"}
    assert len(kept) > 400
    async with sqlite_store(path) as store:
        results = {
            (result.cell.sample_id, result.cell.repeat): result.answer
            for result in await everything(store.results("run_1"))
        }
        assert begun <= results.keys()
        for sample_id, repeat in kept:
            assert results[sample_id, repeat].text.startswith(f"answer {sample_id} {repeat} ")
        in_flight = sum(answer is None for answer in results.values())
        assert (await store.progress("run_1")).in_flight == in_flight
        assert await store.claim_run("run_1", "next", 1.0, 1.0)
        assert (await store.run("run_1")).interrupted == in_flight
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=2m tmpfs {small}"
    # A file system of its own, seen by this one process and gone with it.
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system needs unshare and user namespaces")
    async with sqlite_store(tmp_path / "a.db") as store:
        await store.add_run(a_run(), some_samples(1))
    script = f'{mount} && cp {tmp_path}/a.db {small} && "$@"'
    process = start(
        "fill", str(small / "a.db"), "run_1", before=("unshare", "-rm", "sh", "-c", script, "sh")
    )
    out, _ = await asyncio.to_thread(process.communicate, timeout=60)
    *kept, refused, progress = out.splitlines()
    assert len(kept) > 10
    assert refused.startswith("refused cannot keep an answer: ")
    assert "the disk is full" in refused
    assert progress == f"progress {len(kept)}"
