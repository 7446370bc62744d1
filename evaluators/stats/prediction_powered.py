"""Corrects the mean of a judge's scores by people's scores of some of the same answers.

    rows = [ppi_statistics(judge, people, fold), ...]
    ppi_of_sums(sum(rows))              -> the estimate of people's mean
    linearised(rows)                    -> the same, and what each row contributes to its error
    corrected_share(0.62, 2000, ...)    -> the share of good answers, with labels from elsewhere

`corrected_means.py` has the intervals and tests.

A judge's mean is an estimate of the judge's mean, however many answers it scores. People's scores
of a random part of the answers say how far that is from theirs. PPI++ (Angelopoulos, Duchi and
Zrnic 2023, arXiv:2311.01453) adds that difference to the judge's mean, and takes as much of the
judge's scores as helps: of a judge that knows nothing, nothing, so that the interval is hardly ever
wider than that of people's scores alone. The share is that of Rogan and Gladen (1978, Am. J.
Epidemiol. 107:71-76), for labels that are of other answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import Interval, t_quantile
from evaluators.stats.resampling import Floats

FEWEST_LABELS = 10
"""With fewer labels, too little is known of how far a judge is from people to correct it."""

FOLDS = 5
"""The parts of the labelled answers; the power of each is computed from the others."""

# Of a fold: how many answers the judge's mean is of, and the sum of their scores; of the labelled
# ones the sums of the weights, the judge's scores, people's, the judge's squares and the products,
# each by weight; how many labelled ones there are.
_WIDTH = 8


def best_power(shared: float, variance: float, labelled: float, unlabelled: float) -> float:
    """Return how much of a judge's scores makes the variance of the estimate least, from 0 to 1.

    Args:
        shared: the covariance of people's scores with the judge's.
        variance: of the judge's scores.
        labelled: how many answers people score.
        unlabelled: how many answers the judge's mean is of.
    """
    if unlabelled <= 0 or variance <= 0:
        return 0.0
    return min(1.0, max(0.0, shared / ((1 + labelled / unlabelled) * variance)))


def ppi_statistics(
    judge: float, people: float | None, fold: int, *, probability: float | None = None
) -> tuple[float, ...]:
    """Return what one answer contributes to `ppi_of_sums`.

    Args:
        judge: the judge's score.
        people: people's score; None without one.
        fold: a number that is the same for answers that belong together.
        probability: that with which the answer was chosen for people; None where it was the same
            for all.
    """
    # Where answers were not chosen alike, those without a label are another kind of answers.
    over = (1.0, judge) if people is None or probability is not None else (0.0, 0.0)
    of_fold = (*over, *(0.0,) * (_WIDTH - 2))
    if people is not None:
        weight = 1 / probability if probability is not None else 1.0
        sums = (1.0, judge, people, judge * judge, judge * people)
        of_fold = (*over, *(weight * value for value in sums), 1.0)
    before = _WIDTH * (fold % FOLDS)
    return (0.0,) * before + of_fold + (0.0,) * (_WIDTH * (FOLDS - 1) - before)


def rows_of(
    judge: Floats,
    people: Sequence[float | None],
    folds: NDArray[np.intp],
    probabilities: Sequence[float] | None = None,
) -> Floats:
    """Return `ppi_statistics` of many answers, one row for each.

    Raises:
        ValueError: an answer with people's score had no chance of getting one.
    """
    total = len(judge)
    labelled = np.array([given is not None for given in people], dtype=bool)
    truth = np.array([0.0 if given is None else given for given in people], dtype=np.float64)
    over = ~labelled if probabilities is None else np.ones(total, dtype=bool)
    weights = labelled.astype(np.float64)
    if probabilities is not None:
        chances = np.asarray(probabilities, dtype=np.float64)
        if (chances[labelled] <= 0).any():
            raise ValueError("an answer with a label had no chance of getting one")
        weights[labelled] /= chances[labelled]
    sums = np.stack([np.ones(total), judge, truth, judge * judge, judge * truth], axis=1)
    rows = np.zeros((total, FOLDS, _WIDTH))
    contributions = np.hstack(
        [(over * np.stack([np.ones(total), judge])).T, weights[:, None] * sums, labelled[:, None]]
    )
    rows[np.arange(total), folds % FOLDS] = contributions
    return rows.reshape(total, FOLDS * _WIDTH)


def labelled_rows(rows: Floats) -> NDArray[np.bool_]:
    """Return, for each row of `ppi_statistics`, whether it has people's score."""
    if not rows.size:
        return np.zeros(len(rows), dtype=bool)
    labelled: NDArray[np.bool_] = rows.reshape(len(rows), -1, _WIDTH)[:, :, 7].sum(axis=1) > 0
    return labelled


