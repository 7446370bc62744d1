"""Keys: who may use the router, within which limits, and what each key has spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from router.store.changes import ChangeStore

BudgetPeriod = Literal["day", "week", "month", "total"]
# `router/api/access.py` has the table of what each may do.
Role = Literal["client", "reviewer", "admin", "viewer"]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One client's key, without the key and without its hash: safe to show.

    Attributes:
        id: `key_` and a random part.
        name: the name that an administrator gave it; unique among keys that are not revoked.
        routes: the values of `model` that its requests may have; None for all.
        role: what it may do besides calling models.
        rpm, tpm: requests and tokens per minute, per process; None for no limit.
        parallel: requests at a time, per process; None for no limit.
        budget_usd: US dollars per budget period; None for no limit.
        budget_period: when the budget begins anew, in UTC (weeks on Monday); `total` for never.
        expires_at, created_at, revoked_at: seconds since the epoch, UTC; None for not (yet).
    """

    id: str
    name: str
    routes: tuple[str, ...] | None = None
    role: Role = "client"
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    budget_usd: float | None = None
    budget_period: BudgetPeriod = "total"
    expires_at: float | None = None
    created_at: float
    revoked_at: float | None = None


class KeyChange(NamedTuple):
    """A change of a key that is in use.

    Attributes:
        before: the key as it was read; another one in the store is a conflict.
        after: the key as it becomes.
        at: when, seconds since the epoch.
        actor: who changes it.
        period_since: when the current budget period of `after` began.
    """

    before: KeyRow
    after: KeyRow
    at: float
    actor: str
    period_since: float


class KeyVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a key.

    Attributes:
        number: of the key's changes, from 1.
        at: when, seconds since the epoch.
        actor: who changed it.
        changes: field of KeyRow to what it was and what it became.
    """

    number: int
    at: float
    actor: str
    changes: dict[str, tuple[Any, Any]]


class KeySpend(msgspec.Struct, frozen=True, kw_only=True):
    """What a key used in one budget period, or since the last time that was stored.

    Attributes:
        key_id: the key's id.
        since: when the period began, seconds since the epoch; 0 for `total`.
        usd: US dollars, of the requests whose price is known.
        tokens: of the requests whose tokens are known.
        requests: how many were let through.
        unpriced: how many of them had no known cost; `usd` is too low by those.
        estimated: how many of them had estimated tokens, because their targets did not count them.
    """

    key_id: str
    since: float
    usd: float = 0.0
    tokens: int = 0
    requests: int = 0
    unpriced: int = 0
    estimated: int = 0


class KeyTable(msgspec.Struct, frozen=True, kw_only=True):
    """All keys at one moment, revoked ones included.

    Attributes:
        version: grows with every change of a key (not with what keys spend).
        by_hash: SHA-256 of the key to its row, oldest key first.
    """

    version: int
    by_hash: dict[bytes, KeyRow]


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """What a process reads every second.

    Attributes:
        version: as in KeyTable; it grows as well where spend is taken away.
        changes: grows with every change of what keys spent.
        spent: key id to the latest period in which it spent anything.
    """

    version: int
    changes: int
    spent: dict[str, KeySpend]


class KeyStore(ChangeStore, Protocol):
    """Stores keys and what they spent."""

    @property
    def generation(self) -> int:
        """A number that changes when another database is put in the place of this one."""
        ...

    async def add_key(self, row: KeyRow, digest: bytes) -> None:
        """Add a key; `digest` is its SHA-256.

        Raises:
            ConflictError: a key of that name is in use.
        """
        ...

    async def keys(self) -> KeyTable:
        """Return every key."""
        ...

    async def key_state(self, after: int | None = None) -> KeyState:
        """Return whether keys changed, and what they spent: cheap enough for every second.

        Args:
            after: `changes` of an earlier state; only keys that spent since then are in `spent`.
                None for all keys.
        """
        ...

    async def revoke_key(self, name: str, now: float) -> KeyRow:
        """Revoke the key with an id or name, and return it.

        Raises:
            NotFoundError: no key of that id or name is in use.
        """
        ...

    async def change_key(self, change: KeyChange) -> None:
        """Change a key that is in use, and store who did it.

        Where it gets another budget period, what it spent since that began is added up, and what
        other processes write down later of the earlier period counts for the new one.

        Raises:
            NotFoundError: the key was revoked.
            ConflictError: the key was changed meanwhile, or another one in use has its new name.
        """
        ...

    async def key_versions(self, key_id: str, *, limit: int = 50) -> list[KeyVersion]:
        """Return the latest changes of a key, the newest first."""
        ...

    async def add_key_uses(self, used: Mapping[str, float]) -> None:
        """Store when keys were used last, by their ids; an earlier moment changes nothing."""
        ...

    async def key_uses(self) -> dict[str, float]:
        """Return when each key was used last, seconds since the epoch; none that never was."""
        ...

    async def add_key_spend(self, spent: Sequence[KeySpend]) -> None:
        """Add to what keys spent, all or nothing; several processes may add to the same key."""
        ...
