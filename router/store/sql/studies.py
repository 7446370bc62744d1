"""The table of calibrations, comparisons and tournaments."""

from __future__ import annotations

from collections.abc import Sequence

from providers.errors import NotFoundError
from router.store.columns.studies import STUDY_COLUMNS, study_columns, study_of
from router.store.columns.values import json_text, readable
from router.store.sql.connection import Connection, upsert
from router.store.sql.database import SqlPart
from router.store.studies import Study, StudyKind, StudyStore

_COLUMNS = ", ".join(STUDY_COLUMNS)
_WITHOUT_DETAIL = ", ".join(STUDY_COLUMNS[:-1])
_SET = upsert("judge_studies", STUDY_COLUMNS, key=("id",))


class SqlStudies(SqlPart, StudyStore):
    """Studies with their reports."""

    async def set_study(self, study: Study) -> None:
        await self._database.write("keep a study", _set, study)

    async def study(self, study_id: str) -> Study:
        return await self._database.read("read a study", _study, study_id)

    async def studies(
        self,
        *,
        kind: StudyKind | None = None,
        judge: str | None = None,
        graded: Sequence[str] = (),
        limit: int = 50,
    ) -> list[Study]:
        return await self._database.read("list studies", _studies, kind, judge, graded, limit)


def _set(db: Connection, study: Study) -> None:
    db.execute(_SET, study_columns(study))


def _study(db: Connection, study_id: str) -> Study:
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM judge_studies"
        " WHERE substr(id, 1, length(:id)) = :id AND :id <> '' ORDER BY id LIMIT 2",
        {"id": study_id},
    ).fetchall()
    # An exact id comes first and wins over longer ones.
    if len(rows) != 1 and not (rows and rows[0][0] == study_id):
        many = f"several begin with {study_id!r}" if rows else f"there is no {study_id!r}"
        raise NotFoundError(f"{many} among the calibrations, comparisons and tournaments")
    return study_of(rows[0])


def _studies(
    db: Connection, kind: str | None, judge: str | None, graded: Sequence[str], limit: int
) -> list[Study]:
    marks = {f"mark_{n}": mark for n, mark in enumerate(graded)}
    any_mark = " OR ".join(f"replace(grading, :{name}, '') <> grading" for name in marks)
    conditions = {
        "kind = :kind": kind,
        db.contains("judges", ":judge"): judge,
        f"({any_mark})": graded or None,
    }
    where = " AND ".join(text for text, value in conditions.items() if value is not None)
    with db.lenient_text():
        rows = db.execute(
            f"SELECT {_WITHOUT_DETAIL} FROM judge_studies"
            f"{f' WHERE {where}' if where else ''}"
            " ORDER BY created_at DESC, id DESC LIMIT :limit",
            {"kind": kind, "judge": json_text(judge), "limit": limit} | marks,
        )
        return readable(rows, study_of, lambda row: f"the study {row[0]}")
