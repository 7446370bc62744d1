"""What runs and studies took: money, tokens, and the time of targets."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's answers took, as far as it is known; cached ones took nothing."""

    cost_usd: float
    tokens: int


class EmbeddingUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the embeddings took that a run's metrics requested of one route.

    Attributes:
        route, target: the pair that this is about; `target` is "" where none answered.
        requests: how many were sent.
        failed: how many of them gave no vectors that can be used.
        tokens, cost_usd: as far as they are known.
        unpriced: how many have no known cost.
        estimated: how many have estimated tokens.
    """

    route: str
    target: str
    requests: int
    failed: int
    tokens: int
    cost_usd: float
    unpriced: int
    estimated: int


class TargetTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long a target worked for a run or a study.

    Attributes:
        target: `provider/model`.
        seconds: the time in which at least one request was under way.
        requests: how many it answered.
        tokens: those that it generated, as far as they are known.
        cost_usd: what it charged for its tokens, as far as that is known.
        unpriced: how many requests have no known cost.
    """

    target: str
    seconds: float
    requests: int
    tokens: int
    cost_usd: float = 0.0
    unpriced: int = 0


class UsageStore(Protocol):
    """Adds up what runs and studies took. What judges took is in `JudgementStore.judge_use`.

    The methods about a run raise NotFoundError where no run has the id.
    """

    async def spent(self, run_id: str) -> Spending:
        """Return what the run's answers took."""
        ...

    async def add_embedding_use(self, run_id: str, use: EmbeddingUse) -> None:
        """Add to what a run's embeddings took."""
        ...

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        """Return what a run's embeddings took, by route and target."""
        ...

    async def served(self, owner: str) -> list[TargetTime]:
        """Return how long each target worked for a run or a study; empty for an unknown one."""
        ...
