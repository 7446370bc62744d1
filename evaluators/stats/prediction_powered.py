"""Corrects the mean of a judge's scores by people's scores of some of the same answers.

    corrected_mean(judge, people)       -> Corrected(mean=..., raw=..., labelled=100, power=0.8)
    corrected_share(0.62, 2000, ...)    -> the share of good answers, with labels from elsewhere

A judge's mean is an estimate of the judge's mean, however many answers it scores. People's scores
of a random part of the answers say how far that is from theirs. PPI++ (Angelopoulos, Duchi and
Zrnic 2023, arXiv:2311.01453) adds that difference to the judge's mean, and takes as much of the
judge's scores as helps: of a judge that knows nothing, nothing, so that the interval is hardly ever
wider than that of people's scores alone. The share is that of Rogan and Gladen (1978, Am. J.
Epidemiol. 107:71-76), for labels that are of other answers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import msgspec
import numpy as np

from evaluators.stats.intervals import Interval, cluster_index, t_quantile
from evaluators.stats.resampling import Floats

FOLDS = 5
"""The parts of the labelled answers; the power of each is computed from the others."""

# Of a fold: how many answers the judge's mean is of, and the sum of their scores; of the labelled
# ones the sums of the weights, the judge's scores, people's, the judge's squares and the products,
# each by weight; how many labelled ones there are.
_WIDTH = 8


class Corrected(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's mean, corrected by people's scores.

    Attributes:
        mean: the estimate of people's mean over all answers; `n` counts the answers.
        raw: the judge's mean.
        labelled: how many answers people scored.
        power: how much of the judge's scores the estimate uses, from 0 to 1.
    """

    mean: Interval
    raw: float
    labelled: int
    power: float


def corrected_mean(
    judge: Sequence[float],
    people: Sequence[float | None],
    *,
    clusters: Sequence[Hashable] | None = None,
    probabilities: Sequence[float] | None = None,
    level: float = 0.95,
) -> Corrected | None:
    """Estimate people's mean by PPI++ with cross-fitting; None without two labelled answers.

    Args:
        judge: the judge's score of each answer.
        people: people's score of each answer, None for one without a score; which ones were scored
            has to be random.
        clusters: the cluster of each answer, None when each stands alone. Folds are of clusters.
        probabilities: the probability with which each answer was chosen for people; None when it
            was the same for all.
        level: the level of the interval.
    """
    scores = np.asarray(judge, dtype=np.float64)
    labelled = np.array([given is not None for given in people], dtype=bool)
    truth = np.array([given if given is not None else 0.0 for given in people], dtype=np.float64)
    n, total = int(labelled.sum()), len(scores)
    if n < 2:
        return None
    index = (
        np.arange(total, dtype=np.intp) if clusters is None else cluster_index(clusters, total)[0]
    )
    weights = _weights(labelled, probabilities)
    # Labelled clusters are spread over the folds evenly.
    ranks = {cluster: rank for rank, cluster in enumerate(dict.fromkeys(index[labelled].tolist()))}
    folds = np.array([ranks.get(cluster, cluster) % FOLDS for cluster in index.tolist()])
    powers = np.array(
        [_power(scores, truth, labelled & (folds != fold), n, total) for fold in range(FOLDS)]
    )
    power = float((weights * powers[folds])[labelled].sum() / weights[labelled].sum())
    over = np.ones(total, dtype=bool) if probabilities is not None else ~labelled
    if not over.any():
        over, power, powers = labelled, 0.0, np.zeros(FOLDS)
    predicted = float(scores[over].mean())
    rest = truth - powers[folds] * scores
    corrected = float((weights * rest)[labelled].sum() / weights[labelled].sum())
    estimate = power * predicted + corrected
    influence = np.where(labelled, weights * (rest - corrected) / weights[labelled].sum(), 0.0)
    influence += np.where(over, power * (scores - predicted) / over.sum(), 0.0)
    sums = np.bincount(index, weights=influence)
    groups = len(np.unique(index[labelled]))
    if groups < 2:
        interval = Interval(estimate=estimate, low=None, high=None, n=total)
    else:
        error = math.sqrt(groups / (groups - 1) * float((sums**2).sum()))
        half = t_quantile(0.5 + level / 2, groups - 1) * error
        interval = Interval(
            estimate=estimate, low=estimate - half, high=estimate + half, n=total, method="t"
        )
    return Corrected(mean=interval, raw=float(scores.mean()), labelled=n, power=power)


def _weights(labelled: np.ndarray, probabilities: Sequence[float] | None) -> Floats:
    if probabilities is None:
        return labelled.astype(np.float64)
    chances = np.asarray(probabilities, dtype=np.float64)
    if (chances[labelled] <= 0).any():
        raise ValueError("an answer with a label had no chance of getting one")
    return np.where(labelled, 1 / np.where(chances > 0, chances, 1.0), 0.0)


def _power(scores: Floats, truth: Floats, chosen: np.ndarray, labelled: int, total: int) -> float:
    """Return the power that minimises the variance, from labelled answers of other folds."""
    if chosen.sum() < 2:
        return 0.0
    by_judge, by_people = scores[chosen], truth[chosen]
    variance = float(by_judge.var())
    if variance <= 0:
        return 0.0
    shared = float(((by_judge - by_judge.mean()) * (by_people - by_people.mean())).mean())
    return _tuned(shared, variance, labelled, total - labelled)


def _tuned(shared: float, variance: float, labelled: float, unlabelled: float) -> float:
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


def ppi_of_sums(sums: Sequence[float]) -> float:
    """Compute the estimate of `corrected_mean` from sums; the judge's mean without labels."""
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
    return estimate


def _power_of_sums(others: Floats, labelled: float, unlabelled: float) -> float:
    _, _, weight, judge, people, squares, products, count = others
    if count < 2:
        return 0.0
    shared = products / weight - judge / weight * people / weight
    return _tuned(shared, squares / weight - (judge / weight) ** 2, labelled, unlabelled)


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
