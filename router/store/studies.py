"""Studies: calibrations of judges, comparisons of two routes, tournaments of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

StudyKind = Literal["calibration", "comparison", "tournament"]


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration of a judge, a comparison of two routes or a tournament of several.

    Attributes:
        id: `cal_`, `cmp_` or `trn_` and a sortable random part.
        kind: one of the three.
        judges: the names of its judges.
        grading: what is judged and how, as `evaluators.base.JudgeMetric.grading`.
        name: the name that its user gave it.
        state: `running` until its report is there.
        document: the request for it, JSON types only; enough to continue it.
        created_at, finished_at: seconds since the epoch, UTC.
        error: why it stopped, "" otherwise.
        report: the outcome, JSON types only; empty until then.
        detail: what the report was computed from, JSON types only; empty in lists.
    """

    id: str
    kind: StudyKind
    judges: tuple[str, ...]
    grading: str
    name: str
    state: Literal["running", "completed", "failed"] = "running"
    document: dict[str, Any] = {}
    created_at: float
    finished_at: float | None = None
    error: str = ""
    report: dict[str, Any] = {}
    detail: dict[str, Any] = {}


class StudyStore(Protocol):
    """Stores studies."""

    async def set_study(self, study: Study) -> None:
        """Add a study, or replace the one with its id."""
        ...

    async def study(self, study_id: str) -> Study:
        """Return the study with an id or a unique prefix of one.

        Raises:
            NotFoundError: no study has it, or several ids begin so.
        """
        ...

    async def studies(
        self,
        *,
        kind: StudyKind | None = None,
        judge: str | None = None,
        graded: Sequence[str] = (),
        limit: int = 50,
    ) -> list[Study]:
        """List studies, newest first, without `detail`.

        `graded` selects those whose `grading` has one of these texts in it; none selects all.
        """
        ...
