"""The table of people's labels."""

from __future__ import annotations

from collections.abc import Sequence

from sqlite_utils import Database

from evaluators.base import Cell
from router.store.people_labels import LabelStore, PeopleLabel
from router.store.sqlite.database import SqlitePart
from router.store.sqlite.runs import run_number


class SqliteLabels(SqlitePart, LabelStore):
    """People's labels of runs' answers."""

    async def keep_labels(
        self, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
    ) -> None:
        await self._database.write("keep labels", _replace, run_id, output, route, labels)

    async def labels(self, run_id: str) -> list[PeopleLabel]:
        return await self._database.read("read labels", _labels, run_id)


def _replace(
    db: Database, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
) -> None:
    number = run_number(db, run_id)
    db.execute(
        "DELETE FROM labels WHERE run = ? AND output = ? AND route = ?", (number, output, route)
    )
    db.conn.executemany(
        "INSERT INTO labels (run, output, route, sample_id, repeat, answer_hash, score, people,"
        " chance, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                number,
                output,
                route,
                label.cell.sample_id,
                label.cell.repeat,
                label.answer_hash,
                label.score,
                label.people,
                label.chance,
                label.at,
            )
            for label in labels
        ],
    )


def _labels(db: Database, run_id: str) -> list[PeopleLabel]:
    rows = db.execute(
        "SELECT output, route, sample_id, repeat, answer_hash, score, people, chance, at"
        " FROM labels WHERE run = ? ORDER BY output, route, sample_id, repeat",
        (run_number(db, run_id),),
    )
    return [
        PeopleLabel(
            output=output,
            cell=Cell(route, sample_id, repeat),
            answer_hash=answer_hash,
            score=score,
            people=people,
            chance=chance,
            at=at,
        )
        for output, route, sample_id, repeat, answer_hash, score, people, chance, at in rows
    ]
