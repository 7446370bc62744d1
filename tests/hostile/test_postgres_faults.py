"""PostgreSQL goes away, fails over, or has a full disk, while runs and requests are under way.

With `REAL_TIMES=1`, as in `make test-outages`, it is away for half a minute.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest
from postgres_server import PostgresServer, another_user, folder_of_programs
from server_process import ServerProcess, serving, wait_for
from servers import scripted

from router.gateway.key_administration import create
from router.store.postgres import PostgresStore

REAL_TIMES = os.environ.get("REAL_TIMES") == "1"
AWAY_S = 30.0 if REAL_TIMES else 0.5
SAMPLES = 800 if REAL_TIMES else 150
CONCURRENCY = 4


@pytest.fixture
def upstream():
    with scripted({"m": [{"delay_s": 0.05}]}) as server:
        yield server


class World:
    """A server on a PostgreSQL database, with a key, a run, and a client that goes on and on."""

    def __init__(self, server: ServerProcess, upstream, address: str, key: str) -> None:
        self.server = server
        self.key = key
        self.address = address
        self._upstream = upstream
        self._requests: list[tuple[str, int]] = []

    def call(self, method: str, path: str, **options) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        url = self.server.url + path
        return httpx.request(method, url, headers=headers, timeout=120, **options)

    def evaluate(self) -> str:
        body = {"dataset": "data.jsonl", "routes": ["up/m"], "metrics": ["exact_match"],
                "limits": {"concurrency": CONCURRENCY}}  # fmt: skip
        reply = self.call("POST", "/eval", json=body)
        assert reply.status_code == 202, reply.text
        wait_for(lambda: self._upstream.log.total > 20)
        return reply.json()["id"]

    def run(self, run_id: str) -> dict:
        return self.call("GET", f"/eval/{run_id}").raise_for_status().json()["run"]

    def fault(self) -> str:
        """What `/health/ready` says of the database; "" where it is ready."""
        return httpx.get(f"{self.server.url}/health/ready", timeout=60).json().get("database", "")

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Requests of a client, one after the other."""
        stop = threading.Event()

        def send() -> None:
            for n in itertools.count():
                if stop.is_set():
                    return
                name = f"live-{n}"
                chat = {"model": "up/m", "messages": [{"role": "user", "content": name}]}
                reply = self.call(
                    "POST", "/v1/chat/completions", json=chat, headers={"x-request-id": name}
                )
                self._requests.append((name, reply.status_code))

        client = threading.Thread(target=send)
        client.start()
        try:
            yield
        finally:
            stop.set()
            client.join()

    def requests_reach(self, count: int) -> None:
        """Wait for so many more requests to be answered."""
        count += len(self._requests)
        wait_for(lambda: len(self._requests) >= count)

    def check_traffic(self) -> None:
        """Every request was answered, recorded once and charged once."""
        assert {status for _, status in self._requests} == {200}
        names = [name for name, _ in self._requests]
        wait_for(lambda: self._query("SELECT count(*) FROM traffic") == [(len(names),)])
        assert {name for (name,) in self._query("SELECT request_id FROM traffic")} == set(names)
        wait_for(lambda: self._query("SELECT sum(requests) FROM key_spend") == [(len(names),)])

    def check_run(self, run_id: str, at_most_again: int = 0) -> None:
        """Every sample has one answer and one score, and was sent once."""
        wait_for(lambda: self.run(run_id)["state"] == "completed")
        assert self._query("SELECT count(*), count(DISTINCT position) FROM answers") == [
            (SAMPLES, SAMPLES)
        ]
        assert self._query("SELECT count(*), count(DISTINCT answer) FROM scores") == [
            (SAMPLES, SAMPLES)
        ]
        sent = Counter(bytes(request.body) for request in self._upstream.log.requests)
        of_run = {body: times for body, times in sent.items() if b"live-" not in body}
        assert len(of_run) == SAMPLES
        assert sum(of_run.values()) - SAMPLES <= at_most_again

    def _query(self, query: str) -> list:
        with psycopg.connect(self.address) as connection:
            return connection.execute(query).fetchall()


def prepare(folder: Path, upstream, address: str) -> str:
    """Write the config and the dataset; return a key."""
    (folder / "evalrouter.yaml").write_text(f"""
server: {{port: 0, drain_seconds: 1}}
storage: {{database: "{address}"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
""")
    samples = [{"input": f"sample {n}", "reference": "x"} for n in range(SAMPLES)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))

    async def make() -> str:
        store = PostgresStore(address)
        await store.open()
        try:
            return (await create(store, "admin", now=0.5, role="admin"))[0]
        finally:
            await store.close()

    return asyncio.run(make())


