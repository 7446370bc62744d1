"""Scores on another machine: what a worker of a cluster makes, and calls with bytes."""

from __future__ import annotations

import msgspec

from evaluators.base import Score
from evaluators.execution.worker import ScoringBatch, WorkerSetup, encode, load, serve
from evaluators.metrics.registry import build

_setup = msgspec.json.Decoder(WorkerSetup)
_batch = msgspec.json.Decoder(ScoringBatch)


class RemoteScorer:
    """Metrics, loaded once.

    Args:
        argument: a WorkerSetup.

    Raises:
        EvalrouterError: a metric cannot be loaded.
    """

    def __init__(self, argument: bytes) -> None:
        self._metrics = [load(build(spec)) for spec in _setup.decode(argument).specs]

    def score(self, payload: bytes) -> bytes:
        """A ScoringBatch to a list of scores, one tuple for each answer, in order."""
        found: list[tuple[Score, ...]] = []
        serve(self._metrics, _batch.decode(payload).items, found.append)
        return encode(found)
