"""Rollouts of several servers with several workers, one of which is killed while it decides.

On one SQLite file, and on one PostgreSQL database. It is part of `make test-outages`.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
from contextlib import closing

import httpx
import psycopg
import pytest
from server_process import serving, wait_for
from servers import scripted

pytestmark = pytest.mark.skipif(
    os.environ.get("REAL_TIMES") != "1", reason="takes half a minute: make test-outages"
)
CONFIG = """
server: {{port: 0}}
storage: {{database: "{database}"}}
providers:
  up: {{kind: compatible, base_url: "{url}"}}
routes:
  r: {{targets: [{{model: up/old}}], retries: {{attempts: 1}}}}
"""
MODELS = {
    "old": [{"answer": "old"}],
    "new": [{"answer": "new"}],
    # One user in four meets an error, as the control's never do.
    "bad": [{"match": "[048]$", "status": 500}, {"answer": "bad"}],
}
SETTINGS = {
    "steps": [30, 60],
    "step_seconds": 0,
    "cycle_seconds": 0,
    "unit_seconds": 0,
    "force": True,
    "signals": [
        {"measure": "errors", "min_requests": 20},
        {"measure": "errors", "role": "goal", "margin": 0.2, "min_requests": 20},
    ],
}
NUMBERS = itertools.count()


def ask(http, url, user=None):
    """The target that answers a user, a new one by default."""
    number = next(NUMBERS) if user is None else user
    body = {"model": "r", "user": f"user {number}"}
    body["messages"] = [{"role": "user", "content": f"hi {number}"}]
    response = http.post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.headers["x-evalrouter-target"]


def rollout_of(http, url):
    return http.get(f"{url}/routes/r/rollout").json()


def end(http, *urls):
    """Let users come to all servers until the rollout has ended."""
    for round_number in itertools.count():
        for url in urls:
            ask(http, url)
        if round_number % 10 == 0:
            report = rollout_of(http, urls[0])
            if report["rollout"]["ended_at"] is not None:
                return report
    raise AssertionError


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_address")
    return f"sqlite:///{tmp_path}/e.db"


def rows_of(database, query):
    if database.startswith("sqlite"):
        with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as db:
            return db.execute(query).fetchall()
    with psycopg.connect(database) as db:
        return db.execute(query).fetchall()


def deciding(database):
    """The process that has the lease: its pid."""
    rows = rows_of(database, "SELECT owner FROM leases WHERE name LIKE '%rollouts'")
    return int(rows[0][0].split(":")[1]) if rows else None


def check_counts(database):
    """Every counted request is in the statistics, once, and no request waits."""
    counted = rows_of(
        database,
        "SELECT rollout, sum(CASE WHEN arm = 'candidate' AND counted > 0 THEN 1 ELSE 0 END)"
        " FROM rollout_requests GROUP BY rollout",
    )
    statistics = rows_of(database, "SELECT rollout, statistics FROM rollout_statistics")
    assert dict(counted) == {
        rollout: json.loads(text)["rules"]["candidate_requests"] for rollout, text in statistics
    }


def test_servers_agree_and_one_that_is_killed_costs_no_decision(tmp_path, database):
    with scripted(MODELS) as upstream, httpx.Client(timeout=60) as http:
        folders = [tmp_path / name for name in ("a", "b")]
        for folder in folders:
            folder.mkdir()
            config = CONFIG.format(database=database, url=upstream.url)
            (folder / "evalrouter.yaml").write_text(config)
        with (
            serving(folders[0], "--workers", "2") as first,
            serving(folders[1], "--workers", "2") as second,
        ):
            urls = first.url, second.url
            http.post(
                f"{first.url}/routes/r/rollout", json={"candidate": "up/new", **SETTINGS}
            ).raise_for_status()
            # All four processes follow within a second; then they agree about every user.
            wait_for(lambda: all(has_candidates(url) for url in urls for _ in range(8)))
            for user in range(20):
                assert len({fresh(url, user) for url in urls for _ in range(4)}) == 1
            wait_for(lambda: deciding(database) is not None)
            victim = deciding(database)
            killed, other = (first, second) if victim in first.workers else (second, first)
            for process in killed.pids:
                os.kill(process, signal.SIGKILL)
            report = end(http, other.url)
            assert report["rollout"]["state"] == "promoted"
            assert report["decisions"][-1]["actor"] != report["decisions"][0]["actor"]
            assert int(report["decisions"][-1]["actor"].split(":")[1]) in other.workers
            check_counts(database)
            wait_for(lambda: {fresh(other.url, user) for user in range(20)} == {"up/new"})
        # What was promoted is promoted for those who start later, and another is rolled back.
        with serving(folders[0]) as later:
            assert ask(http, later.url) == "up/new"
            http.post(
                f"{later.url}/routes/r/rollout", json={"candidate": "up/bad", **SETTINGS}
            ).raise_for_status()
            report = end(http, later.url)
            assert report["rollout"]["state"] == "rolled_back"
            assert ask(http, later.url) == "up/new"
            check_counts(database)


def fresh(url, user):
    """The target that answers a user over a new connection, so of any worker."""
    with httpx.Client(timeout=60) as http:
        return ask(http, url, user)


def has_candidates(url):
    return "up/new" in {fresh(url, user) for user in range(10)}
