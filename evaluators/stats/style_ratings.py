"""Rates routes as if all answers had the same style: length, markdown.

    controlled = style_controlled(games, [(0.2, 0.0), ...], names=("length", "markdown"))
    controlled.ratings["a"]         # the rating at equal style
    controlled.effects["length"]    # what one standard deviation more of it is worth

A judge that likes long answers rates a talkative route too high. The Bradley-Terry model gets one
term more for each property of style (as Chatbot Arena's style control, Li, Angelopoulos and Chiang
2024), so that routes are compared at equal style. What a longer answer says more is then taken
from its route too: the plain ratings and these are the two ends of the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np

from evaluators.stats.intervals import Interval
from evaluators.stats.ratings import MEAN, PRIOR, RESAMPLES, SCALE, Game
from evaluators.stats.resampling import Floats

# A weak prior keeps an effect finite where style and result go together without exception.
_RIDGE = 0.1


class StyleControl(msgspec.Struct, frozen=True, kw_only=True):
    """Ratings at equal style.

    Attributes:
        ratings: name to rating, best first; on the scale of the plain ratings.
        effects: property of style to the rating points that one standard deviation more of it is
            worth.
    """

    ratings: dict[str, Interval]
    effects: dict[str, Interval]


def style_controlled(
    games: Sequence[Game],
    styles: Sequence[Sequence[float]],
    *,
    names: Sequence[str],
    seed: int = 0,
) -> StyleControl | None:
    """Fit ratings and effects of style together; None where no style differs.

    Args:
        games: the verdicts, all names connected by them.
        styles: for each verdict, how much more of each property the first answer has.
        names: of the properties.
        seed: of the bootstrap over questions.
    """
    players = sorted({name for game in games for name in (game.first, game.second)})
    style = np.asarray(styles, dtype=np.float64).reshape(len(games), len(names))
    spread = style.std(axis=0) if len(games) else np.zeros(len(names))
    if len(players) < 2 or not (spread > 0).any():
        return None
    style = np.divide(style, spread, out=np.zeros_like(style), where=spread > 0)
    place = {name: number for number, name in enumerate(players)}
    design = np.zeros((len(games), len(players)))
    for row, game in enumerate(games):
        design[row, place[game.first]], design[row, place[game.second]] = 1.0, -1.0
    met = {frozenset((game.first, game.second)) for game in games}
    pairs = [pair for pair in combinations(players, 2) if frozenset(pair) in met]
    # The prior of the plain ratings: half a point each way for every pair that met.
    prior = np.zeros((len(pairs), len(players) + len(names)))
    for row, (first, second) in enumerate(pairs):
        prior[row, place[first]], prior[row, place[second]] = 1.0, -1.0
    rows = np.vstack([np.column_stack([design, style]), prior])
    points = np.array([*(game.score for game in games), *(0.5 for _ in pairs)])
    questions: dict[str, int] = {}
    index = np.array([questions.setdefault(game.question, len(questions)) for game in games])
    even = np.concatenate([np.ones(len(games)), np.full(len(pairs), 2 * PRIOR)])
    estimate = _fit(rows, points, even, len(players))
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = np.empty((RESAMPLES, len(estimate)))
    for number in range(RESAMPLES):
        weights = random.standard_exponential(len(questions))
        weights *= len(questions) / weights.sum()
        shares = random.random(len(pairs))
        drawn[number] = _fit(
            rows,
            np.concatenate([points[: len(games)], shares]),
            np.concatenate([weights[index], even[len(games) :]]),
            len(players),
            start=estimate,
        )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    counts = np.abs(design).sum(axis=0)

    def interval(at: int, base: float, n: int) -> Interval:
        values = sorted([low[at], estimate[at], high[at]])
        return Interval(
            estimate=base + SCALE * float(estimate[at]),
            low=base + SCALE * float(values[0]),
            high=base + SCALE * float(values[2]),
            n=n,
            method="percentile",
        )

    order = sorted(range(len(players)), key=lambda at: -estimate[at])
    return StyleControl(
        ratings={players[at]: interval(at, MEAN, int(counts[at])) for at in order},
        effects={
            name: interval(len(players) + at, 0.0, len(games))
            for at, name in enumerate(names)
            if spread[at] > 0
        },
    )


def _fit(
    rows: Floats, points: Floats, weights: Floats, players: int, start: Floats | None = None
) -> Floats:
    """Maximise the likelihood by Newton's method; the ratings add up to 0."""
    width = rows.shape[1]
    coefficients = np.zeros(width) if start is None else start.copy()
    penalty = np.zeros((width, width))
    penalty[:players, :players] = 1.0
    penalty[range(players, width), range(players, width)] = _RIDGE
    for _ in range(40):
        chance = 1 / (1 + np.exp(-np.clip(rows @ coefficients, -30, 30)))
        gradient = rows.T @ (weights * (points - chance)) - penalty @ coefficients
        curvature = (rows * (weights * chance * (1 - chance))[:, None]).T @ rows + penalty
        step = np.linalg.solve(curvature, gradient)
        largest = float(np.abs(step).max())
        coefficients = coefficients + step * min(1.0, 2.0 / largest if largest else 1.0)
        if largest < 1e-8:
            break
    return np.asarray(coefficients, dtype=np.float64)


def relative_difference(first: float, second: float) -> float:
    """Return how much more of something the first answer has, from -1 to 1."""
    total = first + second
    return (first - second) / total if total and math.isfinite(total) else 0.0
