"""The table of people's labels."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from evaluators.base import Cell
from providers.errors import ConflictError
from router.store.people_labels import LabelStore, PeopleLabel
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.runs import locked_run, run_number

_encode = msgspec.json.Encoder().encode
_scores = msgspec.json.Decoder(tuple[float, ...]).decode


class SqlLabels(SqlPart, LabelStore):
    """People's labels of runs' answers."""

    async def keep_labels(
        self, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
    ) -> None:
        await self._database.write("keep labels", _replace, run_id, output, route, labels)

    async def labels(self, run_id: str, *, sample_id: str | None = None) -> list[PeopleLabel]:
        return await self._database.read("read labels", _labels, run_id, sample_id)

    async def add_score(self, run_id: str, label: PeopleLabel) -> PeopleLabel:
        return await self._database.write("add a score", _add_score, run_id, label)

    async def take_back_score(self, run_id: str, label: PeopleLabel) -> None:
        await self._database.write("take a score back", _take_back_score, run_id, label)


_CELL = "run = ? AND output = ? AND route = ? AND sample_id = ? AND repeat = ?"


def _cell(number: int, label: PeopleLabel) -> tuple[int, str, str, str, int]:
    cell = label.cell
    return number, label.output, cell.route, cell.sample_id, cell.repeat


def _add_score(db: Connection, run_id: str, label: PeopleLabel) -> PeopleLabel:
    # Two people may score an answer at once, and both count.
    number = locked_run(db, run_id)
    drawn = db.execute(
        "SELECT 1 FROM people_labels WHERE run = ? AND output = ? AND route = ?"
        " AND chance IS NOT NULL LIMIT 1",
        (number, label.output, label.cell.route),
    ).fetchone()
    if drawn is not None:
        raise ConflictError(
            f"The answers of {label.cell.route} that people score were drawn by a plan, each with "
            "a chance of its own: give them back in the plan's file.",
            code="planned_labels",
        )
    before = db.execute(
        f"SELECT answer_hash, scores FROM people_labels WHERE {_CELL}", _cell(number, label)
    ).fetchone()
    if before is not None and before[0] == label.answer_hash:
        label = msgspec.structs.replace(label, scores=(*_scores(before[1]), *label.scores))
    db.execute(f"DELETE FROM people_labels WHERE {_CELL}", _cell(number, label))
    _insert(db, number, [label])
    return label


def _take_back_score(db: Connection, run_id: str, label: PeopleLabel) -> None:
    number = locked_run(db, run_id)
    stored = db.execute(
        f"SELECT answer_hash, scores, at FROM people_labels WHERE {_CELL}", _cell(number, label)
    ).fetchone()
    if stored is None or (stored[0], _scores(stored[1]), stored[2]) != (
        label.answer_hash,
        label.scores,
        label.at,
    ):
        raise ConflictError(
            "The answer has got another score since, or this one was taken back already."
        )
    db.execute(f"DELETE FROM people_labels WHERE {_CELL}", _cell(number, label))
    if left := label.scores[:-1]:
        _insert(db, number, [msgspec.structs.replace(label, scores=left)])


def _replace(
    db: Connection, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
) -> None:
    number = run_number(db, run_id)
    db.execute(
        "DELETE FROM people_labels WHERE run = ? AND output = ? AND route = ?",
        (number, output, route),
    )
    _insert(db, number, labels)


def _insert(db: Connection, number: int, labels: Sequence[PeopleLabel]) -> None:
    db.executemany(
        "INSERT INTO people_labels (run, output, route, sample_id, repeat, answer_hash, scores,"
        " chance, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                number,
                label.output,
                label.cell.route,
                label.cell.sample_id,
                label.cell.repeat,
                label.answer_hash,
                _encode(label.scores).decode(),
                label.chance,
                label.at,
            )
            for label in labels
        ],
    )


def _labels(db: Connection, run_id: str, sample_id: str | None) -> list[PeopleLabel]:
    of_sample = "" if sample_id is None else f" AND {db.is_text('sample_id')}"
    rows = db.execute(
        "SELECT output, route, sample_id, repeat, answer_hash, scores, chance, at"
        f" FROM people_labels WHERE run = ?{of_sample}"
        " ORDER BY output, route, sample_id, repeat",
        (run_number(db, run_id), *(() if sample_id is None else (sample_id,))),
    )
    return [
        PeopleLabel(
            output=output,
            cell=Cell(route, sample_id, repeat),
            answer_hash=answer_hash,
            scores=_scores(scores),
            chance=chance,
            at=at,
        )
        for output, route, sample_id, repeat, answer_hash, scores, chance, at in rows
    ]
