"""Makes ground truth of a route's answers: a new dataset version with a `reference` column.

    run = await begin(runs, route="openai/gpt-4o", dataset="news", prompt="...")
    await jobs.execute(run.id)
    row = await finish(store, datasets, run.id, name="news")

The run is like any other, without metrics: it is stopped and resumed as any, and its answers stay
in the store. The dataset says in its provenance which run labelled it, and which models answered.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from evaluators.data.rows import REFERENCES
from evaluators.document import RunDocument
from providers.errors import ConflictError
from providers.names import as_name
from router.datasets.artifacts import temporary_folder
from router.datasets.registry import DatasetRegistry
from router.datasets.sources import collect
from router.evals.runs import Runs
from router.evals.stored_runs import stored_document
from router.store.datasets import DatasetRow
from router.store.protocol import Store
from router.store.runs import Run

_FLUSHED_ROWS = 500


async def begin(
    runs: Runs, *, route: str, dataset: str, base: Path, prompt: str | None, limit: int | None
) -> Run:
    """Begin a run that sends each sample of a dataset to one route once.

    Raises:
        As `Runs.create` does.
    """
    document = RunDocument(
        dataset=dataset,
        routes=(route,),
        metrics=(),
        prompt=prompt,
        limit=limit,
        name=as_name(f"labels of {dataset}"),
    )
    return await runs.create(document, base=base)


async def finish(store: Store, datasets: DatasetRegistry, run: Run, *, name: str) -> DatasetRow:
    """Register the run's samples with its answers as their references.

    Columns stay as they were, without `reference` and `references`; rows without an id get the
    sample's, so that runs over both versions can be compared sample by sample.

    Args:
        store: has the run.
        datasets: where the dataset is registered.
        run: has one route, one repeat, and an answer to every sample.
        name: what to call the dataset.

    Raises:
        ConflictError: it is not such a run, or not every sample is answered; says how many are, and
            how to go on.
    """
    document = stored_document(run)
    if len(document.routes) != 1 or document.repeats != 1:
        raise ConflictError(
            f"{run.id} has several routes or repeats, so a sample has more than one label"
        )
    progress = await store.progress(run.id)
    if progress.answered < run.cells:
        raise ConflictError(
            f"{progress.answered} of {run.cells} samples of {run.id} are answered, "
            f"{progress.failed} failed; go on with: evalrouter dataset label --run {run.id}"
        )
    targets: Counter[str] = Counter()
    models: Counter[str] = Counter()

    async def lines() -> AsyncIterator[bytes]:
        waiting: list[dict[str, Any]] = []
        async with aclosing(_labelled(store, run.id, targets, models)) as rows:
            async for row in rows:
                waiting.append(row)
                if len(waiting) == _FLUSHED_ROWS:
                    yield await asyncio.to_thread(_encoded, waiting)
                    waiting = []
        yield await asyncio.to_thread(_encoded, waiting)

    with temporary_folder() as folder:
        path = folder / "labelled.jsonl"
        await collect(lines(), path, datasets.max_bytes, f"labels of {run.dataset}")
        return await datasets.derive(
            path,
            name=name,
            source=f"{run.dataset}, labelled by {document.routes[0]}",
            provenance={
                "labelled_by": document.routes[0],
                "run": run.id,
                "of": {"dataset": run.dataset, "hash": run.dataset_hash},
                "targets": dict(targets),
                "models": dict(models),
                "prompt": document.prompt,
                "parameters": document.parameters,
            },
        )


async def _labelled(
    store: Store, run_id: str, targets: Counter[str], models: Counter[str]
) -> AsyncGenerator[dict[str, Any]]:
    """Yield rows in the samples' order, and count who answered."""
    async with (
        aclosing(store.samples(run_id)) as samples,
        aclosing(store.results(run_id)) as results,
    ):
        async for result in results:
            sample = await anext(samples)
            assert sample.id == result.cell.sample_id
            assert result.answer is not None
            targets[result.answer.target] += 1
            models[result.answer.model] += 1
            fields = {k: v for k, v in sample.fields.items() if k not in REFERENCES}
            yield {"id": sample.id} | fields | {"reference": result.answer.text}


def _encoded(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
