"""What another policy would have brought, from choices that were made with known probabilities.

    value = off_policy_value(scores, choices, policy, low=0.0, high=1.0)
    value.doubly_robust                      -> Interval(estimate=0.81, low=0.78, high=0.84, ...)

A policy says with which probability it takes each action in each context. Requests that were
answered by the action that it would take count by how much more often it takes it than the one
that was in force (inverse propensity score; Horvitz and Thompson 1952, JASA 47:663-685), and a
model of the outcomes narrows the interval: the doubly robust estimate of Dudik, Langford and Li
(2011, ICML, arXiv 1103.4601; Dudik, Erhan, Langford and Li 2014, Statistical Science 29:485-511).
Where the probabilities are right, as they are when the router has written them down, it is right
whatever the model says.

Requests of one unit (the user, or whatever a choice sticks to) are one observation: variances are
those of clusters, CR2 with as many degrees of freedom as `intervals.py` has.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import (
    Interval,
    clustered_error,
    mean_interval,
    score_interval,
    t_quantile,
    within,
)
from evaluators.stats.resampling import Floats

FEWEST_EFFECTIVE = 200.0
"""With fewer effective units no interval is given; evidence/what_if.py shows what holds above."""

FOLDS = 5
"""The model of a unit's outcomes is fitted to the units of the other folds (Chernozhukov et al.
2018, Econometrics Journal 21:C1-C68), so that it has not seen them."""

# The mean weight is 1 where the probabilities are those of the choices: so many standard errors off
# it is not.
_WEIGHT_ERRORS = 5.0
# How many requests the mean of all weighs in a model's mean of one action, and that in a context's.
_SHRINKAGE = 10.0


_Range: TypeAlias = tuple[float | None, float | None]


class Choices(NamedTuple):
    """Choices that were made, one entry for each request.

    Attributes:
        units: the number of whom the choice stuck to, shape (n,).
        contexts: the number of what was known before the choice, shape (n,).
        actions: the number of the action that was taken, shape (n,).
        propensities: with which probability it was, in (0, 1], shape (n,).
    """

    units: NDArray[np.intp]
    contexts: NDArray[np.intp]
    actions: NDArray[np.intp]
    propensities: Floats


class OffPolicyValue(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have brought, or why that cannot be said.

    Attributes:
        doubly_robust: the estimate to read, per request; without ends where it is refused.
        inverse_propensity: the one without a model.
        observed: what the same requests brought as they were served.
        difference: the first less the third.
        requests, units: how many there were.
        effective_units: how many equal units would say as much: (sum of weights)^2 / sum of
            squares, over units.
        mean_weight: near 1 where the probabilities are those by which was chosen.
        cut: the share of all weight above the limit of a weight, which is cut off.
        refused: why no interval is given; "" where it is.
        requests_needed: how many requests would be enough, if others are like these; None where
            that is not known, or there are enough.
    """

    doubly_robust: Interval
    inverse_propensity: Interval
    observed: Interval
    difference: Interval
    requests: int
    units: int
    effective_units: float
    mean_weight: float
    cut: float
    refused: str = ""
    requests_needed: int | None = None


def off_policy_value(
    outcomes: Floats,
    choices: Choices,
    policy: Floats,
    *,
    low: float | None = None,
    high: float | None = None,
    level: float = 0.95,
) -> OffPolicyValue:
    """Estimate what a policy would have brought.

    Args:
        outcomes: what each request brought, finite, shape (n,).
        choices: how each was answered.
        policy: with which probability the policy takes each action in each context, rows that add
            up to 1, shape (contexts, actions). Every action that it may take in a context had a
            chance in all requests with that context.
        low: the end of the range of outcomes, which estimates and intervals are cut off at; None
            without one.
        high: its other end.
        level: confidence level.
    """
    n = len(outcomes)
    _, units = np.unique(choices.units, return_inverse=True)
    if not n:
        none = Interval(estimate=None, low=None, high=None, n=0)
        return OffPolicyValue(
            doubly_robust=none,
            inverse_propensity=none,
            observed=none,
            difference=none,
            requests=0,
            units=0,
            effective_units=0.0,
            mean_weight=0.0,
            cut=0.0,
            refused="no request has a value",
        )
    weights = _weights(choices, policy)
    effective = effective_units(weights, units)
    used = np.minimum(weights, _limit(n))
    cut = float((weights - used).sum() / weights.sum()) if weights.any() else 0.0
    scores = _scores(outcomes, choices, units, policy, used)
    shares = (low, high) == (0.0, 1.0) and bool(np.isin(outcomes, (0.0, 1.0)).all())
    refused = _refused(weights, units, effective)
    needed = math.ceil(n * FEWEST_EFFECTIVE / effective) if effective else None
    ends = (low, high)
    both = None if low is None or high is None else high - low
    owners = units.tolist()
    owner_count = int(units.max()) + 1
    clusters = owners if owner_count < n else None

    def interval(values: Floats, ends: _Range, *, share: bool = False) -> Interval:
        result = mean_interval(values, clusters=clusters, level=level)
        if refused:
            result = msgspec.structs.replace(result, low=None, high=None, method="none")
        elif share:
            result = _with_rare(result, effective, level)
        return _possible(result, *ends)

    return OffPolicyValue(
        doubly_robust=interval(scores, ends, share=shares),
        inverse_propensity=interval(used * outcomes, ends, share=shares),
        observed=mean_interval(outcomes, clusters=owners, low=low, high=high, level=level),
        difference=interval(scores - outcomes, (None if both is None else -both, both)),
        requests=n,
        units=owner_count,
        effective_units=effective,
        mean_weight=float(weights.mean()),
        cut=cut,
        refused=refused,
        requests_needed=needed if refused and needed is not None and needed > n else None,
    )


