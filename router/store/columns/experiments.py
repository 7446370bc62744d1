"""An experiment as columns of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.store.experiments import Experiment

_texts = msgspec.json.Decoder(tuple[str, ...])


class StateCount(NamedTuple):
    """How many of an experiment's runs are in a state, and when they were created."""

    state: str
    runs: int
    first_at: float
    last_at: float


def experiment_of(row: tuple[str, str, str, Sequence[StateCount]]) -> Experiment:
    """Read an experiment from its name, tags (JSON text), notes and counts."""
    name, tags, notes, counts = row
    return Experiment(
        name=name,
        tags=_texts.decode(tags),
        notes=notes,
        runs=sum(count.runs for count in counts),
        states={count.state: count.runs for count in counts},
        first_run_at=min((count.first_at for count in counts), default=None),
        last_run_at=max((count.last_at for count in counts), default=None),
    )
