"""Reads a run's score by the values of one column of its dataset.

    report = await slices.report(run, "language", "exact_match")
    positions = await slices.positions(run, "language", report.slices[0].key)

Neither requests nor answers are read: one column of the samples and one score are a few numbers for
each sample, so that a run of 100,000 takes a second or two.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Answer, AnyMetric, Cell, JudgeMetric, Output, Score
from evaluators.document import RunDocument
from evaluators.judge.graded import corrected_name, raw_name
from evaluators.reports.accumulator import ScoreColumn
from evaluators.reports.corrected_shares import share_infos
from evaluators.reports.groups import ColumnValues, Grouping, UnusableColumnError, cut
from evaluators.reports.report import infos_of
from evaluators.reports.scores import OutputInfo
from evaluators.reports.slices import SlicedOutput, SliceReport, sliced
from evaluators.stats.judge_errors import JudgeErrors
from providers.errors import RequestError, closest
from router.evals.judges.calibrated_shares import errors_elsewhere
from router.evals.judges.people_labels import RunLabels
from router.evals.looks import looked_at_warning, looks_at
from router.evals.shared_reads import Lasting, SharedReads
from router.evals.stored_runs import stored_document
from router.evals.validation import build_metrics
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import ENDED, Run
from router.store.slices import StoredScore, StoredValue

_MAX_CACHED = 32
# Runs that are read at once: each reading takes its share of the store's threads.
_AT_ONCE = 2
_NAMED = 40


class _GroupedColumn(NamedTuple):
    """A column of a run: the group, and the cluster, of each sample by position."""

    grouping: Grouping
    clusters: NDArray[np.intp] | None


class Slices:
    """Slices of runs' scores, cached where reading a run again would give the same."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._columns = SharedReads[_GroupedColumn](max_cached=_MAX_CACHED)
        self._reports = SharedReads[SliceReport](max_cached=_MAX_CACHED)
        self._reading = asyncio.Semaphore(_AT_ONCE)

    async def report(self, run: Run, column: str, output: str = "") -> SliceReport:
        """Return a score by the values of a column.

        Args:
            run: the run, which may be under way.
            column: a column of its dataset, or a dotted path into one.
            output: the score; "" for the one that decides, else the first.

        Raises:
            RequestError: the run has no such score, its samples have no such column, or the
                column's values make no slices.
        """
        version = (run.state, run.finished_at, run.dataset_rows)
        read = partial(self._read_report, run, column, output)
        return await self._reports.of((run.id, column, output), version, read)

    async def grouping(self, run: Run, column: str) -> Grouping:
        """Return the groups of a run's samples, in the order of the dataset. Raises as `report`."""
        return (await self._column(run, column)).grouping

    async def positions(self, run: Run, column: str, key: str) -> NDArray[np.int64]:
        """Return the positions of a slice's samples, from 1, ascending.

        Raises:
            RequestError: as `report` does, or the column has no such slice.
        """
        grouping = await self.grouping(run, column)
        for number, group in enumerate(grouping.groups):
            if group.key == key:
                return np.nonzero(grouping.numbers == number)[0].astype(np.int64) + 1
        raise RequestError(f"{run.id} has no slice {cut(key)!r} by {cut(column)!r}.", param="slice")

    async def _column(self, run: Run, column: str) -> _GroupedColumn:
        read = partial(self._read_column, run, column)
        return await self._columns.of((run.id, column), run.dataset_rows, read)

    async def _read_column(self, run: Run, column: str) -> Lasting[_GroupedColumn]:
        async with self._reading:
            values = ColumnValues()
            numbers = _ClusterNumbers()

            def take(stored: StoredValue) -> None:
                values.add(stored.value)
                numbers.add(stored.cluster)

            names = await self._store.each_value(run.id, column, take)
        if not values.has_column:
            raise RequestError(_no_column(column, names), param="column")
        try:
            grouping = await asyncio.to_thread(values.grouped)
        except UnusableColumnError as error:
            raise RequestError(
                f"The column {cut(column)!r} makes no slices: {error}.", param="column"
            ) from error
        return Lasting(_GroupedColumn(grouping, numbers.numbers()))

    async def _read_report(self, run: Run, column: str, name: str) -> Lasting[SliceReport]:
        clock = asyncio.get_running_loop().time
        began = clock()
        document = stored_document(run)
        metrics = await asyncio.to_thread(build_metrics, document)
        people = await RunLabels.of(self._store, run, metrics, {})
        errors, reasons = await errors_elsewhere(self._store, metrics, people.metrics)
        outputs = {each.name: each for metric in people.metrics for each in metric.outputs}
        info = _chosen(share_infos(infos_of(people.metrics), errors), document, name)
        grouped = await self._column(run, column)
        looks = await looks_at(self._store, run, document)
        output = outputs.get(info.name) or outputs[raw_name(info.name)]
        async with self._reading:
            scores = await self._scores(run, document, output, people)
        report = await asyncio.to_thread(
            sliced,
            column,
            grouped.grouping,
            scores,
            SlicedOutput(
                output=output,
                info=info,
                baseline=document.baseline,
                clusters=grouped.clusters,
                margins={raw_name(each): margin for each, margin in document.margins.items()},
                errors=_errors_of(output, info, errors),
                always_valid=bool(looks),
            ),
            warnings=(*reasons, *looked_at_warning(looks)),
        )
        return Lasting(report, _seconds(run, metrics, 4 * (clock() - began)))

    async def _scores(
        self, run: Run, document: RunDocument, output: Output, people: RunLabels
    ) -> Mapping[str, ScoreColumn]:
        """Return the scores of each route, with the places of their samples, from 0."""
        columns = {
            route: ScoreColumn(corpus=output.corpus is not None) for route in document.routes
        }
        raw = output.corrects
        if raw not in people.labels or corrected_name(raw) != output.name:

            def put(stored: StoredScore) -> None:
                if stored.route in columns:
                    columns[stored.route].put(stored.position - 1, stored.value, stored.statistics)

            await self._store.each_score(run.id, output.name, put)
            return columns
        clusters = await self._store.clusters(run.id)
        texts = await self._store.labelled_texts(run.id, raw)
        sample_ids: list[str] = []
        await self._store.each_value(run.id, "", lambda stored: sample_ids.append(stored.sample_id))
        correct = _correction(people._replace(clusters=clusters), raw, texts, sample_ids)

        def put_corrected(stored: StoredScore) -> None:
            if stored.route in columns:
                score = correct(stored)
                columns[stored.route].put(stored.position - 1, score.value, score.statistics)

        await self._store.each_score(run.id, raw, put_corrected)
        return columns


