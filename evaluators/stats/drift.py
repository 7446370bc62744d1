"""Whether a model still answers as its reference did, however often one looks.

    test = DriftTest()
    for distance in distances:                    # of held-out draws, then of every later probe
        evidence = test.add(distance, tie=random())
        if evidence.e_value >= 1 / alpha:         # at most alpha of unchanged models ever get here
            ...

The reference is random itself: a few draws say what answers look like (`token_anchor`), and how far
others are from those is a distance (`token_distances`). A threshold made from a few held-out
distances would be wrong for ever where they happened to be small. So no threshold is made. While
nothing changes, held-out draws and probes are exchangeable, and the rank of each new distance among
all so far is uniform and independent of the earlier ranks, exactly, whatever the distribution is
(Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World, ch. 2; Vovk 2021, Testing
Randomness Online, Statistical Science 36:595-611). A gambler bets that the ranks are high; the
capital is an e-value at every moment (Ville's inequality).

What is assumed: that probes are exchangeable while nothing changes. A host whose answers depend on
the time of day needs a reference of all of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

BETS = tuple((step, stake) for step in (0.8, 0.5, 0.3, 0.15, 0.06, 0.02) for stake in (0.9, 0.4))
"""Bets: that the new distance is among so large a share of the largest, and what is staked."""

MIXED = 0.1
"""What moves from each bet to the others before a probe, because the best bet changes."""

MAX_TOKENS = 20
"""The alternatives of a token that are compared: as many as hosts give."""

LEAST_LOG_PROBABILITY = -30.0
"""What smaller ones count as; hosts write -9999 for "hardly ever"."""

SPREAD_FLOOR = 0.02
"""Added to the spread of a prompt, in nats, so that none that never varied outweighs the others."""

_LARGEST = 1e300

TokenDraw = Mapping[str, float]
"""The alternatives of one token with their log probabilities (natural logarithms)."""


class DriftEvidence(NamedTuple):
    """What one distance adds.

    Attributes:
        p_value: the share of distances so far that are as large or larger, itself included; those
            that are equal are in an order of chance.
        e_value: the evidence of all of them together that something has changed.
    """

    p_value: float
    e_value: float


class DriftTest(msgspec.Struct, kw_only=True):
    """Bets that distances have become larger, beginning at any moment.

    Most of the capital stays out at first. Before the t-th distance 1/(t + 1) of what is still out
    is spread over the bets, so a change is found late or early: late costs a factor of t in the
    capital, which is a few probes more. Between the bets capital moves as in Herbster and Warmuth
    (1998, Machine Learning 32:151-178), because the changed distances themselves lower the ranks of
    those that follow.

    Attributes:
        ranked: all distances with their ties, ascending.
        out: the capital that does not bet yet.
        bets: the capital of each of `BETS`.
    """

    ranked: list[tuple[float, float]] = []
    out: float = 1.0
    bets: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(BETS))

    def add(self, distance: float, *, tie: float) -> DriftEvidence:
        """Bet on a distance, then see it.

        Args:
            distance: from the reference.
            tie: a random number from 0 to 1 that has nothing to do with any distance. It says
                which of equal distances counts as larger; otherwise ranks would not be uniform.

        Raises:
            ValueError: a number that is not finite, or a tie outside of 0 to 1.
        """
        if not math.isfinite(distance) or not 0 <= tie <= 1:
            raise ValueError("a distance must be finite, and a tie from 0 to 1")
        count = len(self.ranked) + 1
        place = bisect_left(self.ranked, (distance, tie))
        larger = len(self.ranked) - place
        begun = self.out / (count + 1)
        self.out -= begun
        moved = MIXED * math.fsum(self.bets) + begun
        self.bets = [
            min(
                _LARGEST, ((1 - MIXED) * capital + moved / len(BETS)) * _factor(larger, count, *bet)
            )
            for capital, bet in zip(self.bets, BETS, strict=True)
        ]
        self.ranked.insert(place, (distance, tie))
        return DriftEvidence((larger + 1) / count, min(_LARGEST, self.out + math.fsum(self.bets)))


def _factor(larger: int, count: int, step: float, stake: float) -> float:
    """Return what a bet's capital is multiplied by: 1 on average over the ranks.

    The rank stands for the part from larger / count to (larger + 1) / count of [0, 1], and the bet
    is on the part below `step`: where the first straddles it, it counts for its share.
    """
    share = min(1.0, max(0.0, step * count - larger))
    return 1 - stake + stake * share / step


def alpha_of(alpha: float, reference: int) -> float:
    """Return the level of a watch's n-th reference, from 1: alpha / (n (n + 1)).

    They add up to `alpha`, so it holds for the whole life of a watch whose reference is made anew,
    for whatever reason, as often as people like.
    """
    return alpha / (reference * (reference + 1))


class PromptAnchor(msgspec.Struct, frozen=True, kw_only=True):
    """What the first token after a prompt looked like in the reference.

    Attributes:
        tokens: mean log probabilities of its most likely alternatives.
        spread: how far single draws were from those, on average, in nats.
    """

    tokens: dict[str, float]
    spread: float


def readable_draw(alternatives: Mapping[str, float]) -> dict[str, float]:
    """Return the likeliest alternatives, at most `MAX_TOKENS`, with bounded log probabilities.

    Those that are not numbers, or above 0 by more than rounding, are left out.
    """
    good = {
        token: max(LEAST_LOG_PROBABILITY, min(0.0, value))
        for token, value in alternatives.items()
        if math.isfinite(value) and value <= 1e-3
    }
    likeliest = sorted(good.items(), key=lambda pair: (-pair[1], pair[0]))
    return dict(likeliest[:MAX_TOKENS])


def token_anchor(draws: Sequence[Sequence[TokenDraw]]) -> PromptAnchor:
    """Return what a prompt's token looks like.

    Args:
        draws: of each probe, the repeats of the prompt; none of them empty.
    """
    tokens = sorted({token for draw in draws for repeat in draw for token in repeat})
    rows = [_values(tokens, draw) for draw in draws]
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    far = math.fsum(_apart(row, means) for row in rows) / len(rows)
    return PromptAnchor(tokens=dict(zip(tokens, means, strict=True)), spread=far)


def token_distances(
    anchors: Sequence[PromptAnchor], draw: Sequence[Sequence[TokenDraw]]
) -> list[float]:
    """Return how far each prompt's token is from its anchor, in nats per alternative.

    Args:
        anchors: of the prompts.
        draw: of each prompt, its repeats in this probe, whose log probabilities are averaged first:
            that lowers the noise, and not the shift that is looked for.
    """
    return [
        _apart(_values(list(anchor.tokens), repeats), list(anchor.tokens.values()))
        for anchor, repeats in zip(anchors, draw, strict=True)
    ]


def token_distance(anchors: Sequence[PromptAnchor], distances: Sequence[float]) -> float:
    """Return the mean of the prompts' distances, each in units of how much that prompt varies."""
    scaled = (
        distance / (anchor.spread + SPREAD_FLOOR)
        for anchor, distance in zip(anchors, distances, strict=True)
    )
    return math.fsum(scaled) / len(anchors)


def _values(tokens: Sequence[str], repeats: Sequence[TokenDraw]) -> list[float]:
    """Return the mean log probabilities of tokens; a token that a repeat lacks is as its least."""
    least = [min(repeat.values()) for repeat in repeats]
    return [
        math.fsum(
            min(low, 0.0) if (value := repeat.get(token)) is None else value
            for repeat, low in zip(repeats, least, strict=True)
        )
        / len(repeats)
        for token in tokens
    ]


def _apart(values: Sequence[float], means: Sequence[float]) -> float:
    return math.fsum(abs(a - b) for a, b in zip(values, means, strict=True)) / len(means)
