"""Registered datasets: what any store promises."""

from __future__ import annotations

import msgspec
import pytest

from evaluators.data.columns import Column
from providers.errors import NotFoundError
from router.store.datasets import DatasetPage, DatasetRow


async def test_datasets_are_registered_once_per_content(store):
    row = DatasetRow(
        name="d", hash="h1", path="d.csv", format="csv", rows=2, columns=("a", "b"), created_at=1.5
    )
    await store.add_dataset(row)
    await store.add_dataset(msgspec.structs.replace(row, path="moved", created_at=9.0))
    assert await store.datasets() == [row]
    newer = msgspec.structs.replace(row, hash="h2", created_at=2.5)
    other = msgspec.structs.replace(row, name="e", created_at=2.0)
    await store.add_dataset(newer)
    await store.add_dataset(other)
    assert await store.datasets() == [newer, other, row]
    assert await store.datasets("d") == [newer, row]
    assert await store.datasets("f") == []


async def test_a_dataset_keeps_all_that_is_known_of_it(store):
    row = DatasetRow(
        name="d",
        hash="h1",
        path="datasets/h1.csv",
        format="csv",
        rows=2,
        columns=("a",),
        created_at=1.5,
        size=12,
        mapping={"a": "input"},
        source="hf://a/b",
        provenance={"commit": "c", "targets": {"t": 3}},
        statistics=(Column(name="a", kinds={"text": 2}, missing=0, blank=0, distinct=2, mean=0.5),),
    )
    await store.add_dataset(row)
    assert await store.datasets() == [row]


async def test_deleting_a_dataset_tells_whether_its_content_is_needed_still(store):
    row = DatasetRow(name="d", hash="h1", path="p", format="csv", rows=1, columns=(), created_at=1)
    await store.add_dataset(row)
    await store.add_dataset(msgspec.structs.replace(row, name="e"))
    assert await store.delete_dataset("d", "h1")
    with pytest.raises(NotFoundError, match="no version h1 of a dataset 'd'"):
        await store.delete_dataset("d", "h1")
    assert not await store.delete_dataset("e", "h1")
    assert await store.datasets() == []


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", ["created", "name"])
async def test_datasets_are_listed_a_page_at_a_time(store, order, descending):
    statistics = (Column(name="a", kinds={}, missing=0, blank=0, distinct=0),)
    rows = [
        DatasetRow(
            name=name,
            hash=f"h{n}",
            path="p",
            format="csv",
            rows=1,
            columns=(),
            created_at=float(n // 2),
            statistics=statistics,
        )
        for n, name in enumerate(["b", "A_1", "a", "b", "A_2", "a"])
    ]
    for row in rows:
        await store.add_dataset(row)
    listed, after = [], None
    while True:
        page = DatasetPage(order=order, descending=descending, after=after, limit=2)
        found = await store.dataset_page(page)
        listed += found
        if len(found) < 2:
            break
        after = found[-1].name, found[-1].hash
    key = {
        "created": lambda row: (row.created_at, row.name, row.hash),
        "name": lambda row: (row.name, row.created_at, row.hash),
    }[order]
    plain = [msgspec.structs.replace(row, statistics=()) for row in rows]
    assert listed == sorted(plain, key=key, reverse=descending)
    of_part = await store.dataset_page(DatasetPage(part="a_", order="name", descending=False))
    assert [row.name for row in of_part] == ["A_1", "A_2"]
    with pytest.raises(NotFoundError):
        await store.dataset_page(DatasetPage(after=("b", "gone")))
