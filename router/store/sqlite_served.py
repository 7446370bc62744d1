"""How long each target was at work for a run or a study; see `router/evals/hardware_cost.py`."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from sqlite_utils import Database

from router.store.usage import Served

_SERVED = """
    SELECT target, asked_at, answered_at,
        coalesce(total_tokens, coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0))
    FROM answers
    WHERE run = (SELECT number FROM runs WHERE id = :owner AND hidden_since IS NULL)
        AND state = 'answered' AND NOT cached AND answered_at IS NOT NULL
    UNION ALL
    SELECT json_extract(answer, '$.target'), at - coalesce(total_s, 0), at,
        coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)
    FROM judgements WHERE owner = :owner AND answered AND NOT reused
    ORDER BY 1, 2
"""


def served(db: Database, owner: str) -> list[Served]:
    """By target."""
    found = []
    for target, rows in groupby(db.execute(_SERVED, {"owner": owner}), key=itemgetter(0)):
        seconds, requests, tokens, until = 0.0, 0, 0, float("-inf")
        for _, start, end, count in rows:
            requests += 1
            tokens += count
            if end > until:
                seconds += end - max(start, until)
                until = end
        found.append(Served(target=target, seconds=seconds, requests=requests, tokens=tokens))
    return found
