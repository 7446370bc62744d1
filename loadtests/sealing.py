"""Measure sealed requests: what sealing takes, and pages, totals and deletion over files.

    python -m loadtests.sealing --records 1000000        # some minutes

A SQLite file is filled with requests of thirty days, one in ten with bodies. A process of its own
seals all of them; others time pages and totals, with DuckDB and with pyarrow, and a deletion by
user.
At the end a server gets requests at a fixed rate while it seals such a file, and after that.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from loadtests.traffic import (
    DAY,
    END,
    PAGES,
    ROOT,
    conditions,
    fill,
    measure_in_folder,
    p99,
    run_child,
    serving,
    write_report,
)
from router.datasets.artifacts import LocalArtifacts
from router.sealing.files import SealedFiles
from router.sealing.job import Sealing
from router.sealing.traffic import RecordedTraffic
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

# Prompts and answers of some 600 bytes each, no two alike; one user in a thousand requests.
BODIES = """
INSERT INTO traffic_bodies (number, request, response)
SELECT number,
    CAST('{"model":"chat","messages":[{"role":"user","content":"' || hex(randomblob(40)) || ' '
        || replace(hex(zeroblob(30)), '00', 'Summarize the report. ') || '"}]}' AS BLOB),
    CAST('{"choices":[{"message":{"content":"' || hex(randomblob(40)) || ' '
        || replace(hex(zeroblob(30)), '00', 'It says that it is so. ') || '"}}]}' AS BLOB)
FROM traffic WHERE number % 10 = 0
"""
USERS = "UPDATE traffic SET user_id = printf('user_%d', number / 1000) WHERE number % 3 = 0"
MARK = "UPDATE traffic SET bodies = 1 WHERE number % 10 = 0"


class _Server:
    """What a server has of requests, over one database."""

    def __init__(self, path: Path, *, duckdb: bool = True) -> None:
        self.store = SqliteStore(path)
        # DuckDB cannot read a folder of such a name.
        folder = path.with_name("artifacts")
        root = folder if duckdb else path.with_name("[artifacts]")
        if not duckdb and not root.exists():
            root.symlink_to(folder)
        self.files = SealedFiles(lambda: LocalArtifacts(root), self.store)
        self.recorded = RecordedTraffic(self.store, self.files, self._delete)

    async def _delete(self, matching: TrafficFilter, _: int | None) -> int:
        return await self.store.forget_traffic(matching, 100_000)


async def fill_with_bodies(path: Path, count: int) -> None:
    """Fill a file, and index it."""
    await fill(path, count)
    with closing(sqlite3.connect(path)) as db, db:
        for statement in (USERS, BODIES, MARK):
            db.execute(statement)
    store = SqliteStore(path)
    await store.open()
    while await store.index_traffic():
        pass
    await store.close()


async def seal(path: Path) -> dict[str, float]:
    """Seal everything."""
    server = _Server(path)
    await server.store.open()
    job = Sealing(
        server.store, server.files, server.recorded, owner="loadtest", days=1.0, outdated=list,
        clock=lambda: END + 3 * DAY,
    )  # fmt: skip
    # What the server has imported anyway.
    await server.files.engine()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used, began = time.process_time(), time.perf_counter()
    result = await job.run_once()
    assert result is not None
    measured = {
        "requests": result.requests,
        "files": result.files,
        "bytes": result.size,
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - used,
        "before_kib": before,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    filters = await server.store._database.read(  # noqa: SLF001 - no part of the store sums it up
        "read", lambda db: db.execute("SELECT sum(length(bits)) FROM sealed_traffic_filters")
    )
    measured["filter_bytes"] = filters.fetchone()[0]
    await server.store.close()
    server.files.close()
    return measured


async def times(path: Path, engine: str, seconds: float) -> dict[str, list[float]]:
    """Time pages and totals: rows, the median ms, and the median ms of CPU of the process."""
    server = _Server(path, duckdb=engine == "duckdb")
    await server.store.open()
    recorded = server.recorded
    [row] = await recorded.page(TrafficFilter(), limit=1, before=1001)
    reads: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        name: (lambda matching=matching: recorded.page(matching, limit=50))
        for name, matching in PAGES.items()
    }
    reads |= {
        "a user": lambda: recorded.page(TrafficFilter(user="user_7"), limit=50),
        "an id, with bodies": lambda: recorded.request(row.id),
        "an id that nothing has": lambda: recorded.request("req_none"),
        "totals of a day, by route and target": lambda: recorded.totals(
            TrafficFilter(since=END - DAY), ("route", "target"), limit=50
        ),
        "totals of all days, by route and target": lambda: recorded.totals(
            TrafficFilter(), ("route", "target"), limit=50
        ),
        "totals of all days, by user": lambda: recorded.totals(
            TrafficFilter(), ("user",), limit=50
        ),
    }
    measured = {}
    for name, read in reads.items():
        taken: list[float] = []
        cpu: list[float] = []
        began = time.perf_counter()
        while not taken or (time.perf_counter() - began < seconds and len(taken) < 20):
            at, used = time.perf_counter(), time.process_time()
            rows = await read()
            taken.append((time.perf_counter() - at) * 1000)
            cpu.append((time.process_time() - used) * 1000)
        count = len(rows) if isinstance(rows, list) else int(rows is not None)
        measured[name] = [count, median(taken), median(cpu)]
    await server.store.close()
    server.files.close()
    return measured


async def delete(path: Path) -> list[float]:
    """Delete a user's requests; return how many there were, and the seconds."""
    server = _Server(path)
    await server.store.open()
    began = time.perf_counter()
    deleted = await server.recorded.delete(TrafficFilter(user="user_7"))
    taken = time.perf_counter() - began
    await server.store.close()
    server.files.close()
    return [deleted.deleted, taken]


