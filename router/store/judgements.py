"""Judgements: every request to a judge, with the answer as it came."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from evaluators.base import Judgement


class JudgementRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a judge and its outcome.

    Attributes:
        owner: the id of the run, or of the calibration, comparison or tournament, that sent it.
        metric, judge, sample_id, repeat, attempt: as in `evaluators.base.JudgeRequest`.
        request_hash: SHA-256 over target and body, hex.
        at: when the answer came, seconds since the epoch.
        reused: whether another owner had paid for it already.
        judgement: the answer, with its text as it came.
    """

    owner: str
    metric: str
    judge: str
    sample_id: str
    repeat: int
    attempt: int
    request_hash: str
    at: float
    judgement: Judgement
    reused: bool = False


class JudgeUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one judge took for one metric of an owner.

    Attributes:
        metric, judge: the pair that this is about.
        calls: requests, including those that were answered from what others had paid for.
        asked_again: how many of them were sent because a verdict could not be read.
        failed: how many of them failed at the judge's target.
        reused: how many of them were not paid for a second time.
        cost_usd, tokens: of the others, as far as they are known.
        unpriced: how many have no known cost.
        estimated: how many have estimated tokens, because their target did not count them.
        mean_s: mean seconds of a request.
        target, model: of some answer, "" without one.
        first_at, last_at: when the first and the last answer came, seconds since the epoch.
    """

    metric: str
    judge: str
    calls: int
    asked_again: int
    failed: int
    reused: int
    cost_usd: float
    unpriced: int
    tokens: int
    mean_s: float | None
    target: str
    model: str
    first_at: float
    last_at: float
    estimated: int = 0


class JudgementStore(Protocol):
    """Stores what judges answered to runs and studies (their *owners*)."""

    async def keep_judgement(self, row: JudgementRow) -> None:
        """Store what a judge answered; a failure of the same request is replaced."""
        ...

    async def judgement(
        self, owner: str, request_hash: str, repeat: int, attempt: int, *, any_owner: bool
    ) -> JudgementRow | None:
        """Return the owner's answer (never a failure) to a request, else None.

        With `any_owner`, the newest answer of another owner is the second choice.
        """
        ...

    async def judgements(
        self, owner: str, *, sample_id: str | None = None, limit: int = 100, after: int = 0
    ) -> list[tuple[int, JudgementRow]]:
        """List an owner's judgements with their numbers, in the order they came."""
        ...

    async def judgements_of(
        self, owner: str, *, sample_ids: Collection[str], request_hashes: Collection[str]
    ) -> list[JudgementRow]:
        """Return an owner's judgements of samples or requests, in the order they came."""
        ...

    async def judge_use(self, owner: str) -> list[JudgeUse]:
        """Add up what an owner's judges took, by metric and judge."""
        ...

    async def judgement_tokens(self, judge: str, metric: str) -> tuple[float, float] | None:
        """Return the mean prompt and completion tokens of the judge's last judgements.

        None where no judgement for the metric has counted tokens.
        """
        ...
