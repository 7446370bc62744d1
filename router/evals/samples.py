"""Makes a run's samples, and refuses a dataset that cannot be used, before any request.

    dataset = await in_thread(prepare, document, source, metrics)
    await store.add_run(run, dataset.samples())

The dataset is read to its end once to be checked, once more where rows are drawn from it, and once
while its samples go into the store; it is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from evaluators.base import Declared, Sample, SampleCheck
from evaluators.data import dataset_process
from evaluators.data.dataset import Dataset
from evaluators.data.rows import path_starts
from evaluators.document import RunDocument
from providers.errors import RunDocumentError, closest
from router.datasets.sources import Source


class PreparedDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A checked dataset, and the rows of it that are a run's samples.

    Attributes:
        dataset: the file.
        count: how many samples the run has.
        named: the dataset's name in the run document.
        messages, prompt: of the run document.
        chosen: places of the rows drawn, from 0, ascending; None for the first `count`.
        needing: names of the metrics that cannot score a sample without references.
        checks: the metrics that check each sample.
    """

    dataset: Dataset
    count: int
    named: str
    messages: tuple[dict[str, Any], ...] | None
    prompt: str | None
    chosen: list[int] | None
    needing: list[str]
    checks: Sequence[SampleCheck] = ()

    def samples(self) -> Iterator[Sample]:
        """Yield the samples, one at a time. Blocks on the file: iterate it on a thread.

        Raises:
            DatasetError: the file changed since it was checked.
            RunDocumentError: a row that cannot be rendered, or of which a metric cannot score an
                answer; after the last sample, that some have no reference and a metric needs one.
        """
        without: list[str] = []
        missing = 0
        for sample in dataset_process.samples(
            self.dataset,
            count=self.count,
            chosen=self.chosen,
            messages=self.messages,
            prompt=self.prompt,
        ):
            if self.needing and not sample.references:
                missing += 1
                if len(without) < 5:
                    without.append(sample.id)
            check_sample(sample, self.checks, self.named, param="dataset")
            yield sample
        if missing:
            some = ", ".join(without) + (", …" if missing > len(without) else "")
            raise RunDocumentError(
                f"{self.named}: {missing} of {self.count} samples have no reference "
                f"(id {some}), but these metrics need one: {', '.join(self.needing)}. Fill the "
                "column `reference` (`columns` maps another one to it), drop those rows, or leave "
                "the metrics out.",
                param="dataset",
            )


def check_sample(sample: Sample, checks: Sequence[SampleCheck], where: str, *, param: str) -> None:
    """Check that metrics can score answers to a sample.

    Args:
        sample: the sample.
        checks: the metrics.
        where: what the message begins with.
        param: where in the run document the mistake is.

    Raises:
        RunDocumentError: one of them cannot.
    """
    for metric in checks:
        error = metric.sample_error(sample)
        if error:
            raise RunDocumentError(
                f"{where}: {metric.name} cannot score the sample {sample.id}: {error}", param=param
            )


def _unlabelled(dataset: Dataset, count: int, document: RunDocument) -> list[int]:
    """Return the indexes of those of the first `count` rows that have no reference.

    Raises:
        RunDocumentError: all of them have one, or rows are to be drawn as well.
    """
    if document.sample is not None:
        raise RunDocumentError(
            "unlabelled: rows without a reference cannot be drawn at random (sample) as well",
            param="unlabelled",
        )
    rows = dataset_process.rows(dataset, count=count)
    indexes = [index for index, row in enumerate(rows) if not row.references]
    if not indexes:
        raise RunDocumentError(
            f"unlabelled: all {count} rows of {document.dataset} have a reference, and only those "
            "without one would be used",
            param="unlabelled",
        )
    return indexes


def prepare(document: RunDocument, source: Source, metrics: Sequence[Declared]) -> PreparedDataset:
    """Check a dataset's file against a run document. Blocks while it is read.

    Raises:
        DatasetError, MissingExtraError: the file, or the document's `columns`.
        RunDocumentError: the document's templates or its `sample`.
    """
    if document.limit is not None and document.sample is not None:
        raise RunDocumentError(
            "sample: give limit (the first so many) or sample (drawn at random), not both",
            param="sample",
        )
    # What the document says of a column stands before what its registration says.
    remapped = document.columns.values()
    columns = {name: known for name, known in source.columns.items() if known not in remapped}
    dataset = dataset_process.open_dataset(
        source.path,
        columns=columns | document.columns,
        name=document.dataset,
        # With a template in the document, a dataset needs no column of a known name.
        needs_prompt=document.messages is None and document.prompt is None,
        messages=document.messages,
        prompt=document.prompt,
        templates=True,
        delimiter=document.delimiter or source.delimiter,
    )
    count, chosen = dataset.row_count, None
    if document.limit is not None:
        count = min(document.limit, count)
    if document.unlabelled:
        chosen = _unlabelled(dataset, count, document)
        count = len(chosen)
    if document.sample is not None:
        by = document.sample.by
        if by is not None and not {*path_starts(by)} & {*dataset.columns}:
            raise RunDocumentError(
                f"sample.by: the dataset has no column {by!r}.{closest(by, dataset.columns)}",
                param="sample.by",
            )
        chosen = dataset_process.choose(document.sample, dataset)
        count = len(chosen)
    return PreparedDataset(
        dataset=dataset,
        count=count,
        named=document.dataset,
        messages=document.messages,
        prompt=document.prompt,
        chosen=chosen,
        needing=[metric.name for metric in metrics if metric.needs_reference],
        checks=[metric for metric in metrics if isinstance(metric, SampleCheck)],
    )
