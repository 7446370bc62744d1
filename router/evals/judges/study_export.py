"""Exports the judgements of a study, one row for each request to the judge.

    async for row in exported_judgements(studies, store, study):
        ...
    write_csv(rows, file)
    write_parquet(rows, path)

A row has the judge's answer as it came (its feedback) and the verdict that was read from it.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from router.evals.judges.judgement_fields import judgement_fields
from router.evals.judges.studies import Studies
from router.evals.tables import write_table
from router.store.judgements import JudgementRow, JudgementStore
from router.store.studies import Study

_PAGE = 500


class StudyJudgement(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a judge, its answer and the verdict.

    Attributes:
        study: the id of the study.
        judge: the route of the judge.
        metric: `calibration:RUBRIC`; for pairs `pairwise`, or `swapped` if the first answer is B.
        sample_id: the answer, or the pair, that was judged; the first one of several that make the
            same request.
        repeat: the number of the verdict on the same answer, from 0.
        attempt: the number of earlier requests whose verdicts could not be read.
        verdict: a score, or the label A or B; None for an unparsed or failed one.
        unparsed: the reason why the verdict could not be read, "" otherwise.
        feedback: the judge's answer as it came; None for a failed request.
        error: the reason for the failure, "" otherwise.
        finish_reason, target, model: as the target reported them.
        prompt_tokens, completion_tokens, cost_usd, seconds: None where they are unknown.
        at: when the answer came, seconds since the epoch.
    """

    study: str
    judge: str
    metric: str
    sample_id: str
    repeat: int
    attempt: int
    verdict: float | str | None
    unparsed: str
    feedback: str | None
    error: str
    finish_reason: str
    target: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    at: float


# Arrow types of the columns but for the verdict's.
_TYPES = dict.fromkeys(StudyJudgement.__struct_fields__, "string") | {
    "repeat": "int32",
    "attempt": "int32",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "cost_usd": "float64",
    "seconds": "float64",
    "at": "float64",
}


async def exported_judgements(
    studies: Studies, store: JudgementStore, study: Study
) -> AsyncIterator[StudyJudgement]:
    """Yield a study's judgements in the order they came.

    Raises:
        ConflictError: the study's dataset has changed since.
        DatasetError: the dataset can no longer be read.
    """
    read = await studies.reader(study)
    after = 0
    while page := await store.judgements(study.id, limit=_PAGE, after=after):
        for number, row in page:
            after = number
            answer = row.judgement.answer
            verdict, unparsed = (None, "") if answer.error else read(row)
            yield _exported(row, verdict, unparsed)


def _exported(row: JudgementRow, verdict: float | str | None, unparsed: str) -> StudyJudgement:
    return StudyJudgement(
        study=row.owner, verdict=verdict, unparsed=unparsed, **judgement_fields(row)
    )


def write_csv(rows: Iterable[StudyJudgement], file: TextIO) -> None:
    """Write rows as CSV with a head; a missing value is an empty cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(StudyJudgement.__struct_fields__)
    for row in rows:
        writer.writerow("" if value is None else value for value in msgspec.structs.astuple(row))


def write_parquet(rows: Sequence[StudyJudgement], path: Path) -> None:
    """Write rows as a parquet file, the verdicts as numbers or, for pairs, as texts.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    is_text = any(isinstance(row.verdict, str) for row in rows)
    types = _TYPES | {"verdict": "string" if is_text else "float64"}
    batches = (rows[at : at + _PAGE] for at in range(0, len(rows), _PAGE))
    flat = (list(map(msgspec.structs.asdict, batch)) for batch in batches)
    write_table(path, "parquet", types, flat)
