"""A process that seals is killed at its worst moments; the next one goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sealed_requests import COUNT, NOW, Server, records

from router.datasets.artifacts import LocalArtifacts
from router.sealing.job import LEASE
from router.store.postgres import PostgresStore
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

# Dies before, or after, the nth call of a method of the store or of the artifacts; then anew.
PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from sealed_requests import Server
from router.datasets.artifacts import LocalArtifacts
from router.store.postgres import PostgresStore
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

place, folder, name, when, count = sys.argv[1:]
kind = PostgresStore if place.startswith("postgresql") else SqliteStore
left = int(count)

def dying(kind):
    async def method(self, *args, **kwargs):
        global left
        left -= 1
        if not left and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await getattr(kind, name)(self, *args, **kwargs)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return type("Dying", (kind,), {{name: method}} if hasattr(kind, name) else {{}})

async def main():
    store = dying(kind)(place if kind is PostgresStore else Path(place))
    await store.open()
    server = Server(store, dying(LocalArtifacts)(Path(folder)))
    while not await server.sealing.run_once():
        pass
    await server.recorded.delete(TrafficFilter(user="user_9"))

asyncio.run(main())
"""

MOMENTS = [
    ("seal_file", "before", 2),  # the file is there, its row does not say so
    ("move_to_file", "after", 1),  # some of its requests are visible
    ("replace_file", "after", 1),  # by a deletion; the replaced file is still there
]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_kills_lose_and_double_nothing(kind, tmp_path, request):
    if kind == "postgres":
        place = request.getfixturevalue("postgres_address")
        store = PostgresStore(place)
        moments = MOMENTS[1:2]
    else:
        place = tmp_path / "store.db"
        store = SqliteStore(place)
        moments = MOMENTS
    folder = tmp_path / "artifacts"
    await store.open()
    await store.keep_traffic(records())
    server = Server(store, LocalArtifacts(folder))
    program = PROGRAM.format(tests=str(Path(__file__).parents[2]))
    everything = [record.id for record in reversed(records())]
    others = [record.id for record in reversed(records()) if record.user != "user_9"]
    for name, when, count in moments:
        command = [sys.executable, "-E", "-c", program, place, folder, name, when, str(count)]
        killed = subprocess.run(command, check=False, stderr=subprocess.PIPE)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        deleting = name == "replace_file"
        listed = await server.listed()
        # A deletion that was cut off has deleted some of what it should.
        if deleting:
            assert [i for i in listed if i in set(others)] == others
            assert len(listed) == len(set(listed))
        else:
            assert listed == everything
        # The dead owner's lease ends some time.
        for owner in await _owners(store):
            await store.release_lease(LEASE, owner)
    assert (await server.recorded.delete(TrafficFilter(user="user_9"))).complete
    server.now = NOW + 4000.0
    await server.sealing.run_once()
    # What was being written when its process died is given up an hour later.
    for unused in await store.unused_files(0.0):
        await server.files.remove(unused.number, unused.key)
    assert await server.listed() == others
    assert sorted(await server.stored_files()) == sorted(
        file.key for file in await store.sealed_files()
    )
    assert len(await store.traffic(TrafficFilter(), limit=COUNT)) < COUNT / 2
    server.files.close()
    await store.close()


async def _owners(store) -> list[str]:
    rows = await store._database.read(
        "read leases", lambda db: db.execute("SELECT owner FROM leases").fetchall()
    )
    return [owner for (owner,) in rows]
