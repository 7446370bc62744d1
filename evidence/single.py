"""Intervals of a route's score: means, shares, scores of repeats and of a corpus, in clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evaluators.stats.intervals import corpus_interval, mean_interval
from evidence import candidates
from evidence.cells import Cell, Data, Floats, Outcome, ends
from evidence.shapes import (
    EXPONENTIAL,
    LOGNORMAL,
    NORMAL,
    Sizes,
    beta,
    binary,
    clustered_binary,
    clustered_normal,
    clusters,
    fives,
    independent,
    judge,
)

KINDS: tuple[Sizes, ...] = ("equal", "geometric", "lognormal", "one of 30%")


def _mean(low: float | None, high: float | None) -> Callable[[Data], Outcome]:
    def compute(data: Data) -> Outcome:
        values, index = data.values, data.clusters
        interval = mean_interval(values, clusters=index, low=low, high=high)
        others = candidates.of_mean(values) if index is None else {}
        if index is not None:
            others = candidates.of_clusters(values, index)
        elif (low, high) == (0.0, 1.0) and np.isin(values, (0.0, 1.0)).all():
            others |= candidates.of_share(values)
        return Outcome(ends(interval.low, interval.high), interval.method, candidates=others)

    return compute


def _means() -> list[Cell]:
    plain = [
        Cell("mean", shape.name, n, independent(shape, n), _mean(shape.low, shape.high), mean)
        for shape in (
            NORMAL,
            EXPONENTIAL,
            LOGNORMAL,
            beta(2, 6),
            beta(8, 1.2),
            beta(0.5, 2),
            judge(0.1, 0.2, 0.3, 0.25, 0.15, name="judge, all scores"),
        )
        for n in (20, 100, 400)
        for mean in (shape.mean,)
    ]
    tied = [
        Cell(
            "mean",
            shape.name,
            n,
            independent(shape, n),
            _mean(shape.low, shape.high),
            shape.mean,
            over="bounded",
        )
        for shape in (fives(0.98), fives(0.9), fives(0.7))
        for n in (10, 50, 200)
    ]
    return plain + tied


def _shares() -> list[Cell]:
    return [
        Cell(
            "share",
            f"{share:.0%} right",
            n,
            independent(binary(share), n),
            _mean(0.0, 1.0),
            share,
            over="discrete" if n * min(share, 1 - share) <= 5 else "",
        )
        for share, n in (
            (0.5, 10),
            (0.5, 100),
            (0.8, 20),
            (0.8, 100),
            (0.9, 20),
            (0.9, 100),
            (0.98, 20),
            (0.98, 100),
            (0.98, 400),
        )
    ]


def _ratio(sums: Sequence[float]) -> float:
    return sums[0] / sums[1]


def draw_statistics(random: np.random.Generator, n: int) -> Floats:
    """Draw hits and lengths of n answers, whose ratio over all is 0.4: as of BLEU's precision."""
    lengths = random.poisson(20, n) + 1
    return np.column_stack([random.binomial(lengths, random.beta(4, 6, n)), lengths]).astype(float)


def _corpus() -> list[Cell]:
    def compute(data: Data) -> Outcome:
        interval = corpus_interval(data.values, _ratio)
        return Outcome(ends(interval.low, interval.high), interval.method)

    def draw(n: int) -> Callable[[np.random.Generator], Data]:
        return lambda random: Data(draw_statistics(random, n))

    return [Cell("corpus score", "hits by length", n, draw(n), compute, 0.4) for n in (20, 100)]


def _clustered() -> list[Cell]:
    def normal(kind: Sizes, k: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            return Data(clustered_normal(index, k, random), None, index.tolist())

        return draw

    def right(kind: Sizes, k: int, share: float) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            return Data(clustered_binary(share, index, k, random), None, index.tolist())

        return draw

    cells = [
        Cell("mean of clusters", f"normal, {kind}", k, normal(kind, k), _mean(None, None))
        for kind in KINDS
        for k in (10, 20, 40)
    ]
    cells += [
        Cell(
            "share of clusters",
            f"{share:.0%} right, {kind}",
            k,
            right(kind, k, share),
            _mean(0.0, 1.0),
            share,
            over="discrete" if share > 0.9 else "",
        )
        for share in (0.6, 0.95)
        for kind in KINDS
        for k in (10, 20, 40)
    ]
    giant: Sizes = "one giant"
    cells += [
        Cell(
            "mean of clusters",
            "normal, one giant (90%)",
            20,
            normal(giant, 20),
            _mean(None, None),
            refused="no method covers",
        ),
        Cell(
            "share of clusters",
            "60% right, one giant (90%)",
            20,
            right(giant, 20, 0.6),
            _mean(0.0, 1.0),
            0.6,
            refused="no method covers",
        ),
        Cell(
            "mean of clusters",
            "normal, equal",
            4,
            normal("equal", 4),
            _mean(None, None),
            refused="fewer than five clusters",
        ),
    ]
    return cells


CELLS = (*_means(), *_shares(), *_corpus(), *_clustered())
