"""Columns of a run: what each sample has there, and the scores of its answers."""

import pytest
from stores import a_run, answered, failed

from evaluators.base import Cell, Sample, Score
from evaluators.data.rows import MISSING
from providers.errors import NotFoundError
from router.store.people_labels import PeopleLabel

FIELDS = [
    {"topic": "a", "meta": {"level": 1, "tags": [{"name": "x"}, {"name": "y"}]}, "cluster": " c "},
    {"topic": None, "meta": {}, "a.b": "dotted", "cluster": None},
    {"topic": "\x00\u2028<b>", "big": 10**30, "cluster": 7},
]


@pytest.fixture
async def filled(store):
    samples = [Sample(id=f"s{n}", messages=(), fields=fields) for n, fields in enumerate(FIELDS)]
    await store.add_run(a_run(cells=12, dataset_rows=3), samples)
    return store


async def column(store, name):
    values = []
    names = await store.each_value("run_1", name, values.append)
    assert [value.sample_id for value in values] == ["s0", "s1", "s2"]
    assert names == ["topic", "meta", "cluster", "a.b", "big"]
    assert [value.cluster for value in values] == ["c", "", "7"]
    return [value.value for value in values]


async def test_each_sample_has_its_value_in_a_column_or_along_a_path(filled):
    assert await column(filled, "topic") == ["a", None, "\x00\u2028<b>"]
    assert await column(filled, "meta.level") == [1, MISSING, MISSING]
    assert await column(filled, "meta.tags.name") == [["x", "y"], MISSING, MISSING]
    assert await column(filled, "a.b") == [MISSING, "dotted", MISSING]
    assert await column(filled, "big") == [MISSING, MISSING, 10**30]
    for name in ("", "nope", "x" * 10_000, "a." * 5_000, "'; --"):
        assert await column(filled, name) == [MISSING] * 3


async def test_scores_come_in_the_order_of_samples_and_repeats(filled):
    async def score(route, sample, repeat, *scores):
        cell = Cell(route, sample, repeat)
        await answered(filled, cell)
        await filled.keep_scores("run_1", {cell: list(scores)})

    await score("r", "s2", 1, Score(output="f", value=0.25, statistics=(1.0, 2.5)))
    await score("r", "s2", 0, Score(output="f", value=None, error="why"))
    await score("q", "s0", 0, Score(output="f", value=1.0), Score(output="g", value=0.0))
    await failed(filled, Cell("r", "s0", 0))
    scores = []
    await filled.each_score("run_1", "f", scores.append)
    assert [tuple(each) for each in scores] == [
        (1, "q", 0, 1.0, ()),
        (3, "r", 0, None, ()),
        (3, "r", 1, 0.25, (1.0, 2.5)),
    ]
    nothing = []
    await filled.each_score("run_1", "h", nothing.append)
    assert nothing == []


async def test_texts_are_of_the_answers_that_people_scored(filled):
    labels = []
    for n in range(3):
        cell = Cell("r", f"s{n}", 0)
        await answered(filled, cell, text=f"text {n}")
        scores = (3.0,) if n != 1 else ()
        labels.append(
            PeopleLabel(output="o", cell=cell, answer_hash="h", scores=scores, chance=0.5, at=1.0)
        )
    await filled.keep_labels("run_1", "o", "r", labels)
    texts = await filled.labelled_texts("run_1", "o")
    assert texts == {Cell("r", "s0", 0): "text 0", Cell("r", "s2", 0): "text 2"}
    assert await filled.labelled_texts("run_1", "other") == {}


async def test_more_samples_than_a_page_are_read(store):
    count = 2_001
    samples = [Sample(id=f"s{n}", messages=(), fields={"n": n}) for n in range(count)]
    await store.add_run(a_run(dataset_rows=count), samples)
    values = []
    await store.each_value("run_1", "n", values.append)
    assert [value.value for value in values] == list(range(count))
    for cell in (Cell("r", "s0", 0), Cell("r", "s2000", 0)):
        await answered(store, cell, "f")
    scores = []
    await store.each_score("run_1", "f", scores.append)
    assert [each.position for each in scores] == [1, 2_001]


async def test_a_run_that_does_not_exist_has_no_columns(store):
    with pytest.raises(NotFoundError):
        await store.each_value("run_1", "n", print)
    with pytest.raises(NotFoundError):
        await store.each_score("run_1", "f", print)
    with pytest.raises(NotFoundError):
        await store.labelled_texts("run_1", "f")
