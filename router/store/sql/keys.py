"""The tables of keys and of what they spent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from providers.errors import ConflictError, NotFoundError, closest
from router.store.columns.keys import (
    KEY_COLUMNS,
    SPEND_COLUMNS,
    key_columns,
    key_of,
    spend_columns,
    spend_of,
    usable_key_of,
)
from router.store.keys import KeyRow, KeySpend, KeyState, KeyStore, KeyTable
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart

_COLUMNS = ", ".join(KEY_COLUMNS)
_INSERT = f"INSERT INTO keys ({_COLUMNS}, hash) VALUES ({', '.join('?' * len(KEY_COLUMNS))}, ?)"
_SPEND = ", ".join(SPEND_COLUMNS)
_ADD_SPEND = f"""
    INSERT INTO key_spend ({_SPEND}) VALUES ({", ".join("?" * len(SPEND_COLUMNS))})
    ON CONFLICT (key, since) DO UPDATE SET
        usd = key_spend.usd + excluded.usd,
        -- A sum beyond 64 bits would turn into a fraction.
        tokens = CASE WHEN key_spend.tokens > 9223372036854775807 - excluded.tokens
            THEN 9223372036854775807 ELSE key_spend.tokens + excluded.tokens END,
        requests = key_spend.requests + excluded.requests,
        unpriced = key_spend.unpriced + excluded.unpriced,
        estimated = key_spend.estimated + excluded.estimated
"""


class SqlKeys(SqlPart, KeyStore):
    """Keys and what they spent."""

    @property
    def generation(self) -> int:
        return self._database.generation

    async def add_key(self, row: KeyRow, digest: bytes) -> None:
        await self._database.write("add a key", _insert, row, digest)

    async def keys(self) -> KeyTable:
        return await self._database.read("read the keys", _keys)

    async def key_state(self, after: int | None = None) -> KeyState:
        return await self._database.read("read what keys spent", _state, after)

    async def revoke_key(self, name: str, now: float) -> KeyRow:
        return await self._database.write("revoke a key", _revoke, name, now)

    async def add_key_spend(self, spent: Sequence[KeySpend]) -> None:
        await self._database.write("keep what keys spent", _add_spend, spent)


def _insert(db: Connection, row: KeyRow, digest: bytes) -> None:
    if _in_use(db, row.name) is not None:
        raise ConflictError(
            f"there is a key {row.name!r} already; revoke it first or take another name"
        )
    db.execute(_INSERT, (*key_columns(row), digest))


def _keys(db: Connection) -> KeyTable:
    with db.lenient_text():
        rows = db.execute(f"SELECT hash, {_COLUMNS} FROM keys ORDER BY created_at, id").fetchall()
    return KeyTable(version=_version(db), by_hash={row[0]: usable_key_of(row[1:]) for row in rows})


def _state(db: Connection, after: int | None) -> KeyState:
    version, changes = db.execute("SELECT version, spend FROM key_changes").fetchone()
    rows = db.execute(
        f"SELECT {_SPEND} FROM key_spend"
        f" WHERE {'' if after is None else 'changed > :after AND'}"
        " since = (SELECT max(since) FROM key_spend AS of_key WHERE of_key.key = key_spend.key)",
        {"after": after},
    )
    spent = {row[0]: spend_of(row) for row in rows}
    return KeyState(version=version, changes=changes, spent=spent)


def _revoke(db: Connection, name: str, now: float) -> KeyRow:
    key = _in_use(db, name)
    if key is None:
        names = db.execute("SELECT name FROM keys WHERE revoked_at IS NULL")
        known = [known_name for (known_name,) in names]
        raise NotFoundError(f"no key {name!r} is in use.{closest(name, known)}")
    db.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (now, key.id))
    return msgspec.structs.replace(key, revoked_at=now)


def _add_spend(db: Connection, spent: Sequence[KeySpend]) -> None:
    # Sums, so that what other processes added meanwhile stays. In one order, so that they and this
    # one do not wait for each other.
    db.execute(f"SELECT version FROM key_changes{db.for_update}")
    db.executemany(_ADD_SPEND, sorted(spend_columns(spend) for spend in spent))


def _version(db: Connection) -> int:
    version: int = db.execute("SELECT version FROM key_changes").fetchone()[0]
    return version


def _in_use(db: Connection, name: str) -> KeyRow | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM keys WHERE (id = :name OR name = :name) AND revoked_at IS NULL",
        {"name": name},
    ).fetchone()
    return None if row is None else key_of(row)
