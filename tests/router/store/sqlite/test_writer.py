"""The thread that writes to SQLite: its queue, its room, its transactions."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from stores import a_run, answered, answered_cells, everything, locked, some_samples, sqlite_store

from evaluators.base import Answer, Cell, Score
from providers.errors import StoreError


async def test_a_thousand_writers_pass_through_little_room(tmp_path):
    async with sqlite_store(tmp_path / "a.db", room=2) as store:
        await store.add_run(a_run(), some_samples(1000))
        cells = [Cell("r", f"s{i}", 0) for i in range(1000)]
        await asyncio.gather(*(answered(store, cell) for cell in cells))
        assert await answered_cells(store) == set(cells)


async def test_writes_are_committed_in_the_order_they_came(tmp_path):
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
        stored = connection.execute(
            "SELECT sample_id FROM answers JOIN samples USING (run, position) ORDER BY id"
        ).fetchall()
    assert [sample for (sample,) in stored] == [cell.sample_id for cell in cells]


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
        cells = await answered_cells(store)
    assert {cell for cell in cells if cell.route == "q"} == {
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
        await store.heartbeat("run_1", "unknown")  # queued behind all of them
        assert await answered_cells(store) == {Cell("r", f"s{i}", 0) for i in range(5)}
        assert (await store.progress("run_1")).answered == 5
    assert "no sample 'missing'" in caplog.text  # no caller was left to get the error


async def test_a_write_that_fails_halfway_leaves_no_half(tmp_path):
    path = tmp_path / "a.db"
    async with sqlite_store(path) as store:
        await store.add_run(a_run(), some_samples(2))
        await answered(store, Cell("r", "s0", 0))
        good, bad = Score(output="good", value=1.0), Score(output=None, value=1.0)
        with pytest.raises(StoreError, match="NOT NULL"):
            await store.keep_scores("run_1", {Cell("r", "s0", 0): [good, bad]})
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
