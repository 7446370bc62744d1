"""Measure the store of requests with millions of them: pages, writes, and live traffic meanwhile.

    python -m loadtests.traffic --records 2000000 --before CHECKOUT      # some ten minutes
    python -m loadtests.traffic --records 10000000 --folder /tmp/big --before CHECKOUT

A SQLite file is filled with requests of thirty days by the earlier version (CHECKOUT: `git worktree
add CHECKOUT COMMIT`), or by this one. Then each version times the same pages of it, at the same
limit of 50, one at a time: the earlier one first, then this one, after its migration. Writes are
measured in files of their own, the versions in turns. At the end a server of this version gets
requests at a fixed rate, with and without a client that reads pages without a pause, in turns.

The file takes about 400 bytes a request, and is deleted at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec

from loadtests.client import MODEL
from loadtests.processes import free_port, started
from router.records import Attempt, Record, Target
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

_Measured = TypeVar("_Measured")

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
END = 1_764_000_000.0
DAYS = 30
BATCH = 256
AT_ONCE = 100_000

# Of request n of N: 40 keys, one of which sends one request in ten thousand; routes that are used
# always, seldom, or by one key alone; a target that was replaced halfway; evaluations on one day.
FILL = """
WITH RECURSIVE numbers (n) AS (
    SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :after
), drawn AS (
    SELECT n, (n * 7919 + n / 13) % 100 AS a, (n * 104729 + n / 7) % 40 AS key,
        :end - (:count - n) * :step AS at FROM numbers
)
INSERT INTO traffic (number, id, at, key_id, path, route, target, status, error_code, klass, stream,
    cached, finish_reason, prompt_tokens, completion_tokens, cost_usd, first_byte_s, total_s, model,
    bodies, detail)
SELECT n, printf('req_%016x%016x', at * 1000000000, n * 2654435761), at,
    CASE WHEN n % 10000 = 77 THEN 'key_rare' ELSE printf('key_%016x', key) END, 'chat/completions',
    CASE WHEN key = 3 THEN 'private' WHEN a < 70 THEN 'chat' WHEN a < 99 THEN 'code'
        WHEN n % 1000 < 10 THEN 'seldom' ELSE 'embed' END,
    CASE WHEN a % 3 = 0 THEN 'mistral/open-mistral-7b' WHEN n * 2 < :count THEN 'openai/gpt-4'
        ELSE 'openai/gpt-4o-mini' END,
    CASE WHEN n % 5000 = 11 THEN 503 WHEN n % 50 = 7 THEN 429 ELSE 200 END, '',
    CASE WHEN n * 30 / :count = 9 AND n % 2 THEN 'eval' ELSE 'live' END, n % 4 = 0, 0, 'stop',
    400 + a, 90 + key, 0.00012 * (a + 1), 0.25 + a / 1000.0, 0.75 + a / 500.0,
    'gpt-4o-mini-2024-07-18', 0,
    '{"attempts":[{"target":"openai/gpt-4o-mini","result":"ok","status":200,"seconds":0.'
        || (1000 + a) || '}],"total_tokens":' || (490 + a + key) || '}'
