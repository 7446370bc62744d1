"""People label the answers of a run one after the other, in an order that is drawn by chance.

    labelling = await open_labelling(store, "run_...", route="r", output="helpfulness")
    task = await next_task(store, labelling, person="key_1", after=0)
    label = await score_task(store, labelling, task.position, task.answer_hash, 4.0)

The order is a permutation of the run's samples that its id decides, so that however far people get,
the answers with a label are a simple random sample, and no chances need to be stored. Each person
begins at another place of it, so that two hardly ever read the same answer at once; where they do,
both scores count.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluators.base import Cell, Sample
from evaluators.document import RunDocument
from evaluators.judge import rubrics
from evaluators.judge.graded import Graded
from evaluators.metrics.registry import build
from providers.errors import ConflictError, NotFoundError, RunDocumentError
from router.evals.judges.label_plans import answer_hash, one_of
from router.evals.stored_runs import find_run, stored_document
from router.store.people_labels import PeopleLabel
from router.store.protocol import Store
from router.store.runs import Run

# Places of the order that are looked at for the next answer, at a time and in all.
_AT_ONCE = 100
MAX_LOOKED_AT = 5_000


class Labelling(NamedTuple):
    """What people label: the answers of one route of a run, as one of its judges scored them.

    Attributes:
        run: the run.
        route: the route.
        output: the judge's score.
        description: the question that the judge answers.
        scores: every possible score; empty where any number between `low` and `high` is one.
        low, high: the lowest and the highest.
        labels: what people say so far, by sample.
        rubric: what each score means; where rows bring their own, the column that has it.
        planned: whether a plan drew the answers with chances, so that they cannot be labelled here.
    """

    run: Run
    route: str
    output: str
    description: str
    scores: tuple[float, ...]
    low: float
    high: float
    labels: Mapping[str, PeopleLabel]
    rubric: rubrics.Rubric | rubrics.ColumnRubrics | None
    planned: bool


class LabelTask(NamedTuple):
    """An answer to be scored.

    Attributes:
        place: its place in the person's order, from 0.
        position: its sample's, from 1.
        sample: the sample.
        answer: the answer's text.
        answer_hash: what tells it from others.
        rubric: what each score means; None where that is not known.
    """

    place: int
    position: int
    sample: Sample
    answer: str
    answer_hash: str
    rubric: rubrics.Rubric | None


class JudgedScores(NamedTuple):
    """The scores of a run that people can correct.

    Attributes:
        run: the run.
        metrics: by the judges' scores, the metrics that give them, also as the document has them.
        routes: its routes.
    """

    run: Run
    metrics: dict[str, tuple[Graded, Any]]
    routes: tuple[str, ...]


async def judged_scores(store: Store, run_id: str) -> JudgedScores:
    """Return the scores of a run that judges gave. Raises NotFoundError, RunDocumentError."""
    run = await find_run(store, run_id)
    document = stored_document(run)
    metrics = await asyncio.to_thread(_gradeds, document)
    return JudgedScores(run, metrics, tuple(document.routes))


async def open_labelling(
    store: Store, run_id: str, *, route: str | None = None, output: str | None = None
) -> Labelling:
    """Return what is labelled of a run. Raises as `judged_scores` and `labelling_of` do."""
    return await labelling_of(store, await judged_scores(store, run_id), route=route, output=output)


async def labelling_of(
    store: Store, judged: JudgedScores, *, route: str | None = None, output: str | None = None
) -> Labelling:
    """Return what is labelled.

    Args:
        store: has the run.
        judged: the run's scores.
        route: the route; needed where the run has several.
        output: the judge's score; needed where the run has several.

    Raises:
        NotFoundError: the run has been deleted.
        RunDocumentError: no such route or score, or several to choose from.
    """
    run = judged.run
    metric, written = one_of(judged.metrics, output, "output")
    chosen: str = one_of({name: name for name in judged.routes}, route, "route")
    declaration = metric.declaration()
    labels = [
        label
        for label in await store.labels(run.id)
        if (label.output, label.cell.route, label.cell.repeat) == (metric.score_name, chosen, 0)
    ]
    return Labelling(
        run=run,
        route=chosen,
        output=metric.score_name,
        description=declaration.description,
        scores=declaration.categories,
        low=declaration.low,
        high=declaration.high,
        labels={label.cell.sample_id: label for label in labels if label.scores},
        rubric=await asyncio.to_thread(_rubric, written, run),
        planned=any(label.chance is not None for label in labels),
    )


def _gradeds(document: RunDocument) -> dict[str, tuple[Graded, Any]]:
    gradeds = {}
    for written in document.metrics:
        metric = build(written)
        if isinstance(metric, Graded):
            gradeds[metric.score_name] = metric, written
    return gradeds


def _rubric(written: Any, run: Run) -> rubrics.Rubric | rubrics.ColumnRubrics | None:
    """Return the rubric of a metric; None for another kind of judge, or one that is gone."""
    options = written if isinstance(written, Mapping) else {"name": written}
    if options.get("name") != "prometheus":
        return None
    rubric = options.get("rubric", "helpfulness")
    try:
        if isinstance(rubric, Mapping) and "column" in rubric:
            return rubrics.columns(rubric)
        return rubrics.load(rubric, base=Path(run.base))
    except RunDocumentError:
        return None


async def next_task(
    store: Store, labelling: Labelling, *, person: str, after: int
) -> LabelTask | None:
    """Return the next answer without a label; None where the person has got to the end.

    Args:
        store: has the run.
        labelling: what is labelled.
        person: whose turn it is; another one begins at another place.
        after: how many places of the person's order come before.

    Raises:
        ConflictError: none of the next MAX_LOOKED_AT answers is without a label.
    """
    order = await asyncio.to_thread(_order, labelling, person)
    looked = 0
    while after < len(order):
        if looked >= MAX_LOOKED_AT:
            raise ConflictError(
                f"The next {MAX_LOOKED_AT:,} answers of {labelling.route} have a label, or no "
                "score of the judge."
            )
        places = order[after : after + _AT_ONCE].tolist()
        looked += len(places)
        listed = await store.listed_samples(labelling.run.id, places, output=labelling.output)
        judged = {
            sample.position
            for sample in listed
            if sample.id not in labelling.labels
            and any(
                cell.route == labelling.route and cell.repeat == 0 and cell.value is not None
                for cell in sample.cells
            )
        }
        for place, position in enumerate(places, after):
            if position in judged:
                task = await task_at(store, labelling, position, place=place)
                if task is not None:
                    return task
        after += len(places)
    return None


async def task_at(
    store: Store, labelling: Labelling, position: int, *, place: int
) -> LabelTask | None:
    """Return the answer to one sample; None where the route has given no text."""
    run_id = labelling.run.id
    sample = await store.sample_at(run_id, position)
    results = await store.results_at(run_id, position, routes=[labelling.route], repeat=0)
    texts = [
        result.answer.text
        for result in results
        if result.answer is not None and result.answer.text is not None
    ]
    if sample is None or not texts:
        return None
    rubric = labelling.rubric
    if isinstance(rubric, rubrics.ColumnRubrics):
        try:
            rubric = rubric.rubric(sample.fields)
        except ValueError:
            rubric = None
    return LabelTask(place, position, sample, texts[0], answer_hash(texts[0]), rubric)


async def score_task(
    store: Store, labelling: Labelling, position: int, of_text: str, score: float
) -> PeopleLabel:
    """Add a person's score to those of an answer, and return the answer's label.

    Args:
        store: has the run.
        labelling: what is labelled.
        position: the sample's.
        of_text: the `answer_hash` of the text that the person has read.
        score: the score.

    Raises:
        NotFoundError: there is no such answer.
        RunDocumentError: it is no score of the judge's scale.
        ConflictError: the answer has another text by now, or the route's were drawn by a plan.
    """
    if labelling.scores and score not in labelling.scores:
        shown = ", ".join(f"{each:g}" for each in labelling.scores)
        raise RunDocumentError(f"score: one of {shown}, not {score:g}", param="score")
    if not labelling.low <= score <= labelling.high:
        raise RunDocumentError(
            f"score: from {labelling.low:g} to {labelling.high:g}, not {score:g}", param="score"
        )
    task = await task_at(store, labelling, position, place=0)
    if task is None:
        raise NotFoundError(f"{labelling.route} has no answer to sample {position}.")
    if task.answer_hash != of_text:
        raise ConflictError("The answer has another text by now. Read it again.")
    label = PeopleLabel(
        output=labelling.output,
        cell=Cell(labelling.route, task.sample.id, 0),
        answer_hash=of_text,
        scores=(score,),
        chance=None,
        at=time.time(),
    )
    return await store.add_score(labelling.run.id, label)


async def take_back(store: Store, labelling: Labelling, position: int, at: float) -> None:
    """Take a score away again.

    Args:
        store: has the run.
        labelling: what is labelled, read after the score was given.
        position: the sample's.
        at: the time of the label that `score_task` returned.

    Raises:
        ConflictError: the answer has another label by now.
    """
    sample = await store.sample_at(labelling.run.id, position)
    label = None if sample is None else labelling.labels.get(sample.id)
    if label is None or label.at != at:
        raise ConflictError(
            "The answer has got another score since, or this one was taken back already."
        )
    await store.take_back_score(labelling.run.id, label)


def _order(labelling: Labelling, person: str) -> np.ndarray[Any, Any]:
    """Return the positions of all samples as a person gets them."""
    run = labelling.run
    order = np.random.default_rng(_number(run.id, labelling.route, labelling.output)).permutation(
        np.arange(1, run.dataset_rows + 1)
    )
    first = _number(run.id, person) % max(1, run.dataset_rows)
    return np.roll(order, -first)


def _number(*texts: str) -> int:
    digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8])