@contextmanager
def world(folder: Path, upstream, address: str) -> Iterator[World]:
    key = prepare(folder, upstream, address)
    with serving(folder) as server:
        yield World(server, upstream, address, key)
        assert "Traceback" not in server.log


@pytest.mark.timeout(300)
def test_while_postgresql_is_away_models_are_answered_and_runs_wait(
    tmp_path, upstream, postgres, postgres_address
):
    with world(tmp_path, upstream, postgres_address) as found:
        run_id = found.evaluate()
        with found.traffic():
            found.requests_reach(3)
            postgres.kill()
            try:
                wait_for(lambda: found.fault() == "unreachable")
                found.requests_reach(3)
                time.sleep(AWAY_S)
            finally:
                postgres.start()
            wait_for(lambda: found.fault() == "")
            found.requests_reach(3)
        found.check_run(run_id)
        found.check_traffic()
        assert "waiting up to 45 s" in found.server.log


@pytest.fixture
def pair():
    """A primary, and a replica that has all that the primary has committed."""
    programs = folder_of_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    primary = PostgresServer(programs)
    try:
        primary.start()
        primary.execute("CREATE DATABASE e")
        replica = PostgresServer(programs, primary=primary)
        try:
            replica.start()
            primary.execute(
                "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
            )
            yield primary, replica
        finally:
            replica.remove()
    finally:
        primary.remove()


@pytest.mark.timeout(300)
def test_a_replica_that_takes_over_is_found_and_nothing_is_lost(tmp_path, upstream, pair):
    primary, replica = pair
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
    address = f"postgresql://tests@{hosts}/e?target_session_attrs=read-write"
    with world(tmp_path, upstream, address) as found:
        run_id = found.evaluate()
        with found.traffic():
            found.requests_reach(3)
            primary.kill()
            wait_for(lambda: found.fault() == "unreachable")
            found.requests_reach(3)
            # Meanwhile, there is only a server that takes no writes.
            replica.execute("SELECT pg_promote()")
            wait_for(lambda: found.fault() == "")
            found.requests_reach(3)
        found.check_run(run_id)
        found.check_traffic()


@pytest.fixture
def small_database(postgres):
    """A database on a small disk of its own: its address, and the disk's folder."""
    # Another user writes there, who may not look into pytest's folders.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", place]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a small file system needs the right to mount one")
        try:
            space = folder / "space"
            space.mkdir()
            if user := another_user():
                shutil.chown(space, user)
            postgres.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            try:
                postgres.execute(
                    "CREATE DATABASE small TEMPLATE pattern STRATEGY FILE_COPY TABLESPACE small"
                )
                yield postgres.address("small"), folder
            finally:
                postgres.execute("DROP DATABASE IF EXISTS small WITH (FORCE)")
                postgres.execute("DROP TABLESPACE small")
        finally:
            subprocess.run(["umount", place], check=True)


@pytest.mark.timeout(300)
def test_a_full_disk_of_postgresql_is_named_and_loses_nothing(tmp_path, upstream, small_database):
    address, disk = small_database
    with world(tmp_path, upstream, address) as found:
        run_id = found.evaluate()
        with found.traffic():
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            wait_for(lambda: found.fault() == "full")
            found.requests_reach(3)
            assert found.fault() == "full"
            filler.unlink()
            wait_for(lambda: found.fault() == "")
            found.requests_reach(3)
        run = found.run(run_id)
        if run["state"] == "failed":
            assert "the disk of PostgreSQL is full" in run["error"]
            assert found.call("POST", f"/eval/{run_id}/resume").status_code == 202
        found.check_run(run_id, CONCURRENCY)
        found.check_traffic()


@pytest.mark.timeout(300)
def test_a_server_whose_clock_is_a_day_ahead_takes_no_run_and_ends_no_key(
    tmp_path, upstream, postgres_address
):
    # Not the program of that name: it starts a child, and a signal does not reach that.
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("another clock needs libfaketime (Debian's package libfaketime)")
    ahead = tmp_path / "ahead"
    ahead.mkdir()
    with world(tmp_path, upstream, postgres_address) as found:
        shutil.copy(tmp_path / "evalrouter.yaml", ahead)
        other_clock = [
            "env",
            f"LD_PRELOAD={libraries[0]}",
            "FAKETIME=+1d",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]
        with serving(ahead, before=other_clock) as server:
            there = World(server, upstream, postgres_address, found.key)
            run_id = found.evaluate()
            with found.traffic():
                found.check_run(run_id)
            assert found.run(run_id)["interrupted"] == 0
            assert there.call("GET", "/v1/models").status_code == 200
        found.check_traffic()
