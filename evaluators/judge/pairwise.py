"""Which of two answers is better: both orders, what that says of the judge, fair win rates.

    result = decide("A", "B")            # the same answer won in both orders -> "first"
    summarise(bouts)

Every pair is judged twice, with the answers exchanged. A judge that names the same position both
times has not seen a difference between the answers: that is a tie, and it counts into the flip rate
(Zheng et al. 2023, arXiv:2306.05685). Where either verdict cannot be read, the pair is unparsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from evaluators.stats import intervals
from evaluators.stats.intervals import Interval
from evaluators.stats.resampling import Floats

Label = Literal["A", "B", "tie"]
Winner = Literal["first", "second", "tie"]

_RESAMPLES = 400


class PairwiseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One pair of answers to the same question.

    Attributes:
        id: the question's.
        first, second: who wrote them.
        forward: the verdict with the first answer as A; None when it could not be read.
        backward: the verdict with the first answer as B.
        words: how long the two answers are.
        people: who people found better, where that is known.
        category: what kind of question it is.
    """

    id: str
    first: str = "first"
    second: str = "second"
    forward: Label | None
    backward: Label | None
    words: tuple[int, int] = (0, 0)
    people: Winner | None = None
    category: str = ""

    @property
    def winner(self) -> Winner | None:
        """Who won; None when a verdict could not be read."""
        return decide(self.forward, self.backward)


class PairwiseReport(msgspec.Struct, frozen=True, kw_only=True):
    """Many pairs of the same two, or of anybody.

    Attributes:
        pairs: how many there were.
        unparsed: those without a readable verdict in both orders.
        wins, ties, losses: of the first against the second.
        win_rate: of the first, a tie counting half.
        length_controlled: the win rate if both answers were equally long: logistic regression on
            the tanh of the standardised difference in words (after Dubois et al. 2024,
            arXiv:2404.04475); None where lengths do not vary.
        length_slope: by how much that raises the log odds for one standard deviation more words.
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
    """Who won both orders; a tie when they contradict each other or say so."""
    if forward is None or backward is None:
        return None
    if forward == "A" and backward == "B":
        return "first"
    if forward == "B" and backward == "A":
        return "second"
    return "tie"


def summarise(bouts: Sequence[PairwiseComparison]) -> PairwiseReport:
    """The numbers of many pairs; everything is from the first answer's side."""
    read = [(bout, bout.winner) for bout in bouts]
    decided = [(bout, winner) for bout, winner in read if winner is not None]
    credit = [_credit(winner) for _, winner in decided]
    flips = sum(bout.forward == bout.backward and bout.forward != "tie" for bout, _ in decided)
    verdicts = [one for bout in bouts for one in (bout.forward, bout.backward) if one is not None]
    named = [one for one in verdicts if one != "tie"]
    controlled, slope = _length_controlled(
        [bout.words[0] - bout.words[1] for bout, _ in decided], credit
    )
    known = [(bout, winner) for bout, winner in decided if bout.people is not None]
    settled = [(bout, winner) for bout, winner in known if bout.people != "tie"]
    return PairwiseReport(
        pairs=len(bouts),
        unparsed=len(bouts) - len(decided),
        wins=credit.count(1.0),
        ties=credit.count(0.5),
        losses=credit.count(0.0),
        win_rate=intervals.mean_interval(credit),
        length_controlled=controlled,
        length_slope=slope,
        flip_rate=intervals.wilson(flips, len(decided)),
        position_a=intervals.wilson(named.count("A"), len(named)),
        agreement=_share([winner == bout.people for bout, winner in known]) if known else None,
        accuracy=intervals.mean_interval(
            [0.5 if winner == "tie" else float(winner == bout.people) for bout, winner in settled]
        )
        if settled
        else None,
        one_order=intervals.mean_interval(
            [
                0.5
                if bout.forward == "tie"
                else float((bout.forward == "A") == (bout.people == "first"))
                for bout, _ in settled
            ]
        )
        if settled
        else None,
    )


def _credit(winner: Winner) -> float:
    return {"first": 1.0, "tie": 0.5, "second": 0.0}[winner]


def _share(hits: Sequence[bool]) -> Interval:
    return intervals.wilson(sum(hits), len(hits))


def _length_controlled(
    longer: Sequence[float], credit: Sequence[float]
) -> tuple[Interval, Interval]:
    """Win rate at equal length, and the slope, each with its interval."""
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
    """Intercept and slope by Newton's method; a weak prior keeps separated data finite."""
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
