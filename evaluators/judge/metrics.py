"""Makes the metrics `prometheus` and `judge` from a run document's options.

    {name: prometheus, judge: laptop/prometheus, rubric: helpfulness, repeats: 3}
    {name: judge, kind: groundedness, judge: [openai/gpt-4o, mistral/large], combine: median}

A calibration uses the same gradings, so that a run can tell whether its judge is calibrated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from evaluators.base import Answer, Judgement, Sample
from evaluators.data.paths import Opens
from evaluators.data.prometheus_prompts import split_prompt
from evaluators.data.rows import value_at
from evaluators.judge import prometheus as published
from evaluators.judge import rubrics, verdicts
from evaluators.judge.graded import Graded, Grading, PeopleColumns, UnjudgeableError
from evaluators.judge.kinds import BUILT_IN, ENTRY_POINTS, JudgeKind, load_kind
from evaluators.judge.panel import Combine, Panel, Read, Reading
from evaluators.judge.prompts import fingerprint
from evaluators.metrics.reference import last_user_text, references
from evaluators.text.words import is_blank
from providers.errors import RunDocumentError

Judges = str | tuple[str, ...]
_Many = Annotated[int, msgspec.Meta(ge=1, le=100)]
ColumnName = Annotated[str, msgspec.Meta(min_length=1)]
Few = Annotated[int, msgspec.Meta(ge=0, le=10)]
UseReference = Literal["auto", "always", "never"]
Template = Literal["chat", "raw"]
RubricName = Annotated[str, Opens("file", rubrics.STOCK)]
KindName = Annotated[str, Opens("file", BUILT_IN, installed=ENTRY_POINTS)]

_encode = msgspec.json.Encoder(order="sorted").encode


def prometheus(
    *,
    judge: Judges,
    rubric: RubricName | dict[Any, Any] = "helpfulness",
    style: published.Style = "prometheus-2",
    template: Template = "chat",
    reference: UseReference = "auto",
    instruction: str | None = None,
    output: str | None = None,
    repeats: _Many = 1,
    retries: Few = 2,
    combine: Combine = "mean",
    parameters: dict[str, Any] = {},  # noqa: B006  (never changed)
    structured: bool = False,
    expected: bool = False,
    people: ColumnName | None = None,
    chance: ColumnName | None = None,
) -> Graded:
    """Return the metric of Prometheus' absolute grading.

    Args:
        judge: one route, or several as a jury.
        rubric: a stock rubric, a YAML file, a rubric written in place, or `{column: NAME}` for
            the rubrics that the rows have: a text as published, a whole Prometheus prompt, a
            mapping, or a stock rubric's name. With other scores than 1 to 5, `low` and `high`
            are beside `column`.
        style: the Prometheus whose texts and template are used.
        template: `chat` for an endpoint that applies the model's template, `raw` for completions.
        reference: whether the prompt has the sample's first reference: if the sample has one,
            always (a sample without one cannot be judged) or never.
        instruction: the column with the instruction, or with a whole Prometheus prompt that has
            it; the last user message without it.
        output: the name of the score, where a run has two judges for one rubric or kind.
        repeats: the number of verdicts that each judge gives.
        retries: how often a request is repeated when its verdict cannot be read.
        combine: how several judges' verdicts become one.
        parameters: instead of or besides the published sampling; null leaves one out.
        structured: ask for a JSON object by `response_format`.
        expected: score by the probabilities of the score tokens.
        people: the column with people's scores of the dataset's own answers, for a random part of
            the rows (a number or a list of them; empty in the others). The judge's mean is then
            corrected by them.
        chance: the column with the probability with which each row was chosen for people, as
            `evalrouter judge label-plan` writes it; the same for all without it.

    Raises:
        RunDocumentError: a wrong rubric, or options that exclude each other.
    """
    by_row = isinstance(rubric, dict) and "column" in rubric
    grading = prometheus_grading(
        rubrics.columns(rubric) if isinstance(rubric, dict) and by_row else rubrics.load(rubric),
        style=style,
        template=template,
        reference=reference,
        instruction=instruction,
        parameters=parameters,
        structured=structured,
        expected=expected,
    )
    return Graded(
        "prometheus",
        _named(grading, output),
        _panel(judge, repeats, retries, combine),
        _people(people, chance),
    )


def prometheus_grading(
    rubric: rubrics.Rubric | rubrics.ColumnRubrics,
    *,
    style: published.Style = "prometheus-2",
    template: Template = "chat",
    reference: UseReference = "auto",
    instruction: str | None = None,
    parameters: Mapping[str, Any] = {},
    structured: bool = False,
    expected: bool = False,
) -> Grading:
    """Return the grading of `prometheus`, whoever the judge is; arguments as there."""
    if template == "raw" and structured:
        raise RunDocumentError(
            "structured: completions take no response_format", param="structured"
        )

    def rubric_of(sample: Sample) -> rubrics.Rubric:
        if isinstance(rubric, rubrics.Rubric):
            return rubric
        try:
            return rubric.rubric(sample.fields)
        except ValueError as error:
            raise UnjudgeableError(str(error)) from None

    def check(sample: Sample) -> None:
        rubric_of(sample)
        if instruction is not None:
            filled(sample, instruction)

    def ask(sample: Sample, answer: Answer) -> Sequence[dict[str, str]] | str:
        known = references(sample) if reference != "never" else ()
        if reference == "always" and not known:
            raise UnjudgeableError("no reference")
        whole = instruction_of(sample, instruction)
        prompt = None if instruction is None else split_prompt(whole)
        question = published.absolute(
            rubric_of(sample),
            instruction=whole if prompt is None else prompt.instruction,
            response=answer.text or "",
            reference=known[0] if known else None,
            style=style,
        )
        if template == "raw":
            return published.raw(question, style)
        return published.messages(question, style)

    sent = _parameters(published.SAMPLING, parameters, template=template, expected=expected)
    if structured:
        sent["response_format"] = _schema(
            "score", {"type": "integer", "enum": list(range(rubric.low, rubric.high + 1))}
        )
    prompts = fingerprint(*published.texts(style, "absolute"))
    fixed = rubric if isinstance(rubric, rubrics.Rubric) else None
    return Grading(
        name=(fixed and fixed.name) or "prometheus",
        low=rubric.low,
        high=rubric.high,
        higher_is_better=True,
        description=fixed.criteria if fixed else "The score by the rubric that each row has.",
        source="Kim et al. 2024, Prometheus 2, arXiv:2405.01535; Kim et al. 2023, arXiv:2310.08491",
        signature=(
            f"{style}|template:{template}|rubric:{_rubric_signature(rubric)}|reference:{reference}"
            f"|instruction:{instruction or 'last user message'}|prompts:{prompts}"
            f"|sent:{_digest(sent)}|read:{'expected' if expected else 'verdict'}|v:2"
        ),
        ask=ask,
        read=_reader(rubric.low, rubric.high, expected=expected),
        parameters=sent,
        needs_reference=reference == "always",
        categories=tuple(map(float, range(rubric.low, rubric.high + 1))),
        columns="" if isinstance(rubric, rubrics.Rubric) else f"|rubric column:{rubric.column}",
        check=check,
    )


def row_rubrics_signature(low: int, high: int) -> str:
    """Return what a signature says of rubrics that rows bring, with scores in this range."""
    return "its own" if (low, high) == (1, 5) else f"its own {low} to {high}"


def _rubric_signature(rubric: rubrics.Rubric | rubrics.ColumnRubrics) -> str:
    if isinstance(rubric, rubrics.Rubric):
        return rubric.fingerprint()
    return row_rubrics_signature(rubric.low, rubric.high)


def judge(
    *,
    judge: Judges,
    kind: KindName,
    context: str = "context",
    instruction: str | None = None,
    output: str | None = None,
    repeats: _Many = 1,
    retries: Few = 2,
    combine: Combine = "mean",
    parameters: dict[str, Any] = {},  # noqa: B006  (never changed)
    expected: bool = False,
    people: ColumnName | None = None,
    chance: ColumnName | None = None,
) -> Graded:
    """Return the metric of a built-in kind of judge, or of your own kind in a YAML file.

    Args:
        judge: one route, or several as a jury.
        kind: the kind's name, or the file's path.
        context: the column with the texts that the answer should be grounded in.
        instruction: the column with the instruction; the last user message without it.
        output: the name of the score, where a run has two judges for one rubric or kind.
        repeats: the number of verdicts that each judge gives.
        retries: how often a request is repeated when its verdict cannot be read.
        combine: how several judges' verdicts become one.
        parameters: instead of or besides those of the kind; null leaves one out.
        expected: score by the probabilities of the score tokens.
        people: the column with people's scores of the dataset's own answers, for a random part of
            the rows (a number or a list of them; empty in the others). The judge's mean is then
            corrected by them.
        chance: the column with the probability with which each row was chosen for people, as
            `evalrouter judge label-plan` writes it; the same for all without it.

    Raises:
        RunDocumentError: the kind does not exist, or the file has no kind.
    """
    grading = kind_grading(
        load_kind(kind),
        context=context,
        instruction=instruction,
        parameters=parameters,
        expected=expected,
    )
    return Graded(
        "judge",
        _named(grading, output),
        _panel(judge, repeats, retries, combine),
        _people(people, chance),
    )


def kind_grading(
    kind: JudgeKind,
    *,
    context: str = "context",
    instruction: str | None = None,
    parameters: Mapping[str, Any] = {},
    expected: bool = False,
) -> Grading:
    """Return the grading of a kind, whoever the judge is; arguments as for `judge`."""

    def check(sample: Sample) -> None:
        for name, column in (("context", context), ("instruction", instruction)):
            if name in kind.needs() and column is not None:
                filled(sample, column)

    def ask(sample: Sample, answer: Answer) -> Sequence[dict[str, str]]:
        known = {
            "instruction": instruction_of(sample, instruction),
            "answer": answer.text or "",
            "reference": next(iter(references(sample)), ""),
            "context": joined(value_at(sample.fields, context)),
        }
        for name in kind.needs():
            if not known[name].strip():
                what = f"column {context!r}" if name == "context" else name
                raise UnjudgeableError(f"no {what}")
        return kind.messages(**known)

    sent = _parameters(kind.parameters, parameters, template="chat", expected=expected)
    return Grading(
        name=kind.name,
        low=kind.low,
        high=kind.high,
        higher_is_better=kind.higher_is_better,
        description=kind.description,
        source=kind.source,
        signature=(
            f"judge:{kind.name}@{kind.fingerprint()}|context:{context}"
            f"|instruction:{instruction or 'last user message'}|sent:{_digest(sent)}"
            f"|read:{'expected' if expected else 'verdict'}|v:2"
        ),
        ask=ask,
        read=_label_reader(kind.labels)
        if kind.labels
        else _reader(int(kind.low), int(kind.high), expected=expected),
        parameters=sent,
        needs_reference="reference" in kind.needs(),
        check=check,
        categories=tuple(kind.labels.values())
        if kind.labels
        else tuple(map(float, range(int(kind.low), int(kind.high) + 1))),
    )


def instruction_of(sample: Sample, column: str | None) -> str:
    """Return the instruction of a sample: a column of the row, or the last user message."""
    return last_user_text(sample) if column is None else joined(value_at(sample.fields, column))


def filled(sample: Sample, column: str) -> str:
    """Return the text of a column that a judge needs. Raises UnjudgeableError where it is empty."""
    text = joined(value_at(sample.fields, column))
    if is_blank(text):
        raise UnjudgeableError(f"the column {column!r} is empty, or there is none")
    return text


def joined(value: Any) -> str:
    """Return a column's value as one text; the parts of a list are numbered."""
    if isinstance(value, list | tuple):
        return "\n\n".join(f"[{n}] {part}" for n, part in enumerate(value, 1))
    return "" if value is None else str(value)


