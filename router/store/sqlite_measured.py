"""What earlier requests say about the next ones: speeds, tokens, spreads, and answers kept.

As in `sqlite_rows.py`: every function runs inside a transaction that its caller holds. Only so many
of the newest rows are looked at, so that a large store answers as fast as a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlite_utils import Database

from router.store.history import EarlierAnswer, EarlierRun

_LOOKED_AT = 20_000  # newest rows
_RUNS = 20  # newest runs of a dataset
_SCORES = 20_000  # of one output of a run

_messages = msgspec.json.Decoder(tuple[dict[str, Any], ...])


def known_requests(db: Database, requests: Sequence[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Those of the (request hash, repeat) that the run cache has an answer to."""
    wanted = frozenset(requests)
    hashes = msgspec.json.encode(sorted({request_hash for request_hash, _ in wanted})).decode()
    rows = db.execute(
        "SELECT DISTINCT request_hash, repeat FROM answers WHERE state = 'answered'"
        " AND request_hash IN (SELECT value FROM json_each(?))",
        (hashes,),
    )
    return wanted.intersection((request_hash, repeat) for request_hash, repeat in rows)


def earlier_answers(db: Database, target: str, most: int) -> list[EarlierAnswer]:
    """The target's newest answers to runs, else to live requests."""
    rows = db.execute(
        "SELECT found.prompt_tokens, found.completion_tokens, found.first_byte_s, found.total_s,"
        " samples.messages FROM (SELECT run, position, target, state, cached, prompt_tokens,"
        " completion_tokens, first_byte_s, total_s FROM answers ORDER BY id DESC LIMIT ?) AS found"
        " JOIN samples ON samples.run = found.run AND samples.position = found.position"
        " WHERE found.target = ? AND found.state = 'answered' AND found.cached = 0 LIMIT ?",
        (_LOOKED_AT, target, most),
    ).fetchall()
    if rows:
        return [
            EarlierAnswer(
                source="runs",
                prompt_tokens=prompt,
                completion_tokens=completion,
                first_byte_s=first,
                total_s=total,
                messages=_messages.decode(messages),
            )
            for prompt, completion, first, total, messages in rows
        ]
    live = db.execute(
        "SELECT prompt_tokens, completion_tokens, first_byte_s, total_s FROM"
        " (SELECT * FROM traffic ORDER BY number DESC LIMIT ?) WHERE target = ? AND status = 200"
        " AND error_code = '' AND cached = 0 AND path = 'chat/completions' LIMIT ?",
        (_LOOKED_AT, target, most),
    )
    return [
        EarlierAnswer(
            source="traffic",
            prompt_tokens=prompt,
            completion_tokens=completion,
            first_byte_s=first,
            total_s=total,
        )
        for prompt, completion, first, total in live
    ]


def earlier_run(db: Database, dataset_hash: str, output: str) -> EarlierRun | None:
    """The newest run over the dataset that has scores of this output; None without one."""
    runs = db.execute(
        "SELECT number, id FROM runs WHERE dataset_hash = ? AND hidden_since IS NULL"
        " ORDER BY id DESC LIMIT ?",
        (dataset_hash, _RUNS),
    ).fetchall()
    for number, run_id in runs:
        values: dict[str, dict[int, list[float]]] = {}
        for route, position, value in db.execute(
            "SELECT routes.name, answers.position, scores.value FROM answers"
            " JOIN scores ON scores.answer = answers.id AND scores.output = ?"
            " JOIN routes ON routes.id = answers.route"
            " WHERE answers.run = ? AND answers.scored = 1 AND scores.value IS NOT NULL"
            " ORDER BY answers.position LIMIT ?",
            (output, number, _SCORES),
        ):
            values.setdefault(route, {}).setdefault(position, []).append(value)
        if any(len(by_sample) > 1 for by_sample in values.values()):
            return EarlierRun(
                run_id=run_id,
                scores={
                    route: {at: sum(found) / len(found) for at, found in by_sample.items()}
                    for route, by_sample in values.items()
                },
            )
    return None
