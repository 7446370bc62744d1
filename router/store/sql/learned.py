"""The tables of models of learned routes, and of the requests that their rows were made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from providers.errors import ConflictError
from router.store.columns.values import column_of, fields_of
from router.store.learned import (
    LearnedModel,
    LearnedRows,
    LearnedSource,
    LearnedState,
    LearnedStore,
)
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart
from router.store.sql.filters import conditions_of, given
from router.store.traffic import TrafficFilter

_COLUMNS = LearnedModel.__struct_fields__
_JSON = frozenset({"settings", "made_of", "report"})
_ADD = insert("learned_models", _COLUMNS)
_SOURCE_COLUMNS = (
    "model", "row_number", "id", "at", "key_id", "user_id", "request_id", "response_id",
    "conversation", "rollout", "arm", "route", "target", "klass", "status", "author",
)  # fmt: skip
_ADD_SOURCE = insert("learned_sources", _SOURCE_COLUMNS)
_OF_REQUEST = ", ".join(_SOURCE_COLUMNS[2:-1])
_COPIED = f"""
    INSERT INTO learned_sources ({", ".join(_SOURCE_COLUMNS)})
    SELECT ?, ?, {_OF_REQUEST}, '' FROM dataset_sources WHERE hash = ? AND row_id = ?
"""
_SHADOWED = f"""
    INSERT INTO learned_sources ({", ".join(_SOURCE_COLUMNS)})
    SELECT ?, ?, pairs.id, pairs.at, pairs.key_id, pairs.user_id, pairs.request_id,
        pairs.response_id, pairs.conversation, pairs.rollout, pairs.arm, shadows.route,
        pairs.target, 'live', pairs.status, ''
    FROM shadow_pairs AS pairs JOIN shadows ON shadows.run = pairs.run
    WHERE pairs.run = ? AND pairs.id = ?
