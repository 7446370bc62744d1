"""Corrects the p-values of many tests for the share of false discoveries among those reported."""

from __future__ import annotations

from collections.abc import Sequence


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values (Benjamini and Hochberg 1995, JRSS B 57:289-300), in order.

    Of the tests whose adjusted p-value is at most 5%, on average at most 5% are false discoveries,
    for independent and for positively dependent tests.
    """
    count = len(p_values)
    adjusted = [1.0] * count
    smallest = 1.0
    for rank, place in enumerate(sorted(range(count), key=p_values.__getitem__, reverse=True)):
        smallest = min(smallest, p_values[place] * count / (count - rank))
        adjusted[place] = smallest
    return adjusted
