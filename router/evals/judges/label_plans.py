"""Plans which answers of a run people should score, for the judge's mean to become exact enough.

planned = await plan_run_labels(store, "run_...", width=0.1)
planned.plan.chosen
for row in planned.rows:   # a dataset to label, and to run afterwards
    ...
label_plan(planned)        # the same for programs
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Sample
from evaluators.judge.graded import Graded, people_score
from evaluators.judge.people_scores import people_scores
from evaluators.metrics.registry import build
from evaluators.stats.label_plan import LabelPlan, plan_labels
from providers.errors import ConflictError, RunDocumentError
from router.evals.stored_runs import find_run, stored_document
from router.store.protocol import Store

SCORES, CHANCE, NEXT = "human", "chance", "label_next"
"""The columns of a planned dataset: people's scores, their probability, and what to label now."""


class PlannedLabels(NamedTuple):
    """A plan of labels for one route of a run.

    Attributes:
        run: the run's id.
        width: the width that was requested.
        route: the route whose answers are to be labelled.
        output: the judge's score that they correct.
        labelled: how many answers have people's scores already.
        plan: the plan; its places are those of `rows`.
        rows: the answers as rows of a dataset, with the columns above.
    """

    run: str
    width: float
    route: str
    output: str
    labelled: int
    plan: LabelPlan
    rows: list[dict[str, Any]]


