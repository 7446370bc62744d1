"""Differences that a dry run says the verdict finds 4 times in 5: how often it misses them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluators.base import Output
from evaluators.stats.comparison import ALPHA, judged
from evaluators.stats.power import (
    always_valid_effect,
    minimum_detectable_effect,
    minimum_detectable_share,
)
from evidence.cells import Cell, Data, Floats, Outcome
from evidence.differences import SCORE, UNBOUNDED, Draw, compare, compare_whole
from evidence.shapes import SHARED, clustered_normal, clusters

MISSED = 0.2
DISCORDANT = 0.3


def _compute(output: Output, *, always_valid: bool) -> Callable[[Data], Outcome]:
    """Compare several routes with a baseline; the first is better, the others equal to it."""

    def compute(data: Data) -> Outcome:
        assert data.baseline is not None, "a difference has two sides"
        made = [
            compare_whole(output, first, second, always_valid=always_valid)
            if output is SCORE
            else compare(output, first, second, data.clusters, always_valid=always_valid)
            for first, second in zip(data.values, data.baseline, strict=True)
        ]
        verdicts = judged(made, {output.name: output})
        return Outcome(method=verdicts[0].method, wrong=verdicts[0].verdict != "better")

    return compute


def _normal(n: int, effect: float | None, tests: int) -> Draw:
    assert effect is not None, "enough samples"

    def draw(random: np.random.Generator) -> Data:
        values = random.normal(0, 1, (tests, n))
        values[0] += effect
        return Data(values, np.zeros((tests, n)))

    return draw


def _right(n: int, effect: float | None, tests: int) -> Draw:
    """Return a sampler of routes that are right or wrong, and differ from the baseline at times."""
    assert effect is not None, "enough samples"
    differing = max(DISCORDANT, effect)
    gains = [(differing - effect) / 2, 1 - differing, (differing + effect) / 2]
    equal = [DISCORDANT / 2, 1 - DISCORDANT, DISCORDANT / 2]

    def draw(random: np.random.Generator) -> Data:
        signs = random.choice([-1.0, 0.0, 1.0], (tests, n), p=equal)
        signs[0] = random.choice([-1.0, 0.0, 1.0], n, p=gains)
        return Data((signs >= 0).astype(np.float64), (signs <= 0).astype(np.float64))

    return draw


def _clustered(k: int, tests: int) -> tuple[Draw, int]:
    """Return a sampler of clusters of equal size, and how many samples they have."""
    index = clusters("equal", k, np.random.Generator(np.random.PCG64(0)))
    n = len(index)
    # As many samples that stand alone as these weigh, by the correlation within clusters.
    spread = (1 + (n / k - 1) * SHARED) ** 0.5 * (k / n) ** 0.5
    effect = minimum_detectable_effect(spread, k, alpha=ALPHA / tests)
    assert effect is not None, "enough clusters"

    def draw(random: np.random.Generator) -> Data:
        values: Floats = np.stack([clustered_normal(index, k, random) for _ in range(tests)])
        values[0] += effect
        return Data(values, np.zeros((tests, n)), index.tolist())

    return draw, n


def _cells() -> list[Cell]:
    kind = "dry run's difference missed"
    cells = []
    for tests in (1, 4, 12):
        alpha, of = ALPHA / tests, f"one of {tests} comparisons"
        for n in (50, 200):
            normal = _normal(n, minimum_detectable_effect(1.0, n, alpha=alpha), tests)
            share = minimum_detectable_share(DISCORDANT, n, alpha=alpha)
            cells += [
                Cell(kind, f"{of}, normal", n, normal, _FIXED[0], nominal=MISSED),
                Cell(kind, f"{of}, 0 or 1", n, _right(n, share, tests), _FIXED[1], nominal=MISSED),
            ]
        clustered, n = _clustered(40, tests)
        cells.append(Cell(kind, f"{of}, 40 clusters", n, clustered, _FIXED[0], nominal=MISSED))
    for tests in (1, 4):
        alpha, of, n = ALPHA / tests, f"looked at, one of {tests} comparisons", 300
        effect = always_valid_effect(1.0, n, width=None, alpha=alpha)
        share = always_valid_effect(DISCORDANT**0.5, n, width=1.0, whole=True, alpha=alpha)
        normal, right = _normal(n, effect, tests), _right(n, share, tests)
        cells += [
            Cell(kind, f"{of}, normal", n, normal, _LOOKED[0], nominal=MISSED, sequential=True),
            Cell(kind, f"{of}, 0 or 1", n, right, _LOOKED[1], nominal=MISSED, sequential=True),
        ]
    return cells


_FIXED = [_compute(output, always_valid=False) for output in (UNBOUNDED, SCORE)]
_LOOKED = [_compute(output, always_valid=True) for output in (UNBOUNDED, SCORE)]

CELLS = tuple(_cells())
