"""A judgement as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from evaluators.base import Answer, Judgement
from router.store.judgements import JudgementRow

_encode = msgspec.json.Encoder().encode
_answer = msgspec.json.Decoder(Answer).decode
_tokens = msgspec.json.Decoder(tuple[tuple[str, dict[str, float]], ...]).decode

# The first group names the request, the last is the answer; those between are what sums are over.
_REQUEST = ("owner", "metric", "judge", "sample_id", "repeat", "attempt", "request_hash", "at")
_SUMS = ("answered", "cost_usd", "prompt_tokens", "completion_tokens", "total_s")
_ANSWER = ("reused", "answer", "tokens")
JUDGEMENT_COLUMNS = (*_REQUEST, *_SUMS, *_ANSWER)
# Those that `judgement_of` reads.
READ_JUDGEMENT_COLUMNS = (*_REQUEST, *_ANSWER)


def judgement_columns(row: JudgementRow) -> tuple[Any, ...]:
    """Return the values of JUDGEMENT_COLUMNS."""
    answer = row.judgement.answer
    tokens = row.judgement.tokens
    return (
        row.owner,
        row.metric,
        row.judge,
        row.sample_id,
        row.repeat,
        row.attempt,
        row.request_hash,
        row.at,
        answer.text is not None,
        answer.cost_usd,
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.total_s,
        row.reused,
        _encode(answer).decode(),
        _encode(tokens).decode() if tokens else None,
    )


def judgement_of(row: Sequence[Any]) -> JudgementRow:
    """Read a judgement from READ_JUDGEMENT_COLUMNS."""
    owner, metric, judge, sample_id, repeat, attempt, request_hash, at, reused, answer, tokens = row
    return JudgementRow(
        owner=owner,
        metric=metric,
        judge=judge,
        sample_id=sample_id,
        repeat=repeat,
        attempt=attempt,
        request_hash=request_hash,
        at=at,
        reused=bool(reused),
        judgement=Judgement(
            answer=_answer(answer),
            tokens=_tokens(tokens) if tokens else (),
            request_hash=request_hash,
        ),
    )
