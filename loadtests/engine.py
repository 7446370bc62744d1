"""Measure the engine of evaluations: how far a run is from what its upstream would allow.

    python -m loadtests.engine                  # under three minutes
    python -m loadtests.engine --profile        # where the time goes, on standard output
    python -m loadtests.engine --memory         # a run of 1,000,000 samples: some twenty minutes

The engine has one core to itself, the upstream (`upstream.py`) the other one. A run is what
`evalrouter eval run` carries out, without metrics: rows in SQLite, each request noted before it is
sent, each answer stored. In turns with it a bare loop sends the same requests and keeps nothing:
what this machine and the upstream allow. The report goes to loadtests/results/<date>-engine.md.
Ratios are to the ideal; leave the machine alone meanwhile: other load takes from the upstream's
core as well.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import platform
import pstats
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import aiohttp
import msgspec
import uvloop

from evaluators.base import Sample
from evaluators.document import RunDocument, RunLimits
from loadtests.processes import free_port, started
from router.config.loading import parse
from router.services import Services
from router.store.runs import Run
from router.store.sqlite import SqliteStore

RESULTS = Path(__file__).with_name("results")
ENGINE_CORE, UPSTREAM_CORE = 0, 1
WAIT_S = 0.05
MILLION = 1_000_000

_T = TypeVar("_T")


class Measured(msgspec.Struct):
    """What one run took.

    Attributes:
        samples: how many were answered.
        seconds: from the start of the run to its end, rows in the store before it.
        cpu_s: of the process, its threads included.
        peak_mb: resident memory at its highest.
        scorer_mb: that of the largest of its scoring processes; 0 without one.
    """

    samples: int
    seconds: float
    cpu_s: float
    peak_mb: float
    scorer_mb: float = 0.0


# one run, in a process of its own


def run_once(
    port: int, samples: int, concurrency: int, *, scored: bool = False, profile: bool = False
) -> Measured:
    """Execute a run and measure it, with its scores and report if `scored`.

    The working directory gets its files.
    """
    # About 1 KB of prompt, as in the other load tests.
    text = "The quick brown fox jumps over the lazy dog. " * 20
    with Path("data.jsonl").open("w", encoding="utf-8") as file:
        for n in range(samples):
            row = {"id": f"s{n}", "input": f"{n} {text}", "reference": "The fox."}
            file.write(json.dumps(row) + "\n")
    config = parse(
        f"""
providers: {{up: {{kind: compatible, base_url: "http://127.0.0.1:{port}/v1", api_key: x}}}}
prices: {{up/m: {{input: 1.0, output: 2.0}}}}
""",
        "engine.yaml",
        {},
    )
    document = RunDocument(
        dataset="data.jsonl",
        routes=("up/m",),
        metrics=("exact_match",) if scored else (),
        prompt="{{ input }}",
        limits=RunLimits(concurrency=concurrency),
    )
    profiler = cProfile.Profile() if profile else None

    async def execute() -> Measured:
        async with Services(config) as services:
            run = await services.runs.create(document, base=Path())
            used, began = time.process_time(), time.perf_counter()
            if profiler:
                profiler.enable()
            ended = await services.jobs.execute(run.id)
            if profiler:
                profiler.disable()
            seconds, used = time.perf_counter() - began, time.process_time() - used
            progress = await services.store.progress(run.id)
            if scored:
                await services.runs.outcome(run.id)
            if ended.state != "completed" or progress.answered != samples:
                raise SystemExit(f"{ended.state}: {ended.error or ended.stopped} {progress}")
        return Measured(samples, seconds, used, *_peaks())

    measured = uvloop.run(execute())
    if profiler:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    return measured


def bare(port: int, samples: int, concurrency: int) -> Measured:
    """Send a run's requests from as many coroutines, and do nothing else."""
    text = "The quick brown fox jumps over the lazy dog. " * 20
    left = iter(range(samples))

    async def ask(session: aiohttp.ClientSession) -> None:
        for n in left:
            body = {"model": "m", "messages": [{"role": "user", "content": f"{n} {text}"}]}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with session.post(url, json=body) as response:
                await response.read()

    async def drive() -> Measured:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            used, began = time.process_time(), time.perf_counter()
            await asyncio.gather(*(ask(session) for _ in range(concurrency)))
            seconds, used = time.perf_counter() - began, time.process_time() - used
        return Measured(samples, seconds, used, *_peaks())

    return uvloop.run(drive())


