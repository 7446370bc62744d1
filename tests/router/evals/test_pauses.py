"""A server is suspended for longer than its claim lasts, and goes on when another has its run.

The claim is made old in the database, so that nobody has to wait; with `REAL_TIMES=1`, as in
`make test-outages`, the server is suspended for as long as it takes.
"""

import json
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from server_process import serving, wait_for
from servers import scripted

SAMPLES = 60
ANSWERS = "SELECT id, position, asked_at, answered_at, text FROM answers WHERE state = 'answered'"
REAL_TIMES = os.environ.get("REAL_TIMES") == "1"


@pytest.fixture
def upstream():
    with scripted({"m": [{"delay_s": 0.05}]}) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_address")
    return f"sqlite:///{tmp_path}/evalrouter.db"


@contextmanager
def database(address):
    if address.startswith("sqlite"):
        with closing(sqlite3.connect(address.removeprefix("sqlite:///"), timeout=60)) as connection:
            yield connection
    else:
        with psycopg.connect(address, autocommit=True) as connection:
            yield connection


def rows(address, query):
    with database(address) as connection:
        return connection.execute(query).fetchall()


def suspend(server, address):
    """Stop it between two transactions: one that it is in would keep others from the database."""
    while True:
        server.signal(signal.SIGSTOP)
        wait_for(lambda: state_of(server.pid) == "T")
        if address.startswith("sqlite"):
            try:
                with closing(sqlite3.connect(address.removeprefix("sqlite:///"), timeout=0)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    return
            except sqlite3.OperationalError:
                pass
        elif not rows(
            address,
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND state <> 'idle'",
        ):
            return
        server.signal(signal.SIGCONT)
        time.sleep(0.01)


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def let_the_claim_become_old(address):
    with database(address) as connection:
        connection.execute("UPDATE runs SET heartbeat_at = heartbeat_at - 60")
        connection.commit()


def create(server, name):
    body = {
        "dataset": f"{name}.jsonl",
        "routes": ["up/m"],
        "metrics": ["exact_match"],
        "limits": {"concurrency": 4},
    }
    reply = httpx.post(f"{server.url}/eval", json=body, timeout=60)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def run_of(server, run_id):
    return httpx.get(f"{server.url}/eval/{run_id}", timeout=60).raise_for_status().json()["run"]


# Two servers start; with a real lease, one of them sleeps for more than half a minute.
@pytest.mark.timeout(300)
def test_a_suspended_server_stores_nothing_of_what_another_has_taken_over(
    tmp_path, address, upstream
):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        for name in ("first", "second"):
            samples = [{"input": f"{name} {n}", "reference": "x"} for n in range(SAMPLES)]
            text = "".join(json.dumps(sample) + "\n" for sample in samples)
            (folder / f"{name}.jsonl").write_text(text)
        (folder / "evalrouter.yaml").write_text(f"""
server: {{port: 0, drain_seconds: 1}}
storage: {{database: "{address}"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
""")
    with serving(folders[0]) as one, serving(folders[1]) as two:
        run_id = create(one, "first")
        wait_for(lambda: upstream.log.total > 8)
        [(owner,)] = rows(address, "SELECT owner FROM runs")
        pid = int(re.match(r"[^:]+:(\d+):", owner)[1])
        asleep, awake = (one, two) if pid == one.pid else (two, one)
        suspend(asleep, address)
        received = upstream.log.total
        if not REAL_TIMES:
            let_the_claim_become_old(address)
        wait_for(lambda: upstream.log.total > received + 8)
        taken_over = rows(address, ANSWERS)
        # In the middle of what the other one does.
        asleep.signal(signal.SIGCONT)
        wait_for(lambda: f"{run_id}: another process took it over" in asleep.log)
        wait_for(lambda: run_of(awake, run_id)["state"] == "completed")
        stored = rows(address, ANSWERS)
        assert set(taken_over) <= set(stored)
        assert len(stored) == len(rows(address, "SELECT * FROM scores")) == SAMPLES
        sent = Counter(bytes(request.body) for request in upstream.log.requests)
        assert len(sent) == SAMPLES
        assert 0 < sent.total() - SAMPLES <= run_of(awake, run_id)["interrupted"] <= 4
        # It goes on: with requests of clients, and with runs.
        chat = {"model": "up/m", "messages": [{"role": "user", "content": "hi"}]}
        reply = httpx.post(f"{asleep.url}/v1/chat/completions", json=chat, timeout=60)
        assert reply.status_code == 200
        awake.signal(signal.SIGTERM)
        assert awake.wait() == 0
        second = create(asleep, "second")
        wait_for(lambda: run_of(asleep, second)["state"] == "completed")
        assert "Traceback" not in asleep.log
