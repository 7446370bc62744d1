"""A database that is locked, full, failing, gone, replaced or damaged while the server runs.

Each fault: `/health/ready` says so, models are still answered to the keys that are known, what
needs the database gets a clear 503, and once the fault is over everything is written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from server_process import ServerProcess, serving, wait_for
from servers import evalrouter, scripted

from router.gateway.key_administration import create
from router.store.sqlite import SqliteStore

# How many fresh connections have to agree, so that each of two workers is met.
EVERYBODY = 12


@pytest.fixture(scope="module")
def upstream():
    with scripted({"m": [{"answer": "fine"}]}) as server:
        yield server


def config_of(upstream, folder, storage=""):
    return f"""
server: {{port: 0, drain_seconds: 1}}
storage: {{database: "sqlite:///{folder}/data/e.db"{storage}}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
"""


class World(NamedTuple):
    """A server, its database, and keys that may use it."""

    server: ServerProcess
    folder: Path
    admin: str
    app: str

    @property
    def database(self) -> Path:
        return self.folder / "data" / "e.db"

    def get(self, path: str, key: str = "") -> httpx.Response:
        return httpx.get(self.server.url + path, headers=authorization(key), timeout=30)

    def chat(self, key: str, request_id: str = "") -> httpx.Response:
        body = {"model": "up/m", "messages": [{"role": "user", "content": "hi"}]}
        headers = authorization(key) | ({"x-request-id": request_id} if request_id else {})
        url = f"{self.server.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=30)

    def evaluate(self) -> httpx.Response:
        run = {"dataset": "data.jsonl", "routes": ["up/m"], "metrics": ["exact_match"]}
        url = f"{self.server.url}/eval"
        return httpx.post(url, json=run, headers=authorization(self.admin), timeout=60)

    def statuses(self) -> set[int]:
        return {self.get("/health/ready").status_code for _ in range(EVERYBODY)}


def authorization(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


async def with_store(path, work):
    store = SqliteStore(path)
    await store.open()
    try:
        return await work(store)
    finally:
        await store.close()


def prepare(folder: Path, config: str) -> tuple[str, str]:
    (folder / "data").mkdir()
    (folder / "evalrouter.yaml").write_text(config)
    (folder / "data.jsonl").write_text('{"prompt": "hi", "reference": "fine"}\n')

    async def make(store):
        admin, _ = await create(store, "admin", now=0.5, role="admin")
        app, _ = await create(store, "app", now=0.5, budget_usd=100.0)
        return admin, app

    return asyncio.run(with_store(folder / "data" / "e.db", make))


@contextlib.contextmanager
def world(folder: Path, config: str, *args: str) -> Iterator[World]:
    keys = prepare(folder, config)
    with serving(folder, *args) as server:
        yield World(server, folder, *keys)


@pytest.fixture(scope="module")
def shared(upstream, tmp_path_factory):
    """One for all faults that are over without a trace."""
    folder = tmp_path_factory.mktemp("faults")
    with world(folder, config_of(upstream, folder)) as found:
        yield found


@pytest.fixture(scope="module")
def workers(upstream, tmp_path_factory):
    """The same with two processes."""
    folder = tmp_path_factory.mktemp("workers")
    with world(folder, config_of(upstream, folder), "--workers", "2") as found:
        yield found


# Faults that end


@contextlib.contextmanager
def locked(found: World) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(found.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def refusing(found: World) -> Iterator[None]:
    """Files may not grow any more, nor be written beyond a limit: the disk's own errors."""
    pids = found.server.pids
    limits = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    for pid, (_, hard) in zip(pids, limits, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        for pid, limit in zip(pids, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


@contextlib.contextmanager
def immutable(found: World) -> Iterator[None]:
    """Not even root may write."""
    files = [f"{found.database}{end}" for end in ("", "-wal")]
    chattr = shutil.which("chattr") or "false"
    if subprocess.run([chattr, "+i", *files], capture_output=True, check=False).returncode:
        pytest.skip("needs root, chattr and a file system that has the attribute")
    try:
        yield
    finally:
        subprocess.run([chattr, "-i", *files], check=True)


@contextlib.contextmanager
def moved(path: Path) -> Iterator[Path]:
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    try:
        yield away
    finally:
        away.rename(path)


def deleted(found: World) -> contextlib.AbstractContextManager[Path]:
    return moved(found.database)


def without_log(found: World) -> contextlib.AbstractContextManager[Path]:
    return moved(found.database.with_name("e.db-wal"))


def without_folder(found: World) -> contextlib.AbstractContextManager[Path]:
    return moved(found.database.parent)


@contextlib.contextmanager
def replaced_by_folder(found: World) -> Iterator[None]:
    with moved(found.database):
        found.database.mkdir()
        try:
            yield
        finally:
            found.database.rmdir()


@contextlib.contextmanager
def replaced_by_text(found: World) -> Iterator[None]:
    with moved(found.database):
        found.database.write_text("These are notes, not a database. " * 100)
        yield
        found.database.unlink()


@contextlib.contextmanager
def replaced_by_half(found: World) -> Iterator[None]:
    """What a copy is before it is complete."""
    with moved(found.database) as away:
        whole = away.read_bytes()
        found.database.write_bytes(whole[: len(whole) // 2])
        yield
        found.database.unlink()


FAULTS = {
    "locked": (locked, "locked"),
    "refusing": (refusing, "failing"),
    "immutable": (immutable, "failing"),
    "deleted": (deleted, "deleted"),
    "without its log": (without_log, "deleted"),
    "without its folder": (without_folder, "unreachable"),
    "replaced by a folder": (replaced_by_folder, "replaced"),
    "replaced by text": (replaced_by_text, "replaced"),
    "replaced by half of it": (replaced_by_half, "replaced"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_ready_says_no_until_the_fault_is_over(shared, name):
    assert_ready_says_no_until_it_is_over(shared, name)


@pytest.mark.parametrize("name", ["locked", "refusing", "deleted"])
def test_every_worker_says_no_until_the_fault_is_over(workers, name):
    assert_ready_says_no_until_it_is_over(workers, name)


def assert_ready_says_no_until_it_is_over(found, name):
    fault, database = FAULTS[name]
    request_id = f"req-{name.replace(' ', '-')}"
    with fault(found):
        wait_for(lambda: found.statuses() == {503})
        said = found.get("/health/ready").json()
        assert (said["status"], said["database"]) == ("not ready", database)
        # It is open to all.
        assert "e.db" not in said["reason"]
        assert found.get("/health/live").status_code == 200
        reply = found.chat(found.app, request_id)
        assert reply.status_code == 200
        assert reply.json()["choices"][0]["message"]["content"] == "fine"
        assert found.chat("er-unknown").status_code == 401
        assert found.chat("").status_code == 401
        reply = found.evaluate()
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (503, "store_unavailable"), error
        assert error["type"] == "server_error"
        assert said["reason"] in error["message"]
    wait_for(lambda: found.statuses() == {200})
    assert found.get("/health/ready").json() == {"status": "ready"}
    # Nothing was lost, and everything works again.
    wait_for(lambda: found.get(f"/traffic/{request_id}", found.app).status_code == 200)
    reply = found.evaluate()
    assert reply.status_code == 202
    wait_for(
        lambda: (
            found.get(f"/eval/{reply.json()['id']}", found.admin).json()["run"]["state"]
            == "completed"
        )
    )
    assert "Traceback" not in found.server.log


def said_of(found):
    reply = found.get("/health/ready")
    return reply.status_code, reply.json()


def test_a_config_lets_models_go_on_without_a_database(upstream, tmp_path):
    with world(tmp_path, config_of(upstream, tmp_path, ", required: false")) as found:
        assert said_of(found) == (200, {"status": "ready"})
        with deleted(found):
            wait_for(lambda: said_of(found)[1]["status"] == "degraded")
            status, said = said_of(found)
            assert (status, said["database"]) == (200, "deleted")
            assert "deleted" in said["reason"]
            assert found.chat(found.app).status_code == 200
            assert found.evaluate().status_code == 503
        wait_for(lambda: said_of(found)[1]["status"] == "ready")


def test_questions_that_come_often_share_a_check(shared):
    log = shared.database.with_name("e.db-wal")
    before = log.stat().st_size
    with httpx.Client() as http:
        for _ in range(400):
            assert http.get(f"{shared.server.url}/health/ready").status_code == 200
    # A check writes a page, and its head, into the log.
    assert (log.stat().st_size - before) / (4096 + 24) < 200


# A full disk


def test_a_full_disk_is_noticed_before_and_after_it_is(upstream, tmp_path):
    data = tmp_path / "data"
    mount = f"mount -t tmpfs -o size=8m tmpfs {data}"
    prefix = ("unshare", "-rm", "sh", "-c")
    data.mkdir()
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small file system needs unshare and user namespaces")
    (tmp_path / "evalrouter.yaml").write_text(config_of(upstream, tmp_path))
    (tmp_path / "data.jsonl").write_text('{"prompt": "hi", "reference": "fine"}\n')
    with serving(tmp_path, before=(*prefix, f'{mount} && exec "$@"', "sh")) as server:
        found = World(server, tmp_path, "", "")
        filler = Path(f"/proc/{server.pid}/root{data}/filler")
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        wait_for(lambda: said_of(found)[0] == 503)
        status, said = said_of(found)
        assert (status, said["database"]) == (503, "full")
        assert found.chat("", "req-full").status_code == 200
        filler.unlink()
        wait_for(lambda: said_of(found)[0] == 200)
        wait_for(lambda: found.get("/traffic/req-full").status_code == 200)
        assert found.evaluate().status_code == 202


# Another database in its place


def backup_of(found, name="backup.db"):
    path = found.folder / name
    with (
        contextlib.closing(sqlite3.connect(found.database)) as source,
        contextlib.closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
    return path


def rows_of(path):
    """Request ids, once the database is known to be whole."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {row[0] for row in db.execute("SELECT request_id FROM traffic")}


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize("leaves_log", [True, False], ids=["log left", "log removed"])
def test_a_backup_that_is_put_in_its_place_is_taken_over(upstream, tmp_path, count, leaves_log):
    with world(tmp_path, config_of(upstream, tmp_path), "--workers", count) as found:
        assert found.chat(found.app, "req-old").status_code == 200
        wait_for(lambda: found.get("/traffic/req-old", found.app).status_code == 200)
        backup = backup_of(found)
        for n in range(20):
            assert found.chat(found.app, f"req-lost-{n}").status_code == 200
        for n in range(20):
            # A record that is not written yet goes into the database that comes next.
            wait_for(lambda n=n: found.get(f"/traffic/req-lost-{n}", found.app).status_code == 200)
        found.database.unlink()
        if not leaves_log:
            for end in ("-wal", "-shm"):
                Path(f"{found.database}{end}").unlink()
        wait_for(lambda: found.statuses() == {503})
        assert found.chat(found.app, "req-meanwhile").status_code == 200
        shutil.copy(backup, found.database)
        wait_for(lambda: found.statuses() == {200})
        assert found.chat(found.app, "req-new").status_code == 200
        for name in ("req-meanwhile", "req-new"):
            wait_for(lambda name=name: found.get(f"/traffic/{name}", found.app).status_code == 200)
        assert found.get("/traffic/req-lost-0", found.app).status_code == 404
        assert "replaced by another database" in found.server.log
        assert "Traceback" not in found.server.log
        found.server.signal(signal.SIGTERM)
        assert found.server.wait() == 0
    assert rows_of(found.database) == {"req-old", "req-meanwhile", "req-new"}


def test_a_damaged_database_is_noticed_and_a_backup_helps(upstream, tmp_path):
    with world(tmp_path, config_of(upstream, tmp_path)) as found:
        backup = backup_of(found)
        with contextlib.closing(sqlite3.connect(found.database)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with found.database.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(4096)
            file.write(b"\x7f" * (size - 4096))
        wait_for(lambda: said_of(found)[0] == 503)
        assert said_of(found)[1]["database"] == "corrupt"
        refused = found.get("/traffic/req-new", found.admin)
        assert refused.status_code == 503
        assert refused.json()["error"]["message"].endswith("damaged; put a backup in its place")
        assert str(tmp_path) not in refused.text
        assert found.chat(found.app).status_code == 200
        backup.replace(found.database)
        wait_for(lambda: said_of(found)[0] == 200)
        assert found.chat(found.app, "req-new").status_code == 200
        wait_for(lambda: found.get("/traffic/req-new", found.app).status_code == 200)


def test_a_backup_without_a_key_lets_nobody_in_and_revokes_nothing_back(upstream, tmp_path):
    with world(tmp_path, config_of(upstream, tmp_path)) as found:
        backup = backup_of(found)
        evalrouter("key", "revoke", "app", "--config", tmp_path / "evalrouter.yaml")
        wait_for(lambda: found.chat(found.app).status_code == 401)
        # In the backup, the key is in use.
        backup.replace(found.database)
        wait_for(lambda: "replaced by another database" in found.server.log)
        wait_for(lambda: said_of(found)[0] == 200)
        assert found.get("/traffic", found.admin).status_code == 200
        assert found.chat(found.app).status_code == 401
        empty = tmp_path / "empty.db"
        asyncio.run(with_store(empty, lambda store: store.keys()))
        empty.replace(found.database)
        wait_for(lambda: found.server.log.count("replaced by another database") == 2)
        wait_for(lambda: said_of(found)[0] == 200)
        wait_for(lambda: found.chat(found.admin).status_code == 401)
        assert found.chat("").status_code == 401


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_log_that_was_deleted_is_saved_by_a_restart(upstream, tmp_path, count):
    with world(tmp_path, config_of(upstream, tmp_path), "--workers", count) as found:
        names = {f"req-{n}" for n in range(8)}
        for name in names:
            assert found.chat(found.app, name).status_code == 200
        for name in names:
            wait_for(lambda name=name: found.get(f"/traffic/{name}", found.app).status_code == 200)
        for end in ("-wal", "-shm"):
            Path(f"{found.database}{end}").unlink()
        wait_for(lambda: found.statuses() == {503})
        assert "restart" in said_of(found)[1]["reason"]
        found.server.signal(signal.SIGTERM)
        assert found.server.wait() == 0
    with serving(tmp_path) as server:
        assert World(server, tmp_path, found.admin, found.app).chat(found.app).status_code == 200
    assert names <= rows_of(found.database)


def test_a_worker_that_is_restarted_makes_no_database_and_opens_no_door(upstream, tmp_path):
    with world(tmp_path, config_of(upstream, tmp_path), "--workers", "2") as found:
        wait_for(lambda: found.server.log.count("startup complete") == 2)
        with deleted(found):
            for pid in found.server.workers:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: found.server.log.count("cannot open:") >= 2)
            assert not found.database.exists()
        wait_for(lambda: found.server.log.count("startup complete") == 4)
        wait_for(lambda: found.statuses() == {200})
        assert found.chat(found.app).status_code == 200
        # One without keys, in the place of one whose keys no worker has seen.
        empty = tmp_path / "empty.db"
        asyncio.run(with_store(empty, lambda store: store.keys()))
        found.database.unlink()
        for pid in found.server.workers:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: found.server.log.count("cannot open:") >= 4)
        for end in ("-wal", "-shm"):
            Path(f"{found.database}{end}").unlink()
        empty.replace(found.database)
        wait_for(lambda: found.server.log.count("startup complete") == 6)
        assert {found.chat("").status_code for _ in range(EVERYBODY)} == {401}
