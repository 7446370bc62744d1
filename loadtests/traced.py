"""The server, counting the bytecodes that it executes: `loadtests.bytecodes` starts it.

    python loadtests/traced.py COUNTS serve --config evalrouter.yaml

At every SIGUSR1 it begins to count, or else stops and writes the file COUNTS: a JSON object of
`file:line:function` to bytecodes, of all threads. It imports nothing of this folder, because the
version that it runs may be another one.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any


class Tracer:
    """Counts bytecodes by function.

    Args:
        path: the file that the counts are written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[CodeType] = Counter()
        self._counts_now = False

    def called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        """Return what traces a function that begins or goes on; None while nothing is counted."""
        if not self._counts_now:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._count

    def _count(self, frame: FrameType, event: str, _argument: Any) -> Any:
        # What is returned here to trace a function no more has no effect in CPython 3.11.
        if event == "opcode" and self._counts_now:
            self._counts[frame.f_code] += 1
        return self._count

    def switch(self, *_: Any) -> None:
        """Begin to count, or stop and write the counts."""
        self._counts_now = not self._counts_now
        if self._counts_now:
            self._counts.clear()
            return
        counts: Counter[str] = Counter()
        for code, number in self._counts.items():
            name = f"{code.co_filename}:{code.co_firstlineno}:{code.co_qualname}"
            counts[name] += number
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(counts), encoding="utf-8")
        part.rename(self._path)


if __name__ == "__main__":
    from router.cli import main

    tracer = Tracer(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGUSR1, tracer.switch)
    threading.settrace(tracer.called)
    sys.settrace(tracer.called)
    main()
