"""Predicts scores and costs of targets from the nearest prompts that are known, and chooses one.

    model = NeighbourModel(examples, neighbours=50)
    choices = choose(model, model.predict(vectors), Criterion(at_least=0.8, confidence=0.9))

A target's score at a prompt is predicted by the mean of its scores at the nearest prompts that have
one (k nearest neighbours), with a one-sided bound of Student's t. Two observations with the
target's variance over all prompts are added to the variance of the neighbours, so that neighbours
that are all alike do not have a bound of width zero. A difference to another target is predicted
from the prompts that have the scores of both, where there are enough of them, and otherwise from
the two means.

The bound is that of one prediction; neighbours at some distance are not the prompt itself, so it
is not exact. What a policy is worth is shown by `held_out.py`, which assumes nothing of the kind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import t_quantile
from router.loop.learned.examples import Examples, Floats, Ints, Vectors, filled

PRIOR = 2.0
"""Observations with the variance over all prompts that are added to that of the neighbours."""

FEWEST_PAIRS = 30
"""With fewer prompts that have both scores, two targets are compared by their own means."""

_AT_ONCE = 256


class Criterion(NamedTuple):
    """When a target is good enough at a prompt.

    Attributes:
        at_least: its score is at least so much; None for a comparison with `reference`.
        within: its score is lower by at most so much than that of `reference`.
        reference: the position of the target that others are compared with; -1 for none.
        confidence: the chance with which that has to hold, by the bound of the prediction.
    """

    at_least: float | None = None
    within: float = 0.0
    reference: int = -1
    confidence: float = 0.9


class Predictions(NamedTuple):
    """What is predicted for m prompts and k targets.

    Attributes:
        scores, costs, seconds: shape (m, k); costs and seconds are NaN where no prompt has any.
        bounds: the lower bounds of the scores, or of the differences to the reference; shape
            (m, k).
        similarity: the cosine of the least similar of the neighbours, shape (m,).
    """

    scores: Floats
    costs: Floats
    seconds: Floats
    bounds: Floats
    similarity: Floats


class _Known(NamedTuple):
    """The rows in which something is known, with its values.

    Attributes:
        rows: their positions, shape (r,).
        values: shape (r,).
        variance: of the values.
        group: the same number for all that are known in the same rows.
    """

    rows: Ints
    values: Floats
    variance: float
    group: int


class NeighbourModel:
    """Predictions from the nearest prompts.

    Args:
        examples: what is known.
        criterion: when a target is good enough.
        neighbours: how many prompts a prediction is made of.

    Attributes:
        targets: `provider/model`.
        criterion: see above.
        dimensions: of the vectors.
    """

    def __init__(self, examples: Examples, criterion: Criterion, *, neighbours: int) -> None:
        self.targets = examples.targets
        self.criterion = criterion
        self.dimensions = examples.vectors.shape[1]
        self._k = neighbours
        self._vectors = examples.vectors
        k = len(examples.targets)
        groups: dict[bytes, int] = {}
        self._scores = [_known(examples.scores[:, n], groups) for n in range(k)]
        # Of each target a row, as predictions read them.
        self._costs = np.ascontiguousarray(filled(examples.costs).T)
        self._seconds = np.ascontiguousarray(filled(examples.seconds).T)
        self._differences: list[_Known | None] = [None] * k
        if criterion.reference >= 0:
            reference = examples.scores[:, criterion.reference]
            differences = [_known(examples.scores[:, n] - reference, groups) for n in range(k)]
            self._differences = [
                known if len(known.rows) >= FEWEST_PAIRS else None for known in differences
            ]

    def predict(self, vectors: Vectors) -> Predictions:
        """Return the predictions for prompts by their vectors, of length 1, shape (m, d)."""
        parts = [
            self._predict(vectors[start : start + _AT_ONCE])
            for start in range(0, len(vectors), _AT_ONCE)
        ]
        return Predictions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _predict(self, vectors: Vectors) -> Predictions:
        cosines = vectors @ self._vectors.T
        m, k = len(vectors), len(self.targets)
        scores, costs, seconds, bounds = (np.full((m, k), np.nan) for _ in range(4))
        errors = np.zeros((m, k))
        nearest: dict[int, Ints] = {}
        for n, known in enumerate(self._scores):
            near = _nearest(cosines, known, self._k, nearest)
            values = known.values[near]
            scores[:, n] = values.mean(axis=1)
            errors[:, n] = _error(values, known.variance)
            rows = known.rows[near]
            costs[:, n] = self._costs[n][rows].mean(axis=1)
            seconds[:, n] = self._seconds[n][rows].mean(axis=1)
        criterion = self.criterion
        for n, known in enumerate(self._scores):
            quantile = t_quantile(criterion.confidence, min(self._k, len(known.rows)) - 1)
            if criterion.reference < 0:
                bounds[:, n] = scores[:, n] - quantile * errors[:, n]
                continue
            pairs = self._differences[n]
            if n == criterion.reference:
                bounds[:, n] = 0.0
            elif pairs is not None:
                near = _nearest(cosines, pairs, self._k, nearest)
                values = pairs.values[near]
                error = _error(values, pairs.variance)
                bounds[:, n] = values.mean(axis=1) - quantile * error
            else:
                error = np.hypot(errors[:, n], errors[:, criterion.reference])
                difference = scores[:, n] - scores[:, criterion.reference]
                bounds[:, n] = difference - quantile * error
        return Predictions(scores, costs, seconds, bounds, similarity(cosines, self._k))


def good_enough(predictions: Predictions, criterion: Criterion) -> NDArray[np.bool_]:
    """Return which targets are good enough at each prompt, shape (m, k)."""
    if criterion.at_least is not None:
        return predictions.bounds >= criterion.at_least
    return predictions.bounds >= -criterion.within


def ranked(predictions: Predictions, criterion: Criterion) -> Ints:
    """Return the positions of the targets at each prompt, the one to take first, shape (m, k).

    The good ones come first, the cheapest before the others, of equal ones the one with the higher
    score; targets whose costs are unknown are the last of them. Then comes the reference, and then
    those with the higher bounds.
    """
    good = good_enough(predictions, criterion)
    costs = np.where(np.isfinite(predictions.costs), predictions.costs, np.inf)
    is_other = np.broadcast_to(np.arange(good.shape[1]) != criterion.reference, good.shape)
    # Scores decide between costs that are the same but for rounding.
    first = np.where(good, np.round(costs, 12), is_other)
    second = np.where(good, -predictions.scores, -predictions.bounds)
    return np.lexsort((second, first, ~good), axis=1).astype(np.int64)


def choose(predictions: Predictions, criterion: Criterion) -> Ints:
    """Return the position of the target to take at each prompt, shape (m,)."""
    return ranked(predictions, criterion)[:, 0]


def similarity(cosines: Vectors, neighbours: int) -> Floats:
    """Return the cosine of the least similar of the neighbours, shape (m,)."""
    k = min(neighbours, cosines.shape[1])
    return np.partition(cosines, -k, axis=1)[:, -k].astype(np.float64)


def _known(values: Floats, groups: dict[bytes, int]) -> _Known:
    rows = np.flatnonzero(np.isfinite(values)).astype(np.int64)
    known = values[rows]
    group = groups.setdefault(rows.tobytes(), len(groups))
    return _Known(rows, known, float(known.var()) if len(known) else 0.0, group)


def _nearest(cosines: Vectors, known: _Known, k: int, nearest: dict[int, Ints]) -> Ints:
    """Return the positions within `known.rows` of the k with the highest cosines, shape (m, k).

    `nearest` has the results by the groups of rows.
    """
    rows = known.rows
    near = nearest.get(known.group)
    if near is None:
        some = cosines if len(rows) == cosines.shape[1] else cosines[:, rows]
        k = min(k, len(rows))
        if k == len(rows):
            near = np.broadcast_to(np.arange(k), (len(some), k))
        else:
            near = np.argpartition(some, len(rows) - k, axis=1)[:, len(rows) - k :]
        nearest[known.group] = near
    return near


def _error(values: Floats, variance: float) -> Floats:
    """Return the standard errors of means of neighbours, shape (m,)."""
    k = values.shape[1]
    shrunk = (k * values.var(axis=1) + PRIOR * variance) / (k + PRIOR)
    errors: Floats = np.sqrt(shrunk / k)
    return errors
