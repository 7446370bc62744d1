"""Scores on another machine: a cluster's worker builds a RemoteScorer and calls it with bytes."""

from __future__ import annotations

import msgspec

from evaluators.base import Score
from evaluators.execution.worker import ScoringBatch, WorkerSetup, encode, load, serve
from evaluators.metrics.registry import build

_setup = msgspec.json.Decoder(WorkerSetup)
_batch = msgspec.json.Decoder(ScoringBatch)


class RemoteScorer:
    """Scores answers with metrics that it loads once.

    Args:
        argument: a WorkerSetup.

    Raises:
        EvalrouterError: a metric cannot be loaded.
    """

    def __init__(self, argument: bytes) -> None:
        self._metrics = [load(build(spec)) for spec in _setup.decode(argument).specs]

    def score(self, payload: bytes) -> bytes:
        """Score an encoded ScoringBatch; the result is one tuple for each answer, in order."""
        scores: list[tuple[Score, ...]] = []
        serve(self._metrics, _batch.decode(payload).items, scores.append)
        return encode(scores)
