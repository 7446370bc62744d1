"""Count the bytecodes that the router executes per request: what other load does not change.

    python -m loadtests.bytecodes                       # without and with a shadow and a rollout
    python -m loadtests.bytecodes --functions 40        # and the functions that take most
    python -m loadtests.bytecodes --before CHECKOUT     # and of an earlier version

The router is started as `loadtests.gateway` starts it, with a key that has every kind of limit,
and gets requests one after the other. Python is counted, in all threads, until the records are
stored, less what the router executes in as much time without a request; C code (parsers, the event
loop, SQLite) is not. Of three rounds each function's smallest count is taken. Records are written
in smaller batches than under load, and the total depends on how many batches there were: compare
functions. It takes two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from loadtests.client import Connection, request
from loadtests.contestants import ROOT, Contestant, Site, contestants
from loadtests.gateway import wait_for_answer
from loadtests.processes import free_port, started

WARM_UP = 300
ROUNDS = 3
# In which the records of all requests are stored that have been answered.
STORED_S = 2.0
WRITTEN_S = 60.0


def count(contestant: Contestant, upstream: int, requests: int) -> Counter[str]:
    """Return the bytecodes of so many requests by function, as `file:line:function`."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        start = contestant.prepare(Site(folder, port, f"http://127.0.0.1:{upstream}/v1"))
        counts = folder / "counts.json"
        module = start.command.index("-m")
        command = [
            *start.command[:module],
            str(ROOT / "loadtests" / "traced.py"),
            str(counts),
            *start.command[module + 2 :],
        ]
        log = folder / "output.log"
        with started(command, log=log, env=start.env, cwd=ROOT) as process:
            wait_for_answer(port, start.headers, process)
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            sending = request(url, start.headers, stream=False)
            asyncio.run(_send(port, sending, WARM_UP))
            time.sleep(STORED_S)
            fewest: Counter[str] | None = None
            for _ in range(ROUNDS):
                began = time.monotonic()
                process.send_signal(signal.SIGUSR1)
                asyncio.run(_send(port, sending, requests))
                time.sleep(STORED_S)
                counted = _counts(counts, process)
                took = time.monotonic() - began
                process.send_signal(signal.SIGUSR1)
                time.sleep(took)
                counted.subtract(_counts(counts, process))
                # What is more in another round is chance: a slow turn, a smaller batch.
                fewest = counted if fewest is None else fewest & counted
            assert fewest is not None
            return fewest


async def _send(port: int, sending: bytes, requests: int) -> None:
    loop = asyncio.get_running_loop()
    transport, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    for _ in range(requests):
        await connection.send(sending)
    transport.close()


def _counts(path: Path, process: subprocess.Popen[bytes]) -> Counter[str]:
    """End a count, and return it."""
    process.send_signal(signal.SIGUSR1)
    until = time.monotonic() + WRITTEN_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit("the router did not write its counts")
        time.sleep(0.05)
    counts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return Counter(counts)


def _table(counted: dict[str, Counter[str]], requests: int, functions: int) -> str:
    """Return the counts per request: all, and the functions with most in any column."""
    rows = [("all", [counts.total() for counts in counted.values()])]
    names: dict[str, dict[str, int]] = {}
    for column, counts in counted.items():
        for name, number in counts.items():
            # Lines differ between versions.
            path, _, function = name.split(":", 2)
            title = f"{'/'.join(Path(path).parts[-2:])} {function}"
            columns = names.setdefault(title, {})
            columns[column] = columns.get(column, 0) + number
    ordered = sorted(names.items(), key=lambda item: -max(item[1].values()))
    rows += [
        (title, [columns.get(column, 0) for column in counted])
        for title, columns in ordered[:functions]
    ]
    lines = ["  ".join(f"{column:>10}" for column in counted)]
    lines += [
        "  ".join([*(f"{number / requests:>10.1f}" for number in numbers), title])
        for title, numbers in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bytecodes")
    parser.add_argument("--requests", type=int, default=300, help="that are counted")
    parser.add_argument("--functions", type=int, default=0, help="how many of them to list")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=["evalrouter", "loop"])
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version")
    options = parser.parse_args()
    installed, _ = contestants(litellm=None, portkey=None, before=options.before)
    only = [*options.only, *(["before"] if options.before else [])]
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        serve = [sys.executable, "-m", "loadtests.upstream", "--port", str(port)]
        with started(serve, log=Path(name) / "upstream.log", cwd=ROOT) as upstream:
            wait_for_answer(port, {}, upstream)
            counted = {
                contestant.name: count(contestant, port, options.requests)
                for contestant in installed
                if contestant.name in only
            }
    print(_table(counted, options.requests, options.functions))


if __name__ == "__main__":
    main()
