"""What a run's report is made of, wherever that is: a database, or a file of evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from router.store.judgements import JudgeUse
from router.store.people_labels import PeopleLabel
from router.store.results import ScoredAnswer
from router.store.studies import Study, StudyKind
from router.store.usage import EmbeddingUse


class ReportStore(Protocol):
    """The part of a store that `router.evals.results.outcome` reads; methods as in `Store`."""

    async def clusters(self, run_id: str) -> dict[str, str]:
        """Return sample id to its `cluster`, for the samples that have one."""
        ...

    async def each_result(self, run_id: str, take: Callable[[ScoredAnswer], None]) -> None:
        """Call `take` with every result by sample, route name and repeat, on threads."""
        ...

    async def labels(self, run_id: str) -> list[PeopleLabel]:
        """Return the run's labels by output, route, sample and repeat."""
        ...

    async def study(self, study_id: str) -> Study:
        """Return the study with an id."""
        ...

    async def studies(
        self,
        *,
        kind: StudyKind | None = None,
        judge: str | None = None,
        graded: Sequence[str] = (),
        limit: int = 50,
    ) -> list[Study]:
        """List studies, newest first, without `detail`."""
        ...

    async def judge_use(self, owner: str) -> list[JudgeUse]:
        """Add up what an owner's judges took, by metric and judge."""
        ...

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        """Return what a run's embeddings took, by route and target."""
        ...
