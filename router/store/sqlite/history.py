"""Queries for what earlier requests say about the next ones.

Only so many of the newest rows are read, so that a large store answers as fast as a small one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlite_utils import Database

from router.store.columns.history import earlier_run_of, live_answer_of, run_answer_of
from router.store.history import EarlierAnswer, EarlierRun, HistoryStore
from router.store.sqlite.database import SqlitePart

_NEWEST = 20_000  # answers, or requests of clients
_RUNS = 20  # newest runs of a dataset
_SCORES = 20_000  # of one output of a run


class SqliteHistory(SqlitePart, HistoryStore):
    """What earlier requests say about the next ones."""

    async def known_requests(
        self, requests: Sequence[tuple[str, int]]
    ) -> frozenset[tuple[str, int]]:
        return await self._database.read("look for answers", _known_requests, requests)

    async def earlier_answers(self, target: str, limit: int) -> list[EarlierAnswer]:
        return await self._database.read("read earlier answers", _earlier_answers, target, limit)

    async def earlier_run(self, dataset_hash: str, output: str) -> EarlierRun | None:
        return await self._database.read("read earlier scores", _earlier_run, dataset_hash, output)


def _known_requests(
    db: Database, requests: Sequence[tuple[str, int]]
) -> frozenset[tuple[str, int]]:
    hashes = msgspec.json.encode(sorted({request_hash for request_hash, _ in requests})).decode()
    answered = db.execute(
        "SELECT DISTINCT request_hash, repeat FROM answers WHERE state = 'answered'"
        " AND coalesce(shortfall, '') <> 'filtered'"
        " AND request_hash IN (SELECT value FROM json_each(?))",
        (hashes,),
    )
    return frozenset(requests).intersection((row[0], row[1]) for row in answered)


def _earlier_answers(db: Database, target: str, limit: int) -> list[EarlierAnswer]:
    rows = db.execute(
        "SELECT newest.prompt_tokens, newest.completion_tokens, newest.first_byte_s,"
        " newest.total_s, samples.messages"
        " FROM (SELECT run, position, target, state, cached, prompt_tokens, completion_tokens,"
        " first_byte_s, total_s FROM answers ORDER BY id DESC LIMIT ?) AS newest"
        " JOIN samples ON samples.run = newest.run AND samples.position = newest.position"
        " WHERE newest.target = ? AND newest.state = 'answered' AND newest.cached = 0 LIMIT ?",
        (_NEWEST, target, limit),
    ).fetchall()
    if rows:
        return [run_answer_of(row) for row in rows]
    live = db.execute(
        "SELECT prompt_tokens, completion_tokens, first_byte_s, total_s FROM"
        " (SELECT * FROM traffic ORDER BY number DESC LIMIT ?) WHERE target = ? AND status = 200"
        " AND error_code = '' AND cached = 0 AND path = 'chat/completions' LIMIT ?",
        (_NEWEST, target, limit),
    )
    return [live_answer_of(row) for row in live]


def _earlier_run(db: Database, dataset_hash: str, output: str) -> EarlierRun | None:
    runs = db.execute(
        "SELECT number, id FROM runs WHERE dataset_hash = ? AND hidden_since IS NULL"
        " ORDER BY id DESC LIMIT ?",
        (dataset_hash, _RUNS),
    ).fetchall()
    for number, run_id in runs:
        scores = db.execute(
            "SELECT routes.name, answers.position, scores.value FROM answers"
            " JOIN scores ON scores.answer = answers.id AND scores.output = ?"
            " JOIN routes ON routes.id = answers.route"
            " WHERE answers.run = ? AND answers.scored = 1 AND scores.value IS NOT NULL"
            " ORDER BY answers.position LIMIT ?",
            (output, number, _SCORES),
        )
        run = earlier_run_of(run_id, scores)
        if run is not None:
            return run
    return None
