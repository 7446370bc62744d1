"""The tables of keys and of what they spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from providers.errors import ConflictError, NotFoundError, closest
from router.store.columns.keys import (
    KEY_COLUMNS,
    SPEND_COLUMNS,
    VERSION_COLUMNS,
    key_columns,
    key_of,
    spend_columns,
    spend_of,
    usable_key_of,
    version_of,
)
from router.store.columns.values import json_text
from router.store.keys import (
    KeyChange,
    KeyRow,
    KeySpend,
    KeyState,
    KeyStore,
    KeyTable,
    KeyVersion,
)
from router.store.sql.connection import Connection, insert
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
_SUMS = ("usd", "tokens", "requests", "unpriced", "estimated")
_ADD_VERSION = insert("key_versions", ("key", *VERSION_COLUMNS))
_ADD_USE = """
    INSERT INTO key_uses (key, used_at) SELECT id, :used_at FROM keys WHERE id = :key
    ON CONFLICT (key) DO UPDATE SET used_at = excluded.used_at
        WHERE excluded.used_at > key_uses.used_at
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

    async def change_key(self, change: KeyChange) -> None:
        await self._database.write("change a key", _change, change)

    async def key_versions(self, key_id: str, *, limit: int = 50) -> list[KeyVersion]:
        return await self._database.read("read changes of a key", _versions, key_id, limit)

    async def add_key_uses(self, used: Mapping[str, float]) -> None:
        await self._database.write("keep when keys were used", _add_uses, used)

    async def key_uses(self) -> dict[str, float]:
        return await self._database.read("read when keys were used", _uses)

    async def add_key_spend(self, spent: Sequence[KeySpend]) -> None:
        await self._database.write("keep what keys spent", _add_spend, spent)


def _wait_for_others(db: Connection) -> None:
    """Let no other process change keys or what they spent before the transaction has ended."""
    db.execute(f"SELECT version FROM key_changes{db.for_update}")


def _insert(db: Connection, row: KeyRow, digest: bytes) -> None:
    _wait_for_others(db)
    _check_name_is_free(db, row.name)
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
    _wait_for_others(db)
    key = _in_use(db, name)
    if key is None:
        names = db.execute("SELECT name FROM keys WHERE revoked_at IS NULL")
        known = [known_name for (known_name,) in names]
        raise NotFoundError(f"no key {name!r} is in use.{closest(name, known)}")
    db.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (now, key.id))
    return msgspec.structs.replace(key, revoked_at=now)


def _change(db: Connection, change: KeyChange) -> None:
    before, after = change.before, change.after
    _wait_for_others(db)
    row = db.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (before.id,)).fetchone()
    stored = None if row is None else key_of(row)
    if stored is None or stored.revoked_at is not None:
        raise NotFoundError(f"no key {before.name!r} is in use.")
    if stored != before:
        raise ConflictError("the key was changed meanwhile; look at it again", code="key_changed")
    if after.name != before.name:
        _check_name_is_free(db, after.name)
    columns = dict(zip(KEY_COLUMNS, key_columns(after), strict=True))
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    db.execute(f"UPDATE keys SET {assignments} WHERE id = :id", columns)
    if after.budget_period != before.budget_period:
        _change_period(db, change)
    last = db.execute("SELECT max(number) FROM key_versions WHERE key = ?", (after.id,)).fetchone()
    was, becomes = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    changes = {name: (was[name], becomes[name]) for name in was if was[name] != becomes[name]}
    values = ((last[0] or 0) + 1, change.at, change.actor, json_text(changes))
    db.execute(_ADD_VERSION, (after.id, *values))


def _change_period(db: Connection, change: KeyChange) -> None:
    """Put what a key spent since its new budget period began into one row of that period."""
    values = {"key": change.after.id, "since": change.period_since, "at": change.at}
    # Fractions, because a sum beyond 64 bits is an error in SQLite.
    sums = ", ".join(f"sum(1.0 * {name})" for name in _SUMS)
    of_period = "FROM key_spend WHERE key = :key AND since >= :since"
    usd, *counts = db.execute(f"SELECT {sums} {of_period}", values).fetchone()
    db.execute(f"DELETE {of_period}", values)
    if usd is not None:
        whole = [min(int(count), 2**63 - 1) for count in counts]
        db.execute(_ADD_SPEND, (change.after.id, change.period_since, usd, *whole))
    db.execute(
        "UPDATE keys SET period_since = :since, period_changed_at = :at WHERE id = :key", values
    )


def _versions(db: Connection, key_id: str, limit: int) -> list[KeyVersion]:
    rows = db.execute(
        f"SELECT {', '.join(VERSION_COLUMNS)} FROM key_versions WHERE key = ?"
        " ORDER BY number DESC LIMIT ?",
        (key_id, limit),
    )
    return [version_of(row) for row in rows]


def _add_uses(db: Connection, used: Mapping[str, float]) -> None:
    # In one order, so that processes do not wait for each other.
    values = [{"key": key, "used_at": used_at} for key, used_at in sorted(used.items())]
    db.executemany(_ADD_USE, values)


def _uses(db: Connection) -> dict[str, float]:
    return dict(db.execute("SELECT key, used_at FROM key_uses").fetchall())


def _add_spend(db: Connection, spent: Sequence[KeySpend]) -> None:
    # Sums, so that what other processes added meanwhile stays. In one order, so that they and this
    # one do not wait for each other.
    _wait_for_others(db)
    rows = db.execute(
        "SELECT id, period_changed_at, period_since FROM keys WHERE period_changed_at IS NOT NULL"
    )
    changed = {key: (at, since) for key, at, since in rows}
    db.executemany(_ADD_SPEND, sorted(spend_columns(_in_period(spend, changed)) for spend in spent))


def _in_period(spend: KeySpend, changed: Mapping[str, tuple[float, float]]) -> KeySpend:
    """Return a spend as of the period that the key has had since it was changed.

    A process that has not read the change yet has counted for a period that began before.
    """
    at, since = changed.get(spend.key_id, (-1.0, 0.0))
    return msgspec.structs.replace(spend, since=since) if spend.since <= at else spend


def _version(db: Connection) -> int:
    version: int = db.execute("SELECT version FROM key_changes").fetchone()[0]
    return version


def _check_name_is_free(db: Connection, name: str) -> None:
    if _in_use(db, name) is not None:
        raise ConflictError(
            f"there is a key {name!r} already; revoke it first or take another name"
        )


def _in_use(db: Connection, name: str) -> KeyRow | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM keys WHERE (id = :name OR name = :name) AND revoked_at IS NULL",
        {"name": name},
    ).fetchone()
    return None if row is None else key_of(row)
