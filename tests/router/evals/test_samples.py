"""What a run asks: rows chosen, checked and kept before anything is sent."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from evaluators.document import RunDocument
from providers.errors import DatasetError, RunDocumentError
from router.config.loading import parse
from router.services import Services

ROWS = [{"input": f"Say {n}", "reference": f"{n}", "topic": "ab"[n % 3 == 0]} for n in range(30)]


@pytest.fixture
def create(tmp_path):
    """Makes a run over the rows given and returns it with its samples; a refused one is nowhere."""

    async def make(rows=ROWS, **fields):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        document = {"dataset": str(path), "routes": ["baseline/echo"], "metrics": ["exact_match"]}
        document = msgspec.convert(document | fields, RunDocument)
        config = parse(f"storage: {{database: 'sqlite:///{tmp_path}/e.db'}}", "test.yaml", {})
        async with Services(config) as services:
            before = await services.store.runs()
            try:
                run = await services.runs.create(document, base=Path())
            except (DatasetError, RunDocumentError):
                assert await services.store.runs() == before
                raise
            return run, [sample async for sample in services.store.samples(run.id)]

    return make


async def test_the_first_or_all(create):
    run, samples = await create(limit=4)
    assert (run.dataset_rows, run.cells) == (4, 4)
    assert [sample.id for sample in samples] == ["1", "2", "3", "4"]
    run, samples = await create(limit=100, repeats=2)
    assert (run.dataset_rows, run.cells, len(samples)) == (30, 60, 30)


async def test_drawn_rows_keep_their_order_and_ids(create):
    run, samples = await create(sample={"n": 6, "seed": 4})
    ids = [int(sample.id) for sample in samples]
    assert (run.dataset_rows, len(ids)) == (6, 6)
    assert ids == sorted(ids)
    assert [sample.fields for sample in samples] == [ROWS[n - 1] for n in ids]
    assert [sample.id for sample in (await create(sample={"n": 6, "seed": 4}))[1]] == [
        str(n) for n in ids
    ]


async def test_drawn_by_a_column(create):
    _, samples = await create(sample={"n": 6, "by": "topic"})
    assert Counter(sample.fields["topic"] for sample in samples) == {"a": 4, "b": 2}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"limit": 2, "sample": {"n": 2}}, "sample", "not both"),
        ({"sample": {"n": 2, "by": "topics"}}, "sample.by", "Did you mean 'topic'"),
        ({"prompt": "{{ 1 / (reference | int - 29) }}"}, "prompt", "row 30"),
    ],
)
async def test_a_document_that_does_not_fit_leaves_no_run(create, fields, param, message):
    with pytest.raises(RunDocumentError, match=message) as caught:
        await create(**fields)
    assert caught.value.param == param


async def test_references_are_missed_among_the_rows_asked_only(create):
    bare = [{"input": f"x{n}"} for n in range(7)]
    assert len((await create([*ROWS, *bare], limit=30))[1]) == 30
    with pytest.raises(RunDocumentError, match=r"7 of 37 samples .* \(id 31, 32, 33, 34, 35, …\)"):
        await create([*ROWS, *bare])


async def test_an_answer_of_the_dataset_is_kept_with_its_sample(create):
    _, samples = await create([{"input": "x", "reference": "y", "predictions": "z"}])
    assert samples[0].answer == "z"
