"""Coverage, error rates and widths of every interval, verdict and gate, by simulation.

    python -m evidence                         # `make evidence`: all cells
    python -m evidence --replications 500 tied # few replications, cells named so

Each cell draws data whose truth is known, many times, and asks the functions that reports use. The
table says how often the interval held the truth, how wide it was beside the narrowest candidate
that covers, how often a test rejected what is true, and how often a gate passed at its margin. The
command fails where a number is outside its band.
"""

from __future__ import annotations

import argparse
import sys
import time

from evidence.cells import CELLS
from evidence.measures import Finding, measure

REPLICATIONS = 10_000
HEAD = (
    "| kind | data | n | method | coverage | width | narrowest that covers | rejects the truth | "
    "gate at its margin | |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(finding: Finding) -> str:
    """Return a line of the table."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    best = "" if finding.best is None else f"{finding.best[0]} {finding.best[1]:.3g}"
    width = "refused" if finding.refused > 0.5 else f"{finding.width:.3g}"
    remark = "; ".join(finding.faults) or finding.cell.remark
    cells = (
        finding.cell.kind,
        finding.cell.name,
        str(finding.cell.n),
        finding.method,
        share(finding.coverage),
        width,
        best,
        share(finding.rejected),
        share(finding.passed),
        remark,
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print the table; 1 where a number is outside its band."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=REPLICATIONS)
    parser.add_argument("words", nargs="*", help="only cells with one of these in kind or name")
    options = parser.parse_args()
    print(HEAD)
    began, faults = time.monotonic(), 0
    for cell in CELLS:
        if options.words and not any(word in f"{cell.kind} {cell.name}" for word in options.words):
            continue
        finding = measure(cell, options.replications)
        faults += bool(finding.faults)
        print(row(finding), flush=True)
    print(
        f"\n{faults} cells outside their bands, {time.monotonic() - began:.0f} s", file=sys.stderr
    )
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
