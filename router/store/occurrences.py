"""Occurrences: what is done at a time, exactly once over all processes on a store.

A schedule or a watch (its *kind*) is due at moments. Each of them has one row here at most, which
the first process to claim it inserts; so no moment is used twice, also where clocks are put back.
Of each schedule or watch, one occurrence at a time is running: its owner renews its lease, and when
that has passed, another process goes on with it. All times are those of the store's clock
(`ClaimStore.now`), seconds since the epoch.

A *timetable* is a line that says when something is due, and since when it is followed: what was due
before that does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

OccurrenceKind = Literal["schedule", "watch"]

# `running` until it is finished; `missed` while no process was there, `skipped` because another one
# was still running.
OccurrenceState = Literal["running", "completed", "failed", "missed", "skipped"]

# Why it takes place: at its time, late, or because a person wants it now.
Cause = Literal["due", "catch_up", "person"]


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One time at which something was due, and what became of it.

    Attributes:
        kind, name: what was due.
        due: when.
        cause: why it takes place.
        state: how far it is.
        owner: the process that claimed it last; "" for one that was never claimed.
        lease_until: when another process may take it over, while it is running.
        started_at: when it was claimed first; None if it never was.
        finished_at: when it was finished; None while it is running.
        run_id: the run that it is; "" for none.
        detail: what came of it, as its kind describes that.
    """

    kind: OccurrenceKind
    name: str
    due: float
    cause: Cause = "due"
    state: OccurrenceState = "running"
    owner: str = ""
    lease_until: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    run_id: str = ""
    detail: dict[str, Any] = {}


class OccurrenceStore(Protocol):
    """Stores occurrences, and when timetables began. Every method is atomic between processes."""

    async def claim_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        seconds: float,
        *,
        cause: Cause = "due",
        dead: str = "",
        only_new: bool = False,
        detail: Mapping[str, Any] = {},
    ) -> bool:
        """Become the owner of an occurrence for so long; return whether that succeeded.

        A new one is inserted, unless another one of the same kind and name is running. One that is
        running is taken over where its lease has passed, or its owner is `owner` or `dead`, which
        the caller knows to have ended. One that is finished is never claimed again.

        Args:
            kind: what kind of thing is due.
            name: its name.
            due: when it is due.
            owner: who claims it.
            seconds: how long the lease is.
            cause: why a new one takes place.
            dead: an owner that has ended, whose lease need not pass; "" for none.
            only_new: whether one that is running is not taken over, nor claimed a second time.
            detail: what is known of a new one.

        Raises:
            StoreError: a number in `detail` is NaN or infinite.
        """
        ...

    async def extend_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        seconds: float,
        *,
        run_id: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> bool:
        """Renew the lease, and set what is given; return False where the owner has it no more."""
        ...

    async def start_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        run_id: str,
        *,
        detail: Mapping[str, Any] = {},
    ) -> bool:
        """Queue the occurrence's run, which was added as paused, and set what is known of it.

        Return False where that is over: an owner that has lost the occurrence, or has another run
        for it by now, queues nothing. So one run of an occurrence is executed at most.
        """
        ...

    async def finish_occurrence(
        self,
        kind: OccurrenceKind,
        name: str,
        due: float,
        owner: str,
        *,
        state: Literal["completed", "failed"],
        detail: dict[str, Any],
        run_id: str | None = None,
    ) -> bool:
        """Store what came of an occurrence; return False where the owner has it no more.

        `run_id` is the run that it is in the end; None for the one that it has.

        Raises:
            StoreError: a number in `detail` is NaN or infinite.
        """
        ...

    async def note_occurrences(
        self,
        kind: OccurrenceKind,
        name: str,
        dues: Sequence[float],
        *,
        state: Literal["missed", "skipped"],
        detail: Mapping[str, Any] = {},
    ) -> int:
        """Store moments at which nothing was done; those that have a row keep it.

        Return how many were stored.
        """
        ...

    async def occurrence(self, kind: OccurrenceKind, name: str, due: float) -> Occurrence | None:
        """Return an occurrence."""
        ...

    async def occurrences(
        self,
        kind: OccurrenceKind,
        name: str | None = None,
        *,
        before: float | None = None,
        limit: int = 50,
        running: bool | None = None,
    ) -> list[Occurrence]:
        """List occurrences, newest first.

        Args:
            kind: of this kind.
            name: of this name; None for all.
            before: only those that were due before.
            limit: how many at most.
            running: whether only those that are (not) running; None for all.
        """
        ...

    async def occurrence_runs(self, kind: OccurrenceKind, name: str) -> frozenset[str]:
        """Return the ids of the runs that the occurrences of a name are, or were."""
        ...

    async def last_due(self, kind: OccurrenceKind, name: str, until: float) -> float | None:
        """Return the last moment of a timetable that has a row, and is not after `until`.

        What a person wanted in between is not of the timetable.
        """
        ...

    async def delete_occurrences(self, kind: OccurrenceKind, name: str, keep: int) -> int:
        """Delete the oldest finished occurrences beyond so many; return how many were deleted."""
        ...

    async def timetable_since(self, kind: OccurrenceKind, name: str, line: str) -> float:
        """Return since when a line is followed: from now on, where it is new.

        A time in the future, of a clock that has been put back since, becomes now.
        """
        ...

    async def restart_timetables(self, kind: OccurrenceKind, name: str) -> None:
        """Follow the lines of a name from now on: what was due until now is not missed."""
        ...

    async def forget_timetables(self, kind: OccurrenceKind, name: str) -> None:
        """Forget since when the lines of a name are followed: what is due until then is not missed.

        For what is disabled or gone, and may come back.
        """
        ...
