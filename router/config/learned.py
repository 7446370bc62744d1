"""`learned:` of a route: which targets are good enough, and how that is predicted."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import msgspec

from providers.base import NotNegative, Positive
from router.config.section import Names, Section

# `feedback:NAME`, or the name of an output of a metric.
FEEDBACK = "feedback:"
Quality = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(feedback:[A-Za-z0-9][A-Za-z0-9._ -]{0,99}|[A-Za-z][A-Za-z0-9._@-]{0,127})$"
    ),
]
# Strategies that need no model of their own.
PlainStrategy = Literal["weighted", "round_robin", "least_busy", "lowest_latency", "cheapest"]


class LearnedRoute(Section, frozen=True, kw_only=True):
    """How a route predicts which target is the cheapest that is good enough for a prompt.

    Attributes:
        quality: what is good: an output of a metric, of a judge too, that runs over the route's
            targets or its shadow have (`rougeL`, `prometheus`), or `feedback:NAME`. Higher is
            better.
        at_least: a target is good enough where it scores at least so much.
        within: or where it scores lower than `of` by at most so much. Exactly one of them is given.
        of: the target that others are compared with; the first of the route's by default.
        confidence: the chance with which a prediction has to hold.
        embeddings: the route, or `provider/model`, that embeds prompts.
        neighbours: how many of the most similar prompts a prediction is made of.
        mode: `observe` predicts and records, and `otherwise` chooses; `apply` chooses by the
            prediction, where the held-out test has shown that it pays.
        otherwise: the strategy where nothing is predicted.
        margin: how much lower the route may score in the held-out test than the one target that it
            would always take.
        min_saving: the share of that target's cost that it has to save there.
        switch_cost: US dollars per million tokens of its prompt that it costs a conversation to
            change to another target, whose own cache has nothing of it. None for what the prices of
            cached tokens say.
        embed_seconds: how long an embedding may take.
        max_age_days: for so long a model is used; then it has to be learned again.
        learn_every_hours: how often a server learns it again by itself; None for never.
        runs: ids or names of the runs to learn from; all runs over the route's targets by default.
    """

    quality: Quality
    embeddings: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    at_least: Annotated[float, msgspec.Meta(gt=-(10**9), lt=10**9)] | None = None
    within: NotNegative | None = None
    of: str | None = None
    confidence: Annotated[float, msgspec.Meta(ge=0.5, le=0.999)] = 0.9
    neighbours: Annotated[int, msgspec.Meta(ge=10, le=1000)] = 50
    mode: Literal["observe", "apply"] = "observe"
    otherwise: PlainStrategy = "weighted"
    margin: NotNegative = 0.02
    min_saving: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    switch_cost: NotNegative | None = None
    embed_seconds: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05
    max_age_days: Positive = 30.0
    learn_every_hours: Annotated[float, msgspec.Meta(ge=1, le=10_000)] | None = None
    runs: Names = ()


def learned_problems(
    learned: LearnedRoute, targets: Collection[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what types cannot say: the place within the settings, and what is wrong there.

    `targets` are the `provider/model` of the route that have a weight.
    """
    if (learned.at_least is None) == (learned.within is None):
        yield (), "say either at_least or within"
    if learned.of is not None and learned.within is None:
        yield ("of",), "is for within"
    elif learned.of is not None and learned.of not in targets:
        yield ("of",), f"{learned.of} is no target of this route with a weight"
    if len(set(targets)) < 2:
        yield (), "the route has one target only, so there is nothing to choose"
