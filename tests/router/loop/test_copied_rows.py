"""Rows of datasets go with the requests that they were copied from."""

from __future__ import annotations

import json

import msgspec
import pytest

from evaluators.document import RunDocument
from providers.errors import ConflictError, NotFoundError
from router.config.loading import parse
from router.config.storage import Storage
from router.datasets.registry import Lineage
from router.evals.export import export_run
from router.evals.labelling import finish
from router.loop.bundles.exported import EvidenceRequest
from router.services import Services
from router.store.lineage import RowSource
from router.store.traffic import TrafficFilter

ROWS = [{"id": f"req_{n}", "input": f"question {n}", "answer": "yes"} for n in range(6)]
SOURCES = [
    RowSource(row=f"req_{n}", id=f"req_{n}", at=float(n), user=["ann", "bob"][n % 2])
    for n in range(6)
]


@pytest.fixture
async def services(tmp_path):
    storage = Storage(database=f"sqlite:///{tmp_path}/e.db", artifacts=str(tmp_path / "artifacts"))
    config = msgspec.structs.replace(parse("", "test.yaml", {}), storage=storage)
    async with Services(config) as services:
        yield services


async def copied(services, tmp_path, name="live", rows=ROWS, **fields):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row | fields) + "\n" for row in rows))
    return await services.datasets.derive(
        path, name=name, source="requests", provenance={}, lineage=Lineage(sources=SOURCES)
    )


async def content(services, named) -> list[str]:
    row = await services.datasets.find(named)
    chunks = [chunk async for chunk in services.datasets.artifacts.get(row.path)]
    return [json.loads(line)["id"] for line in b"".join(chunks).splitlines()]


async def test_a_version_is_replaced_by_one_without_the_rows(services, tmp_path):
    first = await copied(services, tmp_path)
    second = await copied(services, tmp_path, answer="no")
    done = await services.deletion.delete(TrafficFilter(user="ann"))
    assert (done.related, done.complete, done.elsewhere) == (6, True, ())
    for row in await services.store.datasets("live"):
        assert row.rows == 3
        assert row.provenance == {"deleted_rows": 3}
        assert await content(services, f"live@{row.hash}") == ["req_1", "req_3", "req_5"]
    # The newest version is still the newest, and no file has what was deleted.
    assert (await services.datasets.find("live")).created_at == second.created_at
    keys = {artifact.key async for artifact in services.datasets.artifacts.list()}
    assert len(keys) == 2
    assert not keys & {first.path, second.path}
    again = await services.deletion.delete(TrafficFilter(user="ann"))
    assert again.related == 0


async def test_a_version_of_which_nothing_is_left_is_gone(services, tmp_path):
    row = await copied(services, tmp_path)
    assert (await services.deletion.delete(TrafficFilter(since=0.0))).related == 6
    with pytest.raises(NotFoundError):
        await services.datasets.find("live")
    assert not await services.datasets.artifacts.exists(row.path)


async def test_other_names_of_the_content_lose_the_rows_as_well(services, tmp_path):
    await copied(services, tmp_path)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((tmp_path / "live.jsonl").read_bytes())
    await services.datasets.add(str(copy), columns={"input": "prompt"}, over_http=False)
    assert (await services.deletion.delete(TrafficFilter(id="req_2"))).related == 1
    for name in ("live", "copy"):
        assert await content(services, name) == [f"req_{n}" for n in (0, 1, 3, 4, 5)]
    assert (await services.datasets.find("copy")).mapping == {"input": "prompt"}


async def test_deletion_goes_on_where_a_part_was_to_be_done(services, tmp_path):
    await copied(services, tmp_path)
    await copied(services, tmp_path, answer="no")
    part = await services.deletion.delete(TrafficFilter(user="bob"), at_most=2)
    assert (part.related, part.complete) == (3, False)
    rest = await services.deletion.delete(TrafficFilter(user="bob"), at_most=2)
    assert (rest.related, rest.complete) == (3, True)


