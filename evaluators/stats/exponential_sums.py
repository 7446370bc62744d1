"""The distribution of a weighted sum of gamma variables, exact up to rounding.

    chance_below_zero([1.0, -2.0], [3.0, 1.0])     -> the chance of Gamma(3) - 2 * Gamma(1) <= 0

Weights from a flat Dirichlet distribution are exponential variables over their sum, so whether a
mean with such weights lies below a value is whether a sum like this one lies below zero.
"""

from __future__ import annotations

import math

import numpy as np

from evaluators.stats.resampling import Floats

_STEP = 0.06
_NODES = 200
_BLOCK = 25
_FADED = 5  # the integrand oscillates, so one node near zero says nothing
_NOTHING = 1e-12
_STEPS = 60
_CLOSE = 1e-6


def chance_below_zero(weights: Floats, shapes: Floats) -> float:
    """Return the chance that a sum of independent gamma variables, times weights, is 0 or less.

    By inverting the Laplace transform along a vertical line through the saddle point (Daniels 1954,
    Annals of Mathematical Statistics 25:631-650), by the trapezoidal rule after a change of
    variable in which the integrand falls exponentially at both ends.

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
    low, high, point = edge, 0.0, edge / 2
    for _ in range(_STEPS):
        ratios = weights / (1 - weights * point)
        slope, curvature = float(shapes @ ratios), float(shapes @ ratios**2)
        low, high = (low, point) if slope > 0 else (point, high)
        newton = point - slope / curvature
        nearer = newton if low < newton < high else (low + high) / 2
        if abs(nearer - point) <= _CLOSE * -nearer:
            break
        point = nearer
    scale = 1 / math.sqrt(float((shapes * (weights / (1 - weights * point)) ** 2).sum()))
    # Zero is a pole of the integrand: stay away from it where there is room.
    point = min(point, max(-scale / 2, edge / 2))
    total = 0.0
    for start in range(0, _NODES, _BLOCK):
        steps = np.arange(start, start + _BLOCK) * _STEP
        line = point + 1j * scale * np.sinh(steps)
        logs = -(np.log(1 - np.outer(line, weights)) @ shapes)
        heights = (np.exp(logs) / -line).real * scale * np.cosh(steps)
        total += float(heights.sum()) - (float(heights[0]) / 2 if start == 0 else 0.0)
        if abs(heights[-_FADED:]).max() <= _NOTHING * total:
            break
    return min(1.0, max(0.0, _STEP * total / math.pi))
