"""Browsers that are signed in: a session belongs to a key, and has one valid token, or two.

A token is exchanged for a new one from time to time; the old one stays valid for moments, because
requests with it may be on their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class BrowserSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session, as one of its tokens finds it.

    Attributes:
        id: `ses_` and a random part.
        key_id: the key that it was begun with.
        csrf_token: what the session's forms carry.
        issued_at: when this token was issued, seconds since the epoch, UTC.
        expires_at: when this token ends.
        ends_at: when the session ends.
    """

    id: str
    key_id: str
    csrf_token: str
    issued_at: float
    expires_at: float
    ends_at: float


class SessionStore(Protocol):
    """Stores sessions, and hashes of their tokens."""

    async def add_session(self, session: BrowserSession, digest: bytes, *, limit: int) -> None:
        """Store a token, by its SHA-256, and drop expired ones; a key has its newest `limit`."""
        ...

    async def session(self, digest: bytes, now: float) -> BrowserSession | None:
        """Return the session of a token; None where the token is unknown, or expired by now."""
        ...

    async def replace_session_token(
        self, session: BrowserSession, digest: bytes, *, former: bytes, until: float
    ) -> bool:
        """Store a new token, and let the `former` one expire at `until`.

        Returns whether it was done: another request may have replaced the former one already.
        """
        ...

    async def delete_session(self, session_id: str) -> None:
        """Delete a session's tokens; not an error where they are gone."""
        ...

    async def delete_sessions_of(self, key_id: str) -> None:
        """Delete the tokens of all sessions of a key."""
        ...

    async def live_sessions(self, session_ids: Sequence[str], now: float) -> set[str]:
        """Return which of the sessions have not ended by now."""
        ...

    async def count_sessions_of(self, key_id: str, now: float) -> int:
        """Return how many sessions of a key have not ended by now."""
        ...
