"""Run logs: what happened to a run, line by line.

The database writes a line itself whenever a run's state changes, whichever process does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

LogKind = Literal["state", "retry", "error", "output"]

# The lines that are stored of a run, newest first, and the characters of each.
MAX_LINES = 10_000
MAX_TEXT = 2000


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a run's log.

    Attributes:
        number: grows with every line; 0 for one that is not stored yet.
        at: seconds since the epoch, UTC.
        kind: `state` for a change of the run's state, `retry` for a request that was sent once
            more, `error` for one that failed, `output` for what a metric's process wrote.
        source: the target of a request; "" where there is none.
        text: what happened.
        times: how often it did, about that time.
    """

    number: int = 0
    at: float
    kind: LogKind
    source: str
    text: str
    times: int = 1


class RunLogStore(Protocol):
    """Stores lines about runs."""

    async def add_run_log(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Add lines; where the run has more than MAX_LINES then, the oldest are dropped.

        Raises:
            NotFoundError: no such run.
        """
        ...

    async def last_logged(self, run_id: str) -> int:
        """Return the number of the run's last line; 0 without one.

        Raises:
            NotFoundError: no such run.
        """
        ...

    async def run_log(self, run_id: str, *, limit: int = 100, after: int = 0) -> list[LogLine]:
        """Return the lines after one of that number, oldest first.

        Raises:
            NotFoundError: no such run.
        """
        ...
