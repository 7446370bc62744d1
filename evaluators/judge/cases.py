"""Reads a dataset of answers that people have scored or compared, as cases for a judge.

    {"instruction": "...", "response": "...", "reference": "...", "score": 4, "category": "code"}
    {"instruction": "...", "response_a": "...", "response_b": "...", "label": "a"}

A row has one of:

- `score`: a number, or a list with one of each person, and `response` (or `answer`). `reference`,
  `rubric` (its text, or a mapping), `category`, `model` and `id` are optional. An `instruction`
  that is a complete Prometheus prompt is taken apart: it brings its response, reference, rubric.
- `label`: `a`, `b` or `tie` (or 0, 1, 2), and `response_a` and `response_b`.

Rows with the same `question` (or `cluster`) belong together; without that column, rows with the
same instruction do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evaluators.base import Answer, Sample, Scorable
from evaluators.data.rows import Row
from evaluators.judge import prometheus
from evaluators.judge.pairwise import Winner
from evaluators.judge.pairwise_judging import AnswerPair
from evaluators.judge.people_scores import people_scores
from evaluators.judge.rubrics import Rubric, rubric_of_value
from providers.errors import DatasetError, closest

_PEOPLE: Mapping[str, Winner] = {
    "a": "first",
    "0": "first",
    "b": "second",
    "1": "second",
    "tie": "tie",
    "2": "tie",
}


class Case(NamedTuple):
    """One answer and the scores that people gave it.

    Attributes:
        item: the answer, with the sample that it answers.
        instruction: the question that it answers.
        people: people's scores.
        rubric: the rubric that the row brings; None without one.
        category: what kind of question it is.
        model: who wrote the answer.
        question: what rows that belong together have in common.
    """

    item: Scorable
    instruction: str
    people: tuple[float, ...]
    rubric: Rubric | None
    category: str
    model: str
    question: str


def read_cases(
    rows: Iterable[Row],
    path: Path,
    *,
    columns: Mapping[str, str] = {},
    limit: int | None = None,
) -> list[Case | AnswerPair]:
    """Return the cases of all rows: answers with scores, or pairs with labels, never both.

    Args:
        rows: the rows of a dataset opened with `needs_prompt=False`.
        path: the dataset's path, for messages.
        columns: the dataset's column names, each to the one above that it stands for.
        limit: the number of rows to read; None for all.

    Raises:
        DatasetError: a row lacks something, or both kinds are in one dataset.
    """
    cases: list[Case | AnswerPair] = []
    for row in rows:
        if limit is not None and len(cases) == limit:
            break
        where = f"{path}: row {row.number}"
        fields = {**row.fields}
        for column, name in columns.items():
            if column not in fields:
                raise DatasetError(f"{where}: no column {column!r}.{closest(column, fields)}")
            fields[name] = fields[column]
        fields.setdefault("instruction", row.input or row.prompt)
        fields.setdefault("response", row.answer)
        fields.setdefault("reference", next(iter(row.references), None))
        cases.append(
            _pair(row.id, fields, where) if "label" in fields else _case(row.id, fields, where)
        )
    if len({type(case) for case in cases}) > 1:
        raise DatasetError(f"{path}: some rows have a label and some have a score")
    return cases


def _case(row_id: str, fields: Mapping[str, Any], where: str) -> Case:
    instruction = _text(fields, "instruction", where)
    reference, rubric = fields.get("reference"), _rubric(fields.get("rubric"), where)
    if instruction.startswith("###Task Description:"):
        try:
            parts = prometheus.read_prompt(instruction)
        except ValueError as error:
            raise DatasetError(f"{where}: instruction: {error}") from None
        instruction, response = parts.instruction, parts.response
        reference, rubric = parts.reference, parts.rubric
    else:
        response = _text(fields, "response", where)
    return Case(
        Scorable(
            Sample(
                id=row_id,
                messages=({"role": "user", "content": instruction},),
                references=(str(reference),) if reference else (),
                fields=dict(fields),
            ),
            Answer(text=response),
        ),
        instruction,
        _scores(fields, where),
        rubric,
        str(fields.get("category") or ""),
        str(fields.get("model") or ""),
        _question(fields) or instruction,
    )


def _question(fields: Mapping[str, Any]) -> str:
    """Return what a row has in common with others, "" where no column says so."""
    for name in ("question", "cluster"):
        value = fields.get(name)
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def _pair(row_id: str, fields: Mapping[str, Any], where: str) -> AnswerPair:
    people = _PEOPLE.get(str(fields["label"]).strip().lower())
    if people is None:
        raise DatasetError(f"{where}: label is a, b or tie (0, 1 or 2), not {fields['label']!r}")
    reference = fields.get("reference")
    return AnswerPair(
        id=row_id,
        instruction=_text(fields, "instruction", where),
        first=_text(fields, "response_a", where),
        second=_text(fields, "response_b", where),
        reference=str(reference) if reference else None,
        people=people,
        category=str(fields.get("category") or ""),
        question=_question(fields),
    )


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise DatasetError(
            f"{where}: needs the text {name!r}; columns of other names are mapped "
            f"with --column THEIRS={name}"
        )
    return value


def _scores(fields: Mapping[str, Any], where: str) -> tuple[float, ...]:
    value = fields.get("score", fields.get("scores"))
    try:
        scores = people_scores(value)
    except ValueError:
        scores = ()
    if not scores:
        raise DatasetError(
            f"{where}: score is a number or a list of numbers, not {value!r}; a column of "
            "another name is mapped with --column THEIRS=score"
        )
    return scores


def _rubric(value: Any, where: str) -> Rubric | None:
    if value is None:
        return None
    try:
        return rubric_of_value(value)
    except ValueError as error:
        raise DatasetError(f"{where}: rubric: {error}") from None
