"""Collects what happens while a run is executed, and writes it into the run's log.

What is the same within a second is one line that says how often it happened: a host that fails a
million times must not fill the database.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from providers.errors import EvalrouterError
from providers.masking import Masks
from router.records import Attempt
from router.store.run_logs import MAX_TEXT, LogKind, LogLine, RunLogStore

WRITE_EVERY_S = 1.0
# Different lines that are written at a time; of more, only the number is.
MAX_AT_ONCE = 200
# Not failures of the target: the request never reached it, or another one was quicker.
_NO_FAILURE = frozenset({"ok", "hedge_lost", "cancelled"})


class RunLog:
    """The log of a run while this process executes it.

    Args:
        store: where the lines go.
        run_id: the run.
        masks: the secrets that no line may have.
        now: the time, seconds since the epoch.
    """

    def __init__(
        self,
        store: RunLogStore,
        run_id: str,
        masks: Masks,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._masks = masks
        self._now = now
        self._times: dict[tuple[LogKind, str, str], int] = {}
        self._left_out = 0
        # Filled by threads.
        self._output: deque[bytes] = deque(maxlen=MAX_AT_ONCE)
        self._output_lines = 0
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RunLog:
        self._writing = asyncio.create_task(self._write(), name=f"log of {self._run_id}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writing is not None
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self.flush()

    def add_attempts(self, attempts: Sequence[Attempt], error: str | None) -> None:
        """Note the requests that led to an answer, or in `error` why they led to none."""
        for n, attempt in enumerate(attempts):
            last = n == len(attempts) - 1
            if attempt.result in _NO_FAILURE or (last and error is not None):
                continue
            status = "" if attempt.status is None else f" (status {attempt.status})"
            self._add("retry", attempt.target, f"{attempt.result}{status}")
        if error is not None:
            self._add("error", attempts[-1].target if attempts else "", error)

    def add_output(self, line: bytes) -> bytes:
        """Note a line that a metric's process wrote, and return it without secrets.

        May be called from any thread.
        """
        self._output_lines += 1
        self._output.append(line[: 4 * MAX_TEXT])
        return self._masks.mask(line)

    def _add(self, kind: LogKind, source: str, text: str) -> None:
        line = (kind, source, text[:MAX_TEXT])
        if line not in self._times and len(self._times) >= MAX_AT_ONCE:
            self._left_out += 1
        else:
            self._times[line] = self._times.get(line, 0) + 1

    async def flush(self) -> None:
        """Write what was noted; where the store refuses it, it is lost: the run goes on."""
        if lines := self._taken():
            with suppress(EvalrouterError):
                await self._store.add_run_log(self._run_id, lines)

    def _taken(self) -> list[LogLine]:
        now = self._now()
        noted, self._times = self._times, {}
        left_out, self._left_out = self._left_out, 0
        lines = [
            LogLine(at=now, kind=kind, source=source, text=self._clean(text), times=times)
            for (kind, source, text), times in noted.items()
        ]
        if left_out:
            lines.append(LogLine(at=now, kind="error", source="", text=_OTHERS, times=left_out))
        written = 0
        while self._output:
            text = self._clean(self._output.popleft().decode("utf-8", "replace").rstrip())
            lines.append(LogLine(at=now, kind="output", source="", text=text))
            written += 1
        lost, self._output_lines = self._output_lines - written, 0
        if lost > 0:
            lines.append(LogLine(at=now, kind="output", source="", text=_OTHERS, times=lost))
        return lines

    def _clean(self, text: str) -> str:
        """Return a text without secrets, and without what PostgreSQL cannot store."""
        text = text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
        return self._masks.mask_text(text)

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.flush()


_OTHERS = "others, too many at a time to be stored"
