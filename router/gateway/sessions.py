"""Browsers that signed in with a key: begins, finds, renews and ends their sessions.

A browser holds a random token in a cookie; the store has its SHA-256. Every request reads the
store, so that all processes agree at once on which sessions have ended. A session ends with its
key, after twelve hours, or when its user signs out.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec

from providers.errors import RateLimitError
from router.gateway.keys import Keys, digest_of
from router.gateway.limits import Bucket
from router.store.keys import KeyRow
from router.store.sessions import BrowserSession, SessionStore

COOKIE = "evalrouter_session"
LIFE_S = 12 * 3600.0
# A token's age from which a page is sent with a new one.
RENEW_S = 3600.0
# What is on its way when a token is renewed has the former one.
OVERLAP_S = 60.0
SESSIONS_PER_KEY = 100
# A 256-bit token in base64 has 43 characters.
_MAX_TOKEN = 100

FAILURES_PER_MINUTE = 10
_ADDRESSES = 1000


class SignedIn(NamedTuple):
    """The session of a request.

    Attributes:
        session: as the store has it.
        token: what the browser's cookie has.
        key: the key that it was begun with.
    """

    session: BrowserSession
    token: str
    key: KeyRow


class Sessions:
    """The sessions of the browsers.

    Args:
        store: where they are.
        keys: the keys in memory.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self, store: SessionStore, keys: Keys, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._keys = keys
        self._now = clock

    async def begin(self, key: KeyRow) -> SignedIn:
        """Begin a session of a key."""
        now, token = self._now(), secrets.token_urlsafe(32)
        session = BrowserSession(
            id=f"ses_{secrets.token_hex(8)}",
            key_id=key.id,
            csrf_token=secrets.token_urlsafe(32),
            issued_at=now,
            expires_at=now + LIFE_S,
            ends_at=now + LIFE_S,
        )
        await self._store.add_session(session, digest_of(token.encode()), limit=SESSIONS_PER_KEY)
        return SignedIn(session, token, key)

    async def find(self, token: str) -> SignedIn | None:
        """Return the session of a token; None where it has ended, or its key has."""
        if not token or len(token) > _MAX_TOKEN:
            return None
        session = await self._store.session(digest_of(token.encode()), self._now())
        key = None if session is None else self._keys.in_use(session.key_id)
        return None if session is None or key is None else SignedIn(session, token, key)

    async def going_on(self, session_ids: Collection[str]) -> set[str]:
        """Return which of the sessions have not ended; their keys may have."""
        return await self._store.live_sessions(list(session_ids), self._now())

    async def renewed(self, signed_in: SignedIn) -> SignedIn | None:
        """Exchange a token that is old; None where it is not, or another request has done it."""
        now, session = self._now(), signed_in.session
        if now < session.issued_at + RENEW_S or session.expires_at < session.ends_at:
            return None
        token = secrets.token_urlsafe(32)
        issued = msgspec.structs.replace(session, issued_at=now)
        done = await self._store.replace_session_token(
            issued,
            digest_of(token.encode()),
            former=digest_of(signed_in.token.encode()),
            until=now + OVERLAP_S,
        )
        return signed_in._replace(session=issued, token=token) if done else None

    async def end(self, session: BrowserSession) -> None:
        """End a session, in all processes at once."""
        await self._store.delete_session(session.id)

    async def end_all(self, key_id: str) -> None:
        """End all sessions of a key, in all processes at once; the key itself stays."""
        await self._store.delete_sessions_of(key_id)

    async def count(self, key_id: str) -> int:
        """Return how many browsers are signed in with a key."""
        return await self._store.count_sessions_of(key_id, self._now())


def is_csrf_token(session: BrowserSession, presented: object) -> bool:
    """Return whether a request carries its session's token, in a time that tells nothing."""
    return isinstance(presented, str) and hmac.compare_digest(
        presented.encode(errors="replace"), session.csrf_token.encode()
    )


class FailedSignIns:
    """Limits how often an address may try keys that do not exist, in this process.

    Args:
        clock: returns seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._now = clock
        self._buckets: dict[str, Bucket] = {}

    def check(self, address: str) -> None:
        """Raise where the address has failed too often. Raises RateLimitError."""
        bucket = self._buckets.get(address)
        now = self._now()
        if bucket is not None and bucket.level(now) < 1:
            raise RateLimitError(
                "Too many attempts to sign in have failed; wait a moment.",
                retry_after=bucket.wait(1, now),
            )

    def add(self, address: str) -> None:
        """Count a failure."""
        now = self._now()
        bucket = self._buckets.pop(address, None) or Bucket(FAILURES_PER_MINUTE, now)
        bucket.take(1, now)
        self._buckets[address] = bucket
        if len(self._buckets) > _ADDRESSES:
            # The address that failed the longest time ago.
            del self._buckets[next(iter(self._buckets))]
