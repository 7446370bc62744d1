"""A PostgreSQL server that goes away, comes back, refuses, or is reached through a pooler."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager

import psycopg
import pytest
from postgres_server import GUARDED, PASSWORD, pooler
from stores import a_run, answered, answered_cells, everything, some_samples

from evaluators.base import Cell
from providers.base import Secret
from providers.errors import StoreError, StoreUnavailableError
from router.store.keys import KeyRow, KeySpend
from router.store.postgres import PostgresStore
from router.store.runs import Progress

REAL_TIMES = os.environ.get("REAL_TIMES") == "1"


@asynccontextmanager
async def opened(address, *args, **options):
    store = PostgresStore(address, *args, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_a_server_that_is_killed_again_and_again_loses_nothing_and_repeats_nothing(
    postgres, postgres_address
):
    count, spends = 400, 0
    async with opened(postgres_address) as store:
        await store.add_run(a_run(dataset_rows=count), some_samples(count))
        await store.add_key(KeyRow(id="key_1", name="k", created_at=1.0), b"1" * 32)
        left = iter(range(count))

        async def work() -> None:
            nonlocal spends
            for n in left:
                await answered(store, Cell("r", f"s{n}", 0), "o")
                # A sum tells whether a write was done twice.
                await store.add_key_spend([KeySpend(key_id="key_1", since=0.0, requests=1)])
                spends += 1

        working = asyncio.gather(*(work() for _ in range(8)))
        for kills in range(4):
            while spends < (kills + 1) * count // 6:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.start)
        assert spends < count, "all was written before the last kill"
        await working
        assert await store.progress("run_1") == Progress(
            answered=count, failed=0, in_flight=0, scored=count
        )
        assert (await store.key_state()).spent["key_1"].requests == spends == count
        assert len(await answered_cells(store)) == count


@asynccontextmanager
async def cut_off_at_commits(port, after_reply, times, frozen=None):
    """A port that leads to the server, and cuts connections at their first commits.

    With `after_reply`, the server has committed and said so, but nobody has heard it; without, it
    was never told to. Until `frozen` is set, connections stay
    open, and nothing comes or goes any more.
    """
    left = times
    tasks = set()

    async def serve(reader, writer):
        nonlocal left
        tasks.add(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.create_task(forward(server_reader, writer))
        try:
            while data := await reader.read(65536):
                if b"COMMIT\0" in data and left:
                    left -= 1
                    if after_reply:
                        back.cancel()
                        server_writer.write(data)
                        assert b"COMMIT" in await server_reader.read(65536)
                    if frozen is not None:
                        back.cancel()
                        await frozen.wait()
                    break
                server_writer.write(data)
        finally:
            back.cancel()
            server_writer.close()
            writer.close()

    async def forward(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        assert left == 0
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("after_reply", [True, False])
async def test_a_write_whose_commit_nobody_confirmed_is_done_once(
    postgres, postgres_address, after_reply
):
    async with opened(postgres_address) as store:
        await store.add_key(KeyRow(id="key_1", name="k", created_at=1.0), b"1" * 32)
    async with cut_off_at_commits(postgres.port, after_reply, 3) as port:
        address = postgres_address.replace(f":{postgres.port}", f":{port}") + "?sslmode=disable"
        async with opened(address) as store:
            for _ in range(3):
                await store.add_key_spend([KeySpend(key_id="key_1", since=0.0, requests=1)])
            state = await store.key_state()
    assert state.spent["key_1"].requests == 3


@pytest.mark.skipif(not REAL_TIMES, reason="takes ten seconds: make test-outages")
async def test_a_host_that_vanishes_in_a_transaction_keeps_its_run_from_nobody(
    postgres, postgres_address
):
    """The server ends the transaction, which has the run's row locked, after ten seconds."""
    async with opened(postgres_address) as other:
        await other.add_run(a_run(), some_samples())
        back = asyncio.Event()
        async with cut_off_at_commits(postgres.port, False, 1, back) as port:
            address = postgres_address.replace(f":{postgres.port}", f":{port}") + "?sslmode=disable"
            async with opened(address) as vanished:
                claiming = asyncio.create_task(vanished.claim_run("run_1", "vanished", 30.0))
                while not await holds_a_row(postgres_address):
                    await asyncio.sleep(0.01)
                assert await other.claim_run("run_1", "other", 30.0)
                assert not claiming.done()
                back.set()
                assert not await claiming
        assert (await other.run("run_1")).owner == "other"


