"""The server killed at random moments, again and again: what runs promise must hold all the same.

None lost, none scored twice, none paid for twice beyond what was in flight when the server died.
The moments come from a seed that is printed; `CRASH_SEED` repeats them.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing

import httpx
import psycopg
import pytest
from servers import process, scripted

KILLS = 30
SAMPLES = 360
ROUTES = ("up/one", "up/two")
RUNS = 3
CONCURRENCY = 8


@pytest.fixture
def upstream():
    # Slow enough for a kill to meet requests in flight, and for the runs to outlast the kills.
    with scripted({"one": [{"delay_s": 0.04}], "two": [{"delay_s": 0.04}]}) as server:
        yield server


def fill(folder, upstream, database, samples):
    (folder / "evalrouter.yaml").write_text(f"""
server: {{port: 0, drain_seconds: 1}}
storage: {{database: "{database}"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
""")
    for run in range(RUNS):
        # Each run asks something else, so that a request says whose it is.
        rows = [{"input": f"run {run}, {n}", "reference": "x"} for n in range(samples)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"data{run}.jsonl").write_text(text)


# Most of it is thirty starts of a server: forty seconds on two idle cores.
@pytest.mark.timeout(400)
def test_thirty_kills_lose_nothing_and_pay_for_nothing_twice(tmp_path, upstream):
    folder = tmp_path
    fill(folder, upstream, "sqlite:///evalrouter.db", SAMPLES)
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 10**6)
    print(f"CRASH_SEED={seed}")  # noqa: T201 - to repeat the moments
    moments = random.Random(seed)
    runs: list[str] = []
    kills = 0
    while kills < KILLS:
        with process(folder) as (server, url):
            if not runs:
                runs = [create(url, run) for run in range(RUNS)]
            time.sleep(moments.uniform(0.0, 0.3))
            server.send_signal(signal.SIGKILL)
            server.wait()
            kills += 1
    with closing(sqlite3.connect(folder / "evalrouter.db")) as store:
        states = {state for (state,) in store.execute("SELECT state FROM runs")}
    assert states & {"queued", "running"}, "the runs ended before the last kill"
    with process(folder) as (_, url):
        interrupted = check_runs(url, runs, SAMPLES)
    check_requests(upstream, interrupted, SAMPLES)
    with closing(sqlite3.connect(folder / "evalrouter.db")) as store:
        check_rows(store, interrupted)


@pytest.mark.timeout(400)
def test_kills_of_two_servers_on_one_postgresql_do_neither(tmp_path, upstream, postgres_address):
    """Each takes over what the other one's death leaves."""
    samples, kills = 120, 3
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 10**6)
    print(f"CRASH_SEED={seed}")  # noqa: T201 - to repeat the moments
    moments = random.Random(seed)
    fill(tmp_path, upstream, postgres_address, samples)
    with ExitStack() as started:
        servers = [started.enter_context(process(tmp_path)) for _ in range(2)]
        runs = [create(servers[0][1], run, concurrency=2) for run in range(RUNS)]
        for kill in range(kills):
            time.sleep(moments.uniform(0.0, 0.3))
            server, _ = servers[kill % 2]
            server.send_signal(signal.SIGKILL)
            server.wait()
            servers[kill % 2] = started.enter_context(process(tmp_path))
        interrupted = check_runs(servers[kills % 2][1], runs, samples)
    check_requests(upstream, interrupted, samples)
    with psycopg.connect(postgres_address) as store:
        check_rows(store, interrupted)


def check_runs(url, runs, samples):
    """All are complete; return how many requests were in flight at a kill."""
    outcomes = [finished(url, run_id) for run_id in runs]
    for run, outcome in zip(runs, outcomes, strict=True):
        check_report(outcome, samples)
        check_samples(url, run, samples)
    interrupted = sum(outcome["run"]["interrupted"] for outcome in outcomes)
    assert interrupted > 0
    return interrupted


def check_requests(upstream, interrupted, samples):
    # What was in flight at a kill is all that was ever sent again, and no more often than that.
    sent = Counter((request.model, bytes(request.body)) for request in upstream.log.requests)
    assert len(sent) == RUNS * samples * len(ROUTES)
    assert sum(sent.values()) - len(sent) <= interrupted
    assert upstream.log.total == sum(sent.values())


def check_rows(store, interrupted):
    (times,) = store.execute("SELECT sum(times) FROM interruptions").fetchone()
    (twice,) = store.execute("SELECT count(*) - count(DISTINCT answer) FROM scores").fetchone()
    assert (times, twice) == (interrupted, 0)


def create(url, run, concurrency=CONCURRENCY):
    body = {
        "dataset": f"data{run}.jsonl",
        "routes": ROUTES,
        "metrics": ["exact_match"],
        "limits": {"concurrency": concurrency},
    }
    return httpx.post(f"{url}/eval", json=body).raise_for_status().json()["id"]


def finished(url, run_id):
    """Nobody resumes it: the server does."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        page = httpx.get(f"{url}/eval").json()["data"]
        if next(run for run in page if run["id"] == run_id)["state"] == "completed":
            return httpx.get(f"{url}/eval/{run_id}").json()
        time.sleep(0.1)
    raise AssertionError(f"{run_id} was not resumed")


def check_report(outcome, samples):
    for row in outcome["report"]["routes"]:
        assert (row["answered"], row["failed"], row["missing"]) == (samples, 0, 0)
        assert [score["scored"] for score in row["scores"]] == [samples]


def check_samples(url, run_id, samples):
    """Every cell once, with the answer to its own sample and one score."""
    rows, after = [], 0
    while after is not None:
        params = {"after": after, "limit": 1000}
        page = httpx.get(f"{url}/eval/{run_id}/samples", params=params).json()
        rows += page["data"]
        after = page["next"]
    cells = {(row["route"], row["sample"]["id"]) for row in rows}
    assert len(rows) == len(cells) == samples * len(ROUTES)
    for row in rows:
        assert row["answer"]["text"] == row["sample"]["fields"]["input"]
        assert len(row["scores"]) == 1
        assert len(row["request_hash"]) == 64
