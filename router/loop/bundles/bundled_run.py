"""A run in a bundle, read as reports read runs from a database.

bundled = BundledRun(archive)
bundled.run, bundled.document
numbers = await numbers_of(bundled)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from evaluators.base import AnyMetric
from evaluators.document import RunDocument
from providers.errors import EvidenceError, NotFoundError
from router.evals.results import outcome
from router.evals.stored_runs import stored_document
from router.loop.bundles.archive import Archive
from router.loop.bundles.contents import (
    JUDGEMENTS,
    LABELS,
    METRICS,
    RESULTS,
    RUN,
    SAMPLES,
    STATED,
    STUDIES,
    BundledResult,
    BundledSample,
    MetricDeclaration,
    RunNumbers,
    Stated,
)
from router.loop.bundles.recorded_metrics import BundledMetrics, metrics_of
from router.store.judgements import JudgementRow, JudgeUse
from router.store.people_labels import PeopleLabel
from router.store.results import ScoredAnswer
from router.store.runs import Run
from router.store.studies import Study, StudyKind
from router.store.usage import EmbeddingUse

MAX_DOCUMENT_BYTES = 64 * 2**20

_T = TypeVar("_T")
# What may go wrong where text that may be forged is decoded.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError)


def decoded(archive: Archive, name: str, kind: type[_T]) -> _T:
    """Return an entry that is one JSON value. Raises EvidenceError."""
    return _decode(archive.read(name, MAX_DOCUMENT_BYTES), msgspec.json.Decoder(kind), name)


def rows(archive: Archive, name: str, kind: type[_T]) -> Iterator[_T]:
    """Yield the rows of an entry. Raises EvidenceError."""
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(archive.lines(name), 1):
        yield _decode(line, decoder, f"{name}, line {number}")


def _decode(text: bytes, decoder: msgspec.json.Decoder[_T], where: str) -> _T:
    try:
        return decoder.decode(text)
    except _UNREADABLE as error:
        raise EvidenceError(f"{where}: {error}") from error


class BundledRun:
    """The run of a bundle; for reports, see `router.store.reports.ReportStore`.

    Args:
        archive: the bundle's.

    Raises:
        EvidenceError: an entry cannot be read.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.run = decoded(archive, RUN, Run)
        self.document: RunDocument = stored_document(self.run)
        self.metrics: BundledMetrics = metrics_of(
            self.document, decoded(archive, METRICS, list[MetricDeclaration])
        )
        self.stated = decoded(archive, STATED, Stated)
        self._studies = list(rows(archive, STUDIES, Study))

    def samples(self) -> Iterator[BundledSample]:
        """Yield the samples, in dataset order."""
        return rows(self._archive, SAMPLES, BundledSample)

    def results(self) -> Iterator[BundledResult]:
        """Yield the answers with their scores, by sample, route name and repeat."""
        return rows(self._archive, RESULTS, BundledResult)

    def judgements(self) -> Iterator[JudgementRow]:
        """Yield what judges answered, in the order in which it came."""
        return rows(self._archive, JUDGEMENTS, JudgementRow)

    def calibrations(self) -> Sequence[Study]:
        """Return the calibrations of judges."""
        return self._studies

    async def clusters(self, run_id: str) -> dict[str, str]:
        """Return sample id to its cluster, for the samples that have one."""

        def read() -> dict[str, str]:
            samples = (row.sample for row in self.samples())
            return {sample.id: sample.cluster for sample in samples if sample.cluster}

        return await asyncio.to_thread(read)

    async def each_result(self, run_id: str, take: Callable[[ScoredAnswer], None]) -> None:
        """Call `take` with every answer and its scores, on a thread."""

        def read() -> None:
            for row in self.results():
                take(row.result)

        await asyncio.to_thread(read)

    async def labels(self, run_id: str) -> list[PeopleLabel]:
        """Return the labels."""
        return list(rows(self._archive, LABELS, PeopleLabel))

    async def study(self, study_id: str) -> Study:
        """Return a calibration. Raises NotFoundError."""
        for study in self._studies:
            if study.id == study_id:
                return study
        raise NotFoundError(f"There is no study {study_id!r}.")

    async def studies(
        self,
        *,
        kind: StudyKind | None = None,
        judge: str | None = None,
        graded: Sequence[str] = (),
        limit: int = 50,
    ) -> list[Study]:
        """List calibrations, newest first."""
        newest = sorted(self._studies, key=lambda study: study.id, reverse=True)
        return [study for study in newest if judge is None or judge in study.judges][:limit]

    async def judge_use(self, owner: str) -> list[JudgeUse]:
        """Return what the judges took."""
        return self.stated.judges

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        """Return what the embeddings took."""
        return self.stated.embeddings


async def numbers_of(bundled: BundledRun, metrics: Sequence[AnyMetric]) -> RunNumbers:
    """Return the numbers of a run's report, made of the rows of a bundle."""
    looks = bundled.stated.looks
    made = await outcome(bundled, bundled.run, bundled.document, metrics, looks)
    return RunNumbers(report=made.report, gates=made.gates, judges=made.judges)
