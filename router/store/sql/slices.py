"""One column of a run's samples, and one score of its answers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from evaluators.base import Cell
from evaluators.data.rows import MISSING, path_starts, value_at
from router.store.slices import MAX_NAMES, SliceStore, StoredScore, StoredValue
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.runs import run_number
from router.store.sql.samples import cluster_of

# Samples that are read at a time, each with all of its columns, and with their scores alone.
_VALUES_AT_ONCE = 500
_SCORES_AT_ONCE = 2_000
# A longer name has no column, and a path of thousands of names would have thousands of beginnings.
_LONGEST_NAME = 1_000

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_floats = msgspec.json.Decoder(tuple[float, ...])


class SqlSlices(SqlPart, SliceStore):
    """Columns of runs."""

    async def each_value(
        self, run_id: str, column: str, take: Callable[[StoredValue], None]
    ) -> list[str]:
        starts = tuple(path_starts(column)) if len(column) <= _LONGEST_NAME else ()
        names: dict[str, None] = {}
        after: int | None = 0
        while after is not None:
            after = await self._database.read(
                "read a column",
                _take_values,
                run_id,
                column,
                starts=starts,
                after=after,
                names=names,
                take=take,
            )
        return list(names)[:MAX_NAMES]

    async def each_score(
        self, run_id: str, output: str, take: Callable[[StoredScore], None]
    ) -> None:
        after: int | None = 0
        while after is not None:
            after = await self._database.read(
                "read scores", _take_scores, run_id, output, after, take
            )

    async def labelled_texts(self, run_id: str, output: str) -> dict[Cell, str]:
        return await self._database.read("read labelled answers", _labelled_texts, run_id, output)


def _take_values(
    db: Connection,
    run_id: str,
    column: str,
    *,
    starts: tuple[str, ...],
    after: int,
    names: dict[str, None],
    take: Callable[[StoredValue], None],
) -> int | None:
    """Take the values of a page; return behind which sample the next one begins."""
    rows = db.execute(
        "SELECT position, sample_id, fields FROM samples WHERE run = ? AND position > ?"
        " ORDER BY position LIMIT ?",
        (run_number(db, run_id), after, _VALUES_AT_ONCE),
    ).fetchall()
    for _, sample_id, fields in rows:
        columns = _raw_object.decode(fields)
        if len(names) < MAX_NAMES:
            names.update(dict.fromkeys(columns))
        # Of a row, only what the path leads to is decoded.
        within = {name: msgspec.json.decode(columns[name]) for name in starts if name in columns}
        value = value_at(within, column, MISSING) if within else MISSING
        cluster = cluster_of(bytes(columns["cluster"]).decode()) if "cluster" in columns else ""
        take(StoredValue(sample_id, value, cluster))
    return rows[-1][0] if len(rows) == _VALUES_AT_ONCE else None


def _take_scores(
    db: Connection,
    run_id: str,
    output: str,
    after: int,
    take: Callable[[StoredScore], None],
) -> int | None:
    """Take the scores of some samples; return behind which sample the next ones begin."""
    number, last = db.execute(
        "SELECT number, dataset_rows FROM runs WHERE number = ?", (run_number(db, run_id),)
    ).fetchone()
    until = after + _SCORES_AT_ONCE
    rows = db.execute(
        "SELECT answers.position, routes.name, answers.repeat, scores.value, scores.statistics"
        " FROM answers CROSS JOIN routes ON routes.id = answers.route"
        " CROSS JOIN scores ON scores.answer = answers.id AND scores.output = ?"
        " WHERE answers.run = ? AND answers.position > ? AND answers.position <= ?"
        " ORDER BY answers.position, answers.route, answers.repeat",
        (output, number, after, until),
    )
    for position, route, repeat, value, statistics in rows.fetchall():
        numbers = _floats.decode(statistics) if statistics else ()
        take(StoredScore(position, route, repeat, value, numbers))
    return until if until < last else None


def _labelled_texts(db: Connection, run_id: str, output: str) -> dict[Cell, str]:
    rows = db.execute(
        "SELECT people_labels.route, people_labels.sample_id, people_labels.repeat, answers.text"
        " FROM people_labels"
        " CROSS JOIN samples ON samples.run = people_labels.run"
        " AND samples.sample_id = people_labels.sample_id"
        " CROSS JOIN routes ON routes.name = people_labels.route"
        " CROSS JOIN answers ON answers.run = samples.run AND answers.position = samples.position"
        " AND answers.route = routes.id AND answers.repeat = people_labels.repeat"
        " WHERE people_labels.run = ? AND people_labels.output = ?"
        " AND people_labels.scores <> '[]' AND answers.text IS NOT NULL",
        (run_number(db, run_id), output),
    )
    return {Cell(route, sample_id, repeat): text for route, sample_id, repeat, text in rows}
