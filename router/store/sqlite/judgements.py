"""The table of judgements."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from sqlite_utils import Database

from router.store.columns.judgements import (
    JUDGEMENT_COLUMNS,
    READ_JUDGEMENT_COLUMNS,
    judgement_columns,
    judgement_of,
)
from router.store.judgements import JudgementRow, JudgementStore, JudgeUse
from router.store.sqlite.database import SqlitePart

_INSERT = (
    f"INSERT OR REPLACE INTO judgements ({', '.join(JUDGEMENT_COLUMNS)})"  # noqa: S608 - constants
    f" VALUES ({', '.join('?' * len(JUDGEMENT_COLUMNS))})"
)
_READ = ", ".join(READ_JUDGEMENT_COLUMNS)
# How many of a judge's last judgements its mean tokens are over.
_RECENT = 200


class SqliteJudgements(SqlitePart, JudgementStore):
    """What judges answered."""

    async def keep_judgement(self, row: JudgementRow) -> None:
        await self._database.write("keep a judgement", _insert, row)

    async def judgement(
        self, owner: str, request_hash: str, repeat: int, attempt: int, *, any_owner: bool
    ) -> JudgementRow | None:
        request = (request_hash, repeat, attempt)
        return await self._database.read(
            "look for a judgement", _judgement, owner, request, any_owner=any_owner
        )

    async def judgements(
        self, owner: str, *, sample_id: str | None = None, limit: int = 100, after: int = 0
    ) -> list[tuple[int, JudgementRow]]:
        return await self._database.read("read judgements", _page, owner, sample_id, limit, after)

    async def judgements_of(
        self, owner: str, *, sample_ids: Collection[str], request_hashes: Collection[str]
    ) -> list[JudgementRow]:
        return await self._database.read(
            "read judgements", _of, owner, list(sample_ids), list(request_hashes)
        )

    async def judge_use(self, owner: str) -> list[JudgeUse]:
        return await self._database.read("count judgements", _use, owner)

    async def judgement_tokens(self, judge: str, metric: str) -> tuple[float, float] | None:
        return await self._database.read("read a judge's tokens", _tokens, judge, metric)


def _insert(db: Database, row: JudgementRow) -> None:
    db.execute(_INSERT, judgement_columns(row))


def _judgement(
    db: Database, owner: str, request: tuple[str, int, int], *, any_owner: bool
) -> JudgementRow | None:
    row = db.execute(
        f"SELECT {_READ} FROM judgements"  # noqa: S608 - constants
        " WHERE request_hash = ? AND repeat = ? AND attempt = ? AND answered"
        " AND (? OR owner = ?) ORDER BY owner = ? DESC, at DESC LIMIT 1",
        (*request, any_owner, owner, owner),
    ).fetchone()
    return None if row is None else judgement_of(row)


def _page(
    db: Database, owner: str, sample_id: str | None, limit: int, after: int
) -> list[tuple[int, JudgementRow]]:
    return [
        (number, judgement_of(columns))
        for number, *columns in db.execute(
            f"SELECT number, {_READ} FROM judgements"  # noqa: S608 - constants
            " WHERE owner = ? AND number > ? AND (? IS NULL OR sample_id = ?)"
            " ORDER BY number LIMIT ?",
            (owner, after, sample_id, sample_id, limit),
        )
    ]


# UNION, not OR: each half uses an index of its own.
_OF = f"""
    SELECT {_READ} FROM judgements WHERE number IN (
        SELECT number FROM judgements
        WHERE owner = ? AND sample_id IN (SELECT value FROM json_each(?))
        UNION
        SELECT number FROM judgements
        WHERE owner = ? AND request_hash IN (SELECT value FROM json_each(?))
    ) ORDER BY number
"""  # noqa: S608 - constants


def _of(
    db: Database, owner: str, sample_ids: list[str], request_hashes: list[str]
) -> list[JudgementRow]:
    ids, hashes = (msgspec.json.encode(texts).decode() for texts in (sample_ids, request_hashes))
    return [judgement_of(row) for row in db.execute(_OF, (owner, ids, owner, hashes))]


# The fields of JudgeUse in their order.
_USE = """
    SELECT metric, judge, count(*), sum(attempt > 0), sum(NOT answered), sum(reused),
        coalesce(sum(CASE WHEN reused THEN 0 ELSE cost_usd END), 0),
        sum(answered AND NOT reused AND cost_usd IS NULL),
        -- Not sum(), which fails where it leaves 64 bits.
        CAST(total(CASE WHEN reused THEN 0
            ELSE coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) END) AS INTEGER),
        avg(CASE WHEN reused THEN NULL ELSE total_s END),
        coalesce(max(json_extract(answer, '$.target')), ''),
        coalesce(max(json_extract(answer, '$.model')), ''),
        min(at), max(at),
        -- Answers of older versions do not have the field.
        sum(NOT reused AND coalesce(json_extract(answer, '$.estimated'), 0))
    FROM judgements WHERE owner = ? GROUP BY metric, judge ORDER BY metric, judge
"""


def _use(db: Database, owner: str) -> list[JudgeUse]:
    return [
        JudgeUse(**dict(zip(JudgeUse.__struct_fields__, row, strict=True)))
        for row in db.execute(_USE, (owner,))
    ]


def _tokens(db: Database, judge: str, metric: str) -> tuple[float, float] | None:
    prompt, completion = db.execute(
        "SELECT avg(prompt_tokens), avg(completion_tokens) FROM (SELECT prompt_tokens,"
        " completion_tokens FROM judgements WHERE judge = ? AND metric = ? AND answered"
        " AND prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL"
        " ORDER BY number DESC LIMIT ?)",
        (judge, metric, _RECENT),
    ).fetchone()
    return None if prompt is None else (prompt, completion)
