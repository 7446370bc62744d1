"""Servers that share a shadow's database and are killed: no finished request is sent again."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing

import httpx
import msgspec
from servers import process, scripted

from evaluators.base import Answer, Sample
from router.store.shadows import ShadowPair
from router.store.sqlite import SqliteStore

PAIRS = 16
CONCURRENCY = 2
# Slow enough for a kill to meet requests in flight.
MODELS = {
    "cheap": [{"answer": "cheap {n}", "delay_s": 0.03}],
    "judge": [{"answer": "Fine. [RESULT] A", "delay_s": 0.01}],
}
CONFIG = """
server: {{port: 0}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: k}}
  live: {{kind: baseline}}
routes:
  chat:
    targets: [{{model: live/echo}}]
    record: full
    share_bodies_with: [up]
    shadow:
      targets: [up/cheap]
      sample: 1
      limits: {{rps: 1000, concurrency: {concurrency}}}
      judge: up/judge
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}"}}
"""
PATIENCE_S = 60.0


async def add_pairs(path, run: str) -> None:
    """Store live requests as a server does that has just answered them."""
    store = SqliteStore(path)
    await store.open()
    pairs = [
        ShadowPair(
            id=f"rec_{n}",
            at=time.time(),
            keep_texts=True,
            sample=Sample(
                id=f"rec_{n}",
                messages=({"role": "user", "content": f"Question {n}."},),
                answer=f"live {n}",
            ),
            answer=Answer(text=f"live {n}", target="live/echo"),
        )
        for n in range(PAIRS)
    ]
    try:
        assert await store.add_pairs(run, pairs, max_waiting=1000) == PAIRS
    finally:
        await store.close()


def shown(url: str) -> dict:
    return httpx.get(f"{url}/routes/chat/shadow").json()


def until(condition) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.01)


def end_lease(path) -> None:
    """Have the lease of a server that was killed run out, as it does after a while."""
    with closing(sqlite3.connect(path, timeout=30)) as db, db:
        db.execute("DELETE FROM leases WHERE name = 'shadows'")


def test_a_shadow_goes_on_after_kill_9_and_pays_for_nothing_twice(tmp_path):
    with scripted(MODELS) as upstream:
        config = tmp_path / "evalrouter.yaml"
        config.write_text(CONFIG.format(url=upstream.url, folder=tmp_path, concurrency=CONCURRENCY))

        def questions(model: str) -> Counter[str]:
            bodies = [msgspec.json.decode(one.body) for one in upstream.log.requests
                      if one.model == model]  # fmt: skip
            return Counter(str(body["messages"]) for body in bodies)

        database = tmp_path / "e.db"
        with process(tmp_path) as (first, url), process(tmp_path) as (_, other):
            until(lambda: shown(url)["run"])
            run = shown(url)["run"]
            asyncio.run(add_pairs(database, run))
            until(lambda: questions("cheap").total() >= 5)
            first.send_signal(signal.SIGKILL)
            end_lease(database)
            # The other one goes on, whichever of them has had the work.
            until(lambda: questions("cheap").total() >= 9)
            assert shown(other)["run"] == run
        # It is killed as well, and a third one finishes.
        end_lease(database)
        with process(tmp_path) as (_, url):
            until(lambda: shown(url)["funnel"]["waiting"] == 0)
            report = shown(url)
            interrupted = httpx.get(f"{url}/eval/{run}").json()["run"]["interrupted"]
        assert report["funnel"]["scored"] == PAIRS
        assert report["run"] == run
        sent = questions("cheap")
        assert len(sent) == PAIRS
        # Sent twice was only what was in flight at a kill; each server was killed once.
        assert sent.total() - PAIRS <= interrupted <= 2 * CONCURRENCY
        judged = questions("judge")
        assert len(judged) == 2 * PAIRS
        assert judged.total() - 2 * PAIRS <= 2 * 2 * CONCURRENCY
