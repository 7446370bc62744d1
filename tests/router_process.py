"""`python -m router` in processes of its own, without the second that its imports take.

subprocess.run(router_command("eval", "list"), ...)
ForkedProcess("serve", cwd=folder).send_signal(signal.SIGKILL)
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def router_command(*args: object, write_pid: int = 0) -> list[str]:
    """Return a command that does what `python -m router` does with these arguments.

    Signals are passed on to the command; SIGKILL takes effect a moment later (see `ForkedProcess`).
    """
    program = str(Path(__file__).with_name("fork_client.py"))
    return [sys.executable, "-I", "-S", program, _socket(), str(write_pid), *map(str, args)]


class ForkedProcess(subprocess.Popen[Any]):
    """`python -m router` with these arguments; signals are sent to it directly.

    Attributes:
        router_pid: its process id; `pid` is that of the process that waits for it.
    """

    def __init__(self, *args: object, **options: Any) -> None:
        own, passed_on = os.pipe()
        with open(own, closefd=True) as pipe:  # noqa: PTH123 - a number is no path
            try:
                command = router_command(*args, write_pid=passed_on)
                super().__init__(command, pass_fds=(passed_on,), **options)
            finally:
                os.close(passed_on)
            self.router_pid = int(pipe.read())

    def send_signal(self, sig: int) -> None:
        """Send a signal to the router; one that has ended gets none."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.router_pid, sig)


@functools.cache
def _socket() -> str:
    """Start `fork_server.py`, which runs until this process ends, and return its address."""
    folder = Path(tempfile.mkdtemp(prefix="evalrouter-fork-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, socket = Path(__file__).with_name("fork_server.py"), folder / "socket"
    server = subprocess.Popen(
        [sys.executable, program, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    with server.stdout as output:
        assert output.readline() == b"listening\n"
    return str(socket)
