"""Runs a command that must not outlive its parent: `python -I -S guard.py COMMAND...`.

Standard input is a pipe whose other end the parent holds and never writes to. When it closes, the
parent wants the command to end or is no more (kill -9 included): the command's whole process group
gets SIGTERM, and SIGKILL after some seconds. If the guard itself is killed, Linux kills the command
(a parent-death signal). Ends with the command's exit code.

A program of its own, started without site packages, so that it costs 20 ms and a few megabytes.
"""

import contextlib
import ctypes
import os
import signal
import subprocess  # running a command is what this file is for
import sys
import threading

GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


def _die_with_guard() -> None:
    """Have Linux kill this process, which becomes the command, with the guard."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    # Whatever is left of the group: the command itself, or what it started.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _watch(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 1):
        pass
    _end(child)


def main() -> int:
    """Run the command and end with its exit code; 127 when it cannot be run."""
    # Ctrl-C on a terminal is for the parent, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(  # noqa: S603  # the user's own command
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_die_with_guard,  # noqa: PLW1509  # there is one thread as yet
        )
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]}: {error.strerror}\n")
        return 127
    # Not in the handler itself: it interrupts the wait below, which holds the child's lock.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_end, args=(child,)).start())
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    # A command that ended by itself may have left something behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())
