"""The cells of the evidence: data with a known truth, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["mean", "share", "difference", "family", "clusters", "looks"]


class Data(NamedTuple):
    """One sample: values (or pairs of them) and the cluster of each."""

    values: Floats
    baseline: Floats | None = None
    clusters: list[int] | None = None


class Cell(NamedTuple):
    """One row of the table.

    Attributes:
        kind: the function that is asked.
        name: the data.
        n: samples (or clusters); of `looks`, samples at the last of ten looks.
        draw: makes one sample.
        truth: the mean, or the mean difference.
        low, high: the declared range of a score.
        discrete: whether the method may cover more than 97%: few different samples are possible,
            or a bound from the range has to allow for what they do not show.
        refused: whether reports print no interval here.
        remark: why, for the table.
    """

    kind: Kind
    name: str
    n: int
    draw: Callable[[np.random.Generator], Data]
    truth: float
    low: float | None = None
    high: float | None = None
    discrete: bool = False
    refused: bool = False
    remark: str = ""


def _means() -> list[Cell]:
    shapes: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
        "normal": (lambda draw, n: draw.normal(0, 1, n), 0.0),
        "exponential": (lambda draw, n: draw.exponential(1, n), 1.0),
    }
    ranged = {
        "beta(2, 6)": (lambda draw, n: draw.beta(2, 6, n), 0.25),
        "beta(8, 1.2)": (lambda draw, n: draw.beta(8, 1.2, n), 8 / 9.2),
        "beta(0.5, 2)": (lambda draw, n: draw.beta(0.5, 2, n), 0.2),
    }
    cells = [
        Cell("mean", name, n, lambda draw, f=f, n=n: Data(f(draw, n)), truth)
        for name, (f, truth) in shapes.items()
        for n in (20, 100)
    ]
    cells += [
        Cell("mean", name, n, lambda draw, f=f, n=n: Data(f(draw, n)), truth, 0.0, 1.0)
        for name, (f, truth) in ranged.items()
        for n in (20, 100)
    ]
    for fives, counts in ((0.98, (10, 50, 200)), (0.9, (10, 50, 200))):
        shares = [(1 - fives) / 4] * 4 + [fives]
        truth = float(np.dot(shares, [1, 2, 3, 4, 5]))
        cells += [
            Cell(
                "mean",
                f"judge, {fives:.0%} fives",
                n,
                lambda draw, n=n, p=shares: Data(draw.choice([1.0, 2, 3, 4, 5], n, p=p)),
                truth,
                1.0,
                5.0,
                discrete=True,
            )
            for n in counts
        ]
    return cells


def _shares() -> list[Cell]:
    return [
        Cell(
            "share",
            f"{truth:.0%}",
            n,
            lambda draw, n=n, p=truth: Data((draw.random(n) < p).astype(np.float64)),
            truth,
            0.0,
            1.0,
            discrete=n * min(truth, 1 - truth) < 5,
        )
        for truth, n in ((0.5, 20), (0.9, 20), (0.9, 100), (0.98, 20), (0.98, 200))
    ]


def _binary(name: str, n: int, wins: float, losses: float) -> Cell:
    def draw(random: np.random.Generator) -> Data:
        first, second = np.ones(n), np.ones(n)
        won, lost, _ = random.multinomial(n, [wins, losses, 1 - wins - losses])
        second[:won] = 0.0
        first[won : won + lost] = 0.0
        return Data(first, second)

    rare = n * (wins + losses) < 12
    return Cell("difference", name, n, draw, wins - losses, 0.0, 1.0, discrete=rare)


def _differences() -> list[Cell]:
    cells = [
        _binary(f"0 or 1, wins {wins:.0%}, losses {losses:.0%}", n, wins, losses)
        for wins, losses in ((0.01, 0.01), (0.05, 0.05), (0.01, 0.03), (0.2, 0.2), (0, 0.03))
        for n in (10, 50, 200)
    ]
    shapes: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
        "normal": (lambda draw, n: draw.normal(0, 1, n), 0.0),
        "skewed scores (exponential)": (
            lambda draw, n: draw.exponential(1, n) - draw.exponential(1, n),
            0.0,
        ),
        "one direction (exponential losses)": (lambda draw, n: -draw.exponential(1, n), -1.0),
    }
    cells += [
        Cell("difference", name, n, lambda draw, f=f, n=n: Data(f(draw, n), np.zeros(n)), truth)
        for name, (f, truth) in shapes.items()
        for n in (10, 20, 100)
        if (name, n) != ("one direction (exponential losses)", 10)
    ]
    cells += [
        Cell(
            "difference",
            "scores from 0 to 1",
            n,
            lambda draw, n=n: Data(draw.beta(2, 6, n), draw.beta(2, 6, n)),
            0.0,
            0.0,
            1.0,
        )
        for n in (10, 20, 100)
    ]
    for ties in (0.85, 0.95):
        side = (1 - ties) / 2
        shares = [side * 0.25, side * 0.75, ties, side * 0.75, side * 0.25]
        cells += [
            Cell(
                "difference",
                f"judge, {ties:.0%} tied",
                n,
                lambda draw, n=n, p=shares: Data(
                    3 + draw.choice([-2.0, -1, 0, 1, 2], n, p=p), np.full(n, 3.0)
                ),
                0.0,
                1.0,
                5.0,
                discrete=n * (1 - ties) < 12,
            )
            for n in (20, 50, 200)
        ]
    for losing in (0.03, 0.1):
        cells += [
            Cell(
                "difference",
                f"losses only, {losing:.0%}",
                n,
                lambda draw, n=n, p=losing: Data(
                    np.full(n, 0.9) - (draw.random(n) < p) * draw.beta(2, 2, n) * 0.9,
                    np.full(n, 0.9),
                ),
                -losing * 0.45,
                0.0,
                1.0,
                discrete=True,
            )
            for n in (50, 200)
        ]
    return cells


def _families() -> list[Cell]:
    """Equal routes on several outputs: how often any verdict is `better` or `worse`."""
    return [
        Cell(
            "family",
            f"{outputs} comparisons, {name}",
            n,
            lambda draw, n=n, k=outputs, f=f: Data(f(draw, (k, n)), f(draw, (k, n))),
            0.0,
            0.0,
            1.0,
            discrete=True,
        )
        for outputs in (4, 12)
        for name, f, n in (
            ("scores from 0 to 1", lambda draw, size: draw.beta(2, 6, size), 50),
            ("0 or 1", lambda draw, size: (draw.random(size) < 0.8).astype(np.float64), 50),
        )
    ]


def _sizes(kind: str, k: int, draw: np.random.Generator) -> NDArray[np.intp]:
    if kind == "equal":
        return np.full(k, 8)
    if kind == "geometric":
        return draw.geometric(1 / 8, k)
    if kind == "lognormal":
        return np.maximum(1, np.round(draw.lognormal(1.6, 1, k))).astype(np.intp)
    sizes = np.full(k, 7)  # one has 30% of all rows, or nearly all
    sizes[0] = round((0.3 / 0.7 if kind == "one of 30%" else 9) * 7 * (k - 1))
    return sizes


def _clusters() -> list[Cell]:
    def normal(kind: str, k: int) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = np.repeat(np.arange(k), _sizes(kind, k, random))
            effects = random.normal(0, 0.3**0.5, k)[index]
            return Data(effects + random.normal(0, 0.7**0.5, len(index)), None, index.tolist())

        return draw

    def right(kind: str, k: int, share: float) -> Callable[[np.random.Generator], Data]:
        def draw(random: np.random.Generator) -> Data:
            index = np.repeat(np.arange(k), _sizes(kind, k, random))
            shares = random.beta(share * 7 / 3, (1 - share) * 7 / 3, k)[index]
            values = (random.random(len(index)) < shares).astype(np.float64)
            return Data(values, None, index.tolist())

        return draw

    kinds = ("equal", "geometric", "lognormal", "one of 30%")
    cells = [
        Cell("clusters", f"normal, {kind}", k, normal(kind, k), 0.0)
        for kind in kinds
        for k in (10, 20, 40)
    ]
    cells += [
        Cell(
            "clusters",
            f"share of {share:.0%}, {kind}",
            k,
            right(kind, k, share),
            share,
            0.0,
            1.0,
            discrete=share > 0.9,
        )
        for share in (0.6, 0.95)
        for kind in kinds
        for k in (10, 20, 40)
    ]
    cells += [
        Cell("clusters", "normal, one of 90%", 20, normal("one of 90%", 20), 0.0, refused=True),
        Cell("clusters", "normal, equal", 4, normal("equal", 4), 0.0, refused=True),
    ]
    return cells


def _looks() -> list[Cell]:
    """Equal routes, compared ten times while the run grows: intervals have to hold at all looks."""
    return [
        _binary("0 or 1, wins 20%, losses 20%, in random order", 300, 0.2, 0.2)._replace(
            kind="looks", discrete=True
        ),
        Cell(
            "looks",
            "scores from 0 to 1",
            300,
            lambda draw: Data(draw.beta(2, 6, 300), draw.beta(2, 6, 300)),
            0.0,
            0.0,
            1.0,
            discrete=True,
        ),
        Cell(
            "looks",
            "exponential scores without a range",
            1000,
            lambda draw: Data(draw.exponential(1, 1000), draw.exponential(1, 1000)),
            0.0,
            discrete=True,
        ),
    ]


CELLS: tuple[Cell, ...] = (
    *_means(),
    *_shares(),
    *_differences(),
    *_families(),
    *_clusters(),
    *_looks(),
)