FROM drawn
"""

DAY = 86400.0
KEY_3 = "key_0000000000000003"
KEY_5 = "key_0000000000000005"
PAGES: dict[str, TrafficFilter] = {
    "everything": TrafficFilter(),
    "a common route": TrafficFilter(route="chat"),
    "a rare route": TrafficFilter(route="seldom"),
    "a route that nothing has": TrafficFilter(route="none"),
    "a common target": TrafficFilter(target="openai/gpt-4o-mini"),
    "a target that was replaced": TrafficFilter(target="openai/gpt-4"),
    "a target that nothing has": TrafficFilter(target="none/none"),
    "a key": TrafficFilter(key_id=KEY_5),
    "a rare key": TrafficFilter(key_id="key_rare"),
    "a key that nothing has": TrafficFilter(key_id="key_none"),
    "class eval, three weeks ago": TrafficFilter(traffic_class="eval"),
    "failures": TrafficFilter(status=(400, 599)),
    "status 503": TrafficFilter(status=(503, 503)),
    "status 404, which nothing has": TrafficFilter(status=(404, 404)),
    "until three weeks ago": TrafficFilter(until=END - 21 * DAY),
    "until before the first": TrafficFilter(until=END - 60 * DAY),
    "since after the last": TrafficFilter(since=END + DAY),
    "an hour, two weeks ago": TrafficFilter(since=END - 14 * DAY, until=END - 14 * DAY + 3600),
    "a rare key until three weeks ago": TrafficFilter(key_id="key_rare", until=END - 21 * DAY),
    "a key and a common route that it never uses": TrafficFilter(key_id=KEY_3, route="chat"),
    "a key and a target that was replaced": TrafficFilter(key_id=KEY_5, target="openai/gpt-4"),
    "a target, an hour in which it was not used": TrafficFilter(
        target="openai/gpt-4", since=END - 2 * DAY, until=END - 2 * DAY + 3600
    ),
    "route, target, key, class, status and time": TrafficFilter(
        route="code",
        target="mistral/open-mistral-7b",
        key_id=KEY_5,
        traffic_class="live",
        status=(503, 503),
        since=END - 29 * DAY,
        until=END - 3 * DAY,
    ),
}


class PageTime(msgspec.Struct):
    """How long a page took: the median and the longest of some times, and its number of rows."""

    ms: float
    longest_ms: float
    cpu_ms: float
    rows: int


class Writing(msgspec.Struct):
    """What it took to store a request: microseconds of CPU, and bytes of the file."""

    cpu_us: float
    file_bytes: float


# one measurement, in a process of its own, of the version that comes first in PYTHONPATH


async def fill(path: Path, count: int, end: float = END) -> None:
    """Fill a new file with requests of the thirty days before a moment."""
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for first in range(1, count + 1, AT_ONCE):
            values = {"first": first, "after": min(first + AT_ONCE, count + 1), "count": count}
            db.execute(FILL, values | {"end": end, "step": DAYS * DAY / count})


async def pages(path: Path, seconds: float) -> dict[str, PageTime]:
    """Time the first page of every filter, and the one after it; each for so many seconds."""
    store = SqliteStore(path)
    await store.open()
    measured = {}
    for name, matching in PAGES.items():
        times: list[float] = []
        cpu: list[float] = []
        began = time.perf_counter()
        before = None
        while not times or (time.perf_counter() - began < seconds and len(times) < 40):
            at, used = time.perf_counter(), time.process_time()
            rows = await store.traffic(matching, limit=50, before=before)
            times.append((time.perf_counter() - at) * 1000)
            cpu.append((time.process_time() - used) * 1000)
            count = len(rows)
            before = rows[-1].number if before is None and rows else None
        measured[name] = PageTime(median(times), max(times), median(cpu), count)
    await store.close()
    return measured


async def totals(path: Path, seconds: float) -> list[float]:
    """Add up the last day by route and target; return the median and the longest ms, and of CPU."""
    store = SqliteStore(path)
    await store.open()
    times: list[float] = []
    cpu: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        at, used = time.perf_counter(), time.process_time()
        await store.traffic_totals(TrafficFilter(since=END - DAY), ("route", "target"), limit=50)
        times.append((time.perf_counter() - at) * 1000)
        cpu.append((time.process_time() - used) * 1000)
    await store.close()
    return [median(times), max(times), median(cpu)]


async def index(path: Path) -> list[float]:
    """Migrate, then index everything; return the seconds of both and the longest slice."""
    began = time.perf_counter()
    store = SqliteStore(path)
    await store.open()
    slices = []
    migrated = at = time.perf_counter()
    while await store.index_traffic():
        slices.append(time.perf_counter() - at)
        at = time.perf_counter()
    await store.close()
    return [migrated - began, at - migrated, max(slices, default=0.0)]


async def writing(path: Path, count: int, keys: int) -> Writing:
    """Store requests as the recorder does, with so many keys, and index them."""
    store = SqliteStore(path)
    await store.open()
    targets = [Target("openai", "gpt-4o-mini"), Target("mistral", "open-mistral-7b")]
    records = [
        Record(
            id=f"req_{n:016x}{n * 2654435761 % 2**64:016x}",
            at=END + n * 0.01,
            route=("chat", "code", "embed")[n * 7919 % 3],
            target=targets[n * 31 % 2],
            status=429 if n % 50 == 7 else 200,
            key_id=f"key_{n * 7919 % keys:016x}",
            attempts=[Attempt(str(targets[n * 31 % 2]), "ok", 200, 0.4321)],
            total_tokens=490,
            cost_usd=0.0012,
            total_s=0.98765,
            first_byte_s=0.2345,
            model="gpt-4o-mini-2024-07-18",
            finish_reason="stop",
        )
        for n in range(count)
    ]
    used = time.process_time()
    for first in range(0, count, BATCH):
        await store.keep_traffic(records[first : first + BATCH])
        if hasattr(store, "index_traffic") and first // BATCH % 16 == 15:
            await store.index_traffic()
    used = time.process_time() - used
    await store.close()
    return Writing(used / count * 1e6, os.stat(path).st_size / count)  # noqa: PTH116 - nothing else runs


# all of them


def in_child(checkout: Path, *command: str) -> bytes:
    """Run one measurement with the packages of a checkout; return its JSON."""
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).resolve()), *command],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
    )
    return done.stdout


CONFIG = """
server: {{port: {port}}}
providers:
  up: {{kind: compatible, base_url: "http://127.0.0.1:{upstream}/v1", api_key: "upstream"}}
