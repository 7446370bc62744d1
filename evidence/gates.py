"""Gates on a margin, where the true difference is the margin: how often they pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from evaluators.base import Output
from evaluators.stats.comparison import MarginTest, shows, units_within
from evidence.cells import MARGIN_ALPHA, Cell, Data, Outcome
from evidence.differences import (
    GRADE,
    SCORE,
    UNBOUNDED,
    Draw,
    draw_binary,
    draw_gains,
    draw_losses,
    draw_rare,
    draw_shifted,
    draw_tied,
    margin_test_of,
)
from evidence.shapes import clustered_binary, clusters

SECONDS = Output(name="score", higher_is_better=False, low=0.0, high=None)


_RISES: Mapping[tuple[str, bool | None], bool | None] = {
    ("non_inferior", True): True,
    ("non_inferior", False): False,
    ("equivalent", True): None,
}


def _gate(output: Output, kind: str, margin: float) -> Callable[[Data], Outcome]:
    """Decide as a gate does, without the report around it; tests hold that they agree."""

    def compute(data: Data) -> Outcome:
        rises = _RISES[kind, output.higher_is_better]
        return Outcome(
            method="gate", wrong=shows(margin_test_of(data, output), margin, rises=rises)
        )

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


def _noisy(n: int, spread: float, share: float) -> Draw:
    """Draw scores from 0 to 1 that vary a little each, and are lower by the whole range rarely."""

    def draw(random: np.random.Generator) -> Data:
        noise = random.normal(0, spread, n) - (random.random(n) < share)
        # By 1 at most: what is lost in both is the range's.
        return Data(0.5 + np.clip(noise, -1, 1) / 2, np.full(n, 0.5))

    return draw


def _noisy_clusters(k: int, share: float) -> Draw:
    """Draw clusters of lognormal size that vary a little, and of which some are lost as a whole."""

    def draw(random: np.random.Generator) -> Data:
        index = clusters("lognormal", k, random)
        lost = (random.random(k) < share)[index]
        noisy = 0.9 + random.normal(0, 0.02, len(index))
        return Data(np.where(lost, 0.0, noisy), np.full(len(index), 0.9), index.tolist())

    return draw


def _clustered_seconds(k: int) -> Draw:
    """Draw seconds that are longer by 0.5 on average, in clusters of lognormal size."""

    def draw(random: np.random.Generator) -> Data:
        index = clusters("lognormal", k, random)
        slow = random.gamma(4, 0.25, k)[index]
        first, second = (slow * random.exponential(mean, len(index)) for mean in (1.5, 1.0))
        return Data(first, second, index.tolist())

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
    *(("seconds (exponential)", n, _slower(n), 0.5, SECONDS) for n in (20, 50, 150)),
    *(("judge, 85% tied, 5% lower by 2", n, _graded(n), 0.0953125, GRADE) for n in (20, 50)),
    *(("judge, small gains, rare large losses", n, draw_gains(n), 0.1, GRADE) for n in (150, 300)),
    *(("0 or 1, clusters of lognormal size", k, _clustered(k), 0.1, SCORE) for k in (20, 40)),
    *(
        (
            f"noise of {spread} on all, {share:.0%} lose half of the range",
            n,
            _noisy(n, 2 * spread, share),
            share / 2,
            SCORE,
        )
        for spread in (0.01, 0.1)
        for share in (0.01, 0.05)
        for n in (20, 100)
    ),
    ("noise of 0.01 on all, 3% lose half of the range", 300, _noisy(300, 0.02, 0.03), 0.015, SCORE),
    *(("judge, 94% tied, 2% lose the range", n, draw_rare(n), 0.08, GRADE) for n in (50, 200)),
    *(
        ("noise, whole clusters lost, of lognormal size", k, _noisy_clusters(k, 0.1), 0.09, SCORE)
        for k in (20, 40)
    ),
    ("seconds, clusters of lognormal size", 60, _clustered_seconds(60), 0.5, SECONDS),
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


def _failing(output: Output, kind: str, margin: float) -> Callable[[Data], Outcome]:
    passing = _gate(output, kind, margin)
    return lambda data: Outcome(method="gate", wrong=not passing(data).wrong)


def _promised(kind: str, sized: Callable[[int], Draw], margin: float, output: Output) -> Draw:
    """Draw runs as large as a gate asks for, once a small one has shown what runs are like."""

    @cache
    def enough() -> int:
        random = np.random.Generator(np.random.PCG64(1))
        found = margin_test_of(sized(LARGE)(random), output)
        small = MarginTest(found.test.scaled(SMALL / LARGE, 0.0), SMALL)
        units = units_within(small, margin, rises=_RISES[kind, output.higher_is_better])
        assert units is not None, "a margin that can be shown"
        return units

    def draw(random: np.random.Generator) -> Data:
        return sized(enough())(random)

    return draw


SMALL, LARGE = 20, 50_000
PROMISED: list[tuple[str, str, Callable[[int], Draw], float, Output]] = [
    (
        "non_inferior",
        "0 or 1, wins 5%, losses 5%",
        lambda n: draw_binary(n, 0.05, 0.05),
        0.03,
        SCORE,
    ),
    ("non_inferior", "0 or 1, losses only, 2%", lambda n: draw_binary(n, 0, 0.02), 0.04, SCORE),
    ("non_inferior", "scores from 0 to 1, lower by 0 or 0.1", _shifted, 0.1, SCORE),
    ("non_inferior", "three repeats of 0 or 1", _repeated, 0.2, SCORE),
    ("non_inferior", "judge, 94% tied, 2% lose the range", draw_rare, 0.2, GRADE),
    ("non_inferior", "seconds (exponential)", _slower, 0.9, SECONDS),
    ("non_inferior", "0 or 1, clusters of lognormal size", _clustered, 0.2, SCORE),
    ("equivalent", "0 or 1, wins 5%, losses 5%", lambda n: draw_binary(n, 0.05, 0.05), 0.04, SCORE),
    ("equivalent", "normal", draw_shifted, 0.8, UNBOUNDED),
]


CELLS = (
    *_cells("non_inferior", NON_INFERIOR, "non-inferior"),
    *_cells("equivalent", EQUIVALENT, "equivalent"),
    *(
        Cell(
            "gate fails with as many samples as it asks for",
            f"{kind}, {name}",
            SMALL,
            _promised(kind, sized, margin, output),
            _failing(output, kind, margin),
            nominal=0.2,
        )
        for kind, name, sized, margin, output in PROMISED
    ),
)
