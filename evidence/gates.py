"""Gates on a margin, where the true difference is the margin: how often they pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evaluators.base import Output
from evidence.cells import MARGIN_ALPHA, Cell, Data, Outcome
from evidence.differences import (
    GRADE,
    SCORE,
    UNBOUNDED,
    Draw,
    draw_binary,
    draw_gains,
    draw_losses,
    draw_shifted,
    draw_tied,
)
from evidence.runs import run
from evidence.shapes import clustered_binary, clusters

SECONDS = Output(name="score", higher_is_better=False, low=0.0, high=None)


def _gate(output: Output, kind: str, margin: float) -> Callable[[Data], Outcome]:
    def compute(data: Data) -> Outcome:
        gate = f"{output.name} {kind} baseline by {margin!r}"
        return Outcome(method="gate", wrong=run(data, output).passes(gate))

    return compute


def _cells(
    kind: str, drawn: Sequence[tuple[str, int, Draw, float, Output]], title: str
) -> list[Cell]:
    return [
        Cell(
            f"gate: {title}",
            name,
            n,
            draw,
            _gate(output, kind, margin),
            nominal=MARGIN_ALPHA,
        )
        for name, n, draw, margin, output in drawn
    ]


def _binary(wins: float, losses: float, n: int) -> tuple[str, int, Draw, float, Output]:
    name = f"0 or 1, wins {wins:.1%}, losses {losses:.1%}"
    return name, n, draw_binary(n, wins, losses), losses - wins, SCORE


def _shifted(n: int) -> Draw:
    """Draw scores from 0 to 1 that are lower by 0.05 on average."""

    def draw(random: np.random.Generator) -> Data:
        before = 0.1 + 0.9 * random.beta(4, 4, n)
        return Data(before - random.choice([0.0, 0.1], n), before)

    return draw


def _repeated(n: int) -> Draw:
    """Draw three repeats of 0 or 1, right less often by 0.1."""

    def draw(random: np.random.Generator) -> Data:
        chance = random.uniform(0.2, 1, n)[:, None]
        first = (random.random((n, 3)) < chance - 0.1).astype(np.float64)
        return Data(first, (random.random((n, 3)) < chance).astype(np.float64))

    return draw


def _slower(n: int) -> Draw:
    """Draw seconds that are longer by 0.5 on average."""
    return lambda random: Data(random.exponential(1.5, n), random.exponential(1, n))


def _graded(n: int) -> Draw:
    """Draw grades of which 5% are lower by 2 (as far as there is room), 0.0953125 on average."""
    tied = draw_tied(n, 0.85)

    def draw(random: np.random.Generator) -> Data:
        data = tied(random)
        return data._replace(values=np.clip(data.values - 2.0 * (random.random(n) < 0.05), 1, 5))

    return draw


def _clustered(k: int) -> Draw:
    """Draw clusters of lognormal size, right less often by 0.1."""

    def draw(random: np.random.Generator) -> Data:
        index = clusters("lognormal", k, random)
        first = clustered_binary(0.7, index, k, random)
        return Data(first, clustered_binary(0.8, index, k, random), index.tolist())

    return draw


NON_INFERIOR = [
    _binary(0, 0.001, 2),
    *(_binary(0.01, 0.03, n) for n in (10, 50, 200)),
    *(_binary(0.1, 0.15, n) for n in (20, 100)),
    *(_binary(0, 0.03, n) for n in (20, 50, 200)),
    *(
        (
            f"scores from 0 to 1, losses only, {share:.0%}",
            n,
            draw_losses(n, share),
            share * 0.45,
            SCORE,
        )
        for share in (0.03, 0.1)
        for n in (20, 50, 200)
    ),
    *(("scores from 0 to 1, lower by 0 or 0.1", n, _shifted(n), 0.05, SCORE) for n in (20, 50)),
    *(("three repeats of 0 or 1", n, _repeated(n), 0.1, SCORE) for n in (20, 50)),
    *(("seconds (exponential)", n, _slower(n), 0.5, SECONDS) for n in (20, 50)),
    *(("judge, 85% tied, 5% lower by 2", n, _graded(n), 0.0953125, GRADE) for n in (20, 50)),
    *(("judge, small gains, rare large losses", n, draw_gains(n), 0.1, GRADE) for n in (150, 300)),
    ("0 or 1, clusters of lognormal size", 20, _clustered(20), 0.1, SCORE),
]
EQUIVALENT = [
    *(_binary(0.01, 0.03, n) for n in (10, 50, 200)),
    *(
        (
            "normal",
            n,
            draw_shifted(n),
            0.5,
            UNBOUNDED,
        )
        for n in (20, 50)
    ),
]

CELLS = (
    *_cells("non_inferior", NON_INFERIOR, "non-inferior"),
    *_cells("equivalent", EQUIVALENT, "equivalent"),
)
