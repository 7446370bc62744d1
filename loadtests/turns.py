"""Compare the CPU that programs take per request, in short turns between programs that all run.

    python -m loadtests.turns --only evalrouter loop
    python -m loadtests.turns --before CHECKOUT --only evalrouter before loop --rounds 600

The speed of a machine may change by a third within minutes, by what its neighbours do. In
`loadtests.gateway` a contestant has such minutes alone; here each gets some hundred requests, then
the next one, for hundreds of rounds, so that all of them have the same minutes. What a program does
later, such as to store its records, counts too: its CPU time is taken over all rounds, its
children's and threads' included, less what it takes in as much time without a request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from loadtests import gateway
from loadtests.client import Connection, connect, request
from loadtests.contestants import ROOT, Contestant, Site, contestants
from loadtests.processes import free_port, started, tree

CLIENTS = 16
WARM_UP = 2000
IDLE_S = 10.0
# After the last round, until what is done later has been done.
SETTLED_S = 5.0
# Groups of rounds, each with a ratio of its own, so that it can be seen how much they differ.
BLOCKS = 10


class StartedOne(NamedTuple):
    """A contestant's port, the process that listens there, and the headers of its clients."""

    port: int
    pid: int
    headers: Mapping[str, str]


class Running(NamedTuple):
    """A contestant with connections to it.

    Attributes:
        name: the contestant's.
        pid: of its process.
        sending: the bytes of a request.
        connections: to it.
    """

    name: str
    pid: int
    sending: bytes
    connections: list[Connection]


class Cost(NamedTuple):
    """Microseconds of CPU time per request: in all, and of that in the turns themselves."""

    whole: float
    in_turns: float


def cpu_ns(pid: int) -> int:
    """Return the nanoseconds of CPU time of a process and its children, ended threads included."""
    # The kernel's number of a process's clock, as clock_getcpuclockid(3) makes it.
    return sum(time.clock_gettime_ns((~process << 3) | 2) for process in tree(pid))


async def _send(running: Running, requests: int) -> None:
    """Send so many requests, each connection its next when the last is answered."""

    async def one(connection: Connection, count: int) -> None:
        for _ in range(count):
            await connection.send(running.sending)

    share, rest = divmod(requests, len(running.connections))
    await asyncio.gather(
        *(
            one(connection, share + (number < rest))
            for number, connection in enumerate(running.connections)
        )
    )


