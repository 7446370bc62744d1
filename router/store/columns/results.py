"""Samples, answers and scores as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from evaluators.base import Answer, Cell, Sample, Score, Usage, Verdict
from providers.base import AS_IT_CAME, Translation
from router.store.columns.values import finite, json_text
from router.store.results import ScoredAnswer

CHUNK = 1000  # samples added in one transaction
CHUNK_BYTES = 8 * 1024 * 1024  # of samples added in one transaction, unless one is larger

_messages = msgspec.json.Decoder(tuple[dict[str, Any], ...])
_texts = msgspec.json.Decoder(tuple[str, ...])
_object = msgspec.json.Decoder(dict[str, Any])
_floats = msgspec.json.Decoder(tuple[float, ...])
_verdicts = msgspec.json.Decoder(tuple[Verdict, ...])
_attempts = msgspec.json.Decoder(tuple[dict[str, Any], ...])
_translation = msgspec.json.Decoder(Translation)

# samples

SAMPLE_COLUMNS = ("position", "sample_id", "refs", "messages", "fields", "answer", "parameters")
# The values of SAMPLE_COLUMNS.
SampleValues = tuple[int, str, str, str, str, str | None, str | None]


def sample_chunk(samples: Iterator[Sample], position: int) -> list[SampleValues]:
    """Take the next samples, a bounded number of bytes, and number them from `position` on."""
    chunk: list[SampleValues] = []
    size = 0
    for at, sample in enumerate(samples, position):
        values = sample_values(at, sample)
        chunk.append(values)
        size += sum(map(len, values[2:5]))
        # Checked last, because what an iterator has given out cannot be put back.
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            break
    return chunk


def sample_values(position: int, sample: Sample) -> SampleValues:
    """Return the values of SAMPLE_COLUMNS."""
    return (
        position,
        sample.id,
        json_text(sample.references),
        json_text(sample.messages),
        json_text(sample.fields),
        sample.answer,
        json_text(sample.parameters) if sample.parameters else None,
    )


def sample_of(row: Sequence[Any]) -> Sample:
    """Read a sample from SAMPLE_COLUMNS."""
    _, sample_id, references, messages, fields, answer, parameters = row
    return Sample(
        id=sample_id,
        messages=_messages.decode(messages),
        references=_texts.decode(references),
        fields=_object.decode(fields),
        answer=answer,
        parameters=_object.decode(parameters) if parameters else {},
    )


# answers

ANSWER_COLUMNS = (
    "text",
    "whole_text",
    "thinking",
    "shortfall",
    "error",
    "error_code",
    "target",
    "model",
    "system_fingerprint",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cost_usd",
    "first_byte_s",
    "total_s",
    "attempt_count",
    "cached",
    "cached_from",
    "logprob_sum",
    "logprob_tokens",
    "translation",
    "estimated",
)


def answer_state(answer: Answer) -> str:
    """Return the state of an answer's cell: `answered` or `failed`."""
    return "answered" if answer.text is not None and answer.error is None else "failed"


def answer_columns(answer: Answer) -> tuple[Any, ...]:
    """Return the values of ANSWER_COLUMNS."""
    return (
        answer.text,
        answer.whole_text,
        answer.thinking or None,
        answer.shortfall or None,
        answer.error,
        answer.error_code,
        answer.target,
        answer.model,
        answer.system_fingerprint,
        answer.finish_reason,
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.total_tokens,
        finite(answer.cost_usd, "cost_usd"),
        finite(answer.first_byte_s, "first_byte_s"),
        finite(answer.total_s, "total_s"),
        answer.attempts,
        answer.cached,
        answer.cached_from or None,
        finite(answer.logprob_sum, "logprob_sum"),
        answer.logprob_tokens,
        None if answer.translation == AS_IT_CAME else json_text(answer.translation),
        answer.estimated,
    )


def answer_of(row: Sequence[Any]) -> Answer:
    """Read an answer from ANSWER_COLUMNS."""
    values = dict(zip(ANSWER_COLUMNS, row, strict=True))
    translation = values["translation"]
    return Answer(
        text=values["text"],
        whole_text=values["whole_text"],
        thinking=values["thinking"] or "",
        shortfall=values["shortfall"] or "",
        error=values["error"],
        error_code=values["error_code"],
        target=values["target"],
        model=values["model"],
        system_fingerprint=values["system_fingerprint"],
        finish_reason=values["finish_reason"],
        usage=Usage(
            prompt_tokens=values["prompt_tokens"],
            completion_tokens=values["completion_tokens"],
            total_tokens=values["total_tokens"],
        ),
        cost_usd=values["cost_usd"],
        first_byte_s=values["first_byte_s"],
        total_s=values["total_s"],
        attempts=values["attempt_count"],
        cached=bool(values["cached"]),
        cached_from=values["cached_from"] or "",
        logprob_sum=values["logprob_sum"],
        logprob_tokens=values["logprob_tokens"],
        translation=AS_IT_CAME if translation is None else _translation.decode(translation),
        estimated=bool(values["estimated"]),
    )


# scores

SCORE_COLUMNS = (
    "answer",
    "output",
    "value",
    "statistics",
    "passed",
    "error",
    "note",
    "verdicts",
)


def score_columns(answer: int, score: Score) -> tuple[Any, ...]:
    """Return the values of SCORE_COLUMNS; `answer` is the number of the scored answer's row."""
    return (
        answer,
        score.output,
        finite(score.value, score.output),
        json_text([float(number) for number in score.statistics]) if score.statistics else None,
        score.passed,
        score.error or None,
        score.note or None,
        json_text(score.verdicts) if score.verdicts else None,
    )


def score_of(row: Sequence[Any]) -> Score:
    """Read a score from SCORE_COLUMNS."""
    _, output, value, statistics, passed, error, note, verdicts = row
    return Score(
        output=output,
        value=value,
        statistics=_floats.decode(statistics) if statistics else (),
        passed=None if passed is None else bool(passed),
        error=error or "",
        note=note or "",
        verdicts=_verdicts.decode(verdicts) if verdicts else (),
    )


# cells

# The columns of a cell with its answer: first those of the row, its route and its sample.
CELL_COLUMNS = (
    "answers.id",
    "answers.position",
    "routes.name",
    "samples.sample_id",
    "answers.repeat",
    "answers.state",
    "answers.request_hash",
    "answers.asked_at",
    "answers.answered_at",
    "answers.interrupted",
    "answers.attempts",
    *(f"answers.{name}" for name in ANSWER_COLUMNS),
)
_ANSWER_AT = len(CELL_COLUMNS) - len(ANSWER_COLUMNS)


def scored_answer_of(row: Sequence[Any], scores: Mapping[int, Sequence[Score]]) -> ScoredAnswer:
    """Read a cell from CELL_COLUMNS; `scores` are those of all answers, by number of the row."""
    return ScoredAnswer(
        cell=Cell(row[2], row[3], row[4]),
        answer=None if row[5] == "sent" else answer_of(row[_ANSWER_AT:]),
        scores=tuple(scores.get(row[0], ())),
        request_hash=row[6],
        asked_at=row[7],
        answered_at=row[8],
        interrupted=row[9],
        attempts=_attempts.decode(row[10]) if row[10] else (),
    )
