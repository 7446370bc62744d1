"""What a report says of one output: its description, and its score of one route."""

from __future__ import annotations

import math

import msgspec

from evaluators.stats import intervals
from evaluators.stats.variance import Variance


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A remark on some of the scores, and how many scores it is about."""

    text: str
    count: int


class RouteScore(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one route on one output.

    Attributes:
        output: the output's name.
        estimate: mean over samples, or the corpus score; None when nothing was scored.
        low, high: 95% interval; None when n is below 2.
        method: of the interval.
        n: samples with a score.
        scored: cells (sample and repeat) with a score.
        expected: cells that the run requests of the route.
        coverage: scored / expected.
        unscored: answers that have no score.
        example: why one of those has none, "" if no reason is known.
        notes: remarks on some of the scores, most frequent first.
        clusters: the number of clusters that the samples are in; None when each stands alone.
        effective_clusters: as many clusters of equal size would weigh as much.
        variance: of the scores, split in two; None without repeats and for corpus scores.
        labelled: of a judge's mean that people's labels correct: how many samples have labels; None
            for others.
        people, judge: the means of people's scores and of the judge's over these samples.
        withheld: why the route has no such score although its answers are scored, "" otherwise.
    """

    output: str
    estimate: float | None
    low: float | None
    high: float | None
    method: intervals.Method
    n: int
    scored: int
    expected: int
    coverage: float
    unscored: int
    example: str
    notes: tuple[Note, ...] = ()
    clusters: int | None = None
    effective_clusters: float | None = None
    variance: Variance | None = None
    labelled: int | None = None
    people: float | None = None
    judge: float | None = None
    withheld: str = ""


class OutputInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The description of an output for readers; fields as in `evaluators.base.Output`."""

    name: str
    metric: str
    higher_is_better: bool | None
    low: float | None
    high: float | None
    unit: str
    corpus: bool
    description: str
    corrects: str = ""
    raw: bool = False


def decimals(output: OutputInfo, *values: float | None) -> int:
    """Return suitable decimal places: 3 for 0..1, 2 for 0..100, else three digits in all."""
    if output.high == 1.0 and output.low in {0.0, -1.0}:
        return 3
    if (output.low, output.high) == (0.0, 100.0):
        return 2
    return three_digits(*values)


def three_digits(*values: float | None) -> int:
    """Return the decimal places with which the largest number has three digits; at most 9.

    Infinite values and NaN have no digits.
    """
    numbers = (abs(value) for value in values if value is not None)
    largest = max(filter(math.isfinite, numbers), default=0.0)
    if largest == 0.0:
        return 0
    return min(max(2 - math.floor(math.log10(largest)), 0), 9)
