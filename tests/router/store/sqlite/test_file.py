"""Paths that cannot be a database, and files that stop to work."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from stores import a_run, everything, locked, some_samples, sqlite_store

from evaluators.base import Cell
from providers.errors import StoreError, StoreUnavailableError
from router.records import Record
from router.store.sqlite import SqliteStore


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
        (_no_folder, "its folder cannot be used: No such file or directory"),
        (_under_a_file, "its folder is a file"),
        (_unwritable_folder, "may not write to its folder|the file cannot be opened"),
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


async def test_a_file_that_is_gone_is_neither_written_nor_created(tmp_path):
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
        assert {error.fault for error in results} == {"deleted"}
        assert len({id(error) for error in results}) == len(results)
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


async def test_the_log_stays_bounded_while_one_read_always_begins_before_the_last_has_ended(
    tmp_path,
):
    path = tmp_path / "a.db"
    stop = threading.Event()

    def read() -> None:
        readers = [sqlite3.connect(path, isolation_level=None) for _ in range(2)]
        for n in itertools.count():
            reader = readers[n % 2]
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM runs").fetchone()
            if n:
                readers[(n + 1) % 2].execute("COMMIT")
            if stop.wait(0.01):
                break
        for reader in readers:
            reader.close()

    async with sqlite_store(path) as store:
        reading = threading.Thread(target=read)
        reading.start()
        try:
            for n in range(48):
                body = bytes([n % 256]) * 2**20
                await store.keep_traffic(
                    [Record(id=f"req_{n}", at=1.0, keep="full", request=body, response=body)]
                )
                # 64 MiB are the bound; a transaction more is written before it is looked at.
                assert path.with_name("a.db-wal").stat().st_size < 80 * 2**20
        finally:
            stop.set()
            reading.join()
