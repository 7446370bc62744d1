"""Experiments: runs under one name, with tags and notes."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one name.

    Attributes:
        name: the experiment's name.
        tags, notes: what its users wrote about it.
        runs: how many it has.
        states: run state to how many runs are in it.
        first_run_at, last_run_at: when the first and the last of its runs were created, seconds
            since the epoch, UTC; None without a run.
    """

    name: str
    tags: tuple[str, ...] = ()
    notes: str = ""
    runs: int = 0
    states: dict[str, int] = {}
    first_run_at: float | None = None
    last_run_at: float | None = None


class ExperimentStore(Protocol):
    """Stores the tags and notes of experiments, and counts their runs."""

    async def experiments(
        self, *, name: str | None = None, tag: str | None = None
    ) -> list[Experiment]:
        """List experiments with a run, tags or notes; the one with the newest run first."""
        ...

    async def set_experiment(self, name: str, *, tags: tuple[str, ...], notes: str) -> None:
        """Set its tags and notes, in place of those it had."""
        ...

    async def forget_experiment(self, name: str) -> None:
        """Delete its tags and notes; its runs stay and are in no experiment."""
        ...