async def test_runs_and_exports_with_the_rows_are_named(services, tmp_path):
    row = await copied(services, tmp_path)
    document = RunDocument(dataset="live", routes=("dataset/answer",), metrics=("length",))
    run = await services.runs.create(document, base=tmp_path, runner="command")
    await services.jobs.execute(run.id)
    await export_run(services.store, run, services.datasets.artifacts, f"runs/{run.id}")
    bundle = await services.evidence.create(EvidenceRequest(subject=run.id), actor="ann")
    done = await services.deletion.delete(TrafficFilter(id="req_1"))
    assert done.elsewhere == (
        f"the samples of {run.id} (dataset {row.hash[:12]})",
        f"the evidence {bundle.id} of {run.id} (texts: masked): {bundle.location}",
        f"the export {tmp_path}/artifacts/runs/{run.id}",
    )


async def test_a_file_that_is_gone_does_not_hold_up_deletion(services, tmp_path):
    row = await copied(services, tmp_path)
    await services.datasets.artifacts.delete(row.path)
    done = await services.deletion.delete(TrafficFilter(user="ann"))
    assert (done.related, done.complete) == (0, True)
    # What a watch has in flight of its rows is told by that.
    assert await services.store.datasets() == []


LABELS = RunDocument(dataset="live", routes=("dataset/answer",), metrics=())


async def labelled(services, tmp_path, dataset="live"):
    document = msgspec.structs.replace(LABELS, dataset=dataset)
    run = await services.runs.create(document, base=tmp_path, runner="command")
    return await services.jobs.execute(run.id)


async def test_a_run_over_rows_that_were_deleted_labels_nothing(services, tmp_path):
    """The run's samples have texts that no later deletion would find in a copy."""
    await copied(services, tmp_path)
    run = await labelled(services, tmp_path)
    before = await finish(services.store, services.datasets, run, name="before")
    await services.deletion.delete(TrafficFilter(id="req_0"))
    assert await content(services, "before") == [f"req_{n}" for n in range(1, 6)]
    with pytest.raises(ConflictError, match="cannot become part of another dataset"):
        await finish(services.store, services.datasets, run, name="after")
    assert {row.name for row in await services.store.datasets()} == {"live", "before"}
    assert not await services.datasets.artifacts.exists(before.path)
    assert len([one async for one in services.datasets.artifacts.list()]) == 2


async def test_what_is_labelled_after_its_dataset_was_deleted_loses_the_rows(services, tmp_path):
    row = await copied(services, tmp_path)
    run = await labelled(services, tmp_path)
    await services.datasets.delete("live")
    await finish(services.store, services.datasets, run, name="gold")
    done = await services.deletion.delete(TrafficFilter(user="ann"))
    assert await content(services, "gold") == ["req_1", "req_3", "req_5"]
    assert done.elsewhere == (f"the samples of {run.id} (dataset {row.hash[:12]})",)


async def test_a_run_over_a_file_labels_it_after_a_deletion(services, tmp_path):
    await copied(services, tmp_path)
    run = await labelled(services, tmp_path, f"{tmp_path}/live.jsonl")
    await services.deletion.delete(TrafficFilter(user="eve"))
    gold = await finish(services.store, services.datasets, run, name="gold")
    assert gold.rows == 6


async def test_what_was_labelled_loses_the_rows_too(services, tmp_path):
    """A version that was made of one with a lineage has its rows' texts."""
    row = await copied(services, tmp_path)
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(line | {"reference": "x"}) + "\n" for line in ROWS[:3]))
    await services.datasets.derive(
        path, name="gold", source="live", provenance={}, lineage=Lineage(made_of=(row.hash,))
    )
    assert (await services.deletion.delete(TrafficFilter(user="ann"))).related == 5
    assert await content(services, "gold") == ["req_1"]
    assert (await services.deletion.delete(TrafficFilter(id="req_5"))).related == 1
    assert await content(services, "gold") == ["req_1"]
