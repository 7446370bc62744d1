"""The tables of answers and scores, and what they say about each sample."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Answer, Cell, Sample, Score
from providers.errors import NotFoundError, StoreError
from router.store.columns.results import (
    ANSWER_COLUMNS,
    CELL_COLUMNS,
    SCORE_COLUMNS,
    answer_columns,
    answer_of,
    answer_state,
    score_columns,
    score_of,
    scored_answer_of,
)
from router.store.columns.values import json_text
from router.store.results import OpenSample, ResultStore, ScoredAnswer
from router.store.sql.connection import Connection, Rows, Steps, upsert
from router.store.sql.database import SqlPart
from router.store.sql.runs import run_number, taken_over
from router.store.sql.samples import clusters, samples_between

PAGE = 500  # rows read at a time by the async iterators


class NewAnswer(NamedTuple):
    """An answer on its way into the database."""

    cell: Cell
    request_hash: str
    answer: Answer
    attempts: Sequence[Any]
    now: float


class _Position(NamedTuple):
    """The cell behind which a page of results begins."""

    sample: int
    route: str
    repeat: int


class SqlResults(SqlPart, ResultStore):
    """Samples, answers and scores."""

    async def samples(self, run_id: str, *, after: int = 0) -> AsyncGenerator[Sample]:
        while True:
            page = await self._database.read("read samples", _samples, run_id, after)
            for sample in page:
                yield sample
            if len(page) < PAGE:
                return
            after += PAGE

    async def open_samples(self, run_id: str, cells: int) -> AsyncGenerator[OpenSample]:
        # Bounded by cells, as a sample may have thousands.
        limit = max(1, min(PAGE, 4 * PAGE // cells))
        after: int | None = 0
        while after is not None:
            page, after = await self._database.read(
                "read what is left to do", _open_samples, run_id, after, limit, cells
            )
            for sample in page:
                yield sample

    async def clusters(self, run_id: str) -> dict[str, str]:
        return await self._database.read("read a run's clusters", _clusters, run_id)

    async def origins(self, run_id: str) -> dict[str, int]:
        return await self._database.read("count a run's cached answers", _origins, run_id)

    async def begin(
        self,
        run_id: str,
        cell: Cell,
        request_hash: str,
        target: str,
        *,
        unless_known: bool = False,
    ) -> Answer | None:
        return await self._database.write_in_steps(
            "note a request",
            _begin,
            run_id,
            cell,
            request_hash=request_hash,
            target=target,
            now=self._database.clock(),
            unless_known=unless_known,
            owner=self._owners.get(run_id),
        )

    async def withdraw(self, run_id: str, cell: Cell) -> None:
        owner = self._owners.get(run_id)
        await self._database.write_in_steps("withdraw a request", _withdraw, run_id, cell, owner)

    async def keep_answer(
        self, run_id: str, cell: Cell, request_hash: str, answer: Answer, attempts: Sequence[Any]
    ) -> None:
        new = NewAnswer(cell, request_hash, answer, attempts, self._database.clock())
        owner = self._owners.get(run_id)
        await self._database.write_in_steps("keep an answer", answer_steps, run_id, new, owner)

    async def keep_scores(self, run_id: str, scored: Mapping[Cell, Sequence[Score]]) -> None:
        owner = self._owners.get(run_id)
        await self._database.write_in_steps("keep scores", _keep_scores, run_id, scored, owner)

    async def results(
        self, run_id: str, *, route: str | None = None, after: int = 0
    ) -> AsyncGenerator[ScoredAnswer]:
        # Positions count from 1 and route names are never empty: this sorts before all that follow.
        position: _Position | None = _Position(after + 1, "", 0)
        while position is not None:
            page, position = await self._database.read(
                "read results", _results, run_id, position, route
            )
            for scored in page:
                yield scored

    async def each_result(self, run_id: str, take: Callable[[ScoredAnswer], None]) -> None:
        position: _Position | None = _Position(1, "", 0)
        while position is not None:
            position = await self._database.read(
                "read results", _take_results, run_id, position, take
            )

    async def cached_answer(self, request_hash: str, repeat: int) -> Answer | None:
        return await self._database.read(
            "look for a cached answer", _cached_answer, request_hash, repeat
        )


# samples


def _samples(db: Connection, run_id: str, after: int) -> list[Sample]:
    return list(samples_between(db, run_number(db, run_id), after, after + PAGE).values())


def _clusters(db: Connection, run_id: str) -> dict[str, str]:
    return clusters(db, run_number(db, run_id))


def _origins(db: Connection, run_id: str) -> dict[str, int]:
    counted = db.execute(
        "SELECT coalesce(cached_from, ''), count(*) FROM answers"
        " WHERE run = ? AND state = 'answered' AND cached = 1 GROUP BY 1",
        (run_number(db, run_id),),
    )
    return dict(counted.fetchall())


def _open_samples(
    db: Connection, run_id: str, after: int, limit: int, cells: int
) -> tuple[list[OpenSample], int | None]:
    """Return those of the next `limit` samples with something left to do, and where to continue.

    The second is None after the last sample. `cells` is how many a sample has.
    """
    number, last = db.execute(
        "SELECT number, dataset_rows FROM runs WHERE number = ?", (run_number(db, run_id),)
    ).fetchone()
    until = min(after + limit, last)
    settled: dict[int, set[tuple[str, int]]] = {}
    to_score: list[int] = []
    for answer, position, route, repeat, is_unscored in db.execute(
        "SELECT answers.id, position, routes.name, repeat, state = 'answered' AND scored = 0"
        " FROM answers CROSS JOIN routes ON routes.id = answers.route"
        " WHERE run = ? AND position > ? AND position <= ? AND state <> 'sent'",
        (number, after, until),
    ):
        if is_unscored:
            to_score.append(answer)
        else:
            settled.setdefault(position, set()).add((route, repeat))
    done = [position for position, those in settled.items() if len(those) >= cells]
    samples = samples_between(db, number, after, until, without=done)
    unscored: dict[int, dict[tuple[str, int], ScoredAnswer]] = {}
    for position, scored in _answers_by_number(db, to_score):
        unscored.setdefault(position, {})[scored.cell.route, scored.cell.repeat] = scored
    page = [
        OpenSample(
            sample=sample,
            settled=frozenset(settled.get(position, ())),
            unscored=unscored.get(position, {}),
        )
        for position, sample in samples.items()
    ]
    return page, None if until >= last else until


# answers

# A cell's key: run, position, route, repeat.
_Key = tuple[int, int, int, int]


_KEY = """
    SELECT samples.run, samples.position, (SELECT id FROM routes WHERE name = ?), runs.owner
    FROM runs CROSS JOIN samples ON samples.run = runs.number
    WHERE runs.id = ? AND runs.hidden_since IS NULL AND {same_sample}
