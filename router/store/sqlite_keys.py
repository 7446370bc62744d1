"""What the key methods of `SqliteStore` say to SQLite, as `sqlite_rows.py` does for the others."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlite_utils import Database

from providers.errors import ConflictError, NotFoundError, StoreError, closest
from router.store.keys import KeyRow, KeySpend, KeyState, KeyTable

log = logging.getLogger("evalrouter")

# More than any budget.
_ALL_USD = 1e300

_FIELDS = tuple(field.name for field in msgspec.structs.fields(KeyRow))
_COLUMNS = ", ".join(_FIELDS)
_texts = msgspec.json.Decoder(tuple[str, ...])


def insert_key(db: Database, row: KeyRow, digest: bytes) -> None:
    """A new key."""
    record = msgspec.structs.asdict(row)
    if row.routes is not None:
        record["routes"] = msgspec.json.encode(row.routes).decode()
    try:
        db.execute(
            f"INSERT INTO keys ({_COLUMNS}, hash)"  # noqa: S608 - constants of this file
            f" VALUES ({', '.join(':' + name for name in _FIELDS)}, :hash)",
            record | {"hash": digest},
        )
    except sqlite3.IntegrityError:
        if _in_use(db, row.name) is None:
            raise
        raise ConflictError(
            f"there is a key {row.name!r} already; revoke it first or take another name"
        ) from None


def keys(db: Database) -> KeyTable:
    """Every key, oldest first."""
    rows = db.execute(
        f"SELECT hash, {_COLUMNS} FROM keys ORDER BY created_at, id"  # noqa: S608 - see above
    )
    return KeyTable(version=_version(db), by_hash={row[0]: _usable_key(row[1:]) for row in rows})


def key_state(db: Database) -> KeyState:
    """The version, and each key's latest period."""
    rows = db.execute(
        "SELECT key, since, usd, tokens, requests, unpriced, estimated FROM keys JOIN key_spend"
        " ON key = id AND since = (SELECT max(since) FROM key_spend WHERE key = id)"
    )
    return KeyState(version=_version(db), spent={row[0]: _spend(row) for row in rows})


def revoke_key(db: Database, name: str, now: float) -> KeyRow:
    """Revoke by id or name."""
    found = _in_use(db, name)
    if found is None:
        known = [
            one
            for row in db.execute("SELECT name FROM keys WHERE revoked_at IS NULL")
            for one in row
        ]
        raise NotFoundError(f"no key {name!r} is in use.{closest(name, known)}")
    db.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (now, found.id))
    return msgspec.structs.replace(found, revoked_at=now)


def add_key_spend(db: Database, spent: Sequence[KeySpend]) -> None:
    """Add, so that what other processes added meanwhile stays."""
    for one in spent:
        if not math.isfinite(one.usd):
            raise StoreError(f"cannot keep {one.usd} as a key's spend: it is not a finite number")
    db.conn.executemany(
        "INSERT INTO key_spend (key, since, usd, tokens, requests, unpriced, estimated)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, since) DO UPDATE SET"
        # A sum beyond 64 bits would turn into a fraction.
        " usd = usd + excluded.usd, tokens = min(tokens + excluded.tokens, 9223372036854775807),"
        " requests = requests + excluded.requests, unpriced = unpriced + excluded.unpriced,"
        " estimated = estimated + excluded.estimated",
        [msgspec.structs.astuple(one) for one in spent],
    )


def _version(db: Database) -> int:
    version: int = db.execute("SELECT version FROM key_changes").fetchone()[0]
    return version


def _in_use(db: Database, name: str) -> KeyRow | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM keys"  # noqa: S608 - constants of this file
        " WHERE (id = :name OR name = :name) AND revoked_at IS NULL",
        {"name": name},
    ).fetchone()
    return None if row is None else _key(row)


def _key(row: Sequence[Any]) -> KeyRow:
    record = dict(zip(_FIELDS, row, strict=True))
    record["admin"] = bool(record["admin"])
    if record["routes"] is not None:
        record["routes"] = _texts.decode(record["routes"])
    return msgspec.convert(record, KeyRow)


def _usable_key(row: Sequence[Any]) -> KeyRow:
    """The same; where it cannot be read, a key that lets nobody in, because others can be."""
    try:
        return _key(row)
    except (msgspec.MsgspecError, TypeError) as error:
        log.error("the key %s cannot be read and is refused: %s", row[0], error)
        return KeyRow(id=str(row[0]), name=str(row[1]), created_at=0.0, revoked_at=0.0)


def _spend(row: Sequence[Any]) -> KeySpend:
    """What a key spent; where it cannot be read, more than any budget."""
    try:
        spent = msgspec.convert(dict(zip(KeySpend.__struct_fields__, row, strict=True)), KeySpend)
    except msgspec.MsgspecError:
        since = row[1] if isinstance(row[1], float) else 0.0
        return KeySpend(key_id=str(row[0]), since=since, usd=_ALL_USD)
    return spent if math.isfinite(spent.usd) else msgspec.structs.replace(spent, usd=_ALL_USD)
