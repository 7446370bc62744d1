"""What scores look like: distributions with a known mean, and clusters of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evidence.cells import Data, Floats

Sampler: TypeAlias = Callable[[np.random.Generator, int], Floats]
Sizes = Literal["equal", "geometric", "lognormal", "one of 30%", "one giant"]

CLUSTER_SIZE = 8
SHARED = 0.3
"""The share of the variance that the samples of a cluster have in common."""


class Shape(NamedTuple):
    """A distribution of scores: its name, a sampler and the mean."""

    name: str
    sample: Sampler
    mean: float
    low: float | None = None
    high: float | None = None


def beta(first: float, second: float) -> Shape:
    """Return scores from 0 to 1: with 2 and 6 like ROUGE, with 8 and 1.2 like similarities."""
    return Shape(
        f"beta({first:g}, {second:g})",
        lambda random, n: random.beta(first, second, n),
        first / (first + second),
        0.0,
        1.0,
    )


def judge(*shares: float, name: str) -> Shape:
    """Return whole scores from 1 on, with these shares."""
    scores = np.arange(1.0, len(shares) + 1)
    return Shape(
        name,
        lambda random, n: random.choice(scores, n, p=shares),
        float(np.dot(shares, scores)),
        1.0,
        float(len(shares)),
    )


def fives(share: float) -> Shape:
    """Return a judge that gives so many fives, and all other scores alike."""
    return judge(*[(1 - share) / 4] * 4, share, name=f"judge, {share:.0%} fives")


def independent(shape: Shape, n: int) -> Callable[[np.random.Generator], Data]:
    """Return a sampler of n scores."""
    return lambda random: Data(shape.sample(random, n))


def both(first: Sampler, second: Sampler, n: int) -> Callable[[np.random.Generator], Data]:
    """Return a sampler of n scores of two routes."""
    return lambda random: Data(first(random, n), second(random, n))


def binary(share: float) -> Shape:
    """Return scores of 0 and 1."""
    return Shape(
        f"{share:.0%} of 0 or 1",
        lambda random, n: (random.random(n) < share).astype(np.float64),
        share,
        0.0,
        1.0,
    )


def nearly(value: float, spread: float, rare: float, *, away: float) -> Shape:
    """Return scores from 0 to 1 around a value, but for a rare share of them far away."""

    def sample(random: np.random.Generator, n: int) -> Floats:
        near = np.clip(random.normal(value, spread, n), 0, 1)
        return np.where(random.random(n) < rare, away, near)

    name = f"{value:g} ± {spread:g}, {rare:.0%} at {away:g}"
    return Shape(name, sample, (1 - rare) * value + rare * away, 0.0, 1.0)


NORMAL = Shape("normal", lambda random, n: random.normal(0, 1, n), 0.0)
EXPONENTIAL = Shape("exponential (skewness 2)", lambda random, n: random.exponential(1, n), 1.0)
LOGNORMAL = Shape(
    "lognormal (skewness 6)", lambda random, n: random.lognormal(0, 1, n), float(np.exp(0.5))
)


def sizes(kind: Sizes, k: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Draw how many samples each of k clusters has."""
    if kind == "equal":
        return np.full(k, CLUSTER_SIZE)
    if kind == "geometric":
        return random.geometric(1 / CLUSTER_SIZE, k).astype(np.intp)
    if kind == "lognormal":
        return np.maximum(1, np.round(random.lognormal(1.6, 1, k))).astype(np.intp)
    counts = np.full(k, 7)
    # One has 30% of all samples, or 90%.
    counts[0] = round((0.3 / 0.7 if kind == "one of 30%" else 9) * 7 * (k - 1))
    return counts


def clusters(kind: Sizes, k: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Draw the cluster of each sample."""
    return np.repeat(np.arange(k), sizes(kind, k, random))


def clustered_normal(index: NDArray[np.intp], k: int, random: np.random.Generator) -> Floats:
    """Draw normal scores of mean 0, more alike within a cluster."""
    effects = random.normal(0, SHARED**0.5, k)[index]
    return effects + random.normal(0, (1 - SHARED) ** 0.5, len(index))


def clustered_fives(
    share: float, index: NDArray[np.intp], k: int, random: np.random.Generator
) -> Floats:
    """Draw scores of a judge that gives so many fives, more of them in some clusters."""
    five = clustered_binary(share, index, k, random) > 0
    return np.where(five, 5.0, random.integers(1, 5, len(index)))


def clustered_beta(
    first: float, second: float, index: NDArray[np.intp], k: int, random: np.random.Generator
) -> Floats:
    """Draw scores from 0 to 1 around the mean of their cluster, which is of a beta distribution."""
    means = random.beta(first, second, k)[index]
    return random.beta(means * CLUSTER_SIZE, (1 - means) * CLUSTER_SIZE)


def clustered_binary(
    share: float, index: NDArray[np.intp], k: int, random: np.random.Generator
) -> Floats:
    """Draw scores of 0 and 1, more alike within a cluster."""
    size = (1 - SHARED) / SHARED
    shares = random.beta(share * size, (1 - share) * size, k)[index]
    return (random.random(len(index)) < shares).astype(np.float64)