"""


def _key(db: Connection, run_id: str, cell: Cell, owner: str | None) -> Steps[_Key]:
    """Return a cell's key, if the run is still the owner's; None for whoever has it."""
    rows = db.execute(
        _KEY.format(same_sample=db.is_text("samples.sample_id")) + db.for_share,
        (cell.route, run_id, cell.sample_id),
    )
    yield
    row = rows.fetchone()
    if row is None:
        run_number(db, run_id)
        raise NotFoundError(f"run {run_id!r} has no sample {cell.sample_id!r}")
    run, position, route, owner_now = row
    if owner is not None and owner_now != owner:
        raise taken_over(run_id)
    if route is None:
        route = _new_route(db, cell.route)
    return run, position, route, cell.repeat


def _new_route(db: Connection, name: str) -> int:
    """Return the number of a route that had none when last looked for."""
    # Another process may add it at the same moment.
    db.execute("INSERT INTO routes (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (name,))
    number: int = db.execute("SELECT id FROM routes WHERE name = ?", (name,)).fetchone()[0]
    return number


def _name(cell: Cell) -> str:
    return f"cell ({cell.route}, {cell.sample_id}, repeat {cell.repeat})"


def _begin(
    db: Connection,
    run_id: str,
    cell: Cell,
    *,
    request_hash: str,
    target: str,
    now: float,
    unless_known: bool = False,
    owner: str | None = None,
) -> Steps[Answer | None]:
    if unless_known:
        rows = db.execute(_CACHED, (request_hash, cell.repeat))
        yield
        known = _cached(rows)
        if known is not None:
            return known
    key = yield from _key(db, run_id, cell, owner)
    inserted = db.execute(
        "INSERT INTO answers (run, position, route, repeat, state, asked_at, target, request_hash,"
        " interrupted) VALUES (?, ?, ?, ?, 'sent', ?, ?, ?, coalesce((SELECT times FROM"
        " interruptions WHERE run = ? AND position = ? AND route = ? AND repeat = ?), 0))"
        " ON CONFLICT DO NOTHING",
        (*key, now, target, request_hash, *key),
    )
    yield
    if not inserted.rowcount:
        (state,) = db.execute(
            "SELECT state FROM answers WHERE run = ? AND position = ? AND route = ? AND repeat = ?",
            key,
        ).fetchone()
        raise StoreError(f"{_name(cell)} is {state} already")
    return None


def _withdraw(db: Connection, run_id: str, cell: Cell, owner: str | None) -> Steps[None]:
    key = yield from _key(db, run_id, cell, owner)
    db.execute(
        "DELETE FROM answers WHERE run = ? AND position = ? AND route = ? AND repeat = ?"
        " AND state = 'sent'",
        key,
    )


_FILL = f"""
    UPDATE answers SET state = ?, answered_at = ?, request_hash = ?, attempts = ?,
        {", ".join(f"{name} = ?" for name in ANSWER_COLUMNS)}
    WHERE run = ? AND position = ? AND route = ? AND repeat = ? AND state = 'sent'