def live(path: Path, rounds: int, seconds: float) -> tuple[list[float], list[float], float]:
    """Return p99s in ms of live requests while a server seals, and after it; and when it ended."""
    storage = f'seal_after_days: 1, artifacts: "{path.with_name("live")}", traffic_days: 0'
    began = time.perf_counter()
    with serving(path, storage) as (url, _):
        during = [p99(url, seconds) for _ in range(rounds)]
        assert _live_requests(path), "all was sealed before the measurement ended: use more records"
        while _live_requests(path):
            time.sleep(0.5)
        ended = time.perf_counter() - began
        return during, [p99(url, seconds) for _ in range(rounds)], ended


def _live_requests(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT 1 FROM traffic WHERE at < ? LIMIT 1"
        return db.execute(query, (END + 1,)).fetchone() is not None


def in_child(*command: str) -> Any:
    """Run one measurement in a process of its own."""
    import subprocess  # noqa: PLC0415 - of the parent only

    done = subprocess.run(
        [sys.executable, "-m", "loadtests.sealing", *command],
        cwd=ROOT, check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    sys.stderr.write(f"{command[0]}: {done.stdout.decode()}\n")
    return msgspec.json.decode(done.stdout)


class Measured(msgspec.Struct):
    """What was measured; times and deletion as the functions above return them."""

    records: int
    before_bytes: int
    sealed: dict[str, float]
    times: dict[str, dict[str, list[float]]]
    deletion: list[float]
    live_records: int
    live: tuple[list[float], list[float], float]


def measure(args: argparse.Namespace, folder: Path) -> Measured:
    """Measure everything."""
    path = folder / "traffic.db"
    in_child("fill", str(path), str(args.records))
    before = path.stat().st_size
    sealed = in_child("seal", str(path))
    engines = ("duckdb", "pyarrow")
    times = {engine: in_child("times", str(path), engine, str(args.seconds)) for engine in engines}
    deletion = in_child("delete", str(path))
    for_server = folder / "server" / "traffic.db"
    for_server.parent.mkdir()
    in_child("fill", str(for_server), str(args.live_records))
    live = in_child("live", str(for_server), str(args.rounds))
    return Measured(args.records, before, sealed, times, deletion, args.live_records, live)


def report(measured: Measured) -> str:
    """Return the report."""
    count, sealed = measured.records, measured.sealed
    lines = [
        f"# Sealed requests: {count:,} in Parquet files",
        "",
        f"{conditions('sealing')} One request in ten has bodies, of 1.4 KB together.",
        "",
        f"SQLite had {measured.before_bytes / count:.0f} bytes a request, indexes and bodies "
        f"included; the files have {sealed['bytes'] / sealed['requests']:.1f}, and their filters "
        f"and indexes in the database "
        f"{sealed['filter_bytes'] / sealed['requests']:.1f}.",
        "",
        f"Sealing {sealed['requests']:,} requests into {sealed['files']} files, with its pauses, "
        f"took {sealed['seconds']:.0f} s and {sealed['cpu_s']:.0f} s of CPU. The process had "
        f"{sealed['before_kib'] / 1024:.0f} MiB before and at most "
        f"{sealed['peak_kib'] / 1024:.0f} MiB.",
        "",
        "A page of 50, or totals; median ms, and in brackets of CPU, of all threads.",
        "",
        "| what | rows | with DuckDB | with pyarrow |",
        "|---|---:|---:|---:|",
    ]
    for name, (rows, usual, cpu) in measured.times["duckdb"].items():
        _, arrow, arrow_cpu = measured.times["pyarrow"][name]
        lines.append(
            f"| {name} | {rows} | {usual:.1f} ({cpu:.1f}) | {arrow:.1f} ({arrow_cpu:.1f}) |"
        )
    deleted, delete_s = measured.deletion
    during, after, ended = measured.live
    lines += [
        "",
        f"Deleting a user's {deleted:.0f} requests from the files took {delete_s:.2f} s.",
        "",
        f"Live requests at 200/s, p99 in ms: {', '.join(f'{ms:.1f}' for ms in during)} while the "
        f"server seals {measured.live_records:,} requests, "
        f"{', '.join(f'{ms:.1f}' for ms in after)} after it. It had sealed all {ended:.0f} s after "
        "its start.",
        "",
    ]
    return "\n".join(lines)


async def _live(path: Path, rounds: int) -> Any:
    return await asyncio.to_thread(live, path, rounds, 5.0)


CHILDREN: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "fill": lambda path, count: fill_with_bodies(Path(path), int(count)),
    "seal": lambda path: seal(Path(path)),
    "times": lambda path, engine, seconds: times(Path(path), engine, float(seconds)),
    "delete": lambda path: delete(Path(path)),
    "live": lambda path, rounds: _live(Path(path), int(rounds)),
}


def main() -> None:
    if run_child(CHILDREN):
        return
    parser = argparse.ArgumentParser(description="Measure sealed requests.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--live-records", type=int, default=100_000, help="for live traffic")
    parser.add_argument("--rounds", type=int, default=3, help="turns of live traffic")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each page")
    args, measured = measure_in_folder(parser, measure)
    write_report(report(measured), args.out, "sealing")


if __name__ == "__main__":
    main()
