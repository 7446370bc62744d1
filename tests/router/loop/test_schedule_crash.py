"""Two servers on one database, one of which is killed during a schedule: there is one run.

It is part of `make test-outages`.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing

import httpx
import msgspec
import pytest
from server_process import serving, wait_for
from servers import scripted

pytestmark = pytest.mark.skipif(
    os.environ.get("REAL_TIMES") != "1", reason="takes up to two minutes: make test-outages"
)
SAMPLES, CONCURRENCY = 24, 2
# Slow enough for a kill to meet requests in flight.
MODELS = {"m": [{"answer": "yes", "delay_s": 0.05}]}
CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}"}}
datasets: {{roots: ["{folder}"]}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: k}}
schedules:
  nightly:
    run:
      dataset: "{folder}/rows.jsonl"
      routes: [up/m]
      metrics: [exact_match]
      limits: {{concurrency: {concurrency}}}
    cron: "{cron}"
"""


def write(folder, upstream, cron="30 2 29 2 *"):
    """The same config in two folders, with one database."""
    rows = [{"id": str(n), "input": f"{n}?", "reference": "yes"} for n in range(SAMPLES)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folders = [folder / name for name in "ab"]
    for each in folders:
        each.mkdir()
        (each / "evalrouter.yaml").write_text(
            CONFIG.format(folder=folder, url=upstream.url, cron=cron, concurrency=CONCURRENCY)
        )
    return folders


def history(url):
    return httpx.get(f"{url}/schedules/nightly", timeout=30).json()["history"]


def runs(folder):
    with closing(sqlite3.connect(folder / "e.db")) as db:
        return [run_id for (run_id,) in db.execute("SELECT id FROM runs")]


def test_another_server_goes_on_with_the_run_of_one_that_is_killed(tmp_path):
    with scripted(MODELS) as upstream, ExitStack() as stack:
        first, second = (
            stack.enter_context(serving(folder)) for folder in write(tmp_path, upstream)
        )
        begun = httpx.post(f"{first.url}/schedules/nightly/run", timeout=30).json()
        # The server that took it up has to be the one that is killed.
        wait_for(lambda: len(upstream.log.requests) >= 5)
        with closing(sqlite3.connect(tmp_path / "e.db")) as db:
            [[owner]] = db.execute("SELECT owner FROM runs").fetchall()
            [[attending]] = db.execute("SELECT owner FROM occurrences").fetchall()
        pid = int(owner.split(":")[1])
        assert int(attending.split(":")[1]) == first.pid
        os.kill(pid, signal.SIGKILL)
        if pid != first.pid:
            os.kill(first.pid, signal.SIGKILL)
            second = stack.enter_context(serving(tmp_path / "a"))
        wait_for(lambda: history(second.url)[0]["state"] != "running")
        [row] = history(second.url)
        assert (row["run_id"], row["state"]) == (begun["run_id"], "completed")
        assert row["result"]["answered"] == SAMPLES
        assert row["result"]["accepted"]
        assert runs(tmp_path) == [begun["run_id"]]
        # Only what was in flight was sent once more.
        sent = Counter(
            msgspec.json.decode(each.body)["messages"][0]["content"]
            for each in upstream.log.requests
        )
        assert len(sent) == SAMPLES
        assert sum(sent.values()) <= SAMPLES + CONCURRENCY


def test_a_minute_that_begins_is_one_run_of_several_servers_and_workers(tmp_path):
    with scripted(MODELS) as upstream, ExitStack() as stack:
        folders = write(tmp_path, upstream, cron="* * * * *")
        servers = [stack.enter_context(serving(folder, "--workers", "2")) for folder in folders]
        wait_for(lambda: bool(history(servers[0].url)))
        wait_for(lambda: history(servers[0].url)[-1]["state"] != "running")
        first = history(servers[0].url)[-1]
        assert (first["state"], first["cause"], first["due"] % 60) == ("completed", "due", 0)
        assert time.time() - first["due"] < 60
        dues = [row["due"] for row in history(servers[1].url)]
        assert len(dues) == len(set(dues)) == len(runs(tmp_path))
