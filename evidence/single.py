"""Intervals of a route's score: means, shares, scores of repeats and of a corpus, in clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.agreement import alpha_of_sums, alpha_statistics
from evaluators.stats.intervals import corpus_interval, mean_interval
from evaluators.stats.variance import split_variance
from evidence import candidates
from evidence.cells import Cell, Data, Floats, Outcome, ends
from evidence.shapes import (
    EXPONENTIAL,
    LOGNORMAL,
    NORMAL,
    Shape,
    Sizes,
    beta,
    binary,
    clustered_beta,
    clustered_binary,
    clustered_fives,
    clustered_normal,
    clusters,
    fives,
    independent,
    judge,
    nearly,
)

KINDS: tuple[Sizes, ...] = ("equal", "geometric", "lognormal", "one of 30%")


def _mean(low: float | None, high: float | None) -> Callable[[Data], Outcome]:
    def compute(data: Data) -> Outcome:
        values, index, noise = data.values, data.clusters, 0.0
        if values.ndim > 1:
            samples = np.repeat(np.arange(len(values)), values.shape[1])
            variance = split_variance(samples, values.ravel())
            noise = 0.0 if variance is None else variance.noise
            values = values.mean(axis=1)
        interval = mean_interval(values, clusters=index, low=low, high=high, noise=noise)
        others = candidates.of_mean(values, low, high) if index is None else {}
        if index is not None:
            others = candidates.of_clusters(values, index)
        elif (low, high) == (0.0, 1.0) and np.isin(values, (0.0, 1.0)).all():
            others |= candidates.of_share(values)
        return Outcome(ends(interval.low, interval.high), interval.method, candidates=others)

    return compute


def _cell(shape: Shape, n: int, *, over: str = "", refused: str = "") -> Cell:
    return Cell(
        "mean",
        shape.name,
        n,
        independent(shape, n),
        _mean(shape.low, shape.high),
        shape.mean,
        over=over,
        refused=refused,
    )


# Grades of a judge who uses the whole scale, and of one who avoids its ends.
ALL = judge(0.1, 0.2, 0.3, 0.25, 0.15, name="judge, all scores")
MIDDLE = judge(0.02, 0.08, 0.35, 0.4, 0.15, name="judge, mostly 3 and 4")


def _means() -> list[Cell]:
    free = (NORMAL, EXPONENTIAL, LOGNORMAL)
    plain = [_cell(shape, n) for shape in free for n in (10, 20, 50, 100, 400)]
    few = [_cell(shape, 5, refused="fewer than ten samples without a range") for shape in free]
    # With few samples an interval allows for scores that are too far out to be among them; of the
    # last shape nearly all are at one end, so that twenty are few.
    ranged = [
        _cell(shape, n, over="bounded" if n <= few_are else "")
        for shape, few_are in (
            (beta(2, 6), 10),
            (beta(8, 1.2), 10),
            (beta(0.5, 2), 10),
            (beta(40, 10), 10),
            (beta(20, 1), 20),
        )
        for n in (5, 6, 10, 20, 100)
    ]
    scales = [
        _cell(shape, n, over="discrete" if n <= 20 else "")
        for shape in (ALL, MIDDLE)
        for n in (5, 10, 20, 100)
    ]
    tied = [
        _cell(shape, n, over="bounded")
        for shape in (fives(0.98), fives(0.9), fives(0.7))
        for n in (5, 10, 20, 50, 200)
    ]
    alike = [
        _cell(nearly(0.95, 0.01, 0.04, away=0.0), n, over="bounded") for n in (5, 10, 20, 50, 200)
    ]
    return [*plain, *few, *ranged, *scales, *tied, *alike]


def _repeats() -> list[Cell]:
    """Means of three repeats: of samples that differ, and of noise around one value."""

    def noisy(n: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            scores = np.where(random.random((n, 3)) < 0.1, 4.0, 5.0)
            scores[random.random(n) < 0.04] = 1.0
            return Data(scores)

        return draw

    def graded(n: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            quality = ALL.sample(random, n)[:, None]
            return Data(np.clip(quality + random.integers(-1, 2, (n, 3)), 1, 5))

        return draw

    # At an end of the scale a third of the repeats would be beyond it.
    grades = ALL.mean + (0.1 - 0.15) / 3
    cells = [
        Cell("mean of repeats", name, n, draw(n), _mean(1.0, 5.0), truth, over=over)
        for name, draw, truth, over in (
            ("judge, noise below 5, 4% ones", noisy, 0.96 * 4.9 + 0.04, "bounded"),
            ("judge, all scores", graded, grades, ""),
        )
        for n in (10, 20, 50)
    ]

    def by_chance(n: int) -> Callable[[np.random.Generator], Data]:
        return lambda random: Data((random.random((n, 3)) < 0.7).astype(np.float64))

    binary_cells = [
        Cell(
            "mean of repeats",
            "0 or 1, by chance",
            n,
            by_chance(n),
            _mean(0.0, 1.0),
            0.7,
            over="discrete" if n <= 20 else "",
        )
        for n in (10, 20, 50)
    ]
    return [*cells, *binary_cells]


def _shares() -> list[Cell]:
    return [
        Cell(
            "share",
            f"{share:.4g} right" if share > 0.98 else f"{share:.0%} right",
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
            # One in the sample says too much there: Wilson's covers 84%, Jeffreys' 90%.
            (0.982, 10),
            (0.991, 10),
            (0.991, 20),
            (0.9955, 20),
            (0.9982, 100),
            (0.9991, 100),
        )
    ]


def _ratio(sums: Sequence[float]) -> float:
    return sums[0] / sums[1]


def draw_statistics(random: np.random.Generator, n: int) -> Floats:
    """Draw hits and lengths of n answers, whose ratio over all is 0.4: as of BLEU's precision."""
    lengths = random.poisson(20, n) + 1
    return np.column_stack([random.binomial(lengths, random.beta(4, 6, n)), lengths]).astype(float)


