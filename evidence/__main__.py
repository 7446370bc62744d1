"""Simulates every interval, verdict and gate, prints one table, and fails outside of its bands.

    python -m evidence                                   # `make evidence`: all cells
    python -m evidence --replications 1000 difference:   # few replications, cells of a kind
    python -m evidence --record                          # and a page in evidence/results
    python -m evidence --record --journal counts.jsonl   # the same, in several goes

Each cell draws data whose truth is known, many times, and calls the functions that reports and
gates call. The table says how often the interval held the truth, how wide it was beside the
narrowest method that covers, and how often a test, verdict or gate was wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

from evidence.catalogue import CELLS
from evidence.journal import Draws, Journal, code
from evidence.measures import (
    REPLICATIONS,
    SEQUENTIAL,
    Counts,
    assess,
    count,
    replications_of,
)
from evidence.table import HEAD, record, row


def main() -> int:
    """Print the table; return 1 where a number is outside its band."""
    options = _options()
    chosen = [
        number
        for number, cell in enumerate(CELLS)
        if not options.words or cell.title.startswith(tuple(options.words))
    ]
    if options.record and (options.words or options.replications < REPLICATIONS):
        print("only a table of all cells with all replications is recorded", file=sys.stderr)
        return 2
    began = time.monotonic()
    journal = None
    if options.journal is not None:
        journal = Journal(options.journal, Draws(code(), options.replications, options.seed))
    known = {} if journal is None else journal.counts()
    done = {number: known[CELLS[number].title] for number in chosen if CELLS[number].title in known}
    resumed, left = len(done), [number for number in chosen if number not in done]
    count_cell = partial(_count, replications=options.replications, seed=options.seed)
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        for number, counts in pool.imap_unordered(count_cell, left):
            done[number] = counts
            if journal is not None:
                journal.add(CELLS[number].title, counts)
            if sys.stderr.isatty():
                print(f"{len(done)} of {len(chosen)}", end="\r", file=sys.stderr)
    counted = [(CELLS[number], done[number]) for number in chosen]
    findings = assess(counted)
    lines = [
        HEAD,
        *(row(cell, finding) for (cell, _), finding in zip(counted, findings, strict=True)),
    ]
    print("\n".join(lines))
    outside = sum(bool(finding.faults) for finding in findings)
    took = f"{len(chosen):,} cells, {outside:,} outside of their bands; "
    took += f"{time.monotonic() - began:,.0f} s with {options.processes} processes"
    if resumed:
        took += f", without the {resumed:,} cells that the journal had"
    print(f"\n{took}", file=sys.stderr)
    if options.record:
        record("evidence", "python -m evidence", lines, took)
    return int(outside > 0)


def _count(number: int, replications: int, seed: int) -> tuple[int, Counts]:
    cell = CELLS[number]
    return number, count(cell, replications_of(cell, replications), seed=seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evidence", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--replications",
        type=int,
        default=REPLICATIONS,
        help=f"draws of a cell; {SEQUENTIAL / REPLICATIONS:.0%}% of them for a run with many looks",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help="write a page in evidence/results")
    parser.add_argument(
        "--journal",
        type=Path,
        help="a file that keeps the counts of each cell: interrupted, the same command goes on",
    )
    parser.add_argument(
        "words", nargs="*", help="only cells whose title begins so: kind, data and n"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
