"""Reads the scores that people gave an answer, as a dataset's column has them.

people_scores([4, 5])     # (4.0, 5.0)
people_scores("[4, 5]")   # the same, in a cell of CSV
people_scores("")         # (): the answer has no score of people
"""

from __future__ import annotations

import math
from typing import Any

import msgspec


def people_scores(value: Any) -> tuple[float, ...]:
    """Return people's scores: a number, or a list with one for each person; empty for none.

    Raises:
        ValueError: it has something else than numbers.
    """
    try:
        scores = tuple(
            float(score) for score in _listed(value) if score is not None and score != ""
        )
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        scores = (math.nan,)
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"{value!r} is no score: write a number, or [4, 5] for two people's")
    return scores


def _listed(value: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        # The cells of CSV are texts, so a list is there as JSON writes it.
        return msgspec.json.decode(value, type=list[Any])
    return value if isinstance(value, list | tuple) else [value]