class _ClusterNumbers:
    """The clusters of samples, numbered in the order of the dataset."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._numbers = array("q")
        self._alone = 0

    def add(self, cluster: str) -> None:
        """Add the next sample; without a cluster, "", it stands alone."""
        if cluster:
            self._numbers.append(
                self._number_of.setdefault(cluster, len(self._number_of) + self._alone)
            )
        else:
            self._numbers.append(len(self._number_of) + self._alone)
            self._alone += 1

    def numbers(self) -> NDArray[np.intp] | None:
        """Return the number of each sample's cluster; None when all samples stand alone."""
        return np.array(self._numbers, dtype=np.intp) if self._number_of else None


def _correction(
    people: RunLabels, raw: str, texts: Mapping[Cell, str], sample_ids: Sequence[str]
) -> Callable[[StoredScore], Score]:
    """Return what makes the score that people's labels correct of a judge's."""
    name = corrected_name(raw)

    def corrected(stored: StoredScore) -> Score:
        cell = Cell(stored.route, sample_ids[stored.position - 1], stored.repeat)
        # The text says whether a label is of this answer, so it is read where there is one.
        answer = Answer(text=texts.get(cell, ""), target="")
        row = ScoredAnswer(
            cell=cell, answer=answer, scores=(Score(output=raw, value=stored.value),)
        )
        return next(score for score in people.scores(row) if score.output == name)

    return corrected


def _errors_of(
    output: Output, info: OutputInfo, errors: Mapping[str, JudgeErrors]
) -> JudgeErrors | None:
    """Return the errors by which a judge's share is corrected; None for other scores."""
    return None if output.name == info.name else errors[output.name]


def _seconds(run: Run, metrics: Sequence[AnyMetric], under_way: float) -> float:
    """Return for how long slices are good: what is known of judges grows after a run has ended."""
    if run.state not in ENDED:
        return under_way
    return 0.0 if any(isinstance(metric, JudgeMetric) for metric in metrics) else float("inf")


def _chosen(infos: Sequence[OutputInfo], document: RunDocument, name: str) -> OutputInfo:
    by_name = {info.name: info for info in infos}
    if not by_name:
        raise RequestError("This run has no scores: its document names no metrics.", param="output")
    if name and name not in by_name:
        raise RequestError(
            f"This run has no score {cut(name)!r}.{closest(name, by_name)}", param="output"
        )
    return by_name.get(name or document.deciding or "") or infos[0]


def _no_column(column: str, names: Sequence[str]) -> str:
    if not names:
        return "This run has no samples, so its dataset has no columns."
    known = ", ".join(cut(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return (
        f"The samples of this run have no column {cut(column)!r}. They have: {known}{more}; a "
        "path such as metadata.topic names what is within one."
    )
