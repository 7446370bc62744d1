"""How long targets worked, from the rows of their requests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

from router.store.usage import TargetTime

# target, start and end in seconds, generated tokens, US dollars
ServedRequest = tuple[str, float, float, int, float | None]


def served_of(requests: Iterable[ServedRequest]) -> list[TargetTime]:
    """Add up requests that are sorted by target and start; time of several counts once."""
    totals = []
    for target, rows in groupby(requests, key=itemgetter(0)):
        seconds, count, tokens, until = 0.0, 0, 0, float("-inf")
        dollars, unpriced = 0.0, 0
        for _, start, end, taken, price in rows:
            count += 1
            tokens += taken
            dollars += price or 0.0
            unpriced += price is None
            if end > until:
                seconds += end - max(start, until)
                until = end
        totals.append(
            TargetTime(
                target=target,
                seconds=seconds,
                requests=count,
                tokens=tokens,
                cost_usd=dollars,
                unpriced=unpriced,
            )
        )
    return totals