class PlannedLabel(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of a plan, as `PUT /eval/{id}/labels` takes it once people have scored it.

    Attributes:
        sample_id: the answer's sample.
        answer: its text.
        scores: what people gave it so far, one for each person.
        chance: the probability with which it has a label once those of the plan are labelled.
    """

    sample_id: str
    answer: str
    scores: tuple[float, ...]
    chance: float


class RunLabelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which answers of a run people should score next, and how narrow the interval then becomes.

    Attributes:
        run, route, output: what the labels are of.
        width: the width of the corrected 95% interval that was requested, from end to end.
        expected_width: the width that so many labels are expected to give; larger than requested
            where even all answers do not suffice.
        needed: labels in all, those that are there included.
        labelled: how many answers have people's scores already.
        answers: how many answers the judge has scored.
        error: the standard deviation of the judge's error that the plan goes by.
        measured: whether the error is that of earlier labels; otherwise it is taken to be as large
            as the spread of the judge's scores.
        label_next: the samples whose answers people should score now.
        labels: all answers, to be given back with people's scores; the chances of those that
            nobody scores are needed by later plans.
    """

    run: str
    route: str
    output: str
    width: float
    expected_width: float
    needed: int
    labelled: int
    answers: int
    error: float
    measured: bool
    label_next: tuple[str, ...]
    labels: tuple[PlannedLabel, ...]


async def plan_run_labels(
    store: Store,
    run_id: str,
    *,
    width: float,
    output: str | None = None,
    route: str | None = None,
    people: str | None = None,
    seed: int = 0,
    even: bool = False,
) -> PlannedLabels:
    """Plan the labels of a run.

    Args:
        store: has the run.
        run_id: the run's id.
        width: the difference between the ends of the corrected interval.
        output: the judge's score to correct; needed where the run has several.
        route: the route; needed where the run has several.
        people: the column with people's scores so far; the metric's own without it.
        seed: of the draw.
        even: whether every answer is as likely to be drawn, however sure the judge is of it.

    Raises:
        NotFoundError: the run does not exist.
        RunDocumentError: no such route or score, several to choose from, nothing to plan by, or a
            width that no interval can have.
        ConflictError: the run has not completed.
    """
    if not 0 <= seed < 2**63:
        raise RunDocumentError("seed: not between 0 and 2**63 - 1", param="seed")
    if not 0 < width < math.inf:
        raise RunDocumentError("width: not a number above 0", param="width")
    run = await find_run(store, run_id)
    document = stored_document(run)
    gradeds = [metric for metric in map(build, document.metrics) if isinstance(metric, Graded)]
    metric: Graded = one_of({graded.score_name: graded for graded in gradeds}, output, "output")
    low, high = metric.scale
    if width >= high - low:
        raise RunDocumentError(
            f"width: scores of {metric.score_name} are from {low:g} to {high:g}, so people's mean "
            f"is known within {high - low:g} without any label; name a smaller width",
            param="width",
        )
    if run.state != "completed":
        raise ConflictError(
            f"{run.id} is {run.state}: answers that come later would have no chance of being "
            "labelled; plan labels once the run has completed"
        )
    chosen = one_of({name: name for name in document.routes}, route, "route")
    columns = metric.people
    scores_column = people or (columns.scores if columns else SCORES)
    chance_column = columns.chance if columns and columns.chance else CHANCE
    samples = {sample.id: sample async for sample in store.samples(run.id)}
    labels = {
        label.cell: label
        for label in await store.labels(run.id)
        if (label.output, label.cell.route) == (metric.score_name, chosen)
    }
    rows: list[dict[str, Any]] = []
    judge: list[float] = []
    uncertainty: list[float] = []
    async for result in store.results(run.id):
        values = {score.output: score.value for score in result.scores}
        value = values.get(metric.score_name)
        cell, answer = result.cell, result.answer
        if cell.route != chosen or cell.repeat or value is None or answer is None:
            continue
        judge.append(value)
        unsure = values.get(f"{metric.score_name}_deviation") or 0.0
        uncertainty.append(0.0 if even else unsure)
        row = _row(samples[cell.sample_id], answer.text or "", scores_column, chance_column)
        label = labels.get(cell)
        if label is not None and label.answer_hash == answer_hash(answer.text or ""):
            scores = label.scores
            row |= {SCORES: scores if len(scores) > 1 else label.mean, CHANCE: label.chance}
        rows.append(row)
    if not rows:
        raise RunDocumentError(f"{run.id}: {chosen} has no answer with a score of the judge")
    known = [_known(row[SCORES], str(row["id"])) for row in rows]
    earlier = [row[CHANCE] for row in rows]
    if any(earlier) and not all(earlier):
        raise RunDocumentError(
            f"{run.id}: {earlier.count(None):,} of {len(rows):,} answers of {chosen} have no "
            "chance with the labels so far, and another plan needs that of every answer: keep "
            "all rows of the plan's file"
        )
    # On a thread: a run may have a million answers.
    plan = await asyncio.to_thread(
        plan_labels,
        judge,
        uncertainty,
        known,
        width=width,
        earlier=[float(chance) for chance in earlier] if all(earlier) else None,
        seed=seed,
    )
    to_label = set(plan.chosen)
    for place, (row, chance) in enumerate(zip(rows, plan.probabilities, strict=True)):
        row[CHANCE] = chance
        row[NEXT] = place in to_label
    labelled = sum(score is not None for score in known)
    return PlannedLabels(run.id, width, chosen, metric.score_name, labelled, plan, rows)


def label_plan(planned: PlannedLabels) -> RunLabelPlan:
    """Return a plan as programs read it."""
    plan = planned.plan
    return RunLabelPlan(
        run=planned.run,
        route=planned.route,
        output=planned.output,
        width=planned.width,
        expected_width=plan.expected_width,
        needed=plan.needed,
        labelled=planned.labelled,
        answers=len(planned.rows),
        error=plan.error,
        measured=plan.measured,
        label_next=tuple(planned.rows[place]["id"] for place in plan.chosen),
        labels=tuple(
            PlannedLabel(
                sample_id=row["id"],
                answer=row["answer"],
                scores=people_scores(row[SCORES]),
                chance=row[CHANCE],
            )
            for row in planned.rows
        ),
    )


def _row(sample: Sample, answer: str, scores: str, chance: str) -> dict[str, Any]:
    """Return an answer as a row of a dataset; labels of the dataset's own answer go with it."""
    is_of_dataset = answer == sample.answer
    return {
        **{name: value for name, value in sample.fields.items() if name != "predictions"},
        "id": sample.id,
        "answer": answer,
        SCORES: sample.fields.get(scores) if is_of_dataset else None,
        CHANCE: sample.fields.get(chance) if is_of_dataset else None,
    }


def _known(value: Any, sample_id: str) -> float | None:
    try:
        return people_score(value)
    except ValueError as error:
        raise RunDocumentError(f"sample {sample_id}: people's scores: {error}") from None


def answer_hash(text: str) -> str:
    """Return what tells the text of an answer from others: its SHA-256, hex."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def one_of(known: dict[str, Any], name: str | None, what: str) -> Any:
    """Return the one that is named, or the only one there is."""
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name in known:
        return known[name]
    if not known:
        raise RunDocumentError(f"{what}: the run has no judge whose scores could be corrected")
    names = ", ".join(known)
    wrong = f"name one of {names}" if name is None else f"{name!r} is not among {names}"
    raise RunDocumentError(f"{what}: {wrong}", param=what)
