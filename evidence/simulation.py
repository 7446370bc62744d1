"""The options, the processes and the end of the programs that simulate one part of the router."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from evidence.table import record

Job = TypeVar("Job")
Result = TypeVar("Result")


class Simulation:
    """A run of `python -m evidence.PROGRAM`, with the options of this process.

    Without all rows and all units, `--record` ends it with exit code 2.

    Args:
        program: the module.
        description: the module's, of which the first line is shown.
        units: what is simulated, many of it in each row.
        least: units of each row that make a page; as many as there are without an option.
        page: the name of the page in `evidence/results`.
        words: which rows words of the command line choose; "" where none are taken.

    Attributes:
        size: units of each row.
        seed: of the draws.
        words: of the command line.
    """

    def __init__(
        self,
        program: str,
        description: str | None,
        *,
        units: str,
        least: int,
        page: str,
        words: str = "",
    ) -> None:
        self._program = f"python -m evidence.{program}"
        self._units, self._page = units, page
        parser = argparse.ArgumentParser(
            prog=self._program, description=(description or "").splitlines()[0]
        )
        parser.add_argument(f"--{units}", dest="size", type=int, default=least, help="of each row")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--processes", type=int, default=os.cpu_count())
        parser.add_argument(
            "--record", action="store_true", help="write a page in evidence/results"
        )
        if words:
            parser.add_argument("words", nargs="*", help=words)
        options = parser.parse_args()
        self.size: int = options.size
        self.seed: int = options.seed
        self.words: tuple[str, ...] = tuple(options.words) if words else ()
        if options.record and (self.words or self.size < least):
            parser.exit(2, f"only all rows of {least:,} {units} or more are recorded\n")
        self._record: bool = options.record
        self._processes: int = options.processes
        self._began = time.monotonic()
        self._cpu_s = 0.0

    def results(
        self, count: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Result]]:
        """Count jobs in other processes; yield each with its result, as they come."""
        with multiprocessing.get_context("fork").Pool(self._processes) as pool:
            for job, result, seconds in pool.imap_unordered(partial(_timed, count), jobs):
                self._cpu_s += seconds
                yield job, result

    def end(self, lines: Sequence[str], *, rows: int, broken: int) -> int:
        """Print a table and what it took, and write the page; return 1 where a promise is broken.

        Args:
            lines: of the table.
            rows: of it.
            broken: how many of them have a broken promise.
        """
        print("\n".join(lines))
        took = (
            f"{self.size:,} {self._units} in each of {rows} rows, {broken} rows with a broken "
            f"promise; {self._cpu_s:,.0f} CPU s in {time.monotonic() - self._began:,.0f} s with "
            f"{self._processes} processes"
        )
        print(took, file=sys.stderr)
        if self._record:
            record(self._page, self._program, lines, took)
        return int(broken > 0)


def _timed(count: Callable[[Job], Result], job: Job) -> tuple[Job, Result, float]:
    """Return a job, its result and the CPU seconds that it took."""
    began = time.process_time()
    return job, count(job), time.process_time() - began
