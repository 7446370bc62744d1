"""What runs and studies took: sums over their answers and judgements, and the embeddings' table."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from router.store.columns.usage import served_of
from router.store.sqlite.database import SqlitePart
from router.store.sqlite.runs import run_number
from router.store.usage import EmbeddingUse, Spending, TargetTime, UsageStore

_EMBEDDING_COLUMNS = ", ".join(EmbeddingUse.__struct_fields__)
_ADD_EMBEDDINGS = f"""
    INSERT INTO embeddings (run, {_EMBEDDING_COLUMNS})
    VALUES (?, {", ".join("?" * len(EmbeddingUse.__struct_fields__))})
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests, failed = failed + excluded.failed,
        tokens = tokens + excluded.tokens, cost_usd = cost_usd + excluded.cost_usd,
        unpriced = unpriced + excluded.unpriced, estimated = estimated + excluded.estimated
"""  # noqa: S608 - constants
_SERVED = """
    SELECT target, asked_at, answered_at,
        coalesce(completion_tokens, 0), cost_usd
    FROM answers
    WHERE run = (SELECT number FROM runs WHERE id = :owner AND hidden_since IS NULL)
        AND state = 'answered' AND NOT cached AND answered_at IS NOT NULL
    UNION ALL
    SELECT json_extract(answer, '$.target'), at - coalesce(total_s, 0), at,
        coalesce(completion_tokens, 0), cost_usd
    FROM judgements WHERE owner = :owner AND answered AND NOT reused
    ORDER BY 1, 2
"""


class SqliteUsage(SqlitePart, UsageStore):
    """Sums of what runs and studies took."""

    async def spent(self, run_id: str) -> Spending:
        return await self._database.read("add up what a run took", _spent, run_id)

    async def add_embedding_use(self, run_id: str, use: EmbeddingUse) -> None:
        await self._database.write("count embeddings", _add_embedding_use, run_id, use)

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        return await self._database.read("count embeddings", _embedding_use, run_id)

    async def served(self, owner: str) -> list[TargetTime]:
        return await self._database.read("read which targets worked", _served, owner)


def _spent(db: Database, run_id: str) -> Spending:
    cost_usd, tokens = db.execute(
        "SELECT sum(cost_usd),"
        # Not sum(), which fails where it leaves 64 bits.
        " total(coalesce(total_tokens, prompt_tokens + completion_tokens, 0)) FROM answers"
        " WHERE run = ? AND cached = 0",
        (run_number(db, run_id),),
    ).fetchone()
    return Spending(cost_usd=cost_usd or 0.0, tokens=int(tokens))


def _add_embedding_use(db: Database, run_id: str, use: EmbeddingUse) -> None:
    db.execute(_ADD_EMBEDDINGS, (run_number(db, run_id), *msgspec.structs.astuple(use)))


def _embedding_use(db: Database, run_id: str) -> list[EmbeddingUse]:
    rows = db.execute(
        f"SELECT {_EMBEDDING_COLUMNS} FROM embeddings"  # noqa: S608 - constants
        " WHERE run = ? ORDER BY route, target",
        (run_number(db, run_id),),
    )
    names = EmbeddingUse.__struct_fields__
    return [EmbeddingUse(**dict(zip(names, row, strict=True))) for row in rows]


def _served(db: Database, owner: str) -> list[TargetTime]:
    return served_of(db.execute(_SERVED, {"owner": owner}))
