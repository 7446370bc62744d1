"""Judges' means that people's labels correct, and their differences, with intervals and tests.

    corrected_mean(judge, people)       -> Corrected(mean=..., raw=..., labelled=100, power=0.8)
    corrected_interval(rows, ...)       -> the same, of the rows that `ppi_statistics` makes
    corrected_difference(a, b, ...)     -> Paired(difference=..., low=..., high=..., p_value=...)

With fewer than `FEWEST_LABELS` labels, or `FEWEST_CLUSTERS` effective clusters (of the labels or of
all samples), there is no interval and nothing is tested.

The estimate is that of `prediction_powered.py`. What each sample contributes to it is as good as
independent of the others, so that the sum over samples (or clusters) has Student's distribution,
with the degrees of freedom of the labelled ones: the unlabelled ones are far more, and the judge's
scores are all that is known of them. Interval and p-values of a difference are of that one test.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.stats.always_valid import AsymptoticTest
from evaluators.stats.differences import CorpusTests, Paired
from evaluators.stats.intervals import (
    FEWEST_CLUSTERS,
    ROUNDING,
    Interval,
    Method,
    cluster_index,
    clustered_error,
    effective_clusters,
    matrix,
    within,
)
from evaluators.stats.inversion import (
    BoundedTest,
    DifferenceTest,
    EveryTest,
    NoTest,
    StudentTest,
    UnseenTest,
    equivalence_p,
    p_value,
)
from evaluators.stats.power import minimum_detectable_effect
from evaluators.stats.prediction_powered import (
    FEWEST_LABELS,
    FOLDS,
    Linearised,
    linearised,
    rows_of,
)
from evaluators.stats.resampling import Floats
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM

_LEVEL = 0.95
_METHODS: dict[str, Method] = {"t": "t", "bounded": "bounded", "asymptotic": "asymptotic"}


class Corrected(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's mean, corrected by people's scores.

    Attributes:
        mean: the estimate of people's mean over all answers; `n` counts the answers.
        labelled: how many answers (of rows: samples) people scored.
        power: how much of the judge's scores the estimate uses, from 0 to 1.
    """

    mean: Interval
    labelled: int
    power: float


def corrected_mean(
    judge: Sequence[float],
    people: Sequence[float | None],
    *,
    clusters: Sequence[Hashable] | None = None,
    probabilities: Sequence[float] | None = None,
    low: float | None = None,
    high: float | None = None,
    level: float = _LEVEL,
) -> Corrected | None:
    """Estimate people's mean by PPI++ with cross-fitting; None without two labelled answers.

    Args:
        judge: the judge's score of each answer.
        people: people's score of each answer, None for one without a score; which ones were scored
            has to be random.
        clusters: the cluster of each answer, None when each stands alone. Folds are of clusters.
        probabilities: the probability with which each answer was chosen for people; None when it
            was the same for all.
        low: the lowest score; None without a limit.
        high: the highest.
        level: the level of the interval.
    """
    total = len(judge)
    labelled = np.array([given is not None for given in people], dtype=bool)
    if labelled.sum() < 2:
        return None
    index = (
        np.arange(total, dtype=np.intp) if clusters is None else cluster_index(clusters, total)[0]
    )
    # Labelled clusters are spread over the folds evenly.
    ranks = {cluster: rank for rank, cluster in enumerate(dict.fromkeys(index[labelled].tolist()))}
    folds = np.array([ranks.get(cluster, cluster) % FOLDS for cluster in index.tolist()])
    rows = rows_of(np.asarray(judge, dtype=np.float64), people, folds, probabilities)
    return corrected_interval(rows, clusters=clusters, low=low, high=high, level=level)


def corrected_interval(
    rows: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    low: float | None = None,
    high: float | None = None,
    always_valid: bool = False,
    level: float = _LEVEL,
) -> Corrected | None:
    """Return people's mean as rows of `ppi_statistics` estimate it; None without rows.

    Args:
        rows: one for each sample, shape (n, k).
        clusters: the cluster of each row; None when each stands alone.
        low: the lowest score; None without a limit.
        high: the highest.
        always_valid: whether the interval has to hold although it was looked at before.
        level: the level of the interval.
    """
    given = matrix(rows)
    if not len(given):
        return None
    linear = linearised(given)
    room = None if low is None or high is None else (linear.estimate - low, high - linear.estimate)
    test = _test(linear, [linear], clusters, room, always_valid=always_valid)
    ends = test.interval(level)
    smallest, largest = -math.inf if low is None else low, math.inf if high is None else high
    interval = Interval(
        # People's mean is one of their scores at most, whatever the estimate makes of it.
        estimate=min(largest, max(smallest, linear.estimate)),
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
        n=len(given),
        method=_METHODS.get(test.method, "none"),
    )
    return Corrected(
        mean=within(interval, low, high), labelled=int(linear.labelled.sum()), power=linear.power
    )


