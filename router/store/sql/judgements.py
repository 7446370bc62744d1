"""The table of judgements."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from router.store.columns.judgements import (
    JUDGEMENT_COLUMNS,
    READ_JUDGEMENT_COLUMNS,
    judgement_columns,
    judgement_of,
)
from router.store.judgements import JudgementRow, JudgementStore, JudgeUse
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart

_INSERT = insert("judgements", ("number", *JUDGEMENT_COLUMNS))
_READ = ", ".join(READ_JUDGEMENT_COLUMNS)
# How many of a judge's last judgements its mean tokens are over.
_RECENT = 200


class SqlJudgements(SqlPart, JudgementStore):
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


def _insert(db: Connection, row: JudgementRow) -> None:
    # Not an update: what came last has the greatest number.
    db.execute(
        "DELETE FROM judgements"
        " WHERE request_hash = ? AND repeat = ? AND attempt = ? AND owner = ?",
        (row.request_hash, row.repeat, row.attempt, row.owner),
    )
    [number] = db.new_numbers("judgements", 1)
    db.execute(_INSERT, (number, *judgement_columns(row)))


def _judgement(
    db: Connection, owner: str, request: tuple[str, int, int], *, any_owner: bool
) -> JudgementRow | None:
    row = db.execute(
        f"SELECT {_READ} FROM judgements"
        " WHERE request_hash = ? AND repeat = ? AND attempt = ? AND answered = 1"
        " AND (? = 1 OR owner = ?) ORDER BY owner = ? DESC, at DESC LIMIT 1",
        (*request, any_owner, owner, owner),
    ).fetchone()
    return None if row is None else judgement_of(row)


def _page(
    db: Connection, owner: str, sample_id: str | None, limit: int, after: int
) -> list[tuple[int, JudgementRow]]:
    of_sample = "" if sample_id is None else f" AND {db.is_text('sample_id')}"
    return [
        (number, judgement_of(columns))
        for number, *columns in db.execute(
            f"SELECT number, {_READ} FROM judgements"
            f" WHERE owner = ? AND number > ?{of_sample} ORDER BY number LIMIT ?",
            (owner, after, *([] if sample_id is None else [sample_id]), limit),
        )
    ]


# UNION, not OR: each half uses an index of its own.
_OF = f"""
    SELECT {_READ} FROM judgements WHERE number IN (
        SELECT number FROM judgements
        WHERE owner = ? AND {{sample}}
        UNION
        SELECT number FROM judgements
        WHERE owner = ? AND {{request}}
    ) ORDER BY number
"""


def _of(
    db: Connection, owner: str, sample_ids: list[str], request_hashes: list[str]
) -> list[JudgementRow]:
    sql = _OF.format(sample=db.any_of("sample_id", long=True), request=db.any_of("request_hash"))
    values = (owner, db.array(sample_ids), owner, db.array(request_hashes))
    return [judgement_of(row) for row in db.execute(sql, values)]


# The fields of JudgeUse in their order.
_USE = """
    SELECT metric, judge, count(*), count(*) FILTER (WHERE attempt > 0),
        count(*) FILTER (WHERE answered = 0), count(*) FILTER (WHERE reused = 1),
        coalesce(sum(cost_usd) FILTER (WHERE reused = 0), 0.0),
        count(*) FILTER (WHERE answered = 1 AND reused = 0 AND cost_usd IS NULL),
        -- Not of integers, which fails where it leaves 64 bits.
        coalesce(sum(CAST(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)
            AS DOUBLE PRECISION)) FILTER (WHERE reused = 0), 0.0),
        avg(total_s) FILTER (WHERE reused = 0),
        max({target}), max({model}), min(at), max(at),
        -- Answers of older versions do not have the field.
        count(*) FILTER (WHERE reused = 0 AND {estimated} = 'true')
    FROM judgements WHERE owner = ? GROUP BY metric, judge ORDER BY metric, judge
"""


def _use(db: Connection, owner: str) -> list[JudgeUse]:
    sql = _USE.format(
        **{name: db.field("answer", name) for name in ("target", "model", "estimated")}
    )
    return [
        JudgeUse(**_texts(dict(zip(JudgeUse.__struct_fields__, row, strict=True))))
        for row in db.execute(sql, (owner,))
    ]


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    """Read the JSON texts among the fields of JudgeUse, and the sum of tokens."""
    texts = {
        name: (msgspec.json.decode(values[name]) if values[name] else None) or ""
        for name in ("target", "model")
    }
    return values | texts | {"tokens": int(values["tokens"])}


def _tokens(db: Connection, judge: str, metric: str) -> tuple[float, float] | None:
    prompt, completion = db.execute(
        "SELECT avg(prompt), avg(completion) FROM ("
        " SELECT CAST(prompt_tokens AS DOUBLE PRECISION) AS prompt,"
        " CAST(completion_tokens AS DOUBLE PRECISION) AS completion"
        " FROM judgements WHERE judge = ? AND metric = ? AND answered = 1"
        " AND prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL"
        " ORDER BY number DESC LIMIT ?) AS recent",
        (judge, metric, _RECENT),
    ).fetchone()
    return None if prompt is None else (prompt, completion)
