"""Labels: the scores that people gave to answers of runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Protocol

import msgspec

from evaluators.base import Cell


class PeopleLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What people say of one answer of a run.

    Attributes:
        output: the judge's score that people gave, too, for example `helpfulness`.
        cell: the route, sample and repeat of the answer.
        answer_hash: SHA-256 of the answer's text, hex: the label is of that text alone.
        scores: one for each person; none where the answer has only a chance so far.
        chance: the probability with which the answer was chosen for people; None where it was the
            same for all answers.
        at: when the label was stored, seconds since the epoch.
    """

    output: str
    cell: Cell
    answer_hash: str
    scores: tuple[float, ...]
    chance: float | None
    at: float

    @property
    def mean(self) -> float | None:
        """Return the mean of people's scores; None without any."""
        return fmean(self.scores) if self.scores else None


class LabelStore(Protocol):
    """Stores the labels of runs. The methods raise NotFoundError where no run has the id."""

    async def keep_labels(
        self, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
    ) -> None:
        """Store the labels of a route's answers in place of those before, all or none."""
        ...

    async def labels(self, run_id: str, *, sample_id: str | None = None) -> list[PeopleLabel]:
        """Return the run's labels, or those of one sample, by output, route, sample and repeat."""
        ...

    async def add_score(self, run_id: str, label: PeopleLabel) -> PeopleLabel:
        """Add one person's score to those of an answer, and return its label as it is then.

        A label of another text of the answer is replaced.

        Args:
            run_id: the run's id.
            label: the answer and its text, with the one score; its time is that of the label.

        Raises:
            ConflictError: answers of the route were drawn with chances, by a plan.
        """
        ...

    async def take_back_score(self, run_id: str, label: PeopleLabel) -> None:
        """Take one person's score of an answer away again, as `add_score` returned the label.

        Args:
            run_id: the run's id.
            label: what was returned; its last score is taken away.

        Raises:
            ConflictError: the label is another one by now.
        """
        ...
