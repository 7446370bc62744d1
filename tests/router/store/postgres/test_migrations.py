"""The PostgreSQL schema: made once, all or nothing, with the numbers of SQLite's."""

from __future__ import annotations

import asyncio
import sys

import psycopg
import pytest
from stores import a_run, some_samples

from providers.errors import StoreError
from router.store.postgres import PostgresStore
from router.store.postgres.migrations import STEPS
from router.store.sqlite.migrations import STEPS as SQLITE_STEPS

OPEN = """
import asyncio, sys
from router.store.postgres import PostgresStore
asyncio.run(PostgresStore(sys.argv[1]).open())
"""
WAITS = """
    SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE NOT granted AND locktype = 'transactionid' AND datname = %s
"""


@pytest.fixture
def empty(postgres):
    """The address of a database without tables."""
    with postgres.fresh_database("template1") as address:
        yield address


def tables(address):
    with psycopg.connect(address) as connection:
        rows = connection.execute("SELECT relname FROM pg_stat_user_tables ORDER BY 1")
        return [name for (name,) in rows]


async def test_stores_that_open_at_once_migrate_once(empty):
    stores = [PostgresStore(empty) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].add_run(a_run(), some_samples())
    assert await stores[3].run("run_1") == a_run()
    for store in stores:
        await store.close()


async def test_a_migration_that_fails_half_way_leaves_nothing(empty, postgres):
    name = empty.rpartition("/")[2]
    postgres.execute("CREATE TABLE judgements (other INT)", database=name)
    with pytest.raises(StoreError, match=r'open the database: .*"judgements" already exists'):
        await PostgresStore(empty).open()
    assert tables(empty) == ["judgements"]
    postgres.execute("DROP TABLE judgements", database=name)
    store = PostgresStore(empty)
    await store.open()
    await store.close()
    assert "runs" in tables(empty)


async def test_a_migration_that_is_killed_half_way_leaves_nothing(empty, postgres):
    with psycopg.connect(empty) as other:
        # The step waits in its middle for whoever makes a table of the same name.
        other.execute("CREATE TABLE judgements (other INT)")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPEN, empty, stderr=asyncio.subprocess.DEVNULL
        )
        with psycopg.connect(postgres.address("postgres"), autocommit=True) as watching:
            while not watching.execute(WAITS, (empty.rpartition("/")[2],)).fetchone():
                await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
        other.rollback()
    # It waits for what the server makes of the killed one's transaction.
    store = PostgresStore(empty)
    await store.open()
    await store.add_run(a_run(), some_samples())
    await store.close()


async def test_a_database_of_a_newer_version_is_refused(postgres_address, postgres):
    postgres.execute(
        "INSERT INTO evalrouter_migrations (name) VALUES ('m999_from_the_future')",
        database=postgres_address.rpartition("/")[2],
    )
    with pytest.raises(StoreError, match=r"newer evalrouter \(it has m999_from_the_future"):
        await PostgresStore(postgres_address).open()


def test_later_steps_have_the_names_of_sqlites():
    names = [step.__name__ for step in SQLITE_STEPS]
    assert list(STEPS) == names[names.index("m029_label_scores") :]
