"""The distribution of a weighted sum of gamma variables, exact to nine digits.

    chance_below_zero([1.0, -2.0], [3.0, 1.0])     -> the chance of Gamma(3) - 2 * Gamma(1) <= 0

Weights from a flat Dirichlet distribution are exponential variables over their sum, so whether a
mean with such weights lies below a value is whether a sum like this one lies below zero.
"""

from __future__ import annotations

import math

import numpy as np

from evaluators.stats.resampling import Floats

_NODES = 240
_BLOCK = 12
_FADED = 4  # the integrand oscillates, so one node near zero says nothing
_NOTHING = 1e-12
_DIGITS = 27.0  # the trapezoidal rule's error is about exp(-27)
_AWAY = 0.6
_STEPS = 60
_CLOSE = 0.01  # any line serves; one through the saddle point needs the fewest nodes
_CHUNK = 8  # so many factors are too few to overflow


def chance_below_zero(weights: Floats, shapes: Floats) -> float:
    """Return the chance that a sum of independent gamma variables, times weights, is 0 or less.

    By inverting the Laplace transform along a curve through the saddle point (Daniels 1954, Annals
    of Mathematical Statistics 25:631-650), by the trapezoidal rule after a change of variable in
    which the integrand falls exponentially at both ends.

    Args:
        weights: of each variable, of either sign, shape (k,).
        shapes: the shape of each gamma distribution, 0 or more, shape (k,).
    """
    chosen = (weights != 0) & (shapes > 0)
    weights, shapes = weights[chosen], shapes[chosen]
    if len(weights) == 0 or weights.max() < 0:
        return 1.0
    if weights.min() > 0:
        return 0.0
    if float(shapes @ weights) < 0:
        return 1.0 - chance_below_zero(-weights, shapes)
    weights = weights / float(np.abs(weights).max())
    # The transform exists between the reciprocals of the weights; the tail's side is below zero.
    edge = 1 / float(weights.min())
    low, high = edge, 0.0
    point = max(edge / 2, -float(shapes @ weights) / float(shapes @ weights**2))
    for _ in range(_STEPS):
        ratios = weights / (1 - weights * point)
        slope, curvature = float(shapes @ ratios), float(shapes @ ratios**2)
        low, high = (low, point) if slope > 0 else (point, high)
        newton = point - slope / curvature
        nearer = newton if low < newton < high else (low + high) / 2
        if abs(nearer - point) <= _CLOSE * -nearer:
            break
        point = nearer
    ratios = weights / (1 - weights * point)
    scale = 1 / math.sqrt(float(shapes @ ratios**2))
    # Near the saddle point this is the line along which the integrand falls and does not oscillate.
    bend = 2 * float(shapes @ ratios**3) * scale**3 / 3
    # Zero is a pole of the integrand: stay away from it where there is room.
    point = min(point, max(-scale, edge / 2))
    # The rule's error falls with the distance of poles, on the plane in which its nodes are. Beyond
    # `_AWAY` the integrand grows.
    nearest = min(-point, point - edge) / scale
    step = 2 * math.pi * min(_AWAY, math.asin(min(1.0, nearest))) / _DIGITS
    for share in (1.0, 0.5, 0.25):
        chance = _integral(weights, shapes, point, scale=scale, bend=bend * share, step=step)
        if chance is not None:
            return chance
    # Along a straight line the integrand falls whatever the weights are.
    straight = _integral(weights, shapes, point, scale=scale, bend=0.0, step=step, rises=math.inf)
    return straight or 0.0


def _integral(
    weights: Floats,
    shapes: Floats,
    point: float,
    *,
    scale: float,
    bend: float,
    step: float,
    rises: float = 10.0,
) -> float | None:
    """Return the integral along a hyperbola; None where the integrand rises by more than that.

    Args:
        weights: of each variable.
        shapes: of each variable.
        point: where the hyperbola crosses the real line.
        scale: of the variable that is changed.
        bend: how far the hyperbola turns, to the right where it is above 0.
        step: between nodes, after the change of variable.
        rises: times the first value.
    """
    alone = shapes == 1
    chunks = np.zeros((-(-np.count_nonzero(alone) // _CHUNK), _CHUNK))
    chunks.ravel()[: np.count_nonzero(alone)] = weights[alone]
    weights, shapes = weights[~alone], shapes[~alone]
    total = first = 0.0
    for start in range(0, _NODES, _BLOCK):
        steps = np.arange(start, start + _BLOCK) * step
        sines, cosines = np.sinh(steps), np.cosh(steps)
        line = point + scale * (bend * (cosines - 1) + 1j * sines)
        logs = np.log((1 - line[:, None, None] * chunks).prod(axis=2)).sum(axis=1)
        if len(weights):
            logs += np.log(1 - np.outer(line, weights)) @ shapes
        slopes = scale * (bend * sines + 1j * cosines)
        heights = (np.exp(-logs) / -line * slopes).imag
        largest = float(np.abs(heights).max())
        if start == 0:
            first = float(heights[0])
            total -= first / 2
        if not largest <= rises * first:
            return None
        total += float(heights.sum())
        if float(np.abs(heights[-_FADED:]).max()) <= _NOTHING * total:
            break
    return min(1.0, max(0.0, step * total / math.pi))
