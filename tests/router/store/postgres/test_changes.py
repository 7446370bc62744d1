"""Changes of one process reach those who wait in another, without a look."""

from __future__ import annotations

import asyncio

import pytest
from stores import a_run, some_samples

from router.store.keys import KeyRow
from router.store.routes import RouteChange

LONG_S = 60.0  # longer than a test may take


async def key(store):
    await store.add_key(KeyRow(id="key_1", name="k", created_at=1.0), b"1" * 32)


async def route(store):
    await store.set_route(RouteChange("r", {"targets": []}, 1.0))


async def run(store):
    await store.add_run(a_run(), some_samples())


async def wish(store):
    await store.request_state("run_1", "paused", 60.0)


@pytest.mark.parametrize(
    ("topic", "change"), [("keys", key), ("routes", route), ("runs", run), ("runs", wish)]
)
async def test_a_change_is_told_at_once(make_store, topic, change):
    here, there = make_store(), make_store()
    await here.open()
    await there.open()
    if change is wish:
        await run(there)
        await there.claim_run("run_1", "me", 60.0)
    # The first is told where the connection begins to listen.
    seen = await here.changed(topic, 0, LONG_S)
    waiting = asyncio.ensure_future(here.changed(topic, seen, LONG_S))
    await change(there)
    assert await waiting > seen
    await here.close()
    await there.close()


async def test_without_a_change_the_wait_ends_by_itself(store):
    seen = await store.changed("keys", 0, LONG_S)
    assert await store.changed("keys", seen, 0.01) == seen


async def test_after_a_server_has_restarted_changes_are_told_again(make_store, postgres):
    here = make_store()
    await here.open()
    seen = await here.changed("keys", 0, LONG_S)
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start)
    seen = await here.changed("keys", seen, LONG_S)
    await key(here)
    assert await here.changed("keys", seen, LONG_S) > seen
    await here.close()
