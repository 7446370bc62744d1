"""What every export says of a judgement, whether a run or a study requested it."""

from __future__ import annotations

from typing import Any

from router.store.judgements import JudgementRow


def judgement_fields(row: JudgementRow) -> dict[str, Any]:
    """Return the fields that the rows of runs' and studies' exports have in common."""
    answer = row.judgement.answer
    return {
        "sample_id": row.sample_id,
        "metric": row.metric,
        "judge": row.judge,
        "repeat": row.repeat,
        "attempt": row.attempt,
        "feedback": answer.text,
        "error": answer.error or "",
        "finish_reason": answer.finish_reason,
        "target": answer.target,
        "model": answer.model,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cost_usd": answer.cost_usd,
        "seconds": answer.total_s,
        "at": row.at,
    }
