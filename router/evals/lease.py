"""Names the process that executes a run; such a name is never used again after the process."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

STALE_AFTER_S = 30.0


def this_owner() -> str:
    """Return a name for one part of this process: `host:pid:start:random`."""
    return f"{_process(os.getpid())}:{uuid.uuid4().hex[:8]}"


def stale_after(owner: str) -> float:
    """Return the seconds of silence after which a run may be taken from its owner."""
    return 0.0 if is_dead(owner) else STALE_AFTER_S


def is_dead(owner: str) -> bool:
    """Return whether the owner was part of a process of this machine that has ended."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit() or not Path("/proc/self").exists():
        return False
    return not owner.startswith(f"{_process(int(pid))}:")


def _process(pid: int) -> str:
    """Name a process with the time it began, so that a later one with its id is told from it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return f"{socket.gethostname()}:{pid}:gone"
    # The state is behind the name; what is a zombie does nothing any more.
    fields = stat.rpartition(")")[2].split()
    return f"{socket.gethostname()}:{pid}:{'gone' if fields[0] == 'Z' else fields[19]}"
