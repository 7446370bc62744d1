"""Labels a dataset with a route's answers: a new version that has them as its references.

    request = LabelRequest(route="openai/gpt-4o", dataset="news", task="summarization")
    run = await begin(runs, request, base=Path())
    await jobs.execute(run.id)
    row = await finish(store, datasets, run, name="news")

The run is like any other, without metrics: it is stopped and resumed as any, and its answers stay
in the store. Rows that have a reference keep it, unless the request says otherwise. The dataset
says in its provenance which run labelled it, with which prompt, and which models answered.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec

from evaluators.base import Sample
from evaluators.data import dataset_process
from evaluators.data.dataset import Dataset
from evaluators.data.dataset_process import in_thread
from evaluators.data.rows import REFERENCES, Row
from evaluators.data.sampling import Rows
from evaluators.document import Messages, RunDocument
from evaluators.text.answers import read_answer
from providers.errors import ConflictError
from providers.names import as_name
from router.config.documents import Document
from router.datasets.artifacts import temporary_folder
from router.datasets.registry import DatasetRegistry, Lineage, is_version
from router.datasets.sources import Source, collect
from router.evals.run_document import complete_run
from router.evals.runs import Runs
from router.evals.stored_runs import stored_document
from router.evals.worker import Runner
from router.store.datasets import DatasetRow
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import Run

_FLUSHED_ROWS = 500


class LabelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a dataset's rows are to be labelled with.

    Attributes:
        route: a route, or `provider/model`, whose answers become the references.
        dataset: a registered dataset, a path or an address.
        task: a task's name, or an object with `name` and its options: its messages and parameters.
        messages: chat messages whose `content` is a Jinja template over the row's columns.
        prompt: short for one user message; not together with `messages`.
        columns: a dataset's own column names mapped to `input`, `reference`, `id`, ...
        parameters: sent with every request (temperature, max_tokens, ...).
        limit: only the first so many rows, in the new version too.
        overwrite: whether rows that have a reference get another one.
    """

    route: Annotated[str, msgspec.Meta(min_length=1)]
    dataset: Annotated[str, msgspec.Meta(min_length=1)]
    task: str | dict[str, Any] | None = None
    messages: Messages | None = None
    prompt: str | None = None
    columns: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    limit: Rows | None = None
    overwrite: bool = False


async def begin(
    runs: Runs,
    request: LabelRequest,
    *,
    base: Path,
    runner: Runner = "command",
    within: Sequence[str] | None = None,
) -> Run:
    """Begin a run that sends each row to be labelled to one route once.

    Args:
        runs: creates the run.
        request: what to do.
        base: the folder that relative paths start from.
        runner: who is to execute the run.
        within: the folders that a task's file may lie below; None for anywhere.

    Raises:
        As `Runs.create` does.
    """
    data = {
        "dataset": request.dataset,
        "routes": [request.route],
        # A task brings metrics, a baseline and gates, which labels have no use for.
        "metrics": [],
        "baseline": None,
        "gates": [],
        "repeats": 1,
        "limit": request.limit,
        "unlabelled": not request.overwrite,
        "name": as_name(f"labels of {request.dataset}"),
    }
    for key in ("task", "messages", "prompt", "columns", "parameters"):
        if value := getattr(request, key):
            data[key] = msgspec.to_builtins(value)
    document = complete_run(Document.of(data), base=base, within=within)
    return await runs.create(document, base=base, runner=runner)


