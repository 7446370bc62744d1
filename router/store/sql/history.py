"""Queries for what earlier requests say about the next ones.

Only so many of the newest rows are read, so that a large store answers as fast as a small one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.columns.history import earlier_run_of, live_answer_of, run_answer_of
from router.store.history import EarlierAnswer, EarlierAnswers, EarlierRun, HistoryStore
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.runs import run_number
from router.store.sql.samples import clusters

_NEWEST = 20_000  # answers, or requests of clients
_RUNS = 20  # newest runs of a dataset, or with answers to a request
_REQUESTS = 64  # of a run that is planned, whose answers in other runs are looked up
_SCORES = 20_000  # of one output of a run
_FIRST, _SPREAD = 16, 64  # samples of a run whose requests are looked up


class SqlHistory(SqlPart, HistoryStore):
    """What earlier requests say about the next ones."""

    async def known_requests(
        self, requests: Sequence[tuple[str, int]]
    ) -> frozenset[tuple[str, int]]:
        return await self._database.read("look for answers", _known_requests, requests)

    async def runs_with(self, requests: Sequence[tuple[str, int]]) -> list[str]:
        return await self._database.read("look for runs", _runs_with, requests)

    async def earlier_answers(self, target: str, limit: int) -> list[EarlierAnswer]:
        return await self._database.read("read earlier answers", _earlier_answers, target, limit)

    async def earlier_run(self, dataset_hash: str, output: str) -> EarlierRun | None:
        return await self._database.read("read earlier scores", _earlier_run, dataset_hash, output)

    async def answered_before(self, run_id: str) -> list[EarlierAnswers]:
        return await self._database.read("look for earlier answers", _answered_before, run_id)


def _known_requests(
    db: Connection, requests: Sequence[tuple[str, int]]
) -> frozenset[tuple[str, int]]:
    hashes = db.array(sorted({request_hash for request_hash, _ in requests}))
    answered = db.execute(
        "SELECT DISTINCT request_hash, repeat FROM answers WHERE state = 'answered'"
        " AND coalesce(shortfall, '') <> 'filtered'"
        f" AND {db.any_of('request_hash')}",
        (hashes,),
    )
    return frozenset(requests).intersection((row[0], row[1]) for row in answered)


def _runs_with(db: Connection, requests: Sequence[tuple[str, int]]) -> list[str]:
    hashes = db.array(sorted({request_hash for request_hash, _ in requests[:_REQUESTS]}))
    runs = db.execute(
        "SELECT id FROM runs WHERE hidden_since IS NULL AND number IN"
        " (SELECT run FROM answers WHERE state = 'answered'"
        f" AND {db.any_of('request_hash')}) ORDER BY number DESC LIMIT ?",
        (hashes, _RUNS),
    )
    return [run_id for (run_id,) in runs]


def _earlier_answers(db: Connection, target: str, limit: int) -> list[EarlierAnswer]:
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
        " (SELECT * FROM traffic ORDER BY number DESC LIMIT ?) AS newest"
        " WHERE target = ? AND status = 200 AND error_code = '' AND cached = 0"
        " AND path = 'chat/completions' LIMIT ?",
        (_NEWEST, target, limit),
    )
    return [live_answer_of(row) for row in live]


def _earlier_run(db: Connection, dataset_hash: str, output: str) -> EarlierRun | None:
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
            return msgspec.structs.replace(run, clusters=_cluster_of(db, number))
    return None


def _cluster_of(db: Connection, number: int) -> dict[int, str]:
    """Return the clusters of a run's first samples by their position."""
    known = clusters(db, number)
    if not known:
        return {}
    rows = db.execute(
        "SELECT position, sample_id FROM samples WHERE run = ? ORDER BY position LIMIT ?",
        (number, _SCORES),
    )
    return {position: known[sample_id] for position, sample_id in rows if sample_id in known}


# Answers that a dataset brings along have no request: the same rows of the same dataset do.
_ANSWERED_BEFORE = """
    WITH this AS (SELECT number, created_at, dataset_hash FROM runs WHERE number = :run),
    mine AS (
        SELECT position, route, repeat, request_hash, text FROM answers
        WHERE run = :run AND state = 'answered'
            AND {chosen}
    ),
    theirs AS (
        SELECT answers.run, answers.text = mine.text AS alike FROM mine JOIN this ON TRUE
        JOIN answers ON answers.request_hash = mine.request_hash AND answers.repeat = mine.repeat
        WHERE mine.request_hash <> '' AND answers.state = 'answered'
            AND answers.answered_at < this.created_at AND answers.run <> this.number
        UNION ALL
        SELECT answers.run, answers.text = mine.text FROM mine JOIN this ON TRUE
        JOIN runs ON runs.dataset_hash = this.dataset_hash AND runs.number <> this.number
        JOIN answers ON answers.run = runs.number AND answers.position = mine.position
            AND answers.route = mine.route AND answers.repeat = mine.repeat
        WHERE mine.request_hash = '' AND answers.request_hash = ''
            AND answers.answered_at < this.created_at
    )
    SELECT runs.number, runs.id, count(*), count(*) FILTER (WHERE theirs.alike)
    FROM theirs JOIN runs ON runs.number = theirs.run AND runs.hidden_since IS NULL
    GROUP BY runs.number, runs.id ORDER BY runs.number
"""


def _answered_before(db: Connection, run_id: str) -> list[EarlierAnswers]:
    number = run_number(db, run_id)
    rows, created_at = db.execute(
        "SELECT dataset_rows, created_at FROM runs WHERE number = ?", (number,)
    ).fetchone()
    spread = range(1, rows + 1, max(1, rows // _SPREAD))
    positions = sorted({*range(1, min(rows, _FIRST) + 1), *spread})
    values = {"run": number, "positions": db.array(positions)}
    sql = _ANSWERED_BEFORE.format(chosen=db.any_of("position", ":positions"))
    earlier = []
    for other, earlier_id, compared, alike in db.execute(sql, values).fetchall():
        samples, repeats = db.execute(
            "SELECT count(DISTINCT position), coalesce(max(repeat), -1) + 1 FROM answers"
            " WHERE run = ? AND answered_at < ?",
            (other, created_at),
        ).fetchone()
        earlier.append(
            EarlierAnswers(
                run_id=earlier_id,
                samples=samples,
                repeats=repeats,
                compared=compared,
                alike=alike,
            )
        )
    return earlier
