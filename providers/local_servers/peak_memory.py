"""Reads from Linux how much resident memory a process has taken at most, since its start."""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")


def process_peak() -> int | None:
    """Return the peak of this process in bytes; None on systems without `/proc`."""
    return _peak_of(_PROC / "self")


def session_peak(leader: int) -> int | None:
    """Return the sum of the peaks of the processes in a session, without its leader's own.

    None where there is no such process, and on systems without `/proc`.
    """
    peaks = [
        peak
        for folder in _PROC.glob("[0-9]*")
        if folder.name != str(leader) and _session(folder) == leader
        if (peak := _peak_of(folder)) is not None
    ]
    return sum(peaks) if peaks else None


def _session(folder: Path) -> int | None:
    """Return the session of a process, by its folder in `/proc`; None for one that has ended."""
    try:
        # The name before the last parenthesis may have any characters.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[3])


def _peak_of(folder: Path) -> int | None:
    """Return a process's VmHWM in bytes; None for one that has ended."""
    with contextlib.suppress(OSError):
        for line in (folder / "status").read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
