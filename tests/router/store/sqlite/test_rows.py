"""Rows in SQLite: those that a run leaves, and those that are damaged."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from stores import a_run, answered, some_samples, sqlite_store

from evaluators.base import Answer, Cell, Score
from providers.errors import NotFoundError
from router.records import Record
from router.store.datasets import DatasetRow
from router.store.runs import RunFilter, UnreadableRun
from router.store.sql.runs import ABANDONED_S
from router.store.studies import Study
from router.store.traffic import TrafficFilter


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


async def test_a_deleted_run_leaves_no_rows(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(1500))
        for i in range(1500):
            await answered(store, Cell("r", f"s{i}", 0))
        scored = Cell("r", "s0", 0)
        await store.keep_scores("run_1", {scored: [Score(output="o", value=1.0)]})
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
        await store.add_run(a_run(run_id, runner="server"), some_samples(3))
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
    assert await store.claim_run("run_2", "me", 1.0)
    assert await store.end_run("run_2", "me", state="failed", error="it cannot be read")
    assert [run.id for run in await store.unfinished_runs()] == ["run_1", "run_3"]
    await store.delete_run("run_2")
    assert await store.run("run_2") is None


async def test_text_that_is_not_unicode_is_read_as_far_as_it_is(store):
    await store.add_run(a_run(runner="server"), some_samples(3))
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE runs SET name = CAST(x'61ff62' AS TEXT)")
    [run] = await store.unfinished_runs()
    assert run == a_run(name="a\\xffb", runner="server")


def damage(path, statement):
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement).rowcount == 1


async def test_tags_and_judges_that_are_not_json_match_no_filter(store):
    for n in (1, 2):
        await store.add_run(a_run(f"run_{n}", tags=("t",), experiment=f"e{n}"), [])
        await store.set_experiment(f"e{n}", tags=("t",), notes="")
        study = Study(
            id=f"cal_{n}", kind="calibration", judges=("j",), grading="", name="", created_at=n
        )
        await store.set_study(study)
    damage(store.path, "UPDATE runs SET tags = '[' WHERE id = 'run_1'")
    damage(store.path, "UPDATE experiments SET tags = '[' WHERE name = 'e1'")
    damage(store.path, "UPDATE judge_studies SET judges = '[' WHERE id = 'cal_1'")
    assert [run.id for run in await store.runs(RunFilter(tag="t"))] == ["run_2"]
    assert [experiment.name for experiment in await store.experiments(tag="t")] == ["e2"]
    assert [study.id for study in await store.studies(judge="j")] == ["cal_2"]


@pytest.mark.parametrize(
    "change", ["columns = 'not JSON'", "rows = 'many'", "statistics = '[1]'", "format = x'ff'"]
)
async def test_a_dataset_that_cannot_be_read_hides_no_other(store, change, caplog):
    rows = [
        DatasetRow(name=name, hash="h", path="p", format="csv", rows=1, columns=(), created_at=1.0)
        for name in ("a", "b", "c")
    ]
    for row in rows:
        await store.add_dataset(row)
    damage(store.path, f"UPDATE datasets SET {change} WHERE name = 'b'")
    assert await store.datasets() == [rows[2], rows[0]]
    assert "the dataset b (version h) cannot be read and is left out: " in caplog.text
    await store.delete_dataset("b", "h")


@pytest.mark.parametrize("change", ["judges = 'not JSON'", "grading = x'ff'", "report = '[]'"])
async def test_a_study_that_cannot_be_read_hides_no_other(store, change, caplog):
    studies = [
        Study(id=f"cal_{n}", kind="calibration", judges=("j",), grading="", name="", created_at=n)
        for n in (1.0, 2.0, 3.0)
    ]
    for study in studies:
        await store.set_study(study)
    damage(store.path, f"UPDATE judge_studies SET {change} WHERE id = 'cal_2.0'")
    assert await store.studies() == [studies[2], studies[0]]
    assert "the study cal_2.0 cannot be read and is left out: " in caplog.text
    assert await store.study("cal_1") == studies[0]


@pytest.mark.parametrize("change", ["detail = 'not JSON'", "detail = '[' || x'ff'"])
async def test_a_request_that_cannot_be_read_hides_no_other(store, change, caplog):
    await store.keep_traffic([Record(id=f"req_{n}", at=float(n)) for n in range(3)])
    damage(store.path, f"UPDATE traffic SET {change} WHERE id = 'req_1'")
    rows = await store.traffic(TrafficFilter())
    assert [row.id for row in rows] == ["req_2", "req_1", "req_0"]
    assert (rows[1].at, rows[1].attempts, rows[1].trace_id) == (1.0, (), "")
    assert "the details of the request req_1 cannot be read: " in caplog.text


async def test_an_experiment_that_cannot_be_read_hides_no_other(store, caplog):
    for name in ("a", "b", "c"):
        await store.set_experiment(name, tags=("t",), notes="")
    damage(store.path, "UPDATE experiments SET tags = '[1]' WHERE name = 'b'")
    assert [experiment.name for experiment in await store.experiments()] == ["a", "c"]
    assert "the experiment b cannot be read and is left out: " in caplog.text