async def measure(
    started_ones: Mapping[str, StartedOne],
    rounds: int,
    requests: int,
    *,
    warm_up: int = WARM_UP,
    idle_s: float = IDLE_S,
    settled_s: float = SETTLED_S,
) -> dict[str, list[Cost]]:
    """Return what a request took in each block of rounds, by contestant.

    Args:
        started_ones: the contestants by name.
        rounds: how many turns each has.
        requests: of a turn.
        warm_up: requests to each before.
        idle_s: seconds over which it is taken what they do without requests.
        settled_s: seconds after each block until what is done later has been done.
    """
    all_running = []
    for name, (port, pid, headers) in started_ones.items():
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        connections = [await connect(urlsplit(url)) for _ in range(CLIENTS)]
        all_running.append(Running(name, pid, request(url, headers, stream=False), connections))
    for running in all_running:
        await _send(running, warm_up)
    await asyncio.sleep(settled_s)
    before = {running.name: cpu_ns(running.pid) for running in all_running}
    await asyncio.sleep(idle_s)
    idle = {
        running.name: (cpu_ns(running.pid) - before[running.name]) / idle_s
        for running in all_running
    }
    per_block = max(1, rounds // BLOCKS)
    measured: dict[str, list[Cost]] = {running.name: [] for running in all_running}
    for number in range(1, BLOCKS + 1):
        before = {running.name: cpu_ns(running.pid) for running in all_running}
        began = time.monotonic()
        in_turns = dict.fromkeys(before, 0)
        for _ in range(per_block):
            for running in all_running:
                at_start = cpu_ns(running.pid)
                await _send(running, requests)
                in_turns[running.name] += cpu_ns(running.pid) - at_start
            # The order turns, so that none always follows the same.
            all_running.append(all_running.pop(0))
        await asyncio.sleep(settled_s)
        seconds = time.monotonic() - began
        for running in all_running:
            used = cpu_ns(running.pid) - before[running.name] - idle[running.name] * seconds
            count = per_block * requests * 1e3
            measured[running.name].append(Cost(used / count, in_turns[running.name] / count))
        print(f"block {number} of {BLOCKS}", file=sys.stderr, flush=True)
    for running in all_running:
        for connection in running.connections:
            connection.close()
    return measured


def markdown(
    measured: Mapping[str, Sequence[Cost]], heading: str, rounds: int, requests: int
) -> str:
    """Return the report: each contestant's CPU per request, and its ratio to the first's."""
    first = next(iter(measured))
    lines = [
        heading,
        "",
        f"CPU per request over {rounds} turns of {requests} requests. The ratio is the median of",
        f"{BLOCKS} blocks, with the lowest and the highest. What is done between the turns,",
        "such as to store records, is in the first figure and not in the second.",
        "",
        f"| | CPU per request, µs | to that of {first} | in its turns, µs | to that of {first} |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, costs in measured.items():
        cells = [name]
        for field in Cost._fields:
            values = [getattr(cost, field) for cost in costs]
            others = [getattr(cost, field) for cost in measured[first]]
            ratios = [one / other for one, other in zip(values, others, strict=True)]
            cells += [_cell(values, 1), _cell(ratios, 3)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float], decimals: int) -> str:
    middle, low, high = (
        f"{value:.{decimals}f}" for value in (median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def _run(taking_part: Sequence[Contestant], rounds: int, requests: int) -> dict[str, list[Cost]]:
    gateway_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = free_port()
        serve = [sys.executable, "-m", "loadtests.upstream", "--port", str(upstream)]
        process = stack.enter_context(
            started(serve, core=load_core, log=folder / "upstream.log", cwd=ROOT)
        )
        gateway.wait_for_answer(upstream, {}, process)
        started_ones = {}
        for contestant in taking_part:
            site = Site(folder / contestant.name, free_port(), f"http://127.0.0.1:{upstream}/v1")
            site.folder.mkdir()
            start = contestant.prepare(site)
            log = site.folder / "output.log"
            process = stack.enter_context(
                started(start.command, core=gateway_core, log=log, env=start.env, cwd=ROOT)
            )
            gateway.wait_for_answer(site.port, start.headers, process)
            started_ones[contestant.name] = StartedOne(site.port, process.pid, start.headers)
        return uvloop.run(measure(started_ones, rounds, requests))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.turns",
        description="Compare the CPU that programs take per request, in short turns.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", default=["evalrouter", "loop"])
    parser.add_argument("--rounds", type=int, default=300, help="turns of each contestant")
    parser.add_argument("--requests", type=int, default=200, help="of a turn")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier version")
    parser.add_argument("--out", type=Path, help="a file for the report, which is printed anyway")
    options = parser.parse_args()
    installed, _ = contestants(litellm=None, portkey=None, before=options.before)
    by_name = {contestant.name: contestant for contestant in installed}
    for name in options.only:
        if name not in by_name:
            parser.error(f"no contestant {name!r}; there are {', '.join(by_name)}")
    taking_part = [by_name[name] for name in options.only]
    try:
        measured = _run(taking_part, options.rounds, options.requests)
    except gateway.ScenarioFailed as failure:
        parser.exit(1, f"{failure}\n")
    command = f"python -m loadtests.turns {shlex.join(gateway.public(sys.argv[1:]))}".rstrip()
    top = gateway.heading(taking_part, {}, command)
    text = markdown(measured, top, options.rounds, options.requests)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
