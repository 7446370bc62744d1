"""A run in a bundle, read as reports read runs from a database.

bundled = BundledRun(archive)
bundled.run, bundled.document
numbers = await numbers_of(bundled)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from evaluators.base import PRECOMPUTED, AnyMetric
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
    ROUTES,
    RUN,
    SAMPLES,
    STATED,
    STUDIES,
    BundledResult,
    BundledRoutes,
    BundledSample,
    MetricDeclaration,
    RunNumbers,
    Stated,
    canonical,
)
from router.loop.bundles.recorded_metrics import BundledMetrics, metrics_of
from router.store.evidence import Bodies
from router.store.judgements import JudgementRow, JudgeUse
from router.store.people_labels import PeopleLabel
from router.store.results import ScoredAnswer
from router.store.runs import Run
from router.store.shadows import SHADOW_DATASET
from router.store.studies import Study, StudyKind
from router.store.usage import EmbeddingUse

MAX_DOCUMENT_BYTES = 64 * 2**20

_T = TypeVar("_T")
# What may go wrong where text that may be forged is decoded.
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError, OverflowError)


def decoded(archive: Archive, name: str, kind: type[_T]) -> _T:
    """Return an entry that is one JSON value. Raises EvidenceError."""
    return from_json(archive.read(name, MAX_DOCUMENT_BYTES), msgspec.json.Decoder(kind), name)


def rows(archive: Archive, name: str, kind: type[_T]) -> Iterator[_T]:
    """Yield the rows of an entry. Raises EvidenceError."""
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(archive.lines(name), 1):
        yield from_json(line, decoder, f"{name}, line {number}")


def from_json(text: bytes, decoder: msgspec.json.Decoder[_T], where: str) -> _T:
    """Return a value of JSON.

    Raises:
        EvidenceError: the text is not JSON of the type, has a field that the type does not have,
            or has a field twice.
    """
    try:
        decoded = decoder.decode(text)
        if canonical(decoded) != text:
            # An older version may not have had all fields, and others may write JSON in their way.
            _check_fields(json.loads(text, object_pairs_hook=_each_once), decoded, "")
    except _UNREADABLE as error:
        raise EvidenceError(f"{where}: {error}") from error
    return decoded


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, in which other readers may see another value than this one."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"it has the field {name[:80]!r} twice")
        fields[name] = value
    return fields


def _check_fields(written: Any, read: Any, path: str) -> None:
    """Refuse fields that nothing reads. Raises ValueError."""
    read = msgspec.to_builtins(read) if isinstance(read, msgspec.Struct) else read
    if isinstance(written, dict) and isinstance(read, Mapping):
        for name, value in written.items():
            inner = f"{path}.{name}" if path else name
            if name not in read:
                raise ValueError(f"it has the field {inner[:200]!r}, which is unknown here")
            _check_fields(value, read[name], inner)
    elif isinstance(written, list) and isinstance(read, list | tuple):
        for n, (value, of_read) in enumerate(zip(written, read, strict=True)):
            _check_fields(value, of_read, f"{path}[{n}]")


class BundledRun:
    """The run of a bundle; for reports, see `router.store.reports.ReportStore`.

    Args:
        archive: the bundle's.
        bodies: what became of texts, as its manifest says.

    Raises:
        EvidenceError: an entry cannot be read.
    """

    def __init__(self, archive: Archive, bodies: Bodies) -> None:
        self._archive = archive
        self._bodies = bodies
        self.run = decoded(archive, RUN, Run)
        self.document: RunDocument = stored_document(self.run)
        self.declarations = decoded(archive, METRICS, list[MetricDeclaration])
        self.metrics: BundledMetrics = metrics_of(self.document, self.declarations)
        self.stated = decoded(archive, STATED, Stated)
        self.routes = decoded(archive, ROUTES, BundledRoutes)
        self._studies = list(rows(archive, STUDIES, Study))

    def samples(self) -> Iterator[BundledSample]:
        """Yield the samples, in dataset order."""
        return rows(self._archive, SAMPLES, BundledSample)

    def results(self) -> Iterator[BundledResult]:
        """Yield the answers with their scores, by sample, route name and repeat."""
        return rows(self._archive, RESULTS, BundledResult)

    def pairs(self) -> Iterator[tuple[BundledSample, BundledResult]]:
        """Yield the answers likewise, each with its sample. Raises EvidenceError."""
        samples = self.samples()
        sample = next(samples, None)
        for result in self.results():
            name = result.result.cell.sample_id
            while sample is not None and sample.sample.id != name:
                sample = next(samples, None)
            if sample is None:
                raise EvidenceError(
                    f"{RESULTS}: {name!r} is no sample of {SAMPLES}, or not in its order"
                )
            yield sample, result

    def is_replaced(self, sample: BundledSample, result: BundledResult) -> bool:
        """Return whether an answer cannot be scored, because a text was replaced."""
        return self._bodies != "keep" and (sample.changed or result.changed)

    @property
    def is_shadow(self) -> bool:
        """Whether the run is that of a shadow."""
        return self.run.dataset.startswith(SHADOW_DATASET) and PRECOMPUTED in self.document.routes

    def is_deleted(self, sample: BundledSample, result: BundledResult) -> bool:
        """Return whether an answer cannot be scored, because its texts were deleted.

        Only shadows lose texts and keep scores: their samples are requests.
        """
        answer = result.result.answer
        return (
            self.is_shadow and not sample.sample.messages and answer is not None and not answer.text
        )

    def has_texts(self, sample: BundledSample, result: BundledResult) -> bool:
        """Return whether metrics can read the texts of an answer."""
        return not self.is_replaced(sample, result) and not self.is_deleted(sample, result)

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

    def all_labels(self) -> list[PeopleLabel]:
        """Return the labels."""
        return list(rows(self._archive, LABELS, PeopleLabel))

    async def labels(self, run_id: str) -> list[PeopleLabel]:
        """Return the labels."""
        return self.all_labels()

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