async def holds_a_row(address):
    """Whether a transaction waits for its client."""
    async with await psycopg.AsyncConnection.connect(address) as connection:
        found = await connection.execute(
            "SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        return await found.fetchone() is not None


async def test_a_server_that_stays_away_is_an_error_of_the_store(
    postgres, postgres_address, caplog
):
    address = postgres_address.replace("tests@", f"{GUARDED}@")
    async with opened(address, Secret(PASSWORD)) as store:
        await store.add_run(a_run(), some_samples())
        await store.check()
        assert store.delay() is None
        await asyncio.to_thread(postgres.stop)
        store.end_within(0.0)
        for refused in (
            store.begin("run_1", Cell("r", "s0", 0), "h", "t"),
            store.runs(),
            store.check(),
            everything(store.results("run_1")),
        ):
            with pytest.raises(StoreUnavailableError, match="postgresql://127") as caught:
                await refused
            assert (caught.value.fault, caught.value.status) == ("unreachable", 503)
            assert "127.0.0.1" not in caught.value.reason
            assert PASSWORD not in repr(caught.value) + repr(caught.value.__cause__)
        assert store.delay().fault == "unreachable"
        await asyncio.to_thread(postgres.start)
        await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
        assert (await store.progress("run_1")).in_flight == 1
        await store.check()
    assert "works again" in caplog.text
    assert PASSWORD not in caplog.text


async def test_connections_that_the_server_has_ended_meanwhile_are_no_fault(
    postgres, postgres_address, caplog
):
    async with opened(postgres_address) as store:
        await store.add_run(a_run(), some_samples())
        await store.runs()
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{postgres_address.rpartition('/')[2]}'"
        )
        await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
        assert len(await store.runs()) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("user", "password", "database", "told"),
    [(GUARDED, "secret99", "", "authentication failed"),
     (GUARDED, "", "", "no password supplied"),
     ("tests", "secret99", "_", "does not exist"),
     ("nobody_here", "secret99", "", "does not exist")],
)  # fmt: skip
async def test_what_will_never_work_is_an_error_at_once(
    postgres_address, user, password, database, told
):
    address = postgres_address.replace("tests@", f"{user}@") + database
    store = PostgresStore(address, Secret(password))
    with pytest.raises(StoreError, match=told) as caught:
        await store.open()
    assert "secret99" not in caught.value.message
    with pytest.raises(StoreError, match="not open"):
        await store.runs()


async def test_a_database_that_is_read_only_says_so(postgres, postgres_address):
    async with opened(postgres_address) as store:
        await store.add_run(a_run(), some_samples())
    name = postgres_address.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with opened(postgres_address) as store:
        store.end_within(0.0)
        with pytest.raises(StoreUnavailableError, match="takes no writes") as caught:
            await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
        assert caught.value.fault == "read_only"
        assert len(await store.runs()) == 1


async def test_a_database_that_is_not_utf_8_is_refused(postgres):
    postgres.execute(
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        with pytest.raises(StoreError, match="LATIN1; create it with UTF8"):
            await PostgresStore(postgres.address("latin")).open()
    finally:
        postgres.execute("DROP DATABASE latin WITH (FORCE)")


async def test_a_pooler_that_gives_each_transaction_another_connection_is_no_obstacle(
    postgres, postgres_address
):
    with pooler(postgres) as through:
        async with (
            opened(through(postgres_address)) as one,
            opened(through(postgres_address)) as other,
        ):
            await one.add_run(a_run(dataset_rows=60), some_samples(60))
            assert await one.claim_run("run_1", "me", 60.0)

            async def work(n: int) -> None:
                await answered(one, Cell("r", f"s{n}", 0), "o")
                assert (await other.run("run_1")).owner == "me"

            await asyncio.gather(*(work(n) for n in range(60)))
            assert (await other.progress("run_1")).scored == 60
            assert not await other.claim_run("run_1", "another", 60.0)