def _peaks() -> tuple[float, float]:
    """Return the resident memory of this process and of its largest child, in MB."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    engine, child = (resource.getrusage(who).ru_maxrss / 1024 for who in whose)
    return engine, child


@contextmanager
def upstream(delay_ms: float, log: Path) -> Iterator[int]:
    """Run a host of that delay on its own core; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.upstream", "--port", str(port)]
    with started([*command, "--delay", str(delay_ms)], core=UPSTREAM_CORE, log=log):
        for _ in range(200):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port


def measure(
    samples: int,
    concurrency: int,
    delay_ms: float = 0.0,
    *,
    what: str = "--run",
    scored: bool = False,
    profile: bool = False,
) -> Measured:
    """Measure one run (or bare loop, `--bare`) in a fresh process on the engine's core."""
    with TemporaryDirectory() as folder, upstream(delay_ms, Path(folder) / "log") as port:
        command = ["taskset", "-c", str(ENGINE_CORE), sys.executable, "-m", "loadtests.engine"]
        options = [what, str(port), str(samples), str(concurrency)]
        options += ["--scored"] * scored + ["--profile"] * profile
        root = str(Path(__file__).parents[1])
        done = subprocess.run(
            [*command, *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=Measured)


# a store of a million rows


async def pages(folder: Path) -> dict[str, float]:
    """Return the milliseconds that the store takes for pages of a run with 1,000,000 rows."""
    store = SqliteStore(folder / "pages.db")
    await store.open()
    message = ({"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 5},)
    run = Run(
        id="run_million",
        name="million",
        state="completed",
        document={"routes": ["up/m"]},
        dataset="x",
        dataset_hash="x",
        dataset_rows=MILLION,
        metrics={},
        created_at=0.0,
        cells=MILLION,
    )
    await store.add_run(run, (Sample(id=f"s{n}", messages=message) for n in range(MILLION)))
    # By SQL, because only their number matters here.
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("INSERT INTO routes (name) VALUES ('up/m')")
        (number,) = db.execute("SELECT number FROM runs").fetchone()
        db.execute(
            "INSERT INTO answers (run, position, route, repeat, state, asked_at, answered_at,"
            " target, request_hash, text, attempt_count, cached, attempts, scored)"
            " SELECT run, position, 1, 0, 'answered', 1, 2, 'up/m', sample_id,"
            " 'an answer of some forty characters, no more', 1, 0, '[]', 1 FROM samples"
            " WHERE run = ?",
            (number,),
        )
        db.execute(
            "INSERT INTO scores (answer, output, value) SELECT id, 'latency', 0.5 FROM answers"
        )

    async def page(after: int) -> None:
        await _first(store.samples(run.id, after=after), 100)
        await _first(store.results(run.id, after=after), 100)

    milliseconds = {}
    for name, after in (("first", 0), ("middle", MILLION // 2), ("last", MILLION - 100)):
        times = []
        for _ in range(30):
            began = time.perf_counter()
            await store.run(run.id)
            await store.progress(run.id)
            await page(after)
            times.append((time.perf_counter() - began) * 1000)
        milliseconds[name] = median(times)
    await store.close()
    milliseconds["gigabytes"] = store.path.stat().st_size / 1e9
    return milliseconds


async def _first(items: AsyncGenerator[_T], count: int) -> None:
    async with aclosing(items):
        async for _ in items:
            count -= 1
            if not count:
                return


# the report


def report(args: argparse.Namespace) -> str:
    """Measure what the command line names, and return the report."""
    lines = [
        "# The engine of evaluations",
        "",
        f"`{' '.join(['python -m loadtests.engine', *sys.argv[1:]]).strip()}`",
        "",
    ]
    load = os.getloadavg()[0]
    lines += [
        f"Python {platform.python_version()}; {platform.system()} {platform.machine()}; "
        f"{os.cpu_count()} cores, load {load:.1f} at the start; SQLite {sqlite3.sqlite_version}; "
        f"msgspec {version('msgspec')}; uvloop {version('uvloop')}.",
        "",
    ]
    if args.memory:
        run = measure(MILLION, 64, scored=True)
        lines += [
            f"A run of {MILLION:,} samples, read, sent, scored (exact_match) and reported with "
            f"its intervals: {run.samples / run.seconds:,.0f} samples/s, at most "
            f"{run.peak_mb:,.0f} MB resident, and {run.scorer_mb:,.0f} MB in a scoring process; "
            "the aim is below 500 MB.",
        ]
        return "\n".join(lines) + "\n"
    lines += ["| | measured | ideal | ratio |", "|---|---|---|---|"]
    runs = [measure(10_000, 64) for _ in range(3)]
    rate = median(run.samples / run.seconds for run in runs)
    cpu = median(run.cpu_s / run.samples * 1e6 for run in runs)
    busy = median(run.cpu_s / run.seconds for run in runs)
    lines += [
        f"| samples/s, upstream without delay, one core | {rate:,.0f} | 1,500 (the aim) | "
        f"{rate / 1500:.2f} |",
        f"| CPU per sample, µs | {cpu:,.0f} | 667 (the aim) | {cpu / 667:.2f} |",
        f"| share of its core used meanwhile | {busy:.2f} | 1 | |",
        f"| samples/s that this CPU time allows | {1e6 / cpu:,.0f} | 1,500 (the aim) | "
        f"{1e6 / cpu / 1500:.2f} |",
    ]
    samples, clients = 6_400, 64
    pairs = [
        [measure(samples, clients, WAIT_S * 1000, what=what) for what in ("--run", "--bare")]
        for _ in range(5)
    ]
    seconds, loop = (median(run.seconds for run in each) for each in zip(*pairs, strict=True))
    beside = median(run.seconds / loop.seconds for run, loop in pairs)
    ideal = samples * WAIT_S / clients
    lines += [
        f"| {samples:,} samples, upstream of 50 ms, concurrency {clients}, s | {seconds:.2f} | "
        f"{ideal:.2f} | {seconds / ideal:.3f} |",
        f"| the same beside a bare loop of the same requests, s | {seconds:.2f} | {loop:.2f} | "
        f"{beside:.3f} |",
    ]
    with TemporaryDirectory() as folder:
        page_times = uvloop.run(pages(Path(folder)))
    lines += [
        f"| {name} page of a run of 1,000,000 rows, ms | {page_times[name]:.1f} | 50 (the aim) | "
        f"{page_times[name] / 50:.2f} |"
        for name in ("first", "middle", "last")
    ]
    peak = max(run.peak_mb for run in runs)
    lines += [
        "",
        "Medians of three runs (of five with 50 ms), each in a fresh process; pages: of 30. A "
        "page is the run, its counts, and 100 samples with answers and scores. The ideal of the "
        "50 ms run is samples x 50 ms / concurrency. Each sample is one chat completion of 1 KB "
        "each way, written twice (when it is sent, and when it is answered). Resident memory: "
        f"at most {peak:,.0f} MB. "
        f"The file of a million rows: {page_times['gigabytes']:.1f} GB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the engine of evaluations.")
    parser.add_argument("--memory", action="store_true", help="a run of 1,000,000 samples instead")
    parser.add_argument("--profile", action="store_true", help="where the time goes; no report")
    parser.add_argument("--out", type=Path, help="the report's file")
    for what in ("--run", "--bare"):
        parser.add_argument(what, nargs=3, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scored", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        sys.stdout.write(
            msgspec.json.encode(
                run_once(*args.run, scored=args.scored, profile=args.profile)
            ).decode()
        )
    elif args.bare:
        sys.stdout.write(msgspec.json.encode(bare(*args.bare)).decode())
    elif args.profile:
        run = measure(5_000, 64, profile=True)
        sys.stdout.write(f"{run.samples / run.seconds:,.0f} samples/s under the profiler\n")
    else:
        text = report(args)
        kind = "engine-memory" if args.memory else "engine"
        out = args.out or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{kind}.md"
        out.write_text(text, encoding="utf-8")
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
