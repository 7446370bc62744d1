"""Judges' means that people's labels correct, and their differences, with intervals and tests.

    corrected_mean(judge, people)       -> Corrected(mean=..., raw=..., labelled=100, power=0.8)
    corrected_interval(rows, ...)       -> the same, of the rows that `ppi_statistics` makes
    corrected_difference(a, b, ...)     -> Paired(difference=..., low=..., high=..., p_value=...)

With fewer than `FEWEST_LABELS` labels, or `FEWEST_CLUSTERS` effective clusters (of the labels or of
all samples), there is no interval and nothing is tested.

The estimate is that of `prediction_powered.py`: the mean of what is left of people's scores without
a part of the judge's, and that part of the judge's mean. The first is a mean of few numbers, nearly
all of them alike where a judge is hardly ever wrong, so it has the interval (for a difference the
test) that means of such numbers have elsewhere; the distances of its ends and those of the judge's
mean add up as squares do (MOVER; Zou and Donner 2008, Statistics in Medicine 27:1693-1702).
Where labelled samples count differently, or are in clusters, what each adds is summed up instead,
and the sum has Student's distribution with the degrees of freedom of the labels. Interval and
p-values of a difference are always of one test.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluators.stats.always_valid import AsymptoticTest
from evaluators.stats.differences import Paired, PairedTests
from evaluators.stats.intervals import (
    FEWEST_CLUSTERS,
    ROUNDING,
    Interval,
    Method,
    cluster_index,
    clustered_error,
    effective_clusters,
    matrix,
    mean_interval,
    within,
)
from evaluators.stats.inversion import (
    BoundedTest,
    DifferenceMethod,
    DifferenceTest,
    EveryTest,
    NoTest,
    StudentTest,
    Tails,
    UnseenTest,
    boundary,
    mean_test,
)
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
# Smaller p-values are not told apart.
_SMALLEST = 1e-9
_LOG_SMALLEST = math.log(_SMALLEST)
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
    if clusters is None and linear.even and not always_valid:
        ends, method = _mean_ends(linear, low, high, level)
    else:
        test = _test(linear, [linear], clusters, room, always_valid=always_valid)
        ends, method = test.interval(level), _METHODS.get(test.method, "none")
    smallest, largest = -math.inf if low is None else low, math.inf if high is None else high
    interval = Interval(
        # People's mean is one of their scores at most, whatever the estimate makes of it.
        estimate=min(largest, max(smallest, linear.estimate)),
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
        n=len(given),
        method=method,
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
    if not len(matrix(a)):
        return None
    tests = corrected_tests(a, b, clusters=clusters, width=width, always_valid=always_valid)
    return tests.paired(level=level, margin=margin)


def corrected_tests(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    width: float | None = None,
    always_valid: bool = False,
) -> PairedTests:
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
        powers=np.concatenate([ours.powers, theirs.powers]),
        rest=ours.rest - theirs.rest,
        predicted=ours.predicted - theirs.predicted,
        # Samples that people scored on one side only have no difference of their own.
        even=ours.even and theirs.even and bool((ours.labelled == theirs.labelled).all()),
    )
    room = None if width is None else (difference + width, width - difference)
    units, error = _error(gap, [ours, theirs], clusters)[:2]
    test: DifferenceTest
    if clusters is None and gap.even and not always_valid:
        test = _paired_test(gap, width, error)
    else:
        test = _test(gap, [ours, theirs], clusters, room, always_valid=always_valid)
    margin: DifferenceTest = test
    if width is not None and not isinstance(test, NoTest):
        margin = EveryTest([test, UnseenTest(difference, error, units, width)], units=units)
    limit = math.inf if width is None else width
    return PairedTests(
        test,
        margin,
        units,
        len(matrix(a)),
        max(-limit, min(limit, difference)),
        error * units**0.5 if error else None,
        width,
    )


def _mean_ends(
    linear: Linearised, low: float | None, high: float | None, level: float
) -> tuple[tuple[float, float] | None, Method]:
    """Return the interval of a corrected mean whose labels count alike, and its method."""
    floor = ceiling = None
    if low is not None and high is not None:
        corners = [
            people - power * judge
            for people in (low, high)
            for judge in (low, high)
            for power in linear.powers.tolist()
        ]
        floor, ceiling = min(corners), max(corners)
    values = linear.rest[linear.labelled]
    if len(values) < FEWEST_LABELS:
        return None, "none"
    rest = mean_interval(values, level=level, low=floor, high=ceiling)
    if rest.low is None or rest.high is None or rest.estimate is None:
        return None, "none"
    half = _half(linear, level)
    return (
        linear.estimate - math.hypot(rest.estimate - rest.low, half),
        linear.estimate + math.hypot(rest.high - rest.estimate, half),
    ), rest.method


def _half(linear: Linearised, level: float) -> float:
    """Return half the width of the interval of the judge's part."""
    error = math.sqrt(float((linear.predicted**2).sum()))
    return NormalDist().inv_cdf(0.5 + level / 2) * error


class _SummedTest:
    """The sum of a mean that is tested and of the judge's part, whose error is normal.

    A value is rejected at the levels at which the interval leaves it out.
    """

    def __init__(self, rest: DifferenceTest, mean: float, linear: Linearised, error: float) -> None:
        self._rest, self._mean, self._linear, self._error = rest, mean, linear, error

    @property
    def method(self) -> DifferenceMethod:
        """The name of the test of the mean."""
        return self._rest.method

    def scaled(self, ratio: float, luck: float) -> DifferenceTest:
        """Return the test of other data that are alike, with their error alone."""
        if not self._error:
            return self._rest.scaled(ratio, luck)
        units = int(self._linear.labelled.sum())
        student = StudentTest(self._linear.estimate, self._error, units - 1)
        return student.scaled(ratio, luck)

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the differences that the test does not reject."""
        ends = self._rest.interval(level)
        if ends is None:
            return None
        half, estimate = _half(self._linear, level), self._linear.estimate
        return (
            estimate - math.hypot(self._mean - ends[0], half),
            estimate + math.hypot(ends[1] - self._mean, half),
        )

    def tails(self, value: float) -> Tails:
        """Return the one-sided p-values of a true difference of `value`."""
        if self.interval(_LEVEL) is None:
            return Tails(1.0, 1.0)
        estimate = self._linear.estimate
        if value == estimate:
            return Tails(0.5, 0.5)

        def rejected(alpha: float) -> bool:
            ends = self.interval(1 - alpha)
            return ends is not None and (value < ends[0] if value < estimate else value > ends[1])

        if rejected(_SMALLEST):
            tail = _SMALLEST / 2
        else:
            tail = math.exp(boundary(lambda log: rejected(math.exp(log)), 0.0, _LOG_SMALLEST)) / 2
        return Tails(tail, 1 - tail) if value < estimate else Tails(1 - tail, tail)


def _paired_test(gap: Linearised, width: float | None, error: float) -> DifferenceTest:
    """Return the test of a difference of which the same samples have labels on both sides."""
    values = gap.rest[gap.labelled]
    if len(values) < FEWEST_LABELS:
        return NoTest()
    room = None if width is None else width * (1 + float(gap.powers.max()))
    test = mean_test(values, low=None if room is None else -room, high=room)
    return _SummedTest(test, float(values.mean()), gap, error)


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
