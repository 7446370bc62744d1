"""Makes rows of a run's judgements: what a judge answered, what it was read as, what it was about.

    of_cells, others = await judgements_of_run(store, run.id, results)

The answers come from the judgements, and what they were read as from the scores. A judgement that
no score was made of (a list of claims, for example) is a row without a route and a verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from evaluators.base import Cell, Verdict
from router.evals.judges.judged_samples import StoredJudgements, judgements_about, key_of
from router.evals.judges.judgement_fields import judgement_fields
from router.store.judgements import JudgementRow, JudgementStore
from router.store.results import ScoredAnswer


class ExportedJudgement(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement of one answer; a judgement that several answers share has a row for each.

    The fields that the rows of a study have too are as in `study_export.StudyJudgement`.

    Attributes:
        run: the id of the run.
        sample_id: the sample that the judged answer belongs to.
        route, answer_repeat: the judged answer's; None where no score was made of the judgement.
        metric: the name of the metric that needed the judgement.
        output: the score that it is part of; None without one.
        judge, repeat, attempt: as in `evaluators.base.JudgeRequest`.
        verdict: the score; None where none could be read.
        unparsed: the reason why the verdict could not be read, "" otherwise.
        feedback: the judge's answer as it came; None for a failed request.
        error: the reason for the failure, "" otherwise.
        finish_reason, target, model: as the target reported them.
        prompt_tokens, completion_tokens, cost_usd, seconds: None where they are unknown.
        reused: whether another run had paid for it.
        at: when the answer came, seconds since the epoch.
        request_hash: SHA-256 over target and body of the request, hex.
    """

    run: str
    sample_id: str
    route: str | None = None
    answer_repeat: int | None = None
    metric: str
    output: str | None = None
    judge: str
    repeat: int
    attempt: int
    verdict: float | None = None
    unparsed: str = ""
    feedback: str | None
    error: str
    finish_reason: str
    target: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    reused: bool
    at: float
    request_hash: str


# Arrow types of the columns.
JUDGEMENT_TYPES = dict.fromkeys(ExportedJudgement.__struct_fields__, "string") | {
    "answer_repeat": "int32",
    "repeat": "int32",
    "attempt": "int32",
    "verdict": "float64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "cost_usd": "float64",
    "seconds": "float64",
    "reused": "bool",
    "at": "float64",
}


class RunJudgements(NamedTuple):
    """The judgements of some cells.

    Attributes:
        of_cells: those of each cell, in the order of the cells.
        others: those of the cells' samples that no score was made of.
    """

    of_cells: list[list[ExportedJudgement]]
    others: list[ExportedJudgement]


async def judgements_of_run(
    store: JudgementStore, run_id: str, results: Sequence[ScoredAnswer]
) -> RunJudgements:
    """Return the judgements of cells; they must be all cells of their samples."""
    stored = await judgements_about(store, run_id, results)
    return await asyncio.to_thread(_exported_judgements, results, stored)


def _exported_judgements(
    results: Sequence[ScoredAnswer], stored: StoredJudgements
) -> RunJudgements:
    of_cells = [
        [
            _of_cell(row, verdict, result.cell, score.output)
            for score in result.scores
            for verdict in score.verdicts
            if (row := stored.by_key.get(key_of(verdict))) is not None
        ]
        for result in results
    ]
    return RunJudgements(of_cells, list(map(_exported, stored.others)))


def _of_cell(row: JudgementRow, verdict: Verdict, cell: Cell, output: str) -> ExportedJudgement:
    return msgspec.structs.replace(
        _exported(row),
        sample_id=cell.sample_id,
        route=cell.route,
        answer_repeat=cell.repeat,
        output=output,
        verdict=verdict.value,
        # A failed request was not read at all; `error` says why.
        unparsed="" if row.judgement.answer.error else verdict.why,
    )


def _exported(row: JudgementRow) -> ExportedJudgement:
    return ExportedJudgement(
        run=row.owner,
        reused=row.reused,
        request_hash=row.request_hash,
        **judgement_fields(row),
    )
