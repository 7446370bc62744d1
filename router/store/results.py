"""What a run is made of and what came of it: samples, answers and scores.

The order of writes is the promise of an evaluation: `begin` before a request is sent, `keep_answer`
before the answer is scored, `keep_scores` last. After a crash, a cell that was begun and has no
answer was in flight: only requests of this kind are ever sent a second time.

A cell's answer is written once. `begin` refuses a cell that was begun, `keep_answer` refuses one
that has an answer. Only `claim_run` (cells in flight) and `requeue_run` (errors) make one empty.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from evaluators.base import Answer, Cell, Sample, Score


class ScoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A cell with its answer and scores.

    Attributes:
        cell: the route, sample and repeat.
        answer: None while the request is in flight.
        scores: by output name.
        request_hash: SHA-256 over target and body, hex; "" for an answer that the dataset brought.
        asked_at, answered_at: when its request was sent and when the answer was complete, in
            seconds since the epoch, UTC; `answered_at` is None in flight.
        interrupted: how often its request was in flight when the run's process died; each time it
            was sent once more.
        attempts: the requests sent for the answer, each as `router.records.Attempt`.
    """

    cell: Cell
    answer: Answer | None
    scores: tuple[Score, ...] = ()
    request_hash: str = ""
    asked_at: float | None = None
    answered_at: float | None = None
    interrupted: int = 0
    attempts: tuple[dict[str, Any], ...] = ()


class OpenSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample with something left to do.

    Attributes:
        sample: the sample itself.
        settled: route and repeat of its cells that need nothing more.
        unscored: route and repeat to an answer that lacks scores, with those it has.
    """

    sample: Sample
    settled: frozenset[tuple[str, int]]
    unscored: dict[tuple[str, int], ScoredAnswer]


class ResultStore(Protocol):
    """Stores the samples, answers and scores of runs.

    Every method that takes the id of a run raises NotFoundError where no run has it, and where a
    cell's sample is not one of the run's.
    """

    def samples(self, run_id: str, *, after: int = 0) -> AsyncGenerator[Sample]:
        """Yield the run's samples in dataset order, without the first `after`.

        They are read in bounded pages.
        """
        ...

    def open_samples(self, run_id: str, cells: int) -> AsyncGenerator[OpenSample]:
        """Yield the samples with something left to do, in dataset order.

        `cells` is how many each has. They are read in bounded pages, each when it is needed:
        requests for samples that were yielded do not change what comes behind them.
        """
        ...

    async def clusters(self, run_id: str) -> dict[str, str]:
        """Return sample id to its `cluster`, for the samples that have one."""
        ...

    async def origins(self, run_id: str) -> dict[str, int]:
        """Count the run's cached answers by the run that sent the request; "" where unknown."""
        ...

    async def begin(
        self,
        run_id: str,
        cell: Cell,
        request_hash: str,
        target: str,
        *,
        unless_known: bool = False,
    ) -> Answer | None:
        """Note that the cell's request is about to be sent.

        With `unless_known`, an answer to the same request and repeat that is stored already
        (`cached_answer`) is returned instead, and nothing is noted.

        Raises:
            StoreError: the cell is in flight or has an answer or error already.
        """
        ...

    async def withdraw(self, run_id: str, cell: Cell) -> None:
        """Undo `begin`: the target refused the request unread, so nothing was in flight."""
        ...

    async def keep_answer(
        self, run_id: str, cell: Cell, request_hash: str, answer: Answer, attempts: Sequence[Any]
    ) -> None:
        """Store the cell's answer or error, with the record of its attempts (JSON types).

        A cell that was not begun, or was forgotten since, gets its answer all the same.

        Raises:
            StoreError: the cell has an answer or error already.
        """
        ...

    async def keep_scores(self, run_id: str, scored: Mapping[Cell, Sequence[Score]]) -> None:
        """Store the scores of cells, all or none; scores of the same outputs are replaced.

        Raises:
            StoreError: a cell has no answer text that could have been scored.
        """
        ...

    def results(
        self, run_id: str, *, route: str | None = None, after: int = 0
    ) -> AsyncGenerator[ScoredAnswer]:
        """Yield the run's cells by sample, route name and repeat; their scores by output name.

        They are read in bounded pages. The first `after` samples are left out.
        """
        ...

    async def each_result(self, run_id: str, take: Callable[[ScoredAnswer], None]) -> None:
        """Call `take` with every result in the same order, on threads, one call at a time.

        Raises:
            Exception: whatever `take` raises.
        """
        ...

    async def cached_answer(self, request_hash: str, repeat: int) -> Answer | None:
        """Return the newest answer (never an error) to the same request and repeat, of any run.

        It is marked as `cached`, and `cached_from` the run that sent the request.
        """
        ...
