"""Earlier answers and scores, from columns of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from router.store.history import EarlierAnswer, EarlierRun

_messages = msgspec.json.Decoder(tuple[dict[str, Any], ...])


def run_answer_of(row: Sequence[Any]) -> EarlierAnswer:
    """Read an answer to a run from prompt and completion tokens, the two times and messages."""
    return EarlierAnswer(
        source="runs",
        prompt_tokens=row[0],
        completion_tokens=row[1],
        first_byte_s=row[2],
        total_s=row[3],
        messages=_messages.decode(row[4]),
    )


def live_answer_of(row: Sequence[Any]) -> EarlierAnswer:
    """Read an answer to a client from prompt and completion tokens and the two times."""
    return EarlierAnswer(
        source="traffic",
        prompt_tokens=row[0],
        completion_tokens=row[1],
        first_byte_s=row[2],
        total_s=row[3],
    )


def earlier_run_of(run_id: str, rows: Iterable[tuple[str, int, float]]) -> EarlierRun | None:
    """Read a run's scores from route, position and value; None where no spread can be seen."""
    values: dict[str, dict[int, list[float]]] = {}
    for route, position, value in rows:
        values.setdefault(route, {}).setdefault(position, []).append(value)
    if not any(len(by_sample) > 1 for by_sample in values.values()):
        return None
    return EarlierRun(
        run_id=run_id,
        scores={
            route: {
                position: sum(repeats) / len(repeats) for position, repeats in by_sample.items()
            }
            for route, by_sample in values.items()
        },
    )
