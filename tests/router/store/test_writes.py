"""Many writes at once: what any store promises."""

from __future__ import annotations

import asyncio

import pytest
from stores import a_run, answered, answered_cells, some_samples

from evaluators.base import Answer, Cell
from providers.errors import NotFoundError, StoreError


async def test_writes_are_seen_by_reads_once_acknowledged(store):
    await store.add_run(a_run(), some_samples(50))

    async def write(i: int) -> None:
        cell = Cell("r", f"s{i}", 0)
        await answered(store, cell)
        assert cell in await answered_cells(store)

    await asyncio.gather(*(write(i) for i in range(50)))


async def test_a_write_that_fails_leaves_its_neighbours(store):
    await store.add_run(a_run(), some_samples(100))
    writes = [answered(store, Cell("r", f"s{i}", 0)) for i in range(100)]
    bad = [store.begin("run_1", Cell("r", f"missing {i}", 0), "h", "t") for i in range(100)]
    both = [write for pair in zip(writes, bad, strict=True) for write in pair]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert outcomes[::2] == [None] * 100
    assert all(isinstance(outcome, NotFoundError) for outcome in outcomes[1::2])
    assert len(await answered_cells(store)) == 100


async def test_closing_completes_the_writes_under_way(make_store):
    store = make_store()
    await store.open()
    await store.add_run(a_run(), some_samples(100))
    cells = [Cell("r", f"s{i}", 0) for i in range(100)]
    writes = [
        asyncio.ensure_future(store.keep_answer("run_1", cell, "h", Answer(text="a"), []))
        for cell in cells
    ]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(StoreError, match="not open"):
        await store.begin("run_1", cells[0], "h", "t")
    with pytest.raises(StoreError, match="not open"):
        await store.progress("run_1")
    await store.close()
    await store.open()
    assert await answered_cells(store) == set(cells)
    await store.close()


async def test_the_number_of_a_file_that_is_gone_is_not_given_again(make_store):
    """Processes remember files by their numbers."""
    numbers = []
    for n in range(3):
        store = make_store()
        await store.open()
        numbers.append(await store.begin_file(f"traffic/{n}.parquet"))
        assert await store.give_up_file(numbers[-1])
        await store.forget_file(numbers[-1])
        await store.close()
    assert numbers == sorted(set(numbers))