def _named(grading: Grading, output: str | None) -> Grading:
    if output is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", output):
        raise RunDocumentError(
            f"output: {output!r} is no name: letters, digits and _ only", param="output"
        )
    return grading if output is None else grading._replace(name=output)


def _people(scores: str | None, chance: str | None) -> PeopleColumns | None:
    if scores is None:
        if chance is not None:
            raise RunDocumentError("chance: needs people's scores (people)", param="chance")
        return None
    return PeopleColumns(scores, chance)


def _panel(judge: Judges, repeats: int, retries: int, combine: Combine) -> Panel:
    judges = (judge,) if isinstance(judge, str) else judge
    if not judges or not all(judges):
        raise RunDocumentError("judge: name a route", param="judge")
    if len(set(judges)) != len(judges):
        raise RunDocumentError("judge: a route is named twice", param="judge")
    return Panel(judges, repeats, retries, combine)


def _parameters(
    defaults: Mapping[str, Any], given: Mapping[str, Any], *, template: Template, expected: bool
) -> dict[str, Any]:
    sent = {**defaults, **given}
    if expected:
        more = {"logprobs": 20} if template == "raw" else {"logprobs": True, "top_logprobs": 20}
        sent = {**more, **sent}
    return {name: value for name, value in sent.items() if value is not None}


def _schema(field: str, of: Mapping[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"feedback": {"type": "string"}, field: of},
        "required": ["feedback", field],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }


def _digest(sent: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode(sent)).hexdigest()[:12]


def _reader(low: int, high: int, *, expected: bool) -> Read:
    def read(judgement: Judgement, prompt: str) -> Reading:
        answer = judgement.answer
        verdict = verdicts.score(
            answer.text or "", low, high, prompt=prompt, finish_reason=answer.finish_reason
        )
        if verdict.value is None:
            return Reading(None, verdict.why)
        if expected:
            mean = verdicts.expected(judgement.tokens, low, high)
            if mean is None:
                return Reading(None, "no probabilities of the score tokens")
            return Reading(mean)
        return Reading(float(verdict.value))

    return read


def _label_reader(labels: Mapping[str, float]) -> Read:
    def read(judgement: Judgement, prompt: str) -> Reading:
        answer = judgement.answer
        verdict = verdicts.choice(
            answer.text or "", tuple(labels), prompt=prompt, finish_reason=answer.finish_reason
        )
        if verdict.label is None:
            return Reading(None, verdict.why)
        return Reading(labels[verdict.label])

    return read
