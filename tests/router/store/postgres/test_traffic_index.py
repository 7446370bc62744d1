"""How much PostgreSQL has to read for a page of requests, and which requests it finds."""

from __future__ import annotations

import psycopg
import pytest

from router.store.postgres import PostgresStore
from router.store.postgres.connection import PostgresConnection
from router.store.postgres.migrations import migrate
from router.store.postgres.traffic_index import delete, numbers_of, selection
from router.store.traffic import TrafficFilter

COUNT = 50_000
# Of 8 KB. The table has some 900, and the indexes have more.
FEW_PAGES = 500

INSERT = """
    INSERT INTO traffic (number, id, at, key_id, path, route, target, status, error_code, klass,
        stream, cached, finish_reason, prompt_tokens, completion_tokens, cost_usd, first_byte_s,
        total_s, model, bodies, detail, user_id)
    SELECT n, 'req_' || n, n + n * 7919 %% 500, 'key_' || n %% 10, 'chat/completions',
        CASE WHEN n %% 10 > 0 THEN 'a' ELSE 'b' END, CASE WHEN n < 5000 THEN 'old/m' ELSE 'p/m' END,
        200, '', 'live', 0, 0, 'stop', 1, 1, 0.1, 0.1, 0.1, 'm', 0, '{}',
        CASE WHEN n %% 4 > 0 THEN '' ELSE 'user ' || n %% 12 END
    FROM generate_series(%s::bigint, %s::bigint) AS n
"""


class CountingConnection(PostgresConnection):
    """Counts the pages that statements read."""

    pages = 0

    def execute(self, sql, values=(), /):
        [plan] = (
            super().execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", values).fetchone()
        )
        self.pages += plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
        return super().execute(sql, values)


@pytest.fixture(scope="module")
def connection(postgres):
    """Fifty thousand requests; the keys 1 to 9 never use route b, and nothing has status 404."""
    with (
        postgres.fresh_database() as address,
        psycopg.connect(address, autocommit=True) as connection,
    ):
        for first in range(1, COUNT, 1000):
            connection.execute(INSERT, (first, first + 999))
        connection.execute("VACUUM ANALYZE traffic")
        yield connection


@pytest.mark.parametrize(
    ("chosen", "number"),
    [
        ({}, 51),
        ({"status": (404, 404)}, 0),
        ({"status": (200, 299), "target": "old/m"}, 51),
        ({"target": "old/m"}, 51),
        ({"key_id": "key_3", "route": "b"}, 0),
        ({"key_id": "key_0", "target": "old/m"}, 51),
        ({"user": "user 4"}, 51),
        ({"user": "user 4", "key_id": "key_6", "target": "old/m"}, 51),
        ({"user": "none", "route": "a"}, 0),
        ({"until": 1000.0}, 51),
        ({"until": 1000.0, "key_id": "key_3", "route": "a"}, 51),
        ({"since": 4000.0, "until": 4100.0, "status": (404, 404)}, 0),
        ({"since": 9000.0, "until": 9100.0, "target": "old/m"}, 0),
        ({"traffic_class": "eval"}, 0),
        ({"traffic_class": "live", "route": "b", "until": 30000.0}, 51),
        ({"except_routes": ("a",), "until": 30000.0}, 51),
        ({"until": 0.0}, 0),
        ({"since": 1e9}, 0),
        ({"id": "req_7"}, 1),
        ({"id": "none", "route": "a"}, 0),
    ],
)
def test_a_page_reads_little_however_few_requests_match(connection, chosen, number):
    matching = TrafficFilter(**chosen)
    db = CountingConnection(connection)
    found = numbers_of(db, matching, limit=51)
    assert len(found) == number
    assert db.pages < FEW_PAGES
    _, where, values = selection(db, matching)
    rows = PostgresConnection(connection).execute(
        f"SELECT number FROM traffic{' WHERE ' if where else ''}{' AND '.join(where)}"
        " ORDER BY number DESC",
        values,
    )
    expected = [number for (number,) in rows.fetchall()]
    assert found == expected[:51]
    middle = expected[len(expected) // 2] if expected else 1
    following = numbers_of(db, matching, limit=51, before=middle)
    assert following == [number for number in expected if number < middle][:51]


def blocks_of(connection):
    query = "SELECT DISTINCT block FROM traffic_blocks ORDER BY 1"
    return [block for (block,) in connection.execute(query)]


def test_times_of_a_block_are_kept_until_its_requests_are_long_gone(postgres_address):
    with psycopg.connect(postgres_address, autocommit=True) as connection:
        for first in (1, 100 * 4096):
            connection.execute(INSERT, (first, first + 5000))
        assert blocks_of(connection) == [0, 1, 100, 101]
        db = PostgresConnection(connection)
        delete(db, range(1, 4000))
        assert blocks_of(connection) == [0, 1, 100, 101]
        delete(db, range(4000, 5002))
        assert blocks_of(connection) == [100, 101]
        # A transaction may still be writing there.
        delete(db, range(100 * 4096, 101 * 4096))
        assert blocks_of(connection) == [100, 101]


async def test_requests_of_an_older_version_are_found_by_their_time(postgres):
    with postgres.fresh_database("template1") as address:
        with psycopg.connect(address, autocommit=True) as connection:
            migrate(connection, stop_before="m036_traffic_kinds")
            connection.execute(INSERT, (1, 9000))
        store = PostgresStore(address)
        await store.open()
        rows = await store.traffic(TrafficFilter(until=20.0, route="b"), limit=10)
        await store.close()
        assert [row.at < 20 for row in rows] == [True] * len(rows)
