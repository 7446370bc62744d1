"""The table of browsers' sessions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.store.sessions import BrowserSession, SessionStore
from router.store.sql.connection import Connection, insert
from router.store.sql.database import SqlPart

_COLUMNS = BrowserSession.__struct_fields__
_INSERT = insert("browser_sessions", ("digest", *_COLUMNS))


class SqlSessions(SqlPart, SessionStore):
    """Browsers' sessions."""

    async def add_session(self, session: BrowserSession, digest: bytes, *, limit: int) -> None:
        await self._database.write("add a session", _add, session, digest, limit)

    async def session(self, digest: bytes, now: float) -> BrowserSession | None:
        return await self._database.read("read a session", _find, digest, now)

    async def replace_session_token(
        self, session: BrowserSession, digest: bytes, *, former: bytes, until: float
    ) -> bool:
        return await self._database.write(
            "replace a session's token", _replace, session, digest, former, until
        )

    async def delete_session(self, session_id: str) -> None:
        await self._database.write("delete a session", _delete, session_id)

    async def delete_sessions_of(self, key_id: str) -> None:
        await self._database.write("delete a key's sessions", _delete_of, key_id)

    async def live_sessions(self, session_ids: Sequence[str], now: float) -> set[str]:
        return await self._database.read("read which sessions go on", _live, session_ids, now)

    async def count_sessions_of(self, key_id: str, now: float) -> int:
        return await self._database.read("count a key's sessions", _count_of, key_id, now)


def _add(db: Connection, session: BrowserSession, digest: bytes, limit: int) -> None:
    db.execute("DELETE FROM browser_sessions WHERE expires_at <= ?", (session.issued_at,))
    db.execute(_INSERT, (digest, *msgspec.structs.astuple(session)))
    newest = db.execute(
        "SELECT issued_at FROM browser_sessions WHERE key_id = ?"
        " ORDER BY issued_at DESC LIMIT 1 OFFSET ?",
        (session.key_id, limit - 1),
    ).fetchone()
    if newest is not None:
        db.execute(
            "DELETE FROM browser_sessions WHERE key_id = ? AND issued_at < ?",
            (session.key_id, newest[0]),
        )


def _find(db: Connection, digest: bytes, now: float) -> BrowserSession | None:
    row = db.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM browser_sessions WHERE digest = ? AND expires_at > ?",
        (digest, now),
    ).fetchone()
    return None if row is None else BrowserSession(**dict(zip(_COLUMNS, row, strict=True)))


def _replace(
    db: Connection, session: BrowserSession, digest: bytes, former: bytes, until: float
) -> bool:
    changed = db.execute(
        "UPDATE browser_sessions SET expires_at = :until"
        " WHERE digest = :former AND expires_at > :until RETURNING 1",
        {"until": until, "former": former},
    ).fetchone()
    if changed is None:
        return False
    db.execute(_INSERT, (digest, *msgspec.structs.astuple(session)))
    return True


def _delete(db: Connection, session_id: str) -> None:
    db.execute("DELETE FROM browser_sessions WHERE id = ?", (session_id,))


def _delete_of(db: Connection, key_id: str) -> None:
    db.execute("DELETE FROM browser_sessions WHERE key_id = ?", (key_id,))


def _live(db: Connection, session_ids: Sequence[str], now: float) -> set[str]:
    rows = db.execute(
        f"SELECT DISTINCT id FROM browser_sessions WHERE {db.any_of('id')} AND expires_at > ?",
        (db.array(session_ids), now),
    )
    return {row[0] for row in rows}


def _count_of(db: Connection, key_id: str, now: float) -> int:
    count: int = db.execute(
        "SELECT count(DISTINCT id) FROM browser_sessions WHERE key_id = ? AND expires_at > ?",
        (key_id, now),
    ).fetchone()[0]
    return count
