"""Hands over what a process writes to its standard error, line by line."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

# A longer line is handed over in parts.
_MAX_LINE = 8192


class CapturedOutput:
    """The lines that a new process writes; each goes to this process's standard error, too.

        output = CapturedOutput(on_line)
        try:
            process = Popen(command, stderr=output.descriptor)
        finally:
            output.started()
        ...
        output.join(1.0)        # once the process has ended

    Args:
        on_line: called with each line, on a thread of this one; returns it as it may be shown.

    Attributes:
        descriptor: what the process is to write to.
    """

    def __init__(self, on_line: Callable[[bytes], bytes]) -> None:
        reading, self.descriptor = os.pipe()
        self._thread = threading.Thread(target=_forward, args=(reading, on_line), daemon=True)
        self._thread.start()

    def started(self) -> None:
        """Close this process's copy of the descriptor, once the other process has been started."""
        os.close(self.descriptor)

    def join(self, within: float) -> None:
        """Wait until the lines have been handed over; no longer where others go on to write."""
        self._thread.join(within)


def _forward(descriptor: int, on_line: Callable[[bytes], bytes]) -> None:
    with os.fdopen(descriptor, "rb") as stream:
        while line := stream.readline(_MAX_LINE):
            shown = on_line(line)
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(shown.decode("utf-8", "replace"))
                sys.stderr.flush()
