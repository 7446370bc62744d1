"""Labels: the scores that people gave to answers of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from evaluators.base import Cell


class PeopleLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What people say of one answer of a run.

    Attributes:
        output: the judge's score that people gave, too, for example `helpfulness`.
        cell: the route, sample and repeat of the answer.
        answer_hash: SHA-256 of the answer's text, hex: the label is of that text alone.
        score: the mean of the people's scores; None where the answer has only a chance so far.
        people: how many people scored the answer.
        chance: the probability with which the answer was chosen for people; None where it was the
            same for all answers.
        at: when the label was stored, seconds since the epoch.
    """

    output: str
    cell: Cell
    answer_hash: str
    score: float | None
    people: int
    chance: float | None
    at: float


class LabelStore(Protocol):
    """Stores the labels of runs. The methods raise NotFoundError where no run has the id."""

    async def keep_labels(
        self, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
    ) -> None:
        """Store the labels of a route's answers in place of those before, all or none."""
        ...

    async def labels(self, run_id: str) -> list[PeopleLabel]:
        """Return the run's labels by output, route, sample and repeat."""
        ...
