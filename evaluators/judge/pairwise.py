"""Decides which of two answers is better by both orders, and computes win rates of many pairs.

    result = decide("A", "B")            # the same answer won in both orders -> "first"
    summarise(comparisons)

Every pair is judged twice, with the answers exchanged. A judge that names the same position both
times has not seen a difference between the answers: the pair is a tie, and it counts into the flip
rate (Zheng et al. 2023, arXiv:2306.05685). A pair of which a verdict cannot be read is unparsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from evaluators.stats import intervals
from evaluators.stats.agreement import weighted_share
from evaluators.stats.intervals import Interval
from evaluators.stats.resampling import Floats

Label = Literal["A", "B", "tie"]
Winner = Literal["first", "second", "tie"]

_RESAMPLES = 400


class PairwiseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to the same question, and the verdicts on them.

    Attributes:
        id: the question's id.
        first, second: the names of the two that answered.
        forward: the verdict with the first answer as A; None when it could not be read.
        backward: the verdict with the first answer as B.
        words: the number of words of each answer.
        people: the answer that people found better; None where that is not known.
        category: the kind of question.
        question: what pairs that belong together have in common, "" where each stands alone.
        markdown: the number of markdown elements of each answer.
    """

    id: str
    first: str = "first"
    second: str = "second"
    forward: Label | None
    backward: Label | None
    words: tuple[int, int] = (0, 0)
    people: Winner | None = None
    category: str = ""
    question: str = ""
    markdown: tuple[int, int] = (0, 0)

    @property
    def winner(self) -> Winner | None:
        """Return the answer that won; None when a verdict could not be read."""
        return decide(self.forward, self.backward)


class PairwiseReport(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of many pairs, of the same two models or of any.

    Attributes:
        pairs: the number of pairs.
        unparsed: the number of pairs without a readable verdict in both orders.
        wins, ties, losses: of the first against the second.
        win_rate: the win rate of the first, a tie counting half.
        length_controlled: the win rate if both answers were equally long: logistic regression on
            the tanh of the standardised difference in words (after Dubois et al. 2024,
            arXiv:2404.04475); None where lengths do not vary.
        length_slope: how much one standard deviation more words adds to the log odds.
        flip_rate: share of the pairs where exchanging the answers exchanged the verdict.
        position_a: share of all verdicts that name the answer shown first.
        agreement: share of the pairs where the judge says what people say, ties included.
        accuracy: the same over pairs that people decided, a tie of the judge counting half.
        one_order: accuracy of the forward verdicts alone, as if there were no second order.
    """

    pairs: int
    unparsed: int
    wins: int
    ties: int
    losses: int
    win_rate: Interval
    length_controlled: Interval
    length_slope: Interval
    flip_rate: Interval
    position_a: Interval
    agreement: Interval | None = None
    accuracy: Interval | None = None
    one_order: Interval | None = None


def decide(forward: Label | None, backward: Label | None) -> Winner | None:
    """Return the answer that won in both orders, and a tie for every other two verdicts."""
    if forward is None or backward is None:
        return None
    if forward == "A" and backward == "B":
        return "first"
    if forward == "B" and backward == "A":
        return "second"
    return "tie"


def summarise(comparisons: Sequence[PairwiseComparison]) -> PairwiseReport:
    """Compute the numbers of many pairs, all from the first answer's side."""
    decided = [comparison for comparison in comparisons if comparison.winner is not None]
    credit = [_CREDIT[comparison.winner] for comparison in decided if comparison.winner is not None]
    named = [
        (comparison, verdict)
        for comparison in comparisons
        for verdict in (comparison.forward, comparison.backward)
        if verdict not in {None, "tie"}
    ]
    controlled, slope = _length_controlled(
        [comparison.words[0] - comparison.words[1] for comparison in decided], credit
    )
    known = [comparison for comparison in decided if comparison.people is not None]
    settled = [comparison for comparison in known if comparison.people != "tie"]
    return PairwiseReport(
        pairs=len(comparisons),
        unparsed=len(comparisons) - len(decided),
        wins=credit.count(1.0),
        ties=credit.count(0.5),
        losses=credit.count(0.0),
        win_rate=_mean(credit, decided),
        length_controlled=controlled,
        length_slope=slope,
        flip_rate=_mean([float(_is_flipped(comparison)) for comparison in decided], decided),
        position_a=_mean(
            [float(verdict == "A") for _, verdict in named],
            [comparison for comparison, _ in named],
        ),
        agreement=_mean(
            [float(comparison.winner == comparison.people) for comparison in known], known
        )
        if known
        else None,
        accuracy=_mean(
            [
                0.5 if comparison.winner == "tie" else float(comparison.winner == comparison.people)
                for comparison in settled
            ],
            settled,
        )
        if settled
        else None,
        one_order=_mean(
            [
                0.5
                if comparison.forward == "tie"
                else float((comparison.forward == "A") == (comparison.people == "first"))
                for comparison in settled
            ],
            settled,
        )
        if settled
        else None,
    )


_CREDIT: dict[Winner, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


def _is_flipped(comparison: PairwiseComparison) -> bool:
    return comparison.forward == comparison.backward and comparison.forward != "tie"


def _mean(credit: Sequence[float], comparisons: Sequence[PairwiseComparison]) -> Interval:
    """Compute a mean of numbers from 0 to 1; comparisons of one question count once."""
    names = [comparison.question or comparison.id for comparison in comparisons]
    if len(set(names)) == len(names):
        return intervals.mean_interval(credit, low=0.0, high=1.0)
    sums: dict[str, tuple[float, int]] = {}
    for name, value in zip(names, credit, strict=True):
        total, count = sums.get(name, (0.0, 0))
        sums[name] = (total + value, count + 1)
    return msgspec.structs.replace(weighted_share(list(sums.values())), n=len(credit))


def _length_controlled(
    longer: Sequence[float], credit: Sequence[float]
) -> tuple[Interval, Interval]:
    """Compute the win rate at equal length, and the slope, each with its interval."""
    n = len(credit)
    none = Interval(estimate=None, low=None, high=None, n=n)
    x, y = np.asarray(longer, dtype=np.float64), np.asarray(credit, dtype=np.float64)
    if n < 2 or x.std() == 0:
        return none, none
    x = np.tanh(x / x.std())
    estimate = _logistic(x, y)
    random = np.random.Generator(np.random.PCG64(0))
    picks = random.integers(n, size=(_RESAMPLES, n))
    drawn = np.array([_logistic(x[pick], y[pick]) for pick in picks])
    rates = 1 / (1 + np.exp(-drawn[:, 0]))
    return (
        _around(float(1 / (1 + np.exp(-estimate[0]))), rates, n),
        _around(float(estimate[1]), drawn[:, 1], n),
    )


def _logistic(x: Floats, y: Floats) -> Floats:
    """Fit intercept and slope by Newton's method; a weak prior keeps separated data finite."""
    design = np.column_stack([np.ones_like(x), x])
    weights = np.zeros(2)
    for _ in range(25):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (y - chance) - 0.01 * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + 0.01 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _around(estimate: float, drawn: Floats, n: int) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(estimate=estimate, low=float(low), high=float(high), n=n, method="percentile")
