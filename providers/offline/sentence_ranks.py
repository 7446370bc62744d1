"""How central each sentence of a text is: TextRank's graph of sentences, and PageRank on it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

_Matrix = npt.NDArray[np.float64]


def similarity(bags: list[Counter[str]]) -> _Matrix:
    """Return how similar each two bags of words are; shape (bags, bags), 0 on the diagonal."""
    spread = Counter(word for bag in bags for word in bag)
    column = {word: i for i, word in enumerate(w for w, count in spread.items() if count > 1)}
    present = np.zeros((len(bags), len(column)), dtype=np.float32)
    for row, bag in enumerate(bags):
        present[row, [column[word] for word in bag if word in column]] = 1
    shared = (present @ present.T).astype(np.float64)
    lengths = np.log(np.maximum([bag.total() for bag in bags], 1))
    below = lengths[:, None] + lengths[None, :]
    similar = np.zeros_like(shared)
    np.divide(shared, below, out=similar, where=below > 0)
    np.fill_diagonal(similar, 0)
    return similar


def rank(weights: _Matrix, *, damping: float = 0.85) -> list[float]:
    """Return PageRank on an undirected weighted graph, in the paper's form (not divided by n).

    Rounded, so that sentences with the same neighbours tie whatever the order of addition.

    Args:
        weights: symmetric, shape (n, n), not negative.
        damping: the share of a score that comes from neighbours.
    """
    sums = weights.sum(axis=0)
    flow = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    scores = np.ones(len(weights))
    # The distance shrinks by the damping each round: 200 rounds are beyond float precision.
    for _ in range(200):
        new: _Matrix = (1 - damping) + damping * (flow @ scores)
        if np.abs(new - scores).max(initial=0) < 1e-10:
            break
        scores = new
    return [round(float(score), 8) for score in scores]
