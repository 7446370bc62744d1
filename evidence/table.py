"""The table of `make evidence`."""

from __future__ import annotations

from collections.abc import Iterable

from evidence.cells import Cell
from evidence.measures import WIDER, Finding

COLUMNS = (
    "computed",
    "data",
    "n",
    "method",
    "coverage, %",
    "mean width",
    "narrowest that covers",
    "wrong, %",
    "at most, %",
    "remarks",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def row(cell: Cell, finding: Finding) -> str:
    """Return the line of a cell."""
    counts, interval = finding.counts, finding.counts.interval
    given = interval is not None and not cell.refused
    best = "" if finding.best is None else f"{finding.best[0]}, {finding.best[1]:.3g}"
    columns = (
        cell.kind,
        cell.name,
        str(cell.n),
        counts.method,
        f"{100 * interval.coverage:.1f}" if interval is not None and given else "",
        f"{interval.width:.3g}" if interval is not None and given else "",
        best,
        "" if counts.wrong is None else f"{100 * counts.wrong:.1f}",
        "" if counts.wrong is None else f"{100 * cell.nominal:g}",
        "; ".join(_remarks(cell, finding)),
    )
    return f"| {' | '.join(columns)} |"


def _remarks(cell: Cell, finding: Finding) -> Iterable[str]:
    counts, interval = finding.counts, finding.counts.interval
    for fault in finding.faults:
        yield f"**{fault}**"
    if cell.refused:
        yield f"refused: {cell.refused}"
    elif interval is not None:
        if interval.refused:
            yield f"no interval in {interval.refused:.1%}"
        for name, other in counts.candidates.items():
            if other.covers and interval.width > WIDER * other.width and not finding.faults:
                yield f"{name}, {other.width:.3g}, covers here, misses (or ends short) elsewhere"
    if cell.asked is not None:
        yield f"a width of {cell.asked:g} was asked for"
    if cell.over:
        yield cell.over
    if cell.sequential:
        yield f"{counts.replications:,} replications"