"""


def answer_steps(db: Connection, run_id: str, new: NewAnswer, owner: str | None) -> Steps[None]:
    """Fill the begun cell; begin it first where it was not."""
    cell, request_hash, answer, attempts, now = new
    key = yield from _key(db, run_id, cell, owner)
    values = (
        answer_state(answer),
        now,
        request_hash,
        json_text(attempts),
        *answer_columns(answer),
        *key,
    )
    filled = db.execute(_FILL, values)
    yield
    if not filled.rowcount:
        yield from _begin(
            db, run_id, cell, request_hash=request_hash, target=answer.target, now=now
        )
        db.execute(_FILL, values)


def forget_answers(db: Connection, number: int, state: str) -> int:
    """Delete the run's cells in a state, `sent` or `failed`; return their number."""
    # `scored = 0` always holds here; it lets SQLite use the small index.
    return db.execute(
        "DELETE FROM answers WHERE run = ? AND state = ? AND scored = 0", (number, state)
    ).rowcount


# What a filter held back is not reused: with `fallback`, another target of the route may answer.
_CACHED = f"""
    SELECT (SELECT id FROM runs WHERE number = answers.run), {", ".join(ANSWER_COLUMNS)}
    FROM answers
    WHERE request_hash = ? AND repeat = ? AND state = 'answered'
        AND coalesce(shortfall, '') <> 'filtered'
    ORDER BY answered_at DESC, id DESC LIMIT 1
"""


def _cached_answer(db: Connection, request_hash: str, repeat: int) -> Answer | None:
    return _cached(db.execute(_CACHED, (request_hash, repeat)))


def _cached(rows: Rows) -> Answer | None:
    """Read what `_CACHED` returned."""
    row = rows.fetchone()
    if row is None:
        return None
    run_id, answer = row[0], answer_of(row[1:])
    # A copy of a copy is an answer to the request of the first run.
    origin = answer.cached_from if answer.cached else run_id
    return msgspec.structs.replace(answer, cached=True, cached_from=origin)


# scores