def _possible(interval: Interval, low: float | None, high: float | None) -> Interval:
    """Return an interval and its estimate, cut off at the range of what is estimated.

    Weights may lead an estimate out of it; the nearest number in it is closer to any truth.
    """
    estimate = interval.estimate
    if estimate is not None:
        estimate = estimate if low is None else max(estimate, low)
        estimate = estimate if high is None else min(estimate, high)
    return within(msgspec.structs.replace(interval, estimate=estimate), low, high)


def off_policy_difference(
    outcomes: Floats, choices: Choices, first: Floats, second: Floats, *, level: float = 0.95
) -> Interval:
    """Return how much more the first policy would have brought than the second, doubly robust.

    Both are judged by the same requests, so what these have in common cancels out. Arguments as
    for `off_policy_value`. It has no ends where one of the two cannot be estimated.
    """
    if not len(outcomes):
        return Interval(estimate=None, low=None, high=None, n=0)
    _, units = np.unique(choices.units, return_inverse=True)
    scores, refused = [], False
    for policy in (first, second):
        weights = _weights(choices, policy)
        refused |= bool(_refused(weights, units, effective_units(weights, units)))
        used = np.minimum(weights, _limit(len(outcomes)))
        scores.append(_scores(outcomes, choices, units, policy, used))
    interval = mean_interval(scores[0] - scores[1], clusters=units.tolist(), level=level)
    return msgspec.structs.replace(interval, low=None, high=None) if refused else interval


def _weights(choices: Choices, policy: Floats) -> Floats:
    weights: Floats = policy[choices.contexts, choices.actions] / choices.propensities
    return weights


def _limit(n: int) -> float:
    """Return the limit of a weight (Ionides 2008), which no equal weights that suffice exceed."""
    return max(math.sqrt(n), n / FEWEST_EFFECTIVE)


def _scores(
    outcomes: Floats, choices: Choices, units: NDArray[np.intp], policy: Floats, weights: Floats
) -> Floats:
    """Return what each request says of the policy, whose mean is the doubly robust estimate."""
    fold = _folds(units)
    model = _fitted(outcomes, choices, fold, policy.shape)
    expected = (policy[None] * model).sum(axis=2)[fold, choices.contexts]
    predicted = model[fold, choices.contexts, choices.actions]
    scores: Floats = expected + weights * (outcomes - predicted)
    return scores


def effective_units(weights: Floats, units: NDArray[np.intp]) -> float:
    """Return how many units of one weight say as much as these (Kish 1965); 0 without weight."""
    sums = np.bincount(units, weights=weights)
    squares = float((sums**2).sum())
    return float(sums.sum()) ** 2 / squares if squares else 0.0


def _fitted(
    outcomes: Floats, choices: Choices, fold: NDArray[np.intp], shape: tuple[int, ...]
) -> Floats:
    """Return the mean outcome of each action in each context, for each fold from the others.

    A mean of few requests is drawn towards that of its action, and that towards the mean of all,
    as ridge regression on the two does. Shape (FOLDS, contexts, actions).
    """
    contexts, actions = shape
    cells = (fold * contexts + choices.contexts) * actions + choices.actions
    size = FOLDS * contexts * actions
    counts = np.bincount(cells, minlength=size).reshape(FOLDS, contexts, actions)
    sums = np.bincount(cells, weights=outcomes, minlength=size).reshape(FOLDS, contexts, actions)
    counts, sums = counts.sum(axis=0) - counts, sums.sum(axis=0) - sums
    overall = sums.sum(axis=(1, 2)) / np.maximum(1, counts.sum(axis=(1, 2)))
    of_actions = (sums.sum(axis=1) + _SHRINKAGE * overall[:, None]) / (
        counts.sum(axis=1) + _SHRINKAGE
    )
    fitted: Floats = (sums + _SHRINKAGE * of_actions[:, None]) / (counts + _SHRINKAGE)
    return fitted


def _folds(units: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the fold of each request, which is that of its unit."""
    order = np.random.default_rng(0).permutation(int(units.max()) + 1)
    folds: NDArray[np.intp] = order[units] % FOLDS
    return folds


def _refused(weights: Floats, units: NDArray[np.intp], effective: float) -> str:
    """Return why no interval can be given; "" where one can."""
    if effective < FEWEST_EFFECTIVE:
        return (
            f"too few requests speak for it: they count as {effective:,.0f} users or requests, "
            f"and {FEWEST_EFFECTIVE:,.0f} are needed"
        )
    error, _ = clustered_error(weights, units.tolist())
    if abs(float(weights.mean()) - 1) > _WEIGHT_ERRORS * error + 1e-9:
        return (
            "the recorded probabilities are not those by which targets were chosen: the mean "
            f"weight is {weights.mean():.3g} and not 1"
        )
    return ""


def _with_rare(interval: Interval, effective: float, level: float) -> Interval:
    """Return an interval of a share that is no narrower than that of so many effective units.

    Where hardly any outcome differs from the others, their spread is mostly luck.
    """
    share = min(1.0, max(0.0, interval.estimate or 0.0))
    low, high = score_interval(share, effective, t_quantile(0.5 + level / 2, effective))
    return msgspec.structs.replace(
        interval,
        low=min(low, low if interval.low is None else interval.low),
        high=max(high, high if interval.high is None else interval.high),
    )
