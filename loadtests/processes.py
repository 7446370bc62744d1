"""Processes under measurement: pinned to a core, watched with their children, always stopped.

with started(["nginx", ...], core=0, log=path) as process:
    used = cpu_seconds(process.pid)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

# After SIGTERM; then SIGKILL.
STOP_SECONDS = 5


def free_port() -> int:
    """Return a port of 127.0.0.1 that no program listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def started(
    command: Sequence[str],
    *,
    core: int | None = None,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` for as long as the block lasts.

    Args:
        command: program and arguments.
        core: the one core that it and its children may use; None for any.
        log: the file that its output is appended to.
        env: added to this process's environment.
        cwd: its working directory; None for this process's.
    """
    pinned = ["taskset", "-c", str(core), *command] if core is not None else list(command)
    with log.open("ab") as output:
        process = subprocess.Popen(
            pinned,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            # A group of its own, so that its children can be stopped with it.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its threads and its descendants, ended ones too."""
    ticks = 0
    for process in tree(pid):
        # utime, stime, and both of the children that were waited for.
        ticks += sum(int(field) for field in _stat(process)[11:15])
    return ticks / TICKS


def cpu_clock(pid: int) -> float:
    """Return the CPU time of a process with its threads, to the nanosecond, without children."""
    # How Linux makes the number of a process's clock (clock_getcpuclockid).
    return time.clock_gettime(((~pid) << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Return the VmRSS of a process and its descendants; shared pages count once for each."""
    total = 0
    for process in tree(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in (PROC / str(process) / "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def tree(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    processes = [pid]
    for process in processes:
        processes += children.get(process, [])
    return processes


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; zeros if the process has just ended."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 50
    # The name may hold spaces and brackets; the last bracket is ours.
    return text[text.rindex(")") + 2 :].split()
