"""Bradley-Terry ratings of several routes from pairwise verdicts, and which routes to pair.

    pairs = schedule(["a", "b", "c", "d"], sample_ids)      # few pairs, all routes connected
    board = rate([Game("a", "b", 1.0, "q1"), ...])
    board.ratings["a"]                                      # Interval(estimate=1021, ...)

A rating of 400 more means odds of 10 to 1, as in chess; the mean of all ratings is 1000. A tie
counts as half a win. Intervals are percentiles of the Bayesian bootstrap (see `agreement.py`) over
the questions that were judged, since verdicts on the same question belong together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import Interval, t_quantile
from evaluators.stats.resampling import Floats

RESAMPLES = 400
SCALE = 400 / math.log(10)
MEAN = 1000.0
# A route that won or lost every game would be infinitely good or bad: each pair that met gets half
# a point each way.
PRIOR = 0.5
_CHUNK = 2_000_000  # numbers drawn at once


class Game(NamedTuple):
    """One verdict: `score` is 1 when the first won, 0 when the second did, 0.5 for a tie."""

    first: str
    second: str
    score: float
    question: str


class Ratings(msgspec.Struct, frozen=True, kw_only=True):
    """The ratings of all routes that were compared.

    Attributes:
        ratings: name to rating, best first.
        games: the number of verdicts.
        matrix: the names in that order, and for each row and column the share of points that the
            row's name got against the column's; None where they never met.
        surely: pairs of names, better one first, whose order holds at the level of 95% for all
            pairs of the board at once.
    """

    ratings: dict[str, Interval]
    games: int
    matrix: tuple[tuple[float | None, ...], ...]
    surely: tuple[tuple[str, str], ...]


def schedule(
    names: Sequence[str], questions: Sequence[str], *, full: bool = False, seed: int = 0
) -> list[tuple[str, str, str]]:
    """Choose the routes to compare on each question: (first, second, question).

    For every question the names stand in a ring of random order and each meets the next one:
    as many games as names instead of names * (names - 1) / 2, and all names are connected on every
    question. Over many questions all pairs meet about equally often.

    Args:
        names: at least two.
        questions: ids.
        full: all pairs on every question instead.
        seed: of the order.
    """
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError("a tournament needs two or more different names")
    if full or len(names) <= 3:
        return [(a, b, question) for question in questions for a, b in combinations(names, 2)]
    random = np.random.Generator(np.random.PCG64(seed))
    games = []
    for question in questions:
        ring = [names[n] for n in random.permutation(len(names))]
        games += [
            (name, ring[(place + 1) % len(ring)], question) for place, name in enumerate(ring)
        ]
    return games


def rate(games: Sequence[Game], *, seed: int = 0) -> Ratings:
    """Rate by maximum likelihood (Bradley and Terry 1952; Hunter 2004, Ann. Stat. 32:384-406).

    Args:
        games: verdicts; names that no chain of games connects cannot be compared, and the prior
            of half a point a pair that met does not change that.
        seed: of the resampling.

    Raises:
        ValueError: the games fall apart into groups that never met.
    """
    names = sorted({name for game in games for name in (game.first, game.second)})
    place = {name: n for n, name in enumerate(names)}
    k = len(names)
    if k < 2:
        return Ratings(ratings={}, games=0, matrix=(), surely=())
    questions: dict[str, int] = {}
    number = [questions.setdefault(game.question, len(questions)) for game in games]
    points = np.zeros((len(questions), k, k))
    for game, question in zip(games, number, strict=True):
        a, b = place[game.first], place[game.second]
        points[question, a, b] += game.score
        points[question, b, a] += 1 - game.score
    total = points.sum(axis=0)
    met = (total + total.T) > 0
    if not _connected(met):
        raise ValueError("some names never met, directly or over others: they have no common scale")
    estimate = _strengths(total, met, np.full((k, k), PRIOR))
    random = np.random.Generator(np.random.PCG64(seed))
    flat = points.reshape(len(questions), k * k)
    points_drawn, priors = np.empty((RESAMPLES, k, k)), np.empty((RESAMPLES, k, k))
    rows = max(1, _CHUNK // (len(questions) + k * k))
    for start in range(0, RESAMPLES, rows):
        block = slice(start, min(start + rows, RESAMPLES))
        parts = random.standard_exponential((block.stop - start, len(questions) + k * k))
        weights, luck = np.split(parts, [len(questions)], axis=1)
        weights *= len(questions) / weights.sum(axis=1, keepdims=True)
        points_drawn[block] = (weights @ flat).reshape(-1, k, k)
        # Half a point each way on average, so that who won every game may lose the next one.
        priors[block] = PRIOR * luck.reshape(-1, k, k)
    drawn = _strengths(points_drawn, met, priors)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    order = np.argsort(-estimate, kind="stable")
    played = total + total.T
    return Ratings(
        ratings={
            names[n]: Interval(
                estimate=float(estimate[n]),
                low=min(float(low[n]), float(estimate[n])),
                high=max(float(high[n]), float(estimate[n])),
                n=round(played[n].sum()),
                method="percentile",
            )
            for n in order
        },
        games=len(games),
        matrix=tuple(
            tuple(float(total[a, b] / played[a, b]) if met[a, b] else None for b in order)
            for a in order
        ),
        surely=tuple(
            (names[a], names[b]) for a, b in _set_apart(estimate, drawn, order, len(questions))
        ),
    )


def _set_apart(
    estimate: Floats, drawn: Floats, order: NDArray[np.intp], questions: int
) -> list[tuple[np.intp, np.intp]]:
    """Return the pairs whose order holds for all pairs at once.

    With many pairs some are far apart by chance: at 95% for each, 45% of boards of five equal
    players named one. The bound is the 95% quantile over the draws of the largest standardised
    error of any pair (Romano and Wolf 2005, Econometrica 73:1237-1282, their single step), taken
    from the normal to Student's t: the draws show neither how uncertain their own spread is, nor
    that the ratings were fitted to the same questions.
    """
    pairs = list(combinations(order, 2))
    better, worse = np.array(pairs).T
    # As probabilities, because a gap of ratings varies more the larger it is.
    gaps = _chances(estimate[better] - estimate[worse]) - 0.5
    errors = _chances(drawn[:, better] - drawn[:, worse]) - 0.5 - gaps
    scale = errors.std(axis=0, ddof=1)
    varies = scale > 0
    freedom = questions - len(order) + 1
    if not varies.any() or freedom < 1:
        return []
    largest = np.abs(errors[:, varies] / scale[varies]).max(axis=1)
    share = NormalDist().cdf(float(np.quantile(largest, 0.95)))
    bound = t_quantile(share, freedom) * (questions / freedom) ** 0.5 * scale
    return [pair for pair, apart in zip(pairs, varies & (gaps > bound), strict=True) if apart]


def chance(rating: float, other: float) -> float:
    """Return the probability that the first wins, according to the ratings."""
    return 1 / (1 + math.exp((other - rating) / SCALE))


def _chances(gaps: Floats) -> Floats:
    return 1 / (1 + np.exp(-gaps / SCALE))


def _strengths(points: Floats, met: Floats, prior: Floats) -> Floats:
    """Compute ratings by minorisation and maximisation; pairs that met get the prior.

    The last two dimensions are those of one board; boards before them are solved at once.
    """
    wins = points + prior * met
    games = wins + np.swapaxes(wins, -1, -2)
    won = wins.sum(axis=-1)
    strength = np.ones(won.shape)
    for _ in range(2000):
        share = games / (strength[..., :, None] + strength[..., None, :])
        after = won / share.sum(axis=-1)
        after /= np.exp(np.log(after).mean(axis=-1, keepdims=True))
        done = np.abs(np.log(after / strength)).max() < 1e-10
        strength = after
        if done:
            break
    ratings: Floats = MEAN + SCALE * np.log(strength)
    return ratings


def _connected(met: Floats) -> bool:
    reached = {0}
    waiting = [0]
    while waiting:
        for n in np.flatnonzero(met[waiting.pop()]):
            if int(n) not in reached:
                reached.add(int(n))
                waiting.append(int(n))
    return len(reached) == len(met)