"""
_OF_USER = {"user": "(user_id = :user OR author = :user)"}


class SqlLearned(SqlPart, LearnedStore):
    """Models of learned routes."""

    async def add_learned(self, model: LearnedModel) -> None:
        await self._database.write("begin to learn a route", _add, model)

    async def fail_learned(self, model_id: str, error: str) -> None:
        await self._database.write("note a failed model", _fail, model_id, error)

    async def finish_learned(
        self, model: LearnedModel, sources: Sequence[LearnedSource], *, deletions: int
    ) -> list[str]:
        return await self._database.write(
            "store a learned model", _finish, model, sources, deletions
        )

    async def learned_models(
        self, route: str | None = None, *, state: LearnedState | None = None, limit: int = 50
    ) -> list[LearnedModel]:
        return await self._database.read("list learned models", _models, route, state, limit)

    async def learned_version(self) -> int:
        return await self._database.read("look for changed models", _version)

    async def learned_rows(
        self, matching: TrafficFilter, *, model: str | None = None
    ) -> LearnedRows | None:
        return await self._database.read("look for learned requests", _rows, matching, model)

    async def forget_learned(
        self, model: LearnedModel, rows: frozenset[int], *, artifact: str
    ) -> bool:
        return await self._database.write("forget learned requests", _forget, model, rows, artifact)


def _values(model: LearnedModel) -> dict[str, Any]:
    return {name: column_of(getattr(model, name), name, _JSON) for name in _COLUMNS}


def _model_of(row: Sequence[Any]) -> LearnedModel:
    return msgspec.convert(fields_of(_COLUMNS, row, _JSON), LearnedModel)


def _add(db: Connection, model: LearnedModel) -> None:
    db.execute(
        "UPDATE learned_models SET state = 'failed', error = 'its process has ended, or another"
        " one was begun' WHERE route = ? AND state = 'learning'",
        (model.route,),
    )
    db.execute(_ADD, list(_values(model).values()))


def _fail(db: Connection, model_id: str, error: str) -> None:
    db.execute(
        "UPDATE learned_models SET state = 'failed', error = ? WHERE id = ? AND state = 'learning'",
        (error, model_id),
    )


def _finish(
    db: Connection, model: LearnedModel, sources: Sequence[LearnedSource], deletions: int
) -> list[str]:
    (now,) = db.execute("SELECT coalesce(max(version), 0) FROM traffic_deletions").fetchone()
    if now != deletions:
        raise ConflictError(
            f"Requests were deleted while the route {model.route!r} was learned; learn it again.",
            code="requests_deleted",
        )
    earlier = db.execute(
        "SELECT id, artifact FROM learned_models WHERE route = ? AND state = 'ready'"
        " AND artifact <> ''",
        (model.route,),
    ).fetchall()
    if not _update(db, model, "learning"):
        raise ConflictError(
            f"Another model of the route {model.route!r} was begun meanwhile.",
            code="learned_meanwhile",
        )
    for number, _ in earlier:
        db.execute(
            "UPDATE learned_models SET artifact = '', hash = '', size = 0 WHERE id = ?", (number,)
        )
        db.execute("DELETE FROM learned_sources WHERE model = ?", (number,))
    for source in sources:
        _add_source(db, model.id, source)
    return [artifact for _, artifact in earlier]


def _update(db: Connection, model: LearnedModel, state: LearnedState, artifact: str = "") -> bool:
    """Store a model that is in a state and has a file; return whether it is and has."""
    names = [name for name in _COLUMNS if name != "id"]
    values = _values(model)
    return bool(
        db.execute(
            f"UPDATE learned_models SET {', '.join(f'{name} = ?' for name in names)}"
            " WHERE id = ? AND state = ? AND artifact = ?",
            (*(values[name] for name in names), model.id, state, artifact),
        ).rowcount
    )


def _add_source(db: Connection, model: str, source: LearnedSource) -> None:
    if source.dataset_hash:
        db.execute(_COPIED, (model, source.row, source.dataset_hash, source.dataset_row))
    elif source.shadow_run:
        db.execute(_SHADOWED, (model, source.row, source.shadow_run, source.id))
    else:
        db.execute(
            _ADD_SOURCE,
            (model, source.row, source.id, source.at, source.key_id, source.user,
             source.request_id or source.id, source.response_id, source.conversation,
             source.rollout, source.arm, source.route, source.target, source.traffic_class,
             source.status, source.author),
        )  # fmt: skip


def _models(
    db: Connection, route: str | None, state: LearnedState | None, limit: int
) -> list[LearnedModel]:
    where, values = given({"route = :route": route, "state = :state": state})
    rows = db.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM learned_models WHERE {' AND '.join(where) or 'TRUE'}"
        " ORDER BY id DESC LIMIT :limit",
        values | {"limit": limit},
    )
    return [_model_of(row) for row in rows]


def _version(db: Connection) -> int:
    (version,) = db.execute("SELECT max(version) FROM learned_changes").fetchone()
    return int(version)


def _rows(db: Connection, matching: TrafficFilter, model: str | None) -> LearnedRows | None:
    conditions = conditions_of(db, matching, others=_OF_USER)
    if model is None:
        first = db.execute(
            f"SELECT model FROM learned_sources WHERE {conditions.where} LIMIT 1",
            conditions.values,
        ).fetchone()
        if first is None:
            return None
        (model,) = first
    rows = db.execute(
        f"SELECT row_number FROM learned_sources WHERE model = :model AND {conditions.where}",
        conditions.values | {"model": model},
    ).fetchall()
    return LearnedRows(model, frozenset(row for (row,) in rows)) if rows else None


def _forget(db: Connection, model: LearnedModel, rows: frozenset[int], artifact: str) -> bool:
    if not _update(db, model, "ready", artifact):
        return False
    for row in sorted(rows):
        db.execute(
            "DELETE FROM learned_sources WHERE model = ? AND row_number = ?", (model.id, row)
        )
    return True
