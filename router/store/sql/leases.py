"""The table of leases."""

from __future__ import annotations

from router.store.leases import LeaseStore
from router.store.sql.connection import Connection
from router.store.sql.database import SqlPart


class SqlLeases(SqlPart, LeaseStore):
    """Leases."""

    async def claim_lease(self, name: str, owner: str, seconds: float) -> bool:
        return await self._database.write("claim a lease", _claim, name, owner, seconds)

    async def release_lease(self, name: str, owner: str) -> None:
        await self._database.write("release a lease", _release, name, owner)


def _claim(db: Connection, name: str, owner: str, seconds: float) -> bool:
    now = db.now()
    # A lease that ends later than any that is claimed by now is of a clock that has been put back.
    too_late = now + 2 * seconds
    claimed = db.execute(
        "INSERT INTO leases (name, owner, ends_at) VALUES (:name, :owner, :ends_at)"
        " ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, ends_at = excluded.ends_at"
        " WHERE leases.owner = :owner OR leases.ends_at <= :now OR leases.ends_at > :too_late",
        {
            "name": name,
            "owner": owner,
            "ends_at": now + seconds,
            "now": now,
            "too_late": too_late,
        },
    )
    return claimed.rowcount > 0


def _release(db: Connection, name: str, owner: str) -> None:
    db.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (name, owner))
