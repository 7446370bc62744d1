"""Plans which answers people should score next, so that a corrected mean becomes exact enough.

    plan = plan_labels(judge, uncertainty, people, width=0.1, seed=0)
    plan.needed          # 240 labels in all
    plan.chosen          # the answers to label now
    plan.probabilities   # for each answer, how likely it is to have a label then

Answers are drawn with a probability that grows with the judge's uncertainty, because there its
error is largest (Zrnic and Candès 2024, Active Statistical Inference, arXiv:2403.03208). Half of
the chances are equal for all answers, so that no label weighs too much and no answer is out of
reach. The estimate stays right, because each label counts by the inverse of its probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import t_quantile
from evaluators.stats.prediction_powered import FEWEST_LABELS, best_power
from evaluators.stats.resampling import Floats

_STEPS = 30  # halvings of the number of labels


class LabelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The answers that people should score.

    Attributes:
        needed: labels in all, those that are there included.
        expected_width: the width that so many labels are expected to give; it is larger than
            requested where even all answers do not suffice.
        error: the standard deviation of people's scores around what the judge's say of them, which
            the plan goes by.
        measured: whether the error is that of earlier labels; otherwise it is taken to be as
            large as the spread of the judge's scores, with which the judge would be of no use.
        chosen: the places of the answers to label now, in order.
        probabilities: for each answer, the probability with which it has a label once these are
            labelled too.
    """

    needed: int
    expected_width: float
    error: float
    measured: bool
    chosen: tuple[int, ...]
    probabilities: tuple[float, ...]


def plan_labels(
    judge: Sequence[float],
    uncertainty: Sequence[float],
    people: Sequence[float | None],
    *,
    width: float,
    earlier: Sequence[float] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> LabelPlan:
    """Choose the answers to label for an interval of a width.

    Args:
        judge: the judge's score of each answer.
        uncertainty: how uncertain each score is, in any unit; all the same where it is unknown.
        people: people's scores so far, None where an answer has none yet.
        width: the difference between the ends of the interval.
        earlier: the probability with which each answer was chosen for the labels so far; None
            when they are a simple random sample.
        seed: of the draw.
        level: the level of the interval.

    Raises:
        ValueError: no answers, or a width that is not above 0.
    """
    if not judge or width <= 0:
        raise ValueError("a plan needs answers, and a width above 0")
    scores, unsure = np.asarray(judge, dtype=np.float64), np.asarray(uncertainty, dtype=np.float64)
    total = len(scores)
    labelled = np.array([given is not None for given in people], dtype=bool)
    before = (
        np.full(total, labelled.mean())
        if earlier is None
        else np.asarray(earlier, dtype=np.float64)
    )
    shares = _shares(unsure)
    known = _Known.of(scores, people, before) if labelled.sum() >= FEWEST_LABELS else None

    def expected(more: Floats) -> float:
        """Return the width that labels with these chances are expected to give."""
        chances = _either(before, more)
        odds = (1 - chances) / np.maximum(chances, 1e-12)
        labels = float(chances.sum())
        if known is None:
            people_vary = float(scores.var())
            rest = people_vary * float((_profile(unsure) * odds).mean())
        else:
            people_vary = known.people_vary
            rest = known.unexplained(labels, total, odds)
        half = t_quantile(0.5 + level / 2, max(1.0, labels - 1)) * math.sqrt(
            (people_vary + rest) / total
        )
        return 2 * half

    more = np.zeros(total)
    # By chance there may be half as many as are expected, and below that nothing is corrected.
    fewest = min(total, 2 * FEWEST_LABELS)
    if before.sum() < fewest or known is None or expected(more) > width:
        few, many = 0.0, float(total)
        for _ in range(_STEPS):
            middle = (few + many) / 2
            more = _chances(shares, middle)
            if _either(before, more).sum() < fewest or expected(more) > width:
                few = middle
            else:
                many = middle
        more = np.ones(total) if expected(np.ones(total)) > width else _chances(shares, many)
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.random(total) < more
    chances = _either(before, more)
    return LabelPlan(
        needed=max(int(labelled.sum()), round(float(chances.sum()))),
        expected_width=expected(more),
        error=float(scores.std()) if known is None else known.error(float(chances.sum()), total),
        measured=known is not None,
        chosen=tuple(np.flatnonzero(drawn & ~labelled).tolist()),
        probabilities=tuple(chances.tolist()),
    )


class _Known(NamedTuple):
    """What earlier labels say.

    Attributes:
        places: of the answers with a label.
        weights: what each of them counts, in all 1.
        judge, people: their scores, less the means.
    """

    places: NDArray[np.intp]
    weights: Floats
    judge: Floats
    people: Floats

    @classmethod
    def of(cls, scores: Floats, people: Sequence[float | None], chances: Floats) -> _Known:
        given = [(place, score) for place, score in enumerate(people) if score is not None]
        places = np.array([place for place, _ in given], dtype=np.intp)
        truth = np.array([score for _, score in given])
        weights = 1 / np.maximum(chances[places], 1e-12)
        weights /= weights.sum()
        judged = scores[places]
        return cls(places, weights, judged - weights @ judged, truth - weights @ truth)

    @property
    def people_vary(self) -> float:
        """Return the variance of people's scores."""
        n = len(self.places)
        return float(self.weights @ self.people**2) * n / (n - 1)

    def _squares(self, labels: float, total: int) -> Floats:
        """Return the squares of what the judge leaves unexplained with so many labels."""
        shared = float(self.weights @ (self.judge * self.people))
        variance = float(self.weights @ self.judge**2)
        rest = self.people - best_power(shared, variance, labels, total) * self.judge
        n = len(self.places)
        # Two means and a slope were fitted to them.
        squares: Floats = rest**2 * n / (n - 2)
        return squares

    def unexplained(self, labels: float, total: int, odds: Floats) -> float:
        """Return the mean of those squares over all answers, each times its odds of no label."""
        return float(self.weights @ (self._squares(labels, total) * odds[self.places]))

    def error(self, labels: float, total: int) -> float:
        """Return the standard deviation of what the judge leaves unexplained."""
        return math.sqrt(float(self.weights @ self._squares(labels, total)))


def _either(before: Floats, more: Floats) -> Floats:
    """Return the probability of being drawn in one of two draws, or in both."""
    chances: Floats = 1 - (1 - before) * (1 - more)
    return chances


def _profile(uncertainty: Floats) -> Floats:
    """Return the squared error of each answer, relative to the mean one."""
    squares = uncertainty**2
    mean = float(squares.mean())
    # Half of the error is taken to be the same everywhere: an even judge may be wrong too.
    return 0.5 + 0.5 * squares / mean if mean > 0 else np.ones(len(squares))


def _shares(uncertainty: Floats) -> Floats:
    """Return the share of the labels that each answer may expect; they add up to 1."""
    total = len(uncertainty)
    summed = float(uncertainty.sum())
    if summed <= 0:
        return np.full(total, 1 / total)
    return 0.5 / total + 0.5 * uncertainty / summed


def _chances(shares: Floats, labels: float) -> Floats:
    """Return probabilities that add up to the number of labels, none of them above 1."""
    chances = shares * labels
    for _ in range(len(shares)):
        certain = chances >= 1
        rest = labels - certain.sum()
        if not certain.any() or certain.all() or math.isclose(chances[~certain].sum(), rest):
            break
        chances = np.where(certain, 1.0, chances * rest / chances[~certain].sum())
    return np.clip(chances, 0.0, 1.0)
