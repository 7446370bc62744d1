"""The rows of a run as a bundle has them: samples, answers, judgements, labels and studies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Answer, AnyMetric, Cell, Judgement, JudgeMetric, Sample, Score, Verdict
from evaluators.judge.calibration import Item
from evaluators.judge.graded import Graded
from router.evals.judges.judged_samples import (
    StoredJudgements,
    judgements_about,
    key_of,
    whole_samples,
)
from router.evals.judges.label_plans import answer_hash
from router.evals.judges.report import newest_calibration
from router.evals.judges.studies import items_of
from router.loop.bundles.answering_versions import AnsweringVersions
from router.loop.bundles.bodies import BundledTexts
from router.loop.bundles.contents import (
    AnsweredBy,
    BundledResult,
    BundledSample,
    MetricDeclaration,
    OutputDeclaration,
    canonical,
)
from router.store.judgements import JudgementRow
from router.store.people_labels import PeopleLabel
from router.store.protocol import Store
from router.store.results import ScoredAnswer
from router.store.runs import Run
from router.store.studies import Study

# What people write into a run document that may have personal data.
_WRITTEN = ("messages", "name", "notes", "parameters", "prompt")


def bundled_run(run: Run, texts: BundledTexts) -> Run:
    """Return a run without what says nothing on another machine: processes and folders."""
    document = dict(run.document)
    document["dataset"] = _file_name(str(document["dataset"]))
    document["metrics"] = [_without_folders(spec) for spec in document["metrics"]]
    # Names of routes, tags and outputs are those that the rows have.
    written = {name: texts.document(document[name]) for name in _WRITTEN if document.get(name)}
    return msgspec.structs.replace(
        run,
        name=texts.document(run.name),
        notes=texts.document(run.notes),
        error=texts.document(run.error),
        document={**document, **written},
        dataset=_file_name(run.dataset),
        base="",
        owner="",
        heartbeat_at=None,
        runner="command",
    )


def _file_name(name: str) -> str:
    """Return the name of a file without its folder; an address or a dataset's id as it is."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def _without_folders(spec: Any) -> Any:
    """Return a metric's spec with the names of its files; what they are is in its signature."""
    if isinstance(spec, str):
        prefix, colon, path = spec.partition(":")
        return f"{prefix}{colon}{_file_name(path)}" if colon else spec
    return {
        name: _without_folders(value)
        if name == "name"
        else _file_name(value)
        if isinstance(value, str)
        else value
        for name, value in spec.items()
    }


def sample_row(sample: Sample, texts: BundledTexts) -> BundledSample:
    """Return a sample; its id and its cluster stay what tells it from others."""
    with texts.row() as row:
        cluster = texts.name("cluster", sample.cluster) if sample.cluster else ""
        fields = {name: value for name, value in sample.fields.items() if name != "cluster"}
        written = texts.value(fields)
        fields = written if isinstance(written, dict) else {"sha256": written}
        if cluster:
            same = cluster == sample.cluster
            fields["cluster"] = sample.fields["cluster"] if same else cluster
        treated = msgspec.structs.replace(
            sample,
            id=texts.name("sample", sample.id),
            messages=texts.messages(sample.messages),
            references=tuple(map(texts.text, sample.references)),
            fields=fields,
            answer=texts.optional(sample.answer),
            parameters=texts.document(sample.parameters),
        )
    return BundledSample(
        sample=treated, changed=row.changed, sha256=texts.sha256(canonical(sample))
    )


class ResultRows:
    """Writes answers with their scores, and what has to be known of all of them at the end.

    Args:
        texts: writes their texts.
        labels: what people say of the answers.

    Attributes:
        labels: the same, of the answers as the bundle has them.
    """

    def __init__(self, texts: BundledTexts, labels: Sequence[PeopleLabel]) -> None:
        self._texts = texts
        self._stored: dict[Cell, list[PeopleLabel]] = {}
        for label in labels:
            self._stored.setdefault(label.cell, []).append(label)
        self.labels: list[PeopleLabel] = []
        self._versions = AnsweringVersions()

    def row(self, result: ScoredAnswer, judgements: Sequence[JudgementRow] = ()) -> BundledResult:
        """Return a row, with what judges answered about it."""
        texts, answer = self._texts, result.answer
        with texts.row() as row:
            cell = result.cell._replace(sample_id=texts.name("sample", result.cell.sample_id))
            treated = msgspec.structs.replace(
                result,
                cell=cell,
                answer=None if answer is None else _answer(answer, texts),
                request_hash=texts.request_hash(result.request_hash),
            )
        # What scores say is never what they are made of: it does not make a row another.
        scores = tuple(_score(score, texts) for score in result.scores)
        self._note_labels(result, cell, treated.answer)
        self._versions.add(result)
        digest = "" if answer is None or answer.text is None else texts.sha256(_bytes(answer.text))
        return BundledResult(
            result=msgspec.structs.replace(treated, scores=scores),
            changed=row.changed,
            sha256=digest,
            judgements=tuple(judgement_row(row, texts) for row in judgements),
        )

    def _note_labels(self, result: ScoredAnswer, cell: Cell, answer: Answer | None) -> None:
        """Keep the labels of a cell: those of this answer by the hash of what the bundle has."""
        for label in self._stored.pop(result.cell, ()):
            text = None if result.answer is None else result.answer.text
            is_of_answer = text is not None and label.answer_hash == answer_hash(text)
            written = None if answer is None else answer.text
            digest = answer_hash(written) if is_of_answer and written is not None else ""
            self.labels.append(msgspec.structs.replace(label, cell=cell, answer_hash=digest))

    def versions(self) -> list[AnsweredBy]:
        """Return which versions of which targets have answered."""
        return self._versions.rows()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _answer(answer: Answer, texts: BundledTexts) -> Answer:
    return msgspec.structs.replace(
        answer,
        text=texts.optional(answer.text),
        whole_text=texts.optional(answer.whole_text),
        thinking=texts.text(answer.thinking),
        error=texts.optional(answer.error),
    )