def corrected_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    width: float | None = None,
    margin: float | None = None,
    always_valid: bool = False,
    level: float = _LEVEL,
) -> Paired | None:
    """Return the difference of two corrected means a - b; None without samples.

    Args:
        a: rows of `ppi_statistics`, one for each sample, shape (n, k).
        b: the same, the samples in the same order.
        clusters: the cluster of each row; None when each stands alone.
        width: the largest difference that the scores' range allows; None without a range.
        margin: the largest difference that makes no difference to the user; None for none.
        always_valid: whether the numbers have to hold although they were looked at before.
        level: the level of the interval.
    """
    n = len(matrix(a))
    if n == 0:
        return None
    tests = corrected_tests(a, b, clusters=clusters, width=width, always_valid=always_valid)
    ends = tests.test.interval(level)
    limit = math.inf if width is None else width
    return Paired(
        difference=max(-limit, min(limit, tests.difference)),
        low=None if ends is None else max(-limit, ends[0]),
        high=None if ends is None else min(limit, ends[1]),
        p_value=p_value(tests.test),
        p_equivalence=None if margin is None else equivalence_p(tests.margin, margin),
        n=n,
        wins=None,
        ties=None,
        losses=None,
        effect_size=None,
        detectable=None
        if isinstance(tests.test, NoTest) or not tests.error
        else minimum_detectable_effect(tests.error * tests.units**0.5, tests.units),
        method=tests.test.method,
    )


def corrected_tests(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    width: float | None = None,
    always_valid: bool = False,
) -> CorpusTests:
    """Return the tests of `corrected_difference`, of the same arguments.

    The units are those with labels. A margin also allows for one more of them, on which people and
    judge differ by all that is possible.
    """
    ours, theirs = linearised(matrix(a)), linearised(matrix(b))
    difference = ours.estimate - theirs.estimate
    gap = Linearised(
        estimate=difference,
        influence=ours.influence - theirs.influence,
        labelled=ours.labelled | theirs.labelled,
        agreed=ours.agreed and theirs.agreed,
        power=min(ours.power, theirs.power),
    )
    room = None if width is None else (difference + width, width - difference)
    test = _test(gap, [ours, theirs], clusters, room, always_valid=always_valid)
    units, error = _error(gap, [ours, theirs], clusters)[:2]
    margin: DifferenceTest = test
    if width is not None and not isinstance(test, NoTest):
        margin = EveryTest([test, UnseenTest(difference, error, units, width)], units=units)
    return CorpusTests(test, margin, units, difference, error)


def _test(
    linear: Linearised,
    parts: Sequence[Linearised],
    clusters: Sequence[Hashable] | None,
    room: tuple[float, float] | None,
    *,
    always_valid: bool,
) -> DifferenceTest:
    """Return the test of an estimate.

    Args:
        linear: the estimate.
        parts: the estimates that it is the difference of, or itself.
        clusters: of the rows.
        room: how far the estimate is from the lower and the upper end of what is possible.
        always_valid: as above.
    """
    units, error, freedom = _error(linear, parts, clusters)
    labels = min(int(part.labelled.sum()) for part in parts)
    if labels < FEWEST_LABELS or units < 2 or (clusters is not None and freedom is None):
        return NoTest()
    estimate = linear.estimate
    nothing = error <= ROUNDING * max(1.0, abs(estimate))
    if always_valid:
        if units < ASYMPTOTIC_MINIMUM or nothing:
            return NoTest()
        return AsymptoticTest(estimate, error, units)
    student = None if nothing else StudentTest(estimate, error, freedom or units - 1)
    if not linear.agreed or room is None:
        return student or NoTest()
    # People and judge have never differed so far. How often they do is not zero for all that.
    bound = BoundedTest(
        np.array([estimate]),
        estimate - room[0],
        estimate + room[1],
        counts=np.array([units], dtype=np.float64),
    )
    if student is None:
        return bound
    wide, narrow = bound.interval(_LEVEL), student.interval(_LEVEL)
    return bound if wide[1] - wide[0] > narrow[1] - narrow[0] else student


def _error(
    linear: Linearised, parts: Sequence[Linearised], clusters: Sequence[Hashable] | None
) -> tuple[int, float, float | None]:
    """Return the number of labelled units, the standard error and its degrees of freedom.

    The degrees of freedom are those of the labelled clusters (Bell and McCaffrey); None where each
    sample stands alone, and where the clusters are too few.
    """
    counts = []
    freedoms: list[float | None] = []
    for part in parts:
        if clusters is None:
            counts.append(int(part.labelled.sum()))
            continue
        chosen = [
            cluster for cluster, has in zip(clusters, part.labelled.tolist(), strict=True) if has
        ]
        counts.append(len(set(chosen)))
        effective = min(effective_clusters(chosen), effective_clusters(clusters))
        few = len(set(chosen)) < 2 or effective < FEWEST_CLUSTERS
        values = part.influence[part.labelled]
        freedoms.append(None if few or not values.any() else clustered_error(values, chosen)[1])
    units = min(counts)
    if units < 2:
        return units, 0.0, None
    sums = _sums(linear.influence, clusters)
    error = math.sqrt(units / (units - 1) * float((sums**2).sum()))
    known = [freedom for freedom in freedoms if freedom is not None]
    return units, error, min(known) if known and len(known) == len(freedoms) else None


def _sums(values: Floats, clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    if clusters is None:
        return values
    sums = np.bincount(cluster_index(clusters, len(values))[0], weights=values)
    return sums.astype(np.float64)