async def finish(store: Store, datasets: DatasetRegistry, run: Run, *, name: str) -> DatasetRow:
    """Register the dataset's rows with the run's answers as their references.

    Columns stay as they were, without `reference` and `references` where those are replaced; rows
    without an id get the sample's, so that runs over both versions can be compared sample by
    sample. An answer that was cut off, filtered or refused, or is empty, is no label: its row has
    none.

    Args:
        store: has the run.
        datasets: where the dataset is registered.
        run: has one route, one repeat, and an answer to every sample.
        name: what to call the dataset.

    Raises:
        ConflictError: it is not such a run, not every sample is answered (says how many are, and
            how to go on), the dataset has changed meanwhile, or it was deleted, and with it
            perhaps requests that rows of it are copies of.
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
    labels = _Labels(store, run, document)
    if not document.unlabelled:
        return await _register(datasets, run, labels, labels.of_samples(), name)
    # The rows that keep their references are not in the run.
    async with datasets.open(
        document.dataset, base=Path(run.base), over_http=run.runner == "server"
    ) as source:
        dataset = await in_thread(_open_again, source, document)
        if dataset.hash != run.dataset_hash:
            raise ConflictError(
                f"{run.dataset} has changed since {run.id} began (its SHA-256 is now "
                f"{dataset.hash[:12]}, it was {run.dataset_hash[:12]}); label it again"
            )
        rows = dataset_process.rows(dataset, count=document.limit)
        return await _register(datasets, run, labels, labels.among(rows), name)


def _open_again(source: Source, document: RunDocument) -> Dataset:
    return dataset_process.open_dataset(
        source.path,
        columns=source.columns | document.columns,
        delimiter=document.delimiter or source.delimiter,
        needs_prompt=False,
    )


async def _register(
    datasets: DatasetRegistry,
    run: Run,
    labels: _Labels,
    rows: AsyncGenerator[dict[str, Any]],
    name: str,
) -> DatasetRow:
    async def lines() -> AsyncIterator[bytes]:
        waiting: list[dict[str, Any]] = []
        async with aclosing(rows):
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
            source=f"{run.dataset}, labelled by {labels.document.routes[0]}",
            provenance=labels.provenance(),
            lineage=Lineage(
                made_of=(run.dataset_hash,),
                registered=run.dataset_hash if is_version(run.dataset, run.dataset_hash) else "",
            ),
        )


class _Labels:
    """The labels that a run wrote, and the counts of who wrote them."""

    def __init__(self, store: Store, run: Run, document: RunDocument) -> None:
        self._store = store
        self._run = run
        self.document = document
        self._targets: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._unchanged = 0

    def provenance(self) -> dict[str, Any]:
        """Return how the labels were made, once all rows have been read."""
        document = self.document
        made: dict[str, Any] = {
            "labelled_by": document.routes[0],
            "run": self._run.id,
            "of": {"dataset": self._run.dataset, "hash": self._run.dataset_hash},
            "targets": dict(self._targets),
            "models": dict(self._models),
            "prompt": document.prompt,
            "parameters": document.parameters,
        }
        if document.task is not None:
            made["task"] = document.task
        if document.messages is not None:
            made["messages"] = list(document.messages)
        if self._unchanged:
            made["kept"] = self._unchanged
        if self._left_out:
            made["left_out"] = dict(self._left_out)
        return made

    async def of_samples(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the run's samples as rows, in their order, each with its label."""
        async with (
            aclosing(self._store.samples(self._run.id)) as samples,
            aclosing(self._store.results(self._run.id)) as results,
        ):
            async for result in results:
                sample = await anext(samples)
                assert sample.id == result.cell.sample_id
                yield self._row(sample, result)

    async def among(self, rows: Iterator[Row]) -> AsyncGenerator[dict[str, Any]]:
        """Yield all rows of the dataset in order; the run's get their labels, others keep them."""
        async with aclosing(self._store.results(self._run.id)) as results:
            result = await anext(results, None)
            while batch := await in_thread(_next_rows, rows):
                for row in batch:
                    if result is not None and result.cell.sample_id == row.id:
                        yield self._row(row, result)
                        result = await anext(results, None)
                    else:
                        self._unchanged += 1
                        yield {"id": row.id} | row.fields

    def _row(self, row: Sample | Row, result: ScoredAnswer) -> dict[str, Any]:
        assert result.answer is not None
        answer = read_answer(result.answer, self.document.answer)
        fields = {name: value for name, value in row.fields.items() if name not in REFERENCES}
        lacking = answer.shortfall or ("" if (answer.text or "").strip() else "empty")
        if lacking:
            self._left_out[lacking] += 1
            return {"id": row.id} | fields
        self._targets[answer.target] += 1
        self._models[answer.model] += 1
        return {"id": row.id} | fields | {"reference": answer.text}


def _next_rows(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _FLUSHED_ROWS))


def _encoded(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