def _score(score: Score, texts: BundledTexts) -> Score:
    if not (score.error or score.note or score.verdicts):
        return score
    with texts.row() as row:
        treated = msgspec.structs.replace(
            score,
            error=texts.text(score.error),
            note=texts.text(score.note),
            verdicts=tuple(_verdict(verdict, texts) for verdict in score.verdicts),
        )
        row.changed = False  # it is counted with its answer
    return treated


def _verdict(verdict: Verdict, texts: BundledTexts) -> Verdict:
    return msgspec.structs.replace(
        verdict,
        request_hash=texts.request_hash(verdict.request_hash),
        why=texts.text(verdict.why),
    )


class JudgedResults(NamedTuple):
    """Results of some samples, with what judges answered about them.

    Attributes:
        results: each with the judgements that its scores are made of.
        others: judgements of these samples that no score was made of.
    """

    results: list[tuple[ScoredAnswer, list[JudgementRow]]]
    others: list[JudgementRow]


async def judged_results(
    store: Store, run_id: str, *, judged: bool
) -> AsyncGenerator[JudgedResults]:
    """Yield a run's results in batches of whole samples.

    Args:
        store: has the run.
        run_id: the run's id.
        judged: whether the run has judges at all.
    """
    results = store.results(run_id)
    async with aclosing(whole_samples(results, lambda row: row.cell.sample_id)) as batches:
        async for batch in batches:
            if not judged:
                yield JudgedResults([(result, []) for result in batch], [])
                continue
            stored = await judgements_about(store, run_id, batch)
            yield JudgedResults(
                [(result, _judgements_of(result, stored)) for result in batch], stored.others
            )


def _judgements_of(result: ScoredAnswer, stored: StoredJudgements) -> list[JudgementRow]:
    keys = dict.fromkeys(key_of(verdict) for score in result.scores for verdict in score.verdicts)
    return [stored.by_key[key] for key in keys if key in stored.by_key]


def judgement_row(row: JudgementRow, texts: BundledTexts) -> JudgementRow:
    """Return a judgement."""
    with texts.row():
        return msgspec.structs.replace(
            row,
            sample_id=texts.name("sample", row.sample_id),
            request_hash=texts.request_hash(row.request_hash),
            judgement=_judgement(row.judgement, texts),
        )


def _judgement(judgement: Judgement, texts: BundledTexts) -> Judgement:
    answer = _answer(judgement.answer, texts)
    return Judgement(
        answer=answer,
        # They are pieces of the text.
        tokens=judgement.tokens if answer == judgement.answer else (),
        request_hash=texts.request_hash(judgement.request_hash),
    )


async def calibrations(
    store: Store, metrics: Sequence[AnyMetric], texts: BundledTexts
) -> list[Study]:
    """Return the calibrations of the run's judges, with what their numbers are made of."""
    newest_by_id: dict[str, Study] = {}
    for metric in metrics:
        if not isinstance(metric, JudgeMetric):
            continue
        for judge in metric.judges:
            known = await store.studies(kind="calibration", judge=judge)
            newest = newest_calibration(known, metric.grading)
            # Without one for this grading, the report says whether there is one for another.
            for study in known[:1] if newest is None else [newest]:
                newest_by_id[study.id] = await store.study(study.id)
    return [_study(newest_by_id[study_id], texts) for study_id in sorted(newest_by_id)]


def _study(study: Study, texts: BundledTexts) -> Study:
    items: list[Any] = []
    if "calibration" in study.report:
        items = msgspec.to_builtins([_item(item, texts) for item in items_of(study)])
    numbers = {name: study.report[name] for name in ("calibration",) if name in study.report}
    return msgspec.structs.replace(
        study,
        name=texts.document(study.name),
        error=texts.document(study.error),
        document={},
        report=numbers,
        detail={"items": items},
    )


def _item(item: Item, texts: BundledTexts) -> Item:
    question = texts.group("question", item.question) if item.question else ""
    return msgspec.structs.replace(item, id=texts.name("item", item.id), question=question)


def declarations(
    metrics: Sequence[AnyMetric], recorded: Mapping[str, str]
) -> list[MetricDeclaration]:
    """Return a run's metrics as data, with the signatures that they had in the run."""
    return [_declaration(metric, recorded.get(metric.name, "")) for metric in metrics]


def _declaration(metric: AnyMetric, signature: str) -> MetricDeclaration:
    judge = metric if isinstance(metric, JudgeMetric) else None
    return MetricDeclaration(
        name=metric.name,
        signature=signature,
        source=metric.source,
        needs_reference=metric.needs_reference,
        outputs=tuple(map(OutputDeclaration.of, metric.outputs)),
        judges=() if judge is None else tuple(judge.judges),
        calls=0 if judge is None else judge.calls,
        grading="" if judge is None else judge.grading,
        graded=metric.declaration() if isinstance(metric, Graded) else None,
    )
