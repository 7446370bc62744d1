"""Alerts of two servers on one database, one of which is killed while it sends.

It is part of `make test-outages`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import ExitStack, closing

import httpx
import psycopg
import pytest
from alert_receiver import SECRET, alert_receiver
from server_process import serving, wait_for
from servers import scripted

pytestmark = pytest.mark.skipif(
    os.environ.get("REAL_TIMES") != "1", reason="takes half a minute: make test-outages"
)
CONFIG = """
server: {{port: 0}}
storage: {{database: "{database}"}}
providers:
  up: {{kind: compatible, base_url: "{upstream}"}}
routes:
  r: {{targets: [{{model: up/down}}], retries: {{attempts: 1}}}}
alerts:
  every_seconds: 0.5
  group_seconds: 0
  receivers:
    ops: {{kind: webhook, url: "{url}", secret: "{secret}", timeout_seconds: 60}}
  rules:
    failing: {{subject: errors, above: 0.5, window_seconds: 600, min_requests: 4}}
"""


def ask(url):
    body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code >= 500


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_address")
    return f"sqlite:///{tmp_path}/e.db"


def deciding(database):
    """The process that has the lease: its pid."""
    path = database.removeprefix("sqlite:///")
    connected = sqlite3.connect(path) if path != database else psycopg.connect(database)
    with closing(connected) as db:
        row = db.execute("SELECT owner FROM leases WHERE name = 'tell of alerts'").fetchone()
    return None if row is None else int(row[0].split(":")[1])


def alerts_of(url):
    return httpx.get(f"{url}/alerts").json()["data"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_is_killed_while_it_sends(tmp_path, database, workers):
    with ExitStack() as stack:
        up = stack.enter_context(scripted({"down": [{"status": 500}]}))
        receiver = stack.enter_context(alert_receiver("hang"))
        servers = []
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            text = CONFIG.format(
                database=database, upstream=up.url, url=receiver.url, secret=SECRET
            )
            (folder / "evalrouter.yaml").write_text(text)
            servers.append(stack.enter_context(serving(folder, "--workers", workers)))
        # No server alone has seen enough.
        for server in servers:
            ask(server.url)
            ask(server.url)
        wait_for(lambda: receiver.received)
        sender = deciding(database)
        [mine] = [server for server in servers if sender in server.pids]
        [other] = [server for server in servers if server is not mine]
        for pid in mine.pids:
            os.kill(pid, signal.SIGKILL)
        receiver.ended.set()
        wait_for(lambda: len(receiver.received) >= 2)
        wait_for(lambda: alerts_of(other.url)[0]["deliveries"][0]["state"] == "delivered")
        [alert] = alerts_of(other.url)
        # It goes on, and nothing more is to be told.
        rounds = deciding(database)
        assert rounds in other.pids
        time.sleep(3)
        assert [each["id"] for each in alerts_of(other.url)] == [alert["id"]]
    first, second = receiver.received
    assert first.message == second.message
    assert first.body == second.body
    assert first.is_signed()
    assert second.is_signed()
    assert first.json["data"]["alerts"][0]["summary"].startswith("4 of 4 requests for r failed")
