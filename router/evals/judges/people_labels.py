"""Corrects the judges of a run by people's labels of its answers.

    await keep_run_labels(store, "run_...", labels)       # what people say
    people = await RunLabels.of(store, run, metrics)
    people.metrics                                        # with the corrected outputs first
    people.scores(row)                                    # a row's scores, the corrected ones too

Labels are read whenever a report is made and never enter the run's scores, so that a later label
counts at once, and a judge that scores the answers again is corrected by the same labels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np

from evaluators.base import Answer, AnyMetric, Cell, Score
from evaluators.data.dataset_process import open_dataset, rows
from evaluators.judge.graded import (
    Graded,
    corrected_name,
    corrected_score,
    people_score,
)
from evaluators.judge.people_scores import people_scores
from evaluators.metrics.registry import build
from evaluators.reports.accumulator import Measured, ScoreAccumulator
from evaluators.stats.prediction_powered import FEWEST_LABELS, labelled_rows
from providers.errors import ConflictError, RunDocumentError
from router.evals.judges.label_plans import CHANCE, SCORES, answer_hash, one_of
from router.evals.stored_runs import find_run, stored_document
from router.store.people_labels import PeopleLabel
from router.store.protocol import Store
from router.store.reports import ReportStore
from router.store.results import ScoredAnswer
from router.store.runs import Run

_NAMED = 5


class AnswerLabel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people say of one answer.

    Attributes:
        sample_id: the answer's sample.
        answer: the answer's text, which has to be that of the run.
        scores: one for each person; empty for an answer that was not chosen, of which only the
            chance is known.
        chance: the probability with which the answer was chosen for people; None where it was the
            same for all answers.
        repeat: which of the route's answers to the sample it is, from 0.
    """

    sample_id: str
    answer: str
    scores: float | tuple[float, ...] = ()
    chance: float | None = None
    repeat: int = 0


class LabelledAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that people say of the answers of one route.

    Attributes:
        labels: one for each answer that people scored; with chances, one for every answer.
        route: the route; needed where the run has several.
        output: the judge's score that people gave; needed where the run has several.
        replace: whether earlier labels of the route that are not among these are dropped.
    """

    labels: tuple[AnswerLabel, ...]
    route: str | None = None
    output: str | None = None
    replace: bool = False


class StoredLabels(msgspec.Struct, frozen=True, kw_only=True):
    """What was stored of a run's labels.

    Attributes:
        run, route, output: what they are of.
        labels: how many answers of the route have people's scores now.
        answers: how many answers it has.
    """

    run: str
    route: str
    output: str
    labels: int
    answers: int


def read_labels(path: Path) -> tuple[AnswerLabel, ...]:
    """Read the labels of a plan's file that people filled in. Blocks while it is read.

    Rows with neither a score nor a chance are left out.

    Raises:
        DatasetError, MissingExtraError: the file.
        RunDocumentError: a row has no answer, or something else than numbers.
    """
    name = path.name
    labels = []
    for row in rows(open_dataset(path, needs_prompt=False)):
        try:
            scores = people_scores(row.fields.get(SCORES))
            chance = people_score(row.fields.get(CHANCE))
        except ValueError as error:
            raise RunDocumentError(f"{name}: sample {row.id}: {error}") from None
        if not scores and chance is None:
            continue
        if row.answer is None:
            raise RunDocumentError(f"{name}: sample {row.id}: the row has no `answer`")
        labels.append(
            AnswerLabel(sample_id=row.id, answer=row.answer, scores=scores, chance=chance)
        )
    if not any(label.scores for label in labels):
        raise RunDocumentError(f"{name}: no row has a score of people in the column `{SCORES}`")
    return tuple(labels)


async def keep_run_labels(store: Store, run_id: str, given: LabelledAnswers) -> StoredLabels:
    """Check labels against the answers of a run, and store them.

    Raises:
        NotFoundError: the run does not exist.
        RunDocumentError: no such route, score or answer, or a label that cannot be one.
        ConflictError: earlier labels are not among these.
    """
    run = await find_run(store, run_id)
    document = stored_document(run)
    gradeds = {
        metric.score_name: metric
        for metric in map(build, document.metrics)
        if isinstance(metric, Graded)
    }
    metric: Graded = one_of(gradeds, given.output, "output")
    route: str = one_of({name: name for name in document.routes}, given.route, "route")
    labels = await asyncio.to_thread(_by_cell, given.labels, metric, route)
    answers = await _check_answers(store, run, route, labels)
    if not given.replace:
        await _check_complete(store, run, metric.score_name, labels, route)
    await store.keep_labels(run.id, metric.score_name, route, list(labels.values()))
    return StoredLabels(
        run=run.id,
        route=route,
        output=metric.score_name,
        labels=sum(bool(label.scores) for label in labels.values()),
        answers=answers,
    )


def _by_cell(given: Sequence[AnswerLabel], metric: Graded, route: str) -> dict[Cell, PeopleLabel]:
    """Return the labels as they are stored. Raises RunDocumentError."""
    now = time.time()
    labels: dict[Cell, PeopleLabel] = {}
    for number, label in enumerate(given):
        checked = _checked(label, metric, route, f"labels[{number}]", now)
        if checked.cell in labels:
            raise _refused(f"labels[{number}]", label, "another label is of the same answer")
        labels[checked.cell] = checked
    if len({label.chance is None for label in labels.values()}) > 1:
        raise RunDocumentError(
            "labels: some have a chance and others do not; give it for all or for none",
            param="labels",
        )
    return labels


def _checked(label: AnswerLabel, metric: Graded, route: str, where: str, now: float) -> PeopleLabel:
    """Return a label as it is stored. Raises RunDocumentError."""
    scores = label.scores if isinstance(label.scores, tuple) else (label.scores,)
    low, high = metric.scale
    if not all(low <= score <= high for score in scores):
        raise _refused(where, label, f"scores of {metric.score_name} are from {low:g} to {high:g}")
    if label.chance is not None and not 0 < label.chance <= 1:
        raise _refused(where, label, f"the chance {label.chance:g} is no probability above 0")
    return PeopleLabel(
        output=metric.score_name,
        cell=Cell(route, label.sample_id, label.repeat),
        answer_hash=answer_hash(label.answer),
        scores=scores,
        chance=label.chance,
        at=now,
    )


def _refused(where: str, label: AnswerLabel, why: str) -> RunDocumentError:
    return RunDocumentError(f"{where}: sample {label.sample_id}: {why}", param=where)


async def _check_answers(
    store: Store, run: Run, route: str, labels: Mapping[Cell, PeopleLabel]
) -> int:
    """Check that each label is of an answer that the route gave; return the number of answers.

    Raises:
        RunDocumentError: some are of other texts, or of answers that the run does not have.
    """
    answers = 0
    other: list[str] = []
    missing = dict.fromkeys(labels)

    def check(row: ScoredAnswer) -> None:
        nonlocal answers
        if row.cell.route != route or row.answer is None or row.answer.text is None:
            return
        answers += 1
        label = labels.get(row.cell)
        if label is None:
            return
        del missing[row.cell]
        if label.answer_hash != answer_hash(row.answer.text):
            other.append(row.cell.sample_id)

    # On threads: a run may have a million answers.
    await store.each_result(run.id, check)
    if missing:
        names = _some([cell.sample_id for cell in missing])
        raise RunDocumentError(
            f"labels: {route} has no answer to {names} in {run.id}", param="labels"
        )
    if other:
        raise RunDocumentError(
            f"labels: {route} gave another answer in {run.id} than the labels' to {_some(other)}",
            param="labels",
        )
    return answers


async def _check_complete(
    store: Store, run: Run, output: str, labels: Mapping[Cell, PeopleLabel], route: str
) -> None:
    """Check that every earlier label has a successor. Raises ConflictError.

    A later plan changes the chance of each label, so that old and new ones do not mix.
    """
    earlier = [
        label.cell.sample_id
        for label in await store.labels(run.id)
        if (label.output, label.cell.route) == (output, route)
        and label.scores
        and (label.cell not in labels or not labels[label.cell].scores)
    ]
    if earlier:
        raise ConflictError(
            f"{run.id} has labels of {route} that are not among these: {_some(earlier)}. Give all "
            "of its labels at once, as a label plan's file has them, or replace the earlier ones "
            "(`replace: true`; --replace on the command line)",
            param="labels",
        )


def _some(names: Sequence[str]) -> str:
    some = ", ".join(names[:_NAMED])
    return some if len(names) <= _NAMED else f"{some} and {len(names) - _NAMED:,} others"


class RunLabels(NamedTuple):
    """People's labels of a run, for its report.

    Attributes:
        metrics: the run's, those that labels correct with the corrected output first.
        labels: by the judge's score, then cell.
        drawn: the judge's scores and routes whose answers were chosen with different chances.
        clusters: sample id to its cluster.
    """

    metrics: Sequence[Measured]
    labels: Mapping[str, Mapping[Cell, PeopleLabel]]
    drawn: frozenset[tuple[str, str]]
    clusters: Mapping[str, str]

    @classmethod
    async def of(
        cls, store: ReportStore, run: Run, metrics: Sequence[AnyMetric], clusters: Mapping[str, str]
    ) -> Self:
        """Read the labels of the judges' scores that the run has."""
        labels: dict[str, dict[Cell, PeopleLabel]] = {}
        known = {metric.score_name for metric in metrics if isinstance(metric, Graded)}
        for label in await store.labels(run.id) if known else ():
            if label.output in known:
                labels.setdefault(label.output, {})[label.cell] = label
        shown: list[Any] = [
            metric.corrected_by_labels()
            if isinstance(metric, Graded) and metric.score_name in labels
            else metric
            for metric in metrics
        ]
        drawn = {
            (output, cell.route)
            for output, of_output in labels.items()
            for cell, label in of_output.items()
            if label.chance is not None
        }
        return cls(shown, labels, frozenset(drawn), clusters)

    def scores(self, row: ScoredAnswer) -> Sequence[Score]:
        """Return a row's scores, with those of people's mean where the run has labels."""
        if not self.labels or row.answer is None or row.answer.text is None:
            return row.scores
        names = {corrected_name(output) for output in self.labels}
        others = [score for score in row.scores if score.output not in names]
        raw = {score.output: score for score in row.scores}
        return [
            *others,
            *(
                self._corrected(raw[output], row.cell, row.answer)
                for output in self.labels
                if output in raw
            ),
        ]

    def _corrected(self, raw: Score, cell: Cell, answer: Answer) -> Score:
        name = corrected_name(raw.output)
        if raw.value is None:
            return Score(output=name, value=None, error=raw.error)
        label = self.labels[raw.output].get(cell)
        if label is not None and label.answer_hash != answer_hash(answer.text or ""):
            label = None
        return corrected_score(
            name,
            raw.value,
            None if label is None else label.mean,
            unit=self.clusters.get(cell.sample_id) or cell.sample_id,
            # All that counts of an answer without a label is that others were not chosen alike.
            chance=(label.chance if label is not None else 1.0)
            if (raw.output, cell.route) in self.drawn
            else None,
        )


def withhold_uncorrected(scores: ScoreAccumulator) -> None:
    """Drop the corrected scores of routes of which people have scored hardly any answers.

    Without people's scores, the estimate is the judge's mean, and must not be named corrected.
    """
    names = [
        output.name for metric in scores.metrics for output in metric.outputs if output.corrects
    ]
    for name in names:
        for route, counted in scores.routes.items():
            column = counted.columns[name]
            rows = np.asarray(column.statistics).reshape(len(column.samples), column.width or 0)
            labelled = int(labelled_rows(rows).sum())
            if labelled >= FEWEST_LABELS:
                continue
            why = (
                f"people have scored {labelled:,} of the route's answers; a correction needs "
                f"{FEWEST_LABELS}"
            )
            # Where no answer could be corrected at all, the reason is another one.
            unlabelled = bool(column.samples) or not column.example
            scores.withhold(route, name, why if unlabelled else column.example)
