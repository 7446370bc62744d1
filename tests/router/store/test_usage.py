"""What runs took: money, tokens and embeddings."""

from __future__ import annotations

import msgspec
import pytest
from stores import a_run, answered, some_samples

from evaluators.base import Cell
from providers.errors import NotFoundError
from router.store.usage import EmbeddingUse, Spending


async def test_what_a_run_spent_leaves_out_what_was_cached(store):
    await store.add_run(a_run(), some_samples(3))
    await answered(store, Cell("a", "s0", 0), cost_usd=0.25)
    await answered(store, Cell("a", "s1", 0), cost_usd=0.5, cached=True)
    await answered(store, Cell("a", "s2", 0))
    assert await store.spent("run_1") == Spending(cost_usd=0.25, tokens=0)


async def test_what_embeddings_took_is_added_up_by_route_and_target(store):
    await store.add_run(a_run(), [])
    use = EmbeddingUse(
        route="r",
        target="p/m",
        requests=1,
        failed=0,
        tokens=2**40,
        cost_usd=0.25,
        unpriced=0,
        estimated=1,
    )
    other = msgspec.structs.replace(use, route="q")
    for added in (use, other, use):
        await store.add_embedding_use("run_1", added)
    assert await store.embedding_use("run_1") == [
        other,
        msgspec.structs.replace(use, requests=2, tokens=2**41, cost_usd=0.5, estimated=2),
    ]
    for refused in (store.add_embedding_use("run_9", use), store.embedding_use("run_9")):
        with pytest.raises(NotFoundError):
            await refused
    await store.delete_run("run_1")
    await store.add_run(a_run(), [])
    assert await store.embedding_use("run_1") == []
