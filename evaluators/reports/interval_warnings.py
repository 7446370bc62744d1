"""Caveats about the intervals of comparisons, for reports and for comparisons of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evaluators.stats.comparison import ALPHA, Comparison
from evaluators.stats.inversion import FEW_DIFFERENT


def interval_warnings(names: Sequence[str], family: Sequence[Comparison]) -> Iterable[str]:
    """Warn of intervals that a reader could take for more than they are.

    Args:
        names: what to call each comparison.
        family: the comparisons that were corrected together.
    """
    contested = [
        name
        for name, compared in zip(names, family, strict=True)
        if compared.verdict in {"equivalent", "no difference shown"}
        and compared.p_value is not None
        and compared.p_value < ALPHA
    ]
    if contested:
        yield (
            f"Intervals are of one comparison alone, verdicts are corrected for {len(family):,}: "
            f"{', '.join(contested)} would be a difference if nothing else had been compared."
        )
    few = [
        f"{compared.wins + compared.losses:,} of {compared.n:,} ({name})"
        for name, compared in zip(names, family, strict=True)
        if compared.method in {"t", "hall"}
        and compared.wins is not None
        and compared.losses is not None
        and compared.wins + compared.losses <= FEW_DIFFERENT < compared.n
    ]
    if few:
        yield (
            f"Few samples differ at all: {', '.join(few)}. Differences too rare to be among them "
            "are in no interval."
        )
