"""Several processes on one file, one that is killed, one whose disk is full."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from stores import a_run, everything, some_samples, sqlite_store

from router.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[4]


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
            replies = [(await asyncio.to_thread(p.communicate, timeout=60))[0] for p in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert sorted(replies) == ["False\n", "False\n", "True\n"]
        winner = replies.index("True\n")
        assert (await store.run("run_1")).owner == f"process {winner}"


async def test_stores_that_open_a_new_file_at_once(tmp_path):
    """One migrates, the others wait and find it done (stores stand for processes: same locks)."""
    path = tmp_path / "a.db"
    stores = [SqliteStore(path) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].add_run(a_run(), some_samples())
    assert [len(await store.runs()) for store in stores] == [1] * 8
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_new_file_that_another_process_writes_to_at_that_moment(tmp_path):
    """SQLite does not wait then to switch to a write-ahead log, whatever its timeout."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = SqliteStore(path)
        opening = asyncio.create_task(store.open())
        assert await asyncio.wait({opening}, timeout=0.2) == (set(), {opening})
        other.execute("ROLLBACK")
        await opening
    assert await store.runs() == []
    await store.close()


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
    stored = {(i, int(n)) for what, i, n in acknowledged if what == "stored"}
    begun = {(i, int(n)) for what, i, n in acknowledged if what == "begun"}
    assert len(stored) > 400
    async with sqlite_store(path) as store:
        results = {
            (result.cell.sample_id, result.cell.repeat): result.answer
            for result in await everything(store.results("run_1"))
        }
        assert begun <= results.keys()
        for sample_id, repeat in stored:
            assert results[sample_id, repeat].text.startswith(f"answer {sample_id} {repeat} ")
        in_flight = sum(answer is None for answer in results.values())
        assert (await store.progress("run_1")).in_flight == in_flight
        assert await store.claim_run("run_1", "next", 1.0)
        assert (await store.run("run_1")).interrupted == in_flight
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_a_full_disk_is_reported_and_loses_nothing(tmp_path):
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
    *stored, refused, progress = out.splitlines()
    assert len(stored) > 10
    assert refused.startswith("refused cannot keep an answer: ")
    assert "the disk is full" in refused
    assert progress == f"progress {len(stored)}"
