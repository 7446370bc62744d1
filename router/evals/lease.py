"""Which process carries a run out, by a name that outlives neither it nor a reuse of its id."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path


def this_owner() -> str:
    """A name for one part of this process: `host:pid:start:random`."""
    return f"{_process(os.getpid())}:{uuid.uuid4().hex[:8]}"


def is_dead(owner: str) -> bool:
    """Whether the owner was part of a process of this machine that is no more."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit() or not Path("/proc/self").exists():
        return False
    return not owner.startswith(f"{_process(int(pid))}:")


def _process(pid: int) -> str:
    """With the time it began, so that a process with a reused id is not taken for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return f"{socket.gethostname()}:{pid}:gone"
    # The state is behind the name; what is a zombie does nothing any more.
    fields = stat.rpartition(")")[2].split()
    return f"{socket.gethostname()}:{pid}:{'gone' if fields[0] == 'Z' else fields[19]}"
