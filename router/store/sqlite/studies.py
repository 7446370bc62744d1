"""The table of calibrations, comparisons and tournaments."""

from __future__ import annotations

from sqlite_utils import Database

from providers.errors import NotFoundError
from router.store.columns.studies import STUDY_COLUMNS, study_columns, study_of
from router.store.columns.values import readable
from router.store.sqlite.database import SqlitePart, contains, lenient_text
from router.store.studies import Study, StudyKind, StudyStore

_COLUMNS = ", ".join(STUDY_COLUMNS)
_WITHOUT_DETAIL = ", ".join(STUDY_COLUMNS[:-1])
_SET = (
    f"INSERT OR REPLACE INTO judge_studies ({_COLUMNS})"  # noqa: S608 - constants
    f" VALUES ({', '.join('?' * len(STUDY_COLUMNS))})"
)


class SqliteStudies(SqlitePart, StudyStore):
    """Studies with their reports."""

    async def set_study(self, study: Study) -> None:
        await self._database.write("keep a study", _set, study)

    async def study(self, study_id: str) -> Study:
        return await self._database.read("read a study", _study, study_id)

    async def studies(
        self, *, kind: StudyKind | None = None, judge: str | None = None, limit: int = 50
    ) -> list[Study]:
        return await self._database.read("list studies", _studies, kind, judge, limit)


def _set(db: Database, study: Study) -> None:
    db.execute(_SET, study_columns(study))


def _study(db: Database, study_id: str) -> Study:
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM judge_studies"  # noqa: S608 - constants
        " WHERE substr(id, 1, length(?)) = ? AND ? <> '' ORDER BY id LIMIT 2",
        (study_id, study_id, study_id),
    ).fetchall()
    # An exact id comes first and wins over longer ones.
    if len(rows) != 1 and not (rows and rows[0][0] == study_id):
        many = f"several begin with {study_id!r}" if rows else f"there is no {study_id!r}"
        raise NotFoundError(f"{many} among the calibrations, comparisons and tournaments")
    return study_of(rows[0])


def _studies(db: Database, kind: str | None, judge: str | None, limit: int) -> list[Study]:
    with lenient_text(db):
        rows = db.execute(
            f"SELECT {_WITHOUT_DETAIL} FROM judge_studies"  # noqa: S608 - constants
            " WHERE (? IS NULL OR kind = ?)"
            f" AND (? IS NULL OR {contains('judges', '?')})"
            " ORDER BY created_at DESC, id DESC LIMIT ?",
            (kind, kind, judge, judge, limit),
        )
        return readable(rows, study_of, lambda row: f"the study {row[0]}")
