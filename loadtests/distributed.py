"""Measures how scoring scales: answers per second with one Ray worker, with two, without Ray.

    python -m loadtests.distributed                 # eight minutes; leave the machine alone

Each run scores answers that its dataset brings along with five metrics, stored row by row as in any
run. Two sizes of run tell what an answer takes from what Ray takes to start. Efficiency is the rate
of two workers over twice that of one; without Ray, as many processes score as there are cores. What
the machine has to do beside scoring (the run itself, Ray's own processes) is on the same cores, so
two cores are the least favourable case. Needs the extras `ray` and `metrics`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from evaluators.document import RayExecution, RunDocument
from loadtests.metrics import BULK, items
from router.config.loading import parse
from router.services import Services

RESULTS = Path(__file__).with_name("results")
# Answers of the two runs of one measurement.
FEW, MANY = 1_000, 5_000


def execute(rows: int, workers: int) -> float:
    """Return the seconds that a run of so many answers takes; `workers` 0 scores without Ray."""
    scorables = items(500)
    with Path("data.jsonl").open("w", encoding="utf-8") as file:
        for n in range(rows):
            scorable = scorables[n % len(scorables)]
            row = {
                "id": str(n),
                "input": "What is it?",
                "reference": scorable.sample.references[0],
                "answer": scorable.answer.text,
            }
            file.write(json.dumps(row) + "\n")
    document = RunDocument(
        dataset="data.jsonl",
        routes=("dataset/answer",),
        metrics=tuple(BULK),
        prompt="{{ input }}",
        execution=RayExecution(workers=workers) if workers else "local",
    )

    async def run_and_time() -> float:
        async with Services(parse("", "distributed.yaml", {})) as services:
            run = await services.runs.create(document, base=Path())
            began = time.perf_counter()
            ended = await services.jobs.execute(run.id)
            seconds = time.perf_counter() - began
            if ended.state != "completed":
                raise SystemExit(f"{ended.state}: {ended.error or ended.stopped}")
        return seconds

    return asyncio.run(run_and_time())


def measure(rows: int, workers: int) -> float:
    """Measure one run in a fresh process and folder."""
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.distributed", "--run", str(rows), str(workers)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            check=True,
        )
        return float(done.stdout.split()[-1])


def report(repeats: int) -> str:
    """Measure in turns: without Ray, one worker, two workers."""
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    starts: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for _ in range(repeats):
        for workers, measured in rates.items():
            few, many = measure(FEW, workers), measure(MANY, workers)
            measured.append((MANY - FEW) / (many - few))
            starts[workers].append(few - FEW / measured[-1])
    rate = {workers: median(measured) for workers, measured in rates.items()}
    names = {0: "without Ray", 1: "Ray, 1 worker", 2: "Ray, 2 workers"}
    lines = [
        "# Scoring, spread",
        "",
        f"`{' '.join(['python -m loadtests.distributed', *sys.argv[1:]])}`",
        "",
        f"Python {platform.python_version()}; {platform.system()} {platform.machine()}; "
        f"{os.cpu_count()} cores; Ray {version('ray')}; metrics: {', '.join(BULK)}.",
        "",
        "| | answers/s | to one worker | per worker | before the first answer, s |",
        "|---|---|---|---|---|",
    ]
    for workers, name in names.items():
        share = f"{rate[workers] / rate[1] / workers:.2f}" if workers else "-"
        lines.append(
            f"| {name} | {rate[workers]:,.0f} | {rate[workers] / rate[1]:.2f} | {share} | "
            f"{median(starts[workers]):.1f} |"
        )
    lines += [
        "",
        f"Medians of {repeats}, in turns; rates from runs of {FEW:,} and {MANY:,} answers. Without "
        f"Ray, {len(os.sched_getaffinity(0))} processes score.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how well scoring spreads.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the report's file")
    parser.add_argument("--run", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(execute(*args.run))
        return
    text = report(args.repeats)
    out = args.out or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-distributed.md"
    out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
