"""The estimate of a route's score of one output with its interval, of all samples or of some."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluators.base import Output
from evaluators.stats import intervals
from evaluators.stats.always_valid import always_valid_interval, widened
from evaluators.stats.comparison import Clusters, SampleScores, clusters_of
from evaluators.stats.corrected_means import corrected_interval
from evaluators.stats.prediction_powered import labelled_rows, means_of_labelled
from evaluators.stats.variance import Variance, split_variance

FEW_SAMPLES = 20
"""Of fewer samples, bootstrap intervals tend to be too narrow, and readers are warned."""


class CellScores(NamedTuple):
    """The scores of single answers: the number of each one's sample, and its value, aligned."""

    samples: ArrayLike
    values: ArrayLike


class ScoreEstimate(NamedTuple):
    """An estimate; the fields are as in `RouteScore`.

    Attributes:
        interval: the estimate with its interval.
        n, clusters, effective_clusters, variance, labelled, people, judge: as there.
    """

    interval: intervals.Interval
    n: int
    clusters: int | None = None
    effective_clusters: float | None = None
    variance: Variance | None = None
    labelled: int | None = None
    people: float | None = None
    judge: float | None = None


def score_estimate(
    output: Output,
    cells: CellScores,
    scores: SampleScores,
    clusters: Clusters,
    *,
    seed: int,
    always_valid: bool,
) -> ScoreEstimate:
    """Estimate a route's score.

    Args:
        output: the score.
        cells: of each answer.
        scores: the same, averaged over repeats.
        clusters: which cluster each sample belongs to; None when each stands alone.
        seed: of the resampling.
        always_valid: whether the interval has to hold although the run was looked at before.
    """
    variance = None if output.corpus else split_variance(*cells)
    noise = 0.0 if variance is None else variance.noise
    interval = _interval(
        output, scores, clusters, seed=seed, always_valid=always_valid, noise=noise
    )
    chosen = clusters_of(clusters, scores.present)
    labelled, means = None, None
    if output.corrects:
        rows = scores.statistics[scores.present]
        labelled, means = int(labelled_rows(rows).sum()), means_of_labelled(rows)
    people, judge = means or (None, None)
    return ScoreEstimate(
        interval=interval,
        n=int(np.count_nonzero(scores.present)),
        clusters=None if clusters is None else interval.n,
        effective_clusters=intervals.effective_clusters(chosen) if chosen else None,
        variance=variance,
        labelled=labelled,
        people=people,
        judge=judge,
    )


def _interval(
    output: Output,
    scores: SampleScores,
    clusters: Clusters,
    *,
    seed: int,
    always_valid: bool,
    noise: float,
) -> intervals.Interval:
    values = scores.values[scores.present]
    chosen = clusters_of(clusters, scores.present)
    if output.corrects:
        corrected = corrected_interval(
            scores.statistics[scores.present],
            clusters=chosen,
            low=output.low,
            high=output.high,
            always_valid=always_valid,
        )
        return (
            corrected.mean
            if corrected
            else intervals.Interval(estimate=None, low=None, high=None, n=0)
        )
    if output.corpus is not None:
        rows = scores.statistics[scores.present]
        interval = intervals.corpus_interval(rows, output.corpus, clusters=chosen, seed=seed)
        if always_valid:
            interval = widened(interval)
        return intervals.within(interval, output.low, output.high)
    if always_valid:
        interval = always_valid_interval(values, clusters=chosen, low=output.low, high=output.high)
        return intervals.within(interval, output.low, output.high)
    return intervals.mean_interval(
        values, clusters=chosen, low=output.low, high=output.high, noise=noise
    )
