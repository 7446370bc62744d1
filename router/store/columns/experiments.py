"""An experiment as columns of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.store.experiments import Experiment

_texts = msgspec.json.Decoder(tuple[str, ...])
_counts = msgspec.json.Decoder(dict[str, int])


def experiment_of(row: Sequence[Any]) -> Experiment:
    """Read an experiment from its fields in their order; `tags` and `states` are JSON text."""
    name, tags, notes, runs, states, first_run_at, last_run_at = row
    return Experiment(
        name=name,
        tags=_texts.decode(tags),
        notes=notes,
        runs=runs or 0,
        states=_counts.decode(states or "{}"),
        first_run_at=first_run_at,
        last_run_at=last_run_at,
    )
