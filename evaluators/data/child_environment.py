"""The environment of processes that we start to read files, or to compute: it holds no key."""

from __future__ import annotations

import os

_INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def child_environment() -> dict[str, str]:
    """Return the variables of a process that computes with one thread."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
