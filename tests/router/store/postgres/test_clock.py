"""Hosts whose clocks differ: claims go by the server's."""

from __future__ import annotations

import time

import psycopg
import pytest
from stores import a_run, some_samples

from router.store.postgres import PostgresStore


async def test_a_host_whose_clock_is_ahead_takes_no_run_from_its_owner(
    postgres_address, monkeypatch
):
    store = PostgresStore(postgres_address)
    await store.open()
    await store.add_run(a_run(), some_samples())
    assert await store.claim_run("run_1", "here", 60.0)
    day_later = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: day_later)
    assert not await store.claim_run("run_1", "there", 60.0)
    assert await store.heartbeat("run_1", "here") == ""
    with psycopg.connect(postgres_address) as connection:
        [now] = connection.execute("SELECT extract(epoch FROM now())").fetchone()
    assert (await store.run("run_1")).heartbeat_at == pytest.approx(float(now), abs=50)
    assert await store.now() == pytest.approx(float(now), abs=50)
    await store.close()
