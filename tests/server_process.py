"""`evalrouter serve` in a process of its own with its log in a file, and what is known of it.

with serving(folder, "--workers", "2") as server:
    httpx.get(f"{server.url}/health/live")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
from router_process import ForkedProcess

# Long enough for a busy machine; a test that waits so long fails.
PATIENCE_S = 60.0


class ServerProcess:
    """A server in its folder, which has its config.

    Attributes:
        process: the server's, or its supervisor's.
        pid: its id.
        url: its base URL.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.router_pid if isinstance(process, ForkedProcess) else process.pid
        self._folder = folder
        wait_for(lambda: "http://" in self.log or process.poll() is not None)
        found = re.search(r"http://\S+", self.log)
        assert found is not None, self.log
        self.url = found.group()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def workers(self) -> list[int]:
        """The processes that answer, where there are several."""
        return _workers_of(self.pid)

    @property
    def pids(self) -> list[int]:
        """All processes that answer, and their supervisor."""
        return [*self.workers, self.pid]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def serving(folder: Path, *args: str, before: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """A server that is ready; `before` is a command that runs another one."""
    with starting(folder, *args, before=before) as server:
        wait_for(server.is_ready)
        yield server


@contextlib.contextmanager
def starting(folder: Path, *args: str, before: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """A server that has an address and may not answer yet."""
    with (folder / "log").open("w") as log:
        if before:
            command = [*before, sys.executable, "-m", "router", "serve", *args]
            process = subprocess.Popen(command, cwd=folder, stderr=log)
        else:
            process = ForkedProcess("serve", *args, cwd=folder, stderr=log)
    try:
        yield ServerProcess(folder, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds; pytest's own limit ends a wait that has no end."""
    while not condition():
        time.sleep(0.02)


def _workers_of(pid: int) -> list[int]:
    """Worker processes; multiprocessing's own resource tracker is none."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def descendants(pid: int) -> list[int]:
    """Every process that it started, and those that they did."""
    found = []
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for one in map(int, child.read_text().split()):
                found += [one, *descendants(one)]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