def means_of_labelled(rows: Floats) -> tuple[float, float] | None:
    """Return people's mean and the judge's over the rows that people scored; None without any.

    Rows count by one over the probability with which they were chosen, where it differs.
    """
    _, _, weight, judge, people, *_ = rows.reshape(-1, _WIDTH).sum(axis=0).tolist()
    return (people / weight, judge / weight) if weight else None


class Linearised(NamedTuple):
    """An estimate, and what each row contributes to its error.

    Attributes:
        estimate: that of `ppi_of_sums`.
        influence: one number for each row; the sum is zero, and the sum of their squares the
            variance of the estimate.
        labelled: for each row, whether it has people's score.
        agreed: whether people and judge gave the same score wherever people gave one.
        power: how much of the judge's scores the estimate uses, from 0 to 1.
        powers: the same for each fold.
        rest: what is left of people's score of each row without that part of the judge's; 0 for a
            row without a label. The estimate is the mean of the rest, plus the judge's part.
        predicted: the part of `influence` that is the judge's.
        even: whether every labelled row counts alike, and none of them is in the judge's part too.
    """

    estimate: float
    influence: Floats
    labelled: NDArray[np.bool_]
    agreed: bool
    power: float
    powers: Floats
    rest: Floats
    predicted: Floats
    even: bool


def linearised(rows: Floats) -> Linearised:
    """Return the estimate from rows of `ppi_statistics`, shape (n, k), and each row's part in it.

    The power is taken as given: that it is computed from the same answers changes the error by less
    than its own error (Angelopoulos, Duchi and Zrnic 2023, theorem 1).
    """
    by_fold = rows.reshape(len(rows), FOLDS, _WIDTH)
    folds = by_fold.sum(axis=0)
    over, predicted, weight, _, _, _, _, labelled = folds.sum(axis=0).tolist()
    estimate = ppi_of_sums(rows.sum(axis=0).tolist())
    has_label = labelled_rows(rows)
    errors = by_fold[:, :, 4].sum(axis=1) - by_fold[:, :, 3].sum(axis=1)
    agreed = bool(has_label.any()) and not np.abs(errors[has_label]).max() > 1e-9
    if not weight:
        influence = (by_fold[:, :, 1] - by_fold[:, :, 0] * estimate).sum(axis=1)
        influence = influence / over if over else influence
        return Linearised(
            estimate=estimate,
            influence=influence,
            labelled=has_label,
            agreed=agreed,
            power=1.0,
            powers=np.ones(FOLDS),
            rest=np.zeros(len(rows)),
            predicted=influence,
            even=False,
        )
    powers = np.zeros(FOLDS)
    if over:
        total = folds.sum(axis=0)
        powers = np.array([_power_of_sums(total - fold, labelled, over) for fold in folds])
    power = float(powers @ folds[:, 2]) / weight
    weighed = (by_fold[:, :, 4] - by_fold[:, :, 3] * powers).sum(axis=1)
    weights = by_fold[:, :, 2].sum(axis=1)
    mean = float(weighed.sum()) / weight
    of_judge = np.zeros(len(rows))
    if over:
        scores = by_fold[:, :, 1] - by_fold[:, :, 0] * (predicted / over)
        of_judge = power * scores.sum(axis=1) / over
    rest = np.zeros(len(rows))
    rest[has_label] = weighed[has_label] / weights[has_label]
    return Linearised(
        estimate=estimate,
        influence=(weighed - weights * mean) / weight + of_judge,
        labelled=has_label,
        agreed=agreed,
        power=power,
        powers=powers,
        rest=rest,
        predicted=of_judge,
        even=not by_fold[has_label, :, 0].any()
        and bool(np.ptp(weights[has_label]) <= 1e-9 * weights[has_label].max()),
    )


