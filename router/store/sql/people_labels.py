"""The table of people's labels."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from evaluators.base import Cell
from router.store.people_labels import LabelStore, PeopleLabel
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart
from router.store.sql.runs import run_number

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


def _replace(
    db: Connection, run_id: str, output: str, route: str, labels: Sequence[PeopleLabel]
) -> None:
    number = run_number(db, run_id)
    db.execute(
        "DELETE FROM people_labels WHERE run = ? AND output = ? AND route = ?",
        (number, output, route),
    )
    db.executemany(
        "INSERT INTO people_labels (run, output, route, sample_id, repeat, answer_hash, scores,"
        " chance, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                number,
                output,
                route,
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
