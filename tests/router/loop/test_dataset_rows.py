"""Rows that several people add to one dataset at the same time are all in it."""

from __future__ import annotations

import asyncio

import msgspec

from router.config.loading import parse
from router.config.storage import Storage
from router.loop.dataset_rows import add_rows
from router.loop.review import ReviewCandidate
from router.services import Services


async def test_rows_that_are_added_at_once_by_two_servers_are_all_kept(tmp_path):
    storage = Storage(database=f"sqlite:///{tmp_path}/e.db", artifacts=str(tmp_path / "artifacts"))
    config = msgspec.structs.replace(parse("", "test.yaml", {}), storage=storage)
    async with Services(config) as first, Services(config) as second:

        async def add(services, text):
            rows = [{"input": text}]
            return await add_rows(
                services.store, services.datasets, "kept", rows, source="a test", provenance={}
            )

        async def publish(services, text):
            [arrival] = await services.review.add(
                [ReviewCandidate(messages=[{"role": "user", "content": text}], dataset="kept")]
            )
            await services.review.accept(arrival.id, "eve")
            published = await services.review.publish("kept", "eve")
            return published.dataset

        versions = await asyncio.gather(
            publish(first, "reviewed"),
            *(add(services, f"{n}") for n, services in enumerate([first, second] * 3)),
        )
        # Each got a version that has its row, and those of the ones before it.
        assert sorted(version.rows for version in versions) == [1, 2, 3, 4, 5, 6, 7]
        assert (await first.datasets.find("kept")).rows == 7
