"""Finds the answers that two compared runs share, because the run cache took them from a run.

    answers = await AnswerIndex.of(store, runs)
    answers.add(side, sample_id, row)        # every row of both
    answers.shared(a, b)

An answer is known by its request (target, body and repeat) and by the run that sent it. Two sides
that have the same one say nothing about a change of the target: the second never requested it. What
a run got with its own requests is its own, also where it was resumed, extended or scored again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from evaluators.reports.accumulator import UNKNOWN_RUN
from evaluators.reports.compare import Side
from evaluators.reports.report import runs_in_words
from router.store.results import ResultStore, ScoredAnswer
from router.store.runs import Run


class _Origin(NamedTuple):
    """The request that an answer is of; `run` is "" where nothing says who sent it."""

    request_hash: str
    run: str
    taken: bool
    seconds: float | None

    def is_same(self, other: _Origin) -> bool:
        """Return whether both are the same answer, and a run took it from another."""
        if self.request_hash != other.request_hash or not (self.taken or other.taken):
            return False
        if self.run and other.run:
            return self.run == other.run
        # A copy has the time that the original took, and no other answer took exactly as long.
        return self.seconds == other.seconds


class Shared(NamedTuple):
    """The samples on which two sides have the same answer, and how many answers of which run."""

    samples: frozenset[str]
    origins: Mapping[str, int]


class AnswerIndex:
    """The origins of two runs' answers, by side, sample and repeat.

    Args:
        enabled: whether the runs can have an answer in common; otherwise nothing is stored.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._origins: dict[Side, dict[tuple[str, int], _Origin]] = {}

    @classmethod
    async def of(cls, store: ResultStore, runs: Sequence[Run]) -> AnswerIndex:
        """Return an empty index for one or two runs; the answers of one alone are its own."""
        ids = list(dict.fromkeys(run.id for run in runs))
        if len(ids) == 1:
            return cls(enabled=False)
        first, second = [set(await store.origins(run_id)) - {run_id} for run_id in ids]
        related = first & second or ids[1] in first or ids[0] in second
        return cls(enabled=bool(related or "" in first | second))

    def add(self, side: Side, sample_id: str, row: ScoredAnswer) -> None:
        """Store the origin of an answer, for a sample by the name that both sides give it."""
        answer = row.answer
        if not self._enabled or answer is None or answer.text is None or not row.request_hash:
            return
        run = answer.cached_from if answer.cached else side.run
        origin = _Origin(row.request_hash, run, answer.is_taken(side.run), answer.total_s)
        self._origins.setdefault(side, {})[sample_id, row.cell.repeat] = origin

    def shared(self, a: Side, b: Side, *, without: Set[str] = frozenset()) -> Shared:
        """Return what two sides share. Blocks for as long as it takes to read their origins.

        Samples in `without` are scored against other references on each side.
        """
        ours, theirs = self._origins.get(a, {}), self._origins.get(b, {})
        same = {
            key: origin
            for key, origin in ours.items()
            if key in theirs and key[0] not in without and origin.is_same(theirs[key])
        }
        runs = Counter(origin.run or theirs[key].run or UNKNOWN_RUN for key, origin in same.items())
        return Shared(frozenset(sample for sample, _ in same), runs)


def shared_warning(
    pair: tuple[Side, Side], shared: Shared, compared: Set[str], left_out: Set[str]
) -> str:
    """Say what two sides share, and what becomes of it.

    Args:
        pair: the sides.
        shared: what they share.
        compared: outputs that are compared all the same, because they were scored differently.
        left_out: the other outputs.
    """
    a, b = pair
    name = a.route if a.route == b.route else f"{a.route} and {b.route}"
    sentences = [
        f"{name}: the runs share the answers to {len(shared.samples):,} samples, which the run "
        f"cache took from {runs_in_words(shared.origins)}."
    ]
    if compared:
        sentences.append(
            f"They were scored differently by {', '.join(sorted(compared))}, whose differences on "
            "them are of the scoring alone."
        )
    if left_out:
        scores = f"For {', '.join(sorted(left_out))}, nothing" if compared else "Nothing"
        sentences.append(
            f"{scores} was measured on them, so they are left out and get no verdict; `cache: "
            "false` in the run document requests new answers."
        )
    return " ".join(sentences)