routes: {{{routes}}}
storage: {{database: "{database}", {storage}}}
"""


class Serving(NamedTuple):
    """A server under measurement.

    Attributes:
        url: its address.
        pid: its process.
    """

    url: str
    pid: int


@contextmanager
def serving(
    path: Path,
    storage: str = "traffic_days: 0",
    *,
    database: str | None = None,
    routes: Sequence[str] = (MODEL,),
) -> Iterator[Serving]:
    """Start a server with an upstream of a fixed delay; give it once it is ready.

    Args:
        path: the database's file, beside which config and log are.
        storage: keys of `storage` in the config.
        database: the database's address where it is not that file.
        routes: names of routes to the upstream.
    """
    port, upstream = free_port(), free_port()
    config = path.with_name("evalrouter.yaml")
    text = CONFIG.format(
        routes=", ".join(f"{name}: {{targets: [{{model: up/m}}]}}" for name in routes),
        port=port,
        upstream=upstream,
        database=database or f"sqlite:///{path}",
        storage=storage,
    )
    config.write_text(text, encoding="utf-8")
    python = [sys.executable, "-m"]
    log = path.with_name("log")
    url = f"http://127.0.0.1:{port}"
    with (
        started([*python, "loadtests.upstream", "--port", str(upstream)], log=log, cwd=ROOT),
        started([*python, "router", "serve", "--config", str(config)], log=log, cwd=ROOT) as server,
    ):
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{url}/health/ready", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        yield Serving(url, server.pid)


# Of a client that reads pages: one who looks at them without a break, and a program.
PAUSES_S = (0.25, 0.0)


def live(path: Path, rounds: int, seconds: float) -> list[list[float]]:
    """Return the 99th percentiles of live requests in ms.

    Of each round: without a reader of pages, and with one that pauses as `PAUSES_S` says.
    """
    with serving(path) as (url, _):
        results = []
        for _ in range(rounds):
            times = [p99(url, seconds)]
            for pause in PAUSES_S:
                stop = threading.Event()
                reader = threading.Thread(target=_read_pages, args=(url, stop, pause))
                reader.start()
                times.append(p99(url, seconds))
                stop.set()
                reader.join()
            results.append(times)
        return results


def p99(url: str, seconds: float) -> float:
    command = [sys.executable, "-m", "loadtests.open_loop", f"{url}/v1/chat/completions"]
    done = subprocess.run(
        [*command, "--rate", "200", "--seconds", str(seconds)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    measured = msgspec.json.decode(done.stdout)
    if measured["failed"]:
        raise SystemExit(f"requests failed: {measured['failures']}")
    p99: float = measured["p99_ms"]
    return p99


def _read_pages(url: str, stop: threading.Event, pause: float) -> None:
    for matching in itertools.cycle(PAGES.values()):
        if stop.wait(pause):
            return
        query = {
            "route": matching.route,
            "target": matching.target,
            "key": matching.key_id,
            "class": matching.traffic_class,
            "status": matching.status and ("error" if matching.status[1] > 503 else "503"),
            "since": matching.since,
            "until": matching.until,
        }
        chosen = urlencode({name: value for name, value in query.items() if value is not None})
        urllib.request.urlopen(f"{url}/traffic?{chosen}", timeout=60).read()


def report(args: argparse.Namespace, folder: Path) -> str:
    """Measure everything; return the report."""
    count, path = args.records, folder / "traffic.db"
    first = args.before or ROOT
    began = time.perf_counter()
    in_child(first, "fill", str(path), str(count))
    filled = time.perf_counter() - began
    before = None
    if args.before:
        before = msgspec.json.decode(
            in_child(first, "pages", str(path), str(args.seconds)), type=dict[str, PageTime]
        )
    old_bytes = path.stat().st_size / count
    migrated, indexed, longest = msgspec.json.decode(in_child(ROOT, "index", str(path)))
    with closing(sqlite3.connect(path)) as db:
        # What the migration freed is used again by what comes.
        free = db.execute("PRAGMA freelist_count").fetchone()[0] * 4096
    new_bytes = (path.stat().st_size - free) / count
    after = msgspec.json.decode(
        in_child(ROOT, "pages", str(path), str(args.seconds)), type=dict[str, PageTime]
    )
    lines = [
        f"# Traffic: {count:,} requests in one SQLite file",
        "",
        f"{conditions('traffic')} *Before* is {_commit(first)}.",
        "",
        f"Filled in {filled:.0f} s. Migrated in {migrated:.1f} s, indexed in {indexed:.0f} s (no "
        f"slice over {longest * 1000:.0f} ms). The file has {old_bytes:.0f} bytes a request before "
        f"and {new_bytes:.0f} now.",
        "",
        "A page of 50; ms, with the longest of up to 40 in brackets.",
        "",
        "| filter | rows | before | now | CPU now |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, now in after.items():
        old = f"{before[name].ms:,.1f} ({before[name].longest_ms:,.0f})" if before else ""
        lines.append(
            f"| {name} | {now.rows} | {old} | {now.ms:.1f} ({now.longest_ms:.0f}) | "
            f"{now.cpu_ms:.1f} |"
        )
    usual, longest, cpu = msgspec.json.decode(
        in_child(ROOT, "totals", str(path), str(args.seconds))
    )
    lines += [
        "",
        f"The requests of the last day ({count // DAYS:,}), added up by route and target: "
        f"{usual:.0f} ms ({longest:.0f}), {cpu:.0f} ms of CPU.",
    ]
    lines += ["", *_writes(args, folder)]
    p99 = live(path, args.rounds, 5.0)
    lines += [
        "",
        "Live requests at 200/s, p99 in ms, in turns: alone, with a client that reads four of",
        "these pages a second, and with one that reads them without a pause: "
        + ", ".join(" and ".join(f"{ms:.1f}" for ms in times) for times in p99)
        + ". The medians of the ratios are "
        + " and ".join(f"{median(t[n] / t[0] for t in p99):.2f}" for n in (1, 2))
        + ".",
        "",
    ]
    return "\n".join(lines)


def _writes(args: argparse.Namespace, folder: Path) -> list[str]:
    """Measure writes in files of their own, the versions in turns."""
    versions = {"before": args.before, "now": ROOT} if args.before else {"now": ROOT}
    lines = [
        f"Storing {args.writes:,} requests {BATCH} at a time in a new file, index included: median "
        f"of {args.rounds} turns, µs of CPU (user and system), and bytes of the file, a request.",
        "",
        "| keys | " + " | ".join(f"{name}, µs | {name}, bytes" for name in versions) + " |",
        "|---:|" + "---:|---:|" * len(versions),
    ]
    for keys in (1, 40, 10_000):
        measured: dict[str, list[Writing]] = {name: [] for name in versions}
        for n in range(args.rounds):
            for name, checkout in versions.items():
                path = folder / f"write-{keys}-{name}-{n}.db"
                command = "writing", str(path), str(args.writes), str(keys)
                measured[name].append(
                    msgspec.json.decode(in_child(checkout, *command), type=Writing)
                )
                path.unlink()
        cells = [
            f"{median(one.cpu_us for one in of):.1f} | {of[0].file_bytes:.0f}"
            for of in measured.values()
        ]
        lines.append(f"| {keys:,} | {' | '.join(cells)} |")
    return lines


def _commit(checkout: Path) -> str:
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()


CHILDREN: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "fill": lambda path, count: fill(Path(path), int(count)),
    "pages": lambda path, seconds: pages(Path(path), float(seconds)),
    "totals": lambda path, seconds: totals(Path(path), float(seconds)),
    "index": lambda path: index(Path(path)),
    "writing": lambda path, count, keys: writing(Path(path), int(count), int(keys)),
}


def run_child(children: Mapping[str, Callable[..., Coroutine[Any, Any, Any]]]) -> bool:
    """Run the measurement that the command line names, if any; return whether it names one."""
    if sys.argv[1:2] and sys.argv[1] in children:
        result = asyncio.run(children[sys.argv[1]](*sys.argv[2:]))
        sys.stdout.write(msgspec.json.encode(result).decode())
        return True
    return False


def conditions(name: str) -> str:
    """Return what a report's measurements were made with: the command and the machine."""
    command = " ".join([f"python -m loadtests.{name}", *sys.argv[1:]])
    return (
        f"`{command}`, {platform.machine()}, Python {platform.python_version()}, SQLite "
        f"{sqlite3.sqlite_version}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}."
    )


def write_report(text: str, path: Path | None, name: str) -> None:
    """Write a report to a file and to standard output; None for today's in `results`."""
    path = path or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md"
    path.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def measure_in_folder(
    parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace, Path], _Measured]
) -> tuple[argparse.Namespace, _Measured]:
    """Measure as the command line says; return its options and what was measured.

    Args:
        parser: of the command line, to which the options for the folder and the report are added.
        measure: measures, with the options and a folder that is deleted afterwards.
    """
    parser.add_argument("--folder", type=Path, help="for the files; else a temporary one")
    parser.add_argument("--out", type=Path, help="the report's file")
    args = parser.parse_args()
    with TemporaryDirectory(dir=args.folder) as folder:
        return args, measure(args, Path(folder))


def main() -> None:
    if run_child(CHILDREN):
        return
    parser = argparse.ArgumentParser(description="Measure the store of requests.")
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--writes", type=int, default=51_200, help="requests of one turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of writes and of live traffic")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each page")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    args, text = measure_in_folder(parser, report)
    write_report(text, args.out, "traffic")


if __name__ == "__main__":
    main()
