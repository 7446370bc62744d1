"""What earlier requests say about the next ones: which are answered, how long, how spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec


class EarlierAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer took and how many tokens it had; None where that is not known.

    Attributes:
        source: whether a run or a client sent the request.
        messages: the prompt, where a run sent it.
    """

    source: Literal["runs", "traffic"]
    prompt_tokens: int | None
    completion_tokens: int | None
    first_byte_s: float | None
    total_s: float | None
    messages: tuple[dict[str, Any], ...] = ()


class EarlierRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run's scores of one output.

    Attributes:
        run_id: the run.
        scores: by route and position of the sample, means over repeats.
        clusters: position to the sample's cluster, where it has one.
    """

    run_id: str
    scores: dict[str, dict[int, float]]
    clusters: dict[int, str] = {}


class EarlierAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier run had answered of a run's requests before that run was created.

    Attributes:
        run_id: the earlier run.
        samples, repeats: how many it had answered then.
        compared: of the run's requests that were looked up, how many both have answered.
        alike: how many of those have the same text.
    """

    run_id: str
    samples: int = 0
    repeats: int = 0
    compared: int
    alike: int


class HistoryStore(Protocol):
    """Reads what is known of earlier requests, before a run and after it."""

    async def known_requests(
        self, requests: Sequence[tuple[str, int]]
    ) -> frozenset[tuple[str, int]]:
        """Return those of the (request hash, repeat) that `cached_answer` has an answer to."""
        ...

    async def runs_with(self, requests: Sequence[tuple[str, int]]) -> list[str]:
        """Return the ids of the newest runs that have answered any of these requests."""
        ...

    async def earlier_answers(self, target: str, limit: int) -> list[EarlierAnswer]:
        """Return the target's newest answers to runs; without any, to live requests."""
        ...

    async def earlier_run(self, dataset_hash: str, output: str) -> EarlierRun | None:
        """Return the newest run over the dataset with scores of the output; None without one."""
        ...

    async def answered_before(self, run_id: str) -> list[EarlierAnswers]:
        """Return the earlier runs that had answered some of a run's requests, oldest first.

        The requests of the run's first samples are looked up, and of others spread evenly over it.

        Raises:
            NotFoundError: no such run.
        """
        ...
