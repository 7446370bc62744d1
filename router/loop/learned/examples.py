"""What a learned route is made of: prompts as vectors, with what targets scored and cost there.

A row has the scores of all targets where a run or a shadow sent the prompt to each of them, and
otherwise those of the target that answered. Scores, costs and seconds that are unknown are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]


class Examples(NamedTuple):
    """Prompts with what is known of targets there; n rows, k targets, d dimensions.

    Attributes:
        targets: `provider/model`, length k.
        vectors: embeddings of length 1, shape (n, d).
        scores: higher is better, shape (n, k).
        costs: US dollars, shape (n, k).
        seconds: to the last byte, shape (n, k).
        propensities: the chance with which the target that answered was chosen, shape (n,); NaN
            where all targets have scores, or where the chance is unknown.
        units: numbers of the users or conversations that the prompts are of, shape (n,).
    """

    targets: tuple[str, ...]
    vectors: Vectors
    scores: Floats
    costs: Floats
    seconds: Floats
    propensities: Floats
    units: Ints

    def take(self, rows: NDArray[np.bool_] | Ints) -> Examples:
        """Return some of the rows."""
        return Examples(
            self.targets,
            self.vectors[rows],
            self.scores[rows],
            self.costs[rows],
            self.seconds[rows],
            self.propensities[rows],
            self.units[rows],
        )

    @property
    def known(self) -> tuple[int, ...]:
        """Return how many rows have a score of each target."""
        return tuple(np.isfinite(self.scores).sum(axis=0).tolist())


def column_means(values: Floats) -> Floats:
    """Return the mean of what is known in each column of (n, k), shape (k,); NaN for nothing."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    means: Floats = np.divide(sums, counts, out=np.full(values.shape[1], np.nan), where=counts > 0)
    return means


def filled(values: Floats) -> Floats:
    """Return values, shape (n, k), with their column's mean in the place of the unknown ones."""
    return np.where(np.isfinite(values), values, column_means(values))


def unit_vectors(vectors: Sequence[Sequence[float]]) -> Vectors:
    """Return vectors scaled to length 1, shape (n, d); those of zeros stay zeros.

    Raises:
        ValueError: they differ in length, or a number is not finite.
    """
    if len({len(vector) for vector in vectors}) != 1:
        raise ValueError("the embeddings have different lengths")
    array = np.asarray(vectors, dtype=np.float64)
    if not array.shape[1]:
        raise ValueError("the embeddings are empty")
    if not np.isfinite(array).all():
        raise ValueError("an embedding has a number that is not finite")
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return (array / np.where(norms > 0, norms, 1.0)).astype(np.float32)
