"""What runs and studies took: sums over their answers and judgements, and the embeddings' table."""

from __future__ import annotations

from operator import itemgetter

import msgspec

from router.store.columns.usage import served_of
from router.store.sql.connection import Connection, add_up
from router.store.sql.database import SqlPart
from router.store.sql.runs import check_owner, run_number
from router.store.usage import EmbeddingUse, Spending, TargetTime, UsageStore

_EMBEDDING_COLUMNS = ", ".join(EmbeddingUse.__struct_fields__)
_ADD_EMBEDDINGS = add_up(
    "embeddings", ("run", *EmbeddingUse.__struct_fields__), ("run", "route", "target")
)
_ANSWERED = """
    SELECT target, asked_at, answered_at, coalesce(completion_tokens, 0), cost_usd
    FROM answers
    WHERE run = (SELECT number FROM runs WHERE id = ? AND hidden_since IS NULL)
        AND state = 'answered' AND cached = 0 AND answered_at IS NOT NULL
"""
_JUDGED = """
    SELECT {target}, at - coalesce(total_s, 0), at, coalesce(completion_tokens, 0), cost_usd
    FROM judgements WHERE owner = ? AND answered = 1 AND reused = 0
"""


class SqlUsage(SqlPart, UsageStore):
    """Sums of what runs and studies took."""

    async def spent(self, run_id: str) -> Spending:
        return await self._database.read("add up what a run took", _spent, run_id)

    async def add_embedding_use(self, run_id: str, use: EmbeddingUse) -> None:
        owner = self._owners.get(run_id)
        await self._database.write("count embeddings", _add_embedding_use, run_id, use, owner)

    async def embedding_use(self, run_id: str) -> list[EmbeddingUse]:
        return await self._database.read("count embeddings", _embedding_use, run_id)

    async def served(self, owner: str) -> list[TargetTime]:
        return await self._database.read("read which targets worked", _served, owner)


def _spent(db: Connection, run_id: str) -> Spending:
    cost_usd, tokens = db.execute(
        "SELECT sum(cost_usd),"
        # Not of integers, which fails where it leaves 64 bits.
        " sum(CAST(coalesce(total_tokens, prompt_tokens + completion_tokens, 0)"
        " AS DOUBLE PRECISION)) FROM answers"
        " WHERE run = ? AND cached = 0",
        (run_number(db, run_id),),
    ).fetchone()
    return Spending(cost_usd=cost_usd or 0.0, tokens=int(tokens or 0))


def _add_embedding_use(db: Connection, run_id: str, use: EmbeddingUse, owner: str | None) -> None:
    check_owner(db, run_id, owner)
    db.execute(_ADD_EMBEDDINGS, (run_number(db, run_id), *msgspec.structs.astuple(use)))


def _embedding_use(db: Connection, run_id: str) -> list[EmbeddingUse]:
    rows = db.execute(
        f"SELECT {_EMBEDDING_COLUMNS} FROM embeddings WHERE run = ? ORDER BY route, target",
        (run_number(db, run_id),),
    )
    names = EmbeddingUse.__struct_fields__
    return [EmbeddingUse(**dict(zip(names, row, strict=True))) for row in rows]


def _served(db: Connection, owner: str) -> list[TargetTime]:
    served = [
        (msgspec.json.decode(target), *rest)
        for target, *rest in db.execute(
            _JUDGED.format(target=db.field("answer", "target")), (owner,)
        )
    ]
    served += db.execute(_ANSWERED, (owner,))
    return served_of(sorted(served, key=itemgetter(0, 1)))
