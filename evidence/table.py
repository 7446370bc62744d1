"""The table of `make evidence`."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy

from evidence.cells import Cell
from evidence.measures import WIDER, Finding

RESULTS = Path(__file__).parent / "results"
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [f"| {' | '.join(columns)} |" for columns in (head, *rows)]
    return [lines[0], f"|{' --- |' * len(head)}", *lines[1:]]


def record(name: str, program: str, lines: Sequence[str], took: str) -> None:
    """Write a page in `RESULTS` with a table and what it takes to make it again.

    Args:
        name: of the page, after today's date.
        program: that printed the table; its options are this process's.
        lines: of the table.
        took: in words, how long it took.
    """
    today = datetime.datetime.now(datetime.UTC).date()
    command = " ".join([program, *sys.argv[1:]])
    version = f"Python {platform.python_version()}, NumPy {numpy.__version__}"
    heading = f"# {name.capitalize()}, {today}\n\n`{command}` at commit {_commit()}; {version}."
    page = "\n".join([f"{heading}\n\n{took}.", "", *lines, ""])
    (RESULTS / f"{today}-{name}.md").write_text(page, encoding="utf-8")


def _commit() -> str:
    """Return the commit, with a mark where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607
        capture_output=True,
        check=True,
        cwd=RESULTS.parent,
        text=True,
    )
    return described.stdout.strip()
