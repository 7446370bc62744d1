"""Finds the answers that two compared runs share, because the run cache took them from a run.

    answers = await AnswerIndex.of(store, runs)
    answers.add(side, number, row)           # every row of both
    answers.shared(a, b)

An answer is known by its request (target, body and repeat) and by the run that sent it. Two sides
that have the same one say nothing about a change of the target: the second never requested it. What
a run got with its own requests is its own, also where it was resumed, extended or scored again.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np

from evaluators.document import MAX_REPEATS
from evaluators.reports.compare import SharedAnswers, Side
from evaluators.reports.report import runs_in_words
from router.store.results import ResultStore, ScoredAnswer
from router.store.runs import Run


class _Origins(NamedTuple):
    """The answers of one side: where each stands, and a number for its origin.

    The lowest bit of that number says whether the run took the answer from another run.
    """

    places: array[int]
    codes: array[int]


class AnswerIndex:
    """The origins of two runs' answers, 16 bytes for each.

    Args:
        runs: the runs whose answers both may have; "" for one that is not known any more.
    """

    def __init__(self, runs: Set[str]) -> None:
        self.runs = runs
        self._sides: dict[Side, _Origins] = {}

    @classmethod
    async def of(cls, store: ResultStore, runs: Sequence[Run]) -> AnswerIndex:
        """Return an empty index for one or two runs; the answers of one alone are its own."""
        ids = list(dict.fromkeys(run.id for run in runs))
        if len(ids) == 1:
            return cls(frozenset())
        first, second = [set(await store.origins(run_id)) - {run_id} for run_id in ids]
        return cls((first & second) | (first & {ids[1], ""}) | (second & {ids[0], ""}))

    def add(self, side: Side, number: int, row: ScoredAnswer) -> None:
        """Store the origin of an answer to the sample with this number on both sides."""
        answer = row.answer
        if not self.runs or answer is None or answer.text is None or not row.request_hash:
            return
        # A copy has the time that the original took, and no other answer took exactly as long.
        by_time = "" in self.runs
        run = answer.cached_from if answer.cached else side.run
        code = hash((row.request_hash, answer.total_s if by_time else run))
        origins = self._sides.setdefault(side, _Origins(array("q"), array("q")))
        origins.places.append(number * MAX_REPEATS + row.cell.repeat)
        origins.codes.append((code & ~1) | answer.is_taken(side.run))

    def shared(self, a: Side, b: Side) -> list[int]:
        """Return the numbers of the samples on which two sides share an answer."""
        if a not in self._sides or b not in self._sides:
            return []
        ours, theirs = self._sides[a], self._sides[b]
        places, at_ours, at_theirs = np.intersect1d(
            np.asarray(ours.places),
            np.asarray(theirs.places),
            assume_unique=True,
            return_indices=True,
        )
        first, second = np.asarray(ours.codes)[at_ours], np.asarray(theirs.codes)[at_theirs]
        same = ((first | 1) == (second | 1)) & (((first | second) & 1) == 1)
        numbers: list[int] = np.unique(places[same] // MAX_REPEATS).tolist()
        return numbers


def shared_warning(
    pair: tuple[Side, Side], shared: SharedAnswers, runs: Set[str], outputs: Set[str]
) -> str:
    """Say what two sides share, and what becomes of it.

    Args:
        pair: the sides.
        shared: what they share.
        runs: those that the answers are of.
        outputs: all that the sides have in common.
    """
    a, b = pair
    name = a.route if a.route == b.route else f"{a.route} and {b.route}"
    sentences = [
        f"{name}: the runs share the answers to {len(shared.samples):,} samples, which the run "
        f"cache took from {runs_in_words(sorted(runs))}."
    ]
    if shared.compared:
        sentences.append(
            f"They were scored differently by {', '.join(sorted(shared.compared))}, whose "
            "differences on them are of the scoring alone."
        )
    if left_out := sorted(outputs - shared.compared):
        scores = f"For {', '.join(left_out)}, nothing" if shared.compared else "Nothing"
        sentences.append(
            f"{scores} was measured on them, so they are left out and get no verdict; `cache: "
            "false` in the run document requests new answers."
        )
    return " ".join(sentences)