def draw_verdicts(random: np.random.Generator, n: int) -> Floats:
    """Draw two verdicts on each of n answers, which agree or differ by one, for their alpha."""
    first = ALL.sample(random, n)
    second = np.clip(first + random.choice([-1, 0, 0, 0, 1], n), 1, 5)
    return np.array([alpha_statistics(pair) for pair in np.column_stack([first, second]).tolist()])


# Of four million answers.
_ALPHA = 0.8838


def _corpus() -> list[Cell]:
    def compute_of(corpus: Callable[[Sequence[float]], float]) -> Callable[[Data], Outcome]:
        def compute(data: Data) -> Outcome:
            interval = corpus_interval(data.values, corpus, clusters=data.clusters)
            return Outcome(ends(interval.low, interval.high), interval.method)

        return compute

    def draw(
        statistics: Callable[[np.random.Generator, int], Floats], n: int
    ) -> Callable[[np.random.Generator], Data]:
        return lambda random: Data(statistics(random, n))

    def giant(random: np.random.Generator) -> Data:
        index = clusters("one giant", 20, random)
        return Data(draw_statistics(random, len(index)), None, index.tolist())

    cells = [
        Cell("corpus score", "hits by length", n, draw(draw_statistics, n), compute_of(_ratio), 0.4)
        for n in (10, 100)
    ]
    cells += [
        Cell(
            "corpus score",
            "alpha of two verdicts",
            n,
            draw(draw_verdicts, n),
            compute_of(alpha_of_sums),
            _ALPHA,
            over="discrete",
        )
        for n in (20,)
    ]
    return [
        *cells,
        Cell(
            "corpus score",
            "hits by length, one giant (90%)",
            20,
            giant,
            compute_of(_ratio),
            0.4,
            refused="no method covers",
        ),
    ]


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

    def drawn(
        sample: Callable[[NDArray[np.intp], int, np.random.Generator], Floats], kind: Sizes, k: int
    ) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            return Data(sample(index, k, random), None, index.tolist())

        return draw

    cells += [
        Cell(
            "mean of clusters",
            f"judge, {share:.0%} fives, {kind}",
            k,
            drawn(partial(clustered_fives, share), kind, k),
            _mean(1.0, 5.0),
            5 - 2.5 * (1 - share),
            over="bounded",
        )
        for share in (0.7, 0.9, 0.98)
        for kind in (("equal", "lognormal", "one of 30%") if share < 0.98 else KINDS[:1])
        for k in (10, 20, 40)
    ]
    cells += [
        Cell(
            "mean of clusters",
            f"beta({first:g}, {second:g}), {kind}",
            k,
            drawn(partial(clustered_beta, first, second), kind, k),
            _mean(0.0, 1.0),
            first / (first + second),
        )
        for first, second in ((2, 6), (8, 1.2))
        for kind in ("equal", "lognormal")
        for k in (10, 40)
    ]

    def lost(k: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = clusters("equal", k, random)
            scores = 0.9 + random.normal(0, 0.02, len(index)).clip(-0.1, 0.1)
            scores[(random.random(k) < 0.05)[index]] = 0.0
            return Data(scores, None, index.tolist())

        return draw

    def seconds(kind: Sizes, k: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            slow = random.lognormal(0, 0.7, k)[index]
            return Data(slow * random.lognormal(0, 0.7, len(index)), None, index.tolist())

        return draw

    def large(share: float, k: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = np.repeat(np.arange(k), 50)
            return Data(clustered_binary(share, index, k, random), None, index.tolist())

        return draw

    cells += [
        Cell(
            "mean of clusters",
            "0.9 ± 0.02, 5% of clusters at 0",
            k,
            lost(k),
            _mean(0.0, 1.0),
            0.855,
            over="bounded",
        )
        for k in (6, 12, 20, 40)
    ]
    cells += [
        Cell(
            "mean of clusters",
            "seconds (lognormal), equal",
            k,
            seconds("equal", k),
            _mean(0.0, None),
            float(np.exp(0.49)),
        )
        for k in (12, 20, 40)
    ]
    cells += [
        Cell(
            "share of clusters",
            f"{share:.0%} right, clusters of 50",
            k,
            large(share, k),
            _mean(0.0, 1.0),
            share,
            over="discrete",
        )
        for share in (0.9, 0.97)
        for k in (6, 12, 20)
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
            "judge, 70% fives, one giant (90%)",
            20,
            drawn(partial(clustered_fives, 0.7), giant, 20),
            _mean(1.0, 5.0),
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


CELLS = (*_means(), *_repeats(), *_shares(), *_corpus(), *_clustered())