_PUT_SCORE = upsert("scores", SCORE_COLUMNS, key=("answer", "output"))


def _keep_scores(
    db: Connection, run_id: str, scored: Mapping[Cell, Sequence[Score]], owner: str | None
) -> Steps[None]:
    for cell, scores in scored.items():
        yield from _keep_scores_of(db, run_id, cell, scores, owner)


def _keep_scores_of(
    db: Connection, run_id: str, cell: Cell, scores: Sequence[Score], owner: str | None
) -> Steps[None]:
    """Add or replace scores and mark the answer as scored."""
    key = yield from _key(db, run_id, cell, owner)
    rows = db.execute(
        "SELECT id, state FROM answers WHERE run = ? AND position = ? AND route = ? AND repeat = ?",
        key,
    )
    yield
    row = rows.fetchone()
    if row is None or row[1] != "answered":
        state = "does not exist" if row is None else f"is {row[1]}"
        raise StoreError(f"{_name(cell)} has no answer that could be scored: it {state}")
    for score in scores:
        db.execute(_PUT_SCORE, score_columns(row[0], score))
    db.execute("UPDATE answers SET scored = 1 WHERE id = ? AND scored = 0", (row[0],))


# results

# Cells with their samples and routes, in the columns that `scored_rows` reads.
CELLS = f"""
    SELECT {", ".join(CELL_COLUMNS)}
    FROM answers
    CROSS JOIN routes ON routes.id = answers.route
    CROSS JOIN samples ON samples.run = answers.run AND samples.position = answers.position
"""
_RESULTS = f"""
    {CELLS}
    WHERE answers.run = :run AND answers.position >= :sample
        AND (answers.position > :sample OR routes.name > :name
            OR (routes.name = :name AND answers.repeat > :repeat))
        AND routes.name = coalesce(:route, routes.name)
    ORDER BY answers.position, routes.name, answers.repeat LIMIT :page
"""
_SCORES = f"SELECT {', '.join(SCORE_COLUMNS)} FROM scores"


def _results(
    db: Connection, run_id: str, after: _Position, route: str | None
) -> tuple[list[ScoredAnswer], _Position | None]:
    """Return a page, and behind which cell the next one begins; None when this was the last."""
    rows = db.execute(
        _RESULTS,
        {
            "run": run_number(db, run_id),
            "sample": after.sample,
            "name": after.route,
            "repeat": after.repeat,
            "route": route,
            "page": PAGE,
        },
    ).fetchall()
    page = scored_rows(db, rows)
    if len(rows) < PAGE:
        return page, None
    return page, _Position(rows[-1][1], rows[-1][2], rows[-1][4])


def _take_results(
    db: Connection, run_id: str, after: _Position, take: Callable[[ScoredAnswer], None]
) -> _Position | None:
    """Pass the results of a page to `take`; return behind which cell the next page begins."""
    page, position = _results(db, run_id, after, None)
    for scored in page:
        take(scored)
    return position


def _answers_by_number(db: Connection, numbers: Sequence[int]) -> list[tuple[int, ScoredAnswer]]:
    """Return the position of its sample, and the answer with its scores, for each `answers.id`."""
    if not numbers:
        return []
    rows = db.execute(
        f"{CELLS} WHERE {db.any_of('answers.id')} ORDER BY answers.id", (db.array(numbers),)
    ).fetchall()
    return [(row[1], scored) for row, scored in zip(rows, scored_rows(db, rows), strict=True)]


def scored_rows(db: Connection, rows: Sequence[Sequence[Any]]) -> list[ScoredAnswer]:
    """Read rows of CELL_COLUMNS, with the scores of each."""
    scores: dict[int, list[Score]] = {row[0]: [] for row in rows}
    for row in db.execute(
        f"{_SCORES} WHERE {db.any_of('answer')} ORDER BY answer, output", (db.array(list(scores)),)
    ):
        scores[row[0]].append(score_of(row))
    return [scored_answer_of(row, scores) for row in rows]