def ppi_of_sums(sums: Sequence[float]) -> float:
    """Compute the estimate of people's mean from sums; the judge's mean without labels."""
    folds = np.asarray(sums, dtype=np.float64).reshape(FOLDS, _WIDTH)
    together = folds.sum(axis=0)
    over, predicted, weight, _, people, _, _, labelled = together
    if not weight:
        return float(predicted / over) if over else 0.0
    estimate = float(people / weight)
    if not over:
        return estimate
    for fold in folds:
        power = _power_of_sums(together - fold, float(labelled), float(over))
        estimate += power * float(fold[2] / weight * predicted / over - fold[3] / weight)
    return float(estimate)


def _power_of_sums(others: Floats, labelled: float, unlabelled: float) -> float:
    _, _, weight, judge, people, squares, products, count = others
    if count < 2:
        return 0.0
    shared = products / weight - judge / weight * people / weight
    return best_power(shared, squares / weight - (judge / weight) ** 2, labelled, unlabelled)


def corrected_share(
    passed: float,
    judged: float,
    *,
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
    level: float = 0.95,
) -> Interval | None:
    """Estimate the share of good answers when the labels are of other answers than those judged.

    Args:
        passed: the number of answers that the judge finds good.
        judged: the number of answers that it judged.
        sensitivity: of answers that people find good, those that the judge does, and all of them.
        specificity: of answers that people find bad, those that the judge does, and all of them.
        level: the level of the interval, by the delta method (Lang and Reiczigel 2014, Prev. Vet.
            Med. 113:13-22, for judges Lee et al. 2026, arXiv:2511.21140: with one pseudo-answer
            each way in the labels, two in the judged).

    Answers that depend on each other count as fewer, so the counts need not be whole numbers.
    None where the judge is not clearly better than chance: its answers then say nothing.
    """
    z = t_quantile(0.5 + level / 2, 1e6)
    se, se_n = (sensitivity[0] + 1) / (sensitivity[1] + 2), sensitivity[1] + 2
    sp, sp_n = (specificity[0] + 1) / (specificity[1] + 2), specificity[1] + 2
    p, p_n = (passed + z * z / 2) / (judged + z * z), judged + z * z
    youden = se + sp - 1
    spread = se * (1 - se) / se_n + sp * (1 - sp) / sp_n
    if not judged or youden <= z * math.sqrt(spread):
        return None
    share = (p + sp - 1) / youden
    variance = (
        p * (1 - p) / p_n
        + share**2 * se * (1 - se) / se_n
        + (1 - share) ** 2 * sp * (1 - sp) / sp_n
    ) / youden**2
    # Labels that miss by chance pull the share towards the middle of the scale.
    shift = 2 * z * z * (share * se * (1 - se) / se_n - (1 - share) * sp * (1 - sp) / sp_n)
    half = z * math.sqrt(variance)
    low, high = share + shift - half, share + shift + half
    raw = sensitivity[0] / sensitivity[1] + specificity[0] / specificity[1] - 1
    estimate = (passed / judged + specificity[0] / specificity[1] - 1) / raw
    estimate = min(1.0, max(0.0, estimate))
    return Interval(
        estimate=estimate,
        low=min(estimate, max(0.0, low)),
        high=max(estimate, min(1.0, high)),
        n=round(judged),
        method="t",
    )
