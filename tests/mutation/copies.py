"""Runs a module's tests against mutants of it, in a temporary copy of the working tree.

A copy imports all that the tests import, except the module and what imports it; each mutant is then
a fork, so that it costs its tests and little else.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

# A mutant that allocates without end must not take the machine with it.
_MAX_MEMORY = 8 * 2**30
_PATIENCE = 5
# Of the tests, below the copy.
_OUTPUT = Path("output-of-tests")


Outcome = Literal["survived", "killed", "stopped"]
# By pytest's exit code: 2 where the mutant cannot be imported. Others are no test's verdict.
_OUTCOMES: Mapping[int, Outcome] = {0: "survived", 1: "killed", 2: "killed"}


class Cost(NamedTuple):
    """What the tests take without any mutant, in seconds."""

    processor: float
    wall: float


class BrokenTestsError(Exception):
    """The tests fail, or there are none, without any mutant."""


def copy_tree(root: Path, to: Path) -> None:
    """Copy what Git tracks or would, as it is in the working tree."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


class Copy:
    """A process's own copy of the tree.

    Args:
        folder: where the copy is; the process moves there.
        module: the dotted name of the module to mutate.
        tests: files.
    """

    def __init__(self, folder: Path, module: str, tests: Sequence[str]) -> None:
        self._module = module
        self._path = folder / source_path(module)
        self._tests = tests
        os.chdir(folder)
        # Homes that the tests make for themselves.
        os.environ["TMPDIR"] = str(folder)
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        sys.path[:] = [str(folder), *sys.path[1:]]
        self._cost = self._warm_up()

    def outcome(self, source: str) -> Outcome:
        """Run the tests with this source in the module's place."""
        original = self._path.read_text()
        self._path.write_text(source)
        try:
            code = _in_fork(lambda: _run(self._tests, self._cost), self._cost)
        finally:
            self._path.write_text(original)
        if code < 0:
            return "stopped"
        if code not in _OUTCOMES:
            raise BrokenTestsError(_OUTPUT.read_text())
        return _OUTCOMES[code]

    def _warm_up(self) -> Cost:
        names = Path("modules.imported")

        def measured() -> int:
            code = _run(self._tests, None)
            names.write_text("\n".join(sys.modules))
            return code

        importlib.import_module("pytest")
        if _in_fork(measured, None) != 0:
            raise BrokenTestsError(_OUTPUT.read_text())
        self._import(names.read_text().splitlines())
        for compiled in self._path.parent.glob(f"__pycache__/{self._path.stem}.*.pyc"):
            # Two sources of one size and one second would share it.
            compiled.unlink()
        sys.dont_write_bytecode = True
        # pytest collects garbage when it ends: what is here already is none.
        gc.collect()
        gc.freeze()
        before, start = _processor(), time.monotonic()
        if _in_fork(lambda: _run(self._tests, None), None) != 0:
            raise BrokenTestsError(_OUTPUT.read_text())
        return Cost(_processor() - before, time.monotonic() - start)

    def _import(self, names: Sequence[str]) -> None:
        # None lets an import fail: so does the import of every module that needs this one.
        sys.modules[self._module] = None  # type: ignore[assignment]
        for name in names:
            # Tests are imported by pytest, with their assertions rewritten.
            if name.split(".")[0] in {"conftest", "tests", "__main__", self._module}:
                continue
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001 - who needs it imports it later
                continue
        del sys.modules[self._module]


def source_path(module: str) -> Path:
    """Return where a module's source is, below the root."""
    return Path(*module.split(".")).with_suffix(".py")


def _run(tests: Sequence[str], cost: Cost | None) -> int:
    import hypothesis
    import pytest

    # The same examples every time, and none looked for that is smaller than one that fails.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, max_examples=25, phases=phases
    )
    hypothesis.settings.load_profile("mutants")
    # For one test: no less than all of them took.
    seconds = 120.0 if cost is None else 2 + cost.wall
    # What is imported before it starts has no assertions of interest.
    early = "ignore::pytest.PytestAssertRewriteWarning"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", early, f"--timeout={seconds:.0f}"]
    return int(pytest.main([*options, *tests]))


def _in_fork(run: Callable[[], int], cost: Cost | None) -> int:
    """Return the exit code of a function in a process of its own; negative when it was killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 70
        try:
            os.setsid()
            _limit(cost)
            with _OUTPUT.open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            code = run()
        except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the fork
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return _wait(process, None if cost is None else 20 + _PATIENCE * cost.wall)


def _limit(cost: Cost | None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    if cost is not None:
        # Of the processor rather than the clock: the machine may be busy with something else.
        seconds = int(3 + _PATIENCE * cost.processor)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _wait(process: int, seconds: float | None) -> int:
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return -signal.SIGKILL
        time.sleep(0.01)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
