"""How much SQLite has to read for a page of requests, and old files without an index."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from sqlite_utils import Database
from stores import sqlite_store

from router.store.sqlite.connection import SqliteConnection
from router.store.sqlite.migrations import migrate
from router.store.sqlite.traffic_index import index_block, numbers_of
from router.store.traffic import TrafficFilter

COUNT = 50_000
UNINDEXED = 4096  # at most so many full blocks' worth of requests wait for the index


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """Fifty thousand requests; the keys 1 to 9 never use route b, and nothing has status 404."""
    path = tmp_path_factory.mktemp("traffic") / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db)
        insert(db, COUNT)
        while index_block(db):
            pass
        yield db


def insert(db: Database, count: int) -> None:
    db.execute(
        """
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
        INSERT INTO traffic (number, id, at, key_id, path, route, target, status, error_code, klass,
            stream, cached, finish_reason, prompt_tokens, completion_tokens, cost_usd, first_byte_s,
            total_s, model, bodies, detail)
        SELECT n, 'req_' || n, n, 'key_' || (n % 10), 'chat/completions',
            CASE WHEN n % 10 THEN 'a' ELSE 'b' END, CASE WHEN n < 5000 THEN 'old/m' ELSE 'p/m' END,
            200, '', 'live', 0, 0, 'stop', 1, 1, 0.1, 0.1, 0.1, 'm', 0, '{}' FROM numbers
        """,
        (count,),
    )


@pytest.mark.parametrize(
    ("chosen", "number"),
    [
        ({}, 51),
        ({"status": (404, 404)}, 0),
        ({"target": "old/m"}, 51),
        ({"key_id": "key_3", "route": "b"}, 0),
        ({"key_id": "key_0", "target": "old/m"}, 51),
        ({"until": 1000.0}, 51),
        ({"until": 1000.0, "key_id": "key_3", "route": "a"}, 51),
        ({"since": 4000.0, "until": 4100.0, "status": (404, 404)}, 0),
        ({"traffic_class": "eval"}, 0),
        ({"traffic_class": "live", "route": "b", "until": 30000.0}, 51),
        ({"until": 0.0}, 0),
        ({"since": 1e9}, 0),
        ({"id": "req_7"}, 1),
        ({"id": "none", "route": "a"}, 0),
    ],
)
def test_a_page_reads_little_however_few_requests_match(db, chosen, number):
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    db.conn.set_progress_handler(count, 100)
    try:
        found = numbers_of(SqliteConnection(db, time.time), TrafficFilter(**chosen), limit=51)
    finally:
        db.conn.set_progress_handler(None, 0)
    assert len(found) == number
    # Two unindexed blocks and one that is read in part, at some ten steps a request, and no more.
    assert steps * 100 < 3 * UNINDEXED * 12


async def test_requests_of_an_older_version_are_found_and_indexed(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        migrate(db, stop_before="m030_traffic_index")
        insert(db, 10_000)
        # As retention leaves it: the first number is not 1.
        db.execute("DELETE FROM traffic WHERE number < 4500")
    async with sqlite_store(path) as store:
        expected = [f"req_{n}" for n in range(4999, 4499, -1)]
        for _ in range(2):
            rows = await store.traffic(TrafficFilter(target="old/m"), limit=1000)
            assert [row.id for row in rows] == expected
            indexed = 0
            while await store.index_traffic():
                indexed += 1
        assert indexed == 0
    with closing(sqlite3.connect(path)) as connection:
        blocks = connection.execute("SELECT block, earliest, latest FROM traffic_blocks").fetchall()
        assert blocks == [(1, 4500.0, 8191.0)]
