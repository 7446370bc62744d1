"""What a run has taken in all: its answers, its judges and the embeddings of its metrics."""

from __future__ import annotations

from router.store.judgements import JudgeUse
from router.store.protocol import Store
from router.store.usage import EmbeddingUse, Spending


async def total_spending(store: Store, run_id: str) -> Spending:
    """Return what all attempts of a run took, as far as it is known. Raises NotFoundError."""
    parts: list[Spending | JudgeUse | EmbeddingUse] = [
        await store.spent(run_id),
        *await store.judge_use(run_id),
        *await store.embedding_use(run_id),
    ]
    return Spending(
        cost_usd=sum(part.cost_usd for part in parts), tokens=sum(part.tokens for part in parts)
    )
