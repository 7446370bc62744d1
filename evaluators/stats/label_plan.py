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

import msgspec
import numpy as np

from evaluators.stats.intervals import t_quantile
from evaluators.stats.resampling import Floats

# Fewer labels than this say too little of the error to plan by it.
_ENOUGH = 10


class LabelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The answers that people should score.

    Attributes:
        needed: labels in all, those that are there included.
        expected_width: the width that so many labels are expected to give; it is larger than
            requested where even all answers do not suffice.
        error: the standard deviation of the judge's error that the plan goes by.
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
    error, measured = _error(scores, people)
    variance = (width / 2 / t_quantile(0.5 + level / 2, 1e6)) ** 2
    shares = _shares(unsure)
    # The variance of the mean is this over the number of labels, and that of the judge's scores.
    design = float((error**2 * _profile(unsure) / shares).mean()) / total
    spread = float(scores.var()) / total if measured else 0.0
    labels = design / (variance - spread) if variance > spread else math.inf
    needed = total if labels >= total else max(2, math.ceil(labels), int(labelled.sum()))
    more = _chances(shares, needed - int(labelled.sum()))
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.random(total) < more
    before = (
        np.full(total, labelled.mean())
        if earlier is None
        else np.asarray(earlier, dtype=np.float64)
    )
    rest = 0.0 if needed == total else design / needed
    half = t_quantile(0.5 + level / 2, max(1, needed - 1)) * math.sqrt(spread + rest)
    return LabelPlan(
        needed=needed,
        expected_width=2 * half,
        error=error,
        measured=measured,
        chosen=tuple(np.flatnonzero(drawn & ~labelled).tolist()),
        probabilities=tuple((1 - (1 - before) * (1 - more)).tolist()),
    )


def _error(scores: Floats, people: Sequence[float | None]) -> tuple[float, bool]:
    """Return the standard deviation of the judge's error, and whether it was measured."""
    errors = [
        given - float(score)
        for score, given in zip(scores, people, strict=True)
        if given is not None
    ]
    if len(errors) < _ENOUGH:
        return float(scores.std()), False
    return float(np.std(errors, ddof=1)), True


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


def _chances(shares: Floats, labels: int) -> Floats:
    """Return probabilities that add up to the number of labels, none of them above 1."""
    chances = shares * labels
    for _ in range(len(shares)):
        certain = chances >= 1
        rest = labels - certain.sum()
        if not certain.any() or certain.all() or math.isclose(chances[~certain].sum(), rest):
            break
        chances = np.where(certain, 1.0, chances * rest / chances[~certain].sum())
    return np.clip(chances, 0.0, 1.0)
