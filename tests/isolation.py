"""Gives the suite, and what it starts, the same surroundings on every machine.

    isolate()        # in conftest.py and in the programs that write docs/reference

What a developer's machine, a CI runner or `make test &` hands down to a process must not decide
whether a test passes: keys of providers, proxies, data folders, the language, the time zone, the
folder, signals that are ignored, limits.
"""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Where programs and temporary files are, who runs the tests, and settings of the tests themselves.
_PASSED_ON = frozenset(
    {"PATH", "TMPDIR", "LD_LIBRARY_PATH", "USER", "LOGNAME", "CI", "CRASH_SEED", "FUZZ_SECONDS",
     "REAL_TIMES"}
)  # fmt: skip
# Of pytest, of what measures coverage, and of the BLAS libraries, which on some processors need
# one in order to work at all.
_PASSED_ON_PREFIXES = ("PYTEST_", "HYPOTHESIS_", "COV_CORE_", "COVERAGE_", "OPENBLAS_", "NVPL_")

_SET: Mapping[str, str] = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    # Tests compute on the CPU, where results are the same everywhere.
    "CUDA_VISIBLE_DEVICES": "",
    # Without keys, boto3 would ask an address that only exists in Amazon's network.
    "AWS_EC2_METADATA_DISABLED": "true",
}

_OPEN_FILES = 4096


def isolate() -> None:
    """Replace what was inherited from the caller, once per process."""
    environ = environment(os.environ)
    home = tempfile.mkdtemp(prefix="evalrouter-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.clear()
    os.environ.update(environ, HOME=home)
    time.tzset()
    os.chdir(ROOT)
    os.umask(0o022)
    _restore_signals()
    _open_stdin()
    _raise_limits()


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tests run with, but for HOME."""
    passed_on = {
        name: value
        for name, value in inherited.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return passed_on | dict(_SET)


def _restore_signals() -> None:
    """Let children start with default signals.

    The shell ignores SIGINT for `make test &`, nohup ignores SIGHUP, and children inherit that.
    Here they are still ignored, but by a handler: unlike "ignore", children do not inherit it. An
    ignored SIGCHLD is restored too: without it no exit code would arrive.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _open_stdin() -> None:
    """Open /dev/null where there is no standard input, before a socket takes its number."""
    try:
        os.fstat(0)
    except OSError:
        opened = os.open(os.devnull, os.O_RDONLY)
        if opened != 0:
            os.dup2(opened, 0)
            os.close(opened)
        # Python opens files for itself alone; this one is the children's as well.
        os.set_inheritable(0, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def _raise_limits() -> None:
    """Allow as many open files as the tests need, where the limit can be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
