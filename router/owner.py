"""Which process carries a run out, by a name that outlives neither it nor a reuse of its id."""

from __future__ import annotations

import socket
from pathlib import Path


def owner_of(pid: int) -> str:
    """`host:pid:start` of a process of this machine."""
    return f"{socket.gethostname()}:{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """When the process began, so that a process with a reused id is not taken for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit() or not Path("/proc/self").exists():
        return False
    return owner != owner_of(int(pid))
