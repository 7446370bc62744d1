"""Clients' keys on the hot path: recognise whose key a request has, admit the request, charge it.

    keys = Keys()
    sync = KeySync(keys, store)               # `key_sync.py`: everything that touches the store
    await sync.load()
    holder = keys.recognise(headers)          # sync, no IO: raises for a stranger
    grant = keys.admit(holder, route)         # raises, or lets the request through
    try:
        ...
    finally:
        grant.settle(total_tokens, cost_usd)  # once, when the request has ended; sync
    await sync.close()

`evalrouter key` creates, lists and revokes keys (`key_administration.py`). As soon as the first key
exists, revoked or not, every request needs one.

What a request in flight may take is reserved when it is let through and settled when it has ended,
so that many requests at a time cannot pass a limit together.

Budgets are shared by all processes on one database. Limits per minute and of parallel requests
are counted in each process by itself: N workers together let N times as much through.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from providers.errors import AuthenticationError, PermissionDeniedError
from router.gateway.key_holder import (
    MAX_TOKENS,
    MAX_USD,
    Holder,
    RequestHeaders,
    UnwrittenSpend,
    UnwrittenSpends,
)
from router.store.keys import BudgetPeriod, KeyRow, KeySpend, KeyTable

READ_ONLY = "This key's role is viewer, which sees everything, changes nothing and calls no models."
# Those that `presented` reads.
KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
# A use so soon after one that was noted is not noted.
NOTED_EVERY_S = 60.0
USUAL_DECAY = 0.95  # how much of the largest answer so far is expected of the next one


def digest_of(key: bytes) -> bytes:
    """Return the hash that the database stores instead of a key.

    One round of SHA-256 is enough: a key has 256 random bits, so there is nothing to guess, and
    slow hashes exist to protect what people can guess. It costs under a microsecond, per request.
    """
    return hashlib.sha256(key).digest()


class ExpectedUsage(NamedTuple):
    """What a request may take, reserved from its key while it is in flight.

    Attributes:
        prompt: tokens of its prompt.
        completion: tokens of its answer.
        usd: US dollars for both; 0 where the price is unknown.
    """

    prompt: int = 0
    completion: int = 0
    usd: float = 0.0


NOTHING = ExpectedUsage()


class KeyBudget(NamedTuple):
    """A key's budget, and what is used of it.

    Attributes:
        key: the key's name.
        usd: the budget in US dollars.
        period: when it begins anew.
        spent_usd: what all processes spent of it.
    """

    key: str
    usd: float
    period: BudgetPeriod
    spent_usd: float


class Grant:
    """Permission to execute one request. `settle` it once, whatever became of the request.

    Attributes:
        key_id: the id of the request's key; "" when no key is needed.
    """

    __slots__ = ("_expected", "_holder", "_keys", "_open", "key_id")

    def __init__(
        self, keys: Keys | None, holder: Holder | None, expected: ExpectedUsage = NOTHING
    ) -> None:
        self._expected = expected
        self._keys = keys
        self._holder = holder
        self._open = True
        self.key_id = holder.row.id if holder else ""

    def headers(self) -> RequestHeaders:
        """Return OpenAI's `x-ratelimit-*` headers, as things stand now; a new list."""
        if self._keys is None or self._holder is None:
            return []
        return self._holder.headers(self._keys.now())

    def settle(
        self, total_tokens: int | None, cost_usd: float | None, *, estimated: bool = False
    ) -> None:
        """End the request: free its place, count its tokens and charge what it cost.

        Args:
            total_tokens: prompt and answer; 0 when nothing was used, None when it is not known,
                and then nothing is taken from the limit of tokens per minute.
            cost_usd: US dollars; 0 when nothing was used, None when it is not known, and then the
                request is counted as unpriced.
            estimated: whether these are estimates, because the target did not say.
        """
        if self._keys is None or self._holder is None:
            return
        assert self._open, "a grant is settled once"
        self._open = False
        self._keys.settle(
            self._holder, total_tokens, cost_usd, estimated=estimated, expected=self._expected
        )


# The grant of every request while no key is needed.
KEYLESS = Grant(None, None)


class Keys:
    """All keys, in memory.

    Args:
        required: whether a key is needed even before the first one exists.
        clock: returns seconds since the epoch.

    Attributes:
        required: whether a request needs a key.
        now: the clock.
    """

    def __init__(self, *, required: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.required = required
        self.now = clock
        self._by_hash: dict[bytes, Holder] = {}
        self._by_id: dict[str, Holder] = {}
        self._unwritten: UnwrittenSpends = {}
        # Key id to when it was used.
        self._unwritten_uses: dict[str, float] = {}

    def recognise(self, headers: Mapping[bytes, bytes]) -> Holder | None:
        """Return the holder of the key that a request presents; None while no key is needed.

        Raises:
            AuthenticationError: 401, a key is needed and the request presents no usable one.
            PermissionDeniedError: 403, keys of this role call no models.
        """
        if not self.required:
            return None
        holder = self._find(presented(headers), self.now())
        if holder.row.role == "viewer":
            raise PermissionDeniedError(READ_ONLY, code="read_only")
        return holder

    def holder_of(self, row: KeyRow) -> Holder:
        """Return the holder of a key that a session was begun with.

        Raises:
            AuthenticationError: 401, no key has this id any more.
            PermissionDeniedError: 403, keys of this role call no models.
        """
        holder = self._by_id.get(row.id)
        if holder is None:
            raise AuthenticationError("The session's key is gone; sign in again.")
        if holder.row.role == "viewer":
            raise PermissionDeniedError(READ_ONLY, code="read_only")
        return holder

    def admit(self, holder: Holder | None, route: str, expected: ExpectedUsage = NOTHING) -> Grant:
        """Let a request through, or not. No IO; takes microseconds.

        Args:
            holder: what `recognise` returned.
            route: the request's `model`.
            expected: what it may take; for a holder that `is_metered`.

        Raises:
            AuthenticationError: 401, the key can be used no more.
            PermissionDeniedError: 403, the key may not use this route.
            RateLimitError: 429, the key's budget or one of its limits is used up.
        """
        if holder is None:
            return KEYLESS
        now = self.now()
        # While the body came, the key may have been revoked.
        _check_usable(holder.row, now)
        holder.check(route, now)
        if holder.requests is not None:
            # `check` has just looked at its level.
            holder.requests.take_of_level(1)
        holder.in_flight += 1
        if expected is not NOTHING:
            prompt, completion, usd = expected
            holder.reserved_tokens += prompt + completion
            holder.reserved_usd += usd
        return Grant(self, holder, expected)

    def identify(self, key: bytes | None) -> KeyRow:
        """Return the row of a key, without using up anything.

        Raises:
            AuthenticationError: the key cannot be used, or is missing.
        """
        return self._find(key, self.now()).row

    def in_use(self, key_id: str) -> KeyRow | None:
        """Return the row of a key by its id; None where no key has it that can be used.

        A browser that is signed in uses its key this way.
        """
        holder = self._by_id.get(key_id)
        if holder is None:
            return None
        now = self.now()
        try:
            _check_usable(holder.row, now)
        except AuthenticationError:
            return None
        if now - holder.used_at >= NOTED_EVERY_S:
            self._note_use(holder, now)
        return holder.row

    def name_of(self, key_id: str) -> str:
        """Return the name of a key; its id where no key has it."""
        holder = self._by_id.get(key_id)
        return key_id if holder is None else holder.row.name

    def budgets(self) -> list[KeyBudget]:
        """Return the budgets of the keys that are in use, and what all processes spent of them."""
        now = self.now()
        budgets = []
        for holder in self._by_id.values():
            row = holder.row
            if row.budget_usd is None or row.revoked_at is not None:
                continue
            if not holder.since <= now < holder.until:
                holder.enter_period(now)
            budgets.append(KeyBudget(row.name, row.budget_usd, row.budget_period, holder.spent_usd))
        return budgets

    def _find(self, key: bytes | None, now: float) -> Holder:
        if not key:
            raise AuthenticationError(
                "You must provide an API key, in the header 'Authorization: Bearer er-...' "
                "(or 'x-api-key', or 'api-key')."
            )
        holder = self._by_hash.get(digest_of(key))
        if holder is None:
            raise AuthenticationError("This API key is not known here.")
        _check_usable(holder.row, now)
        if now - holder.used_at >= NOTED_EVERY_S:
            self._note_use(holder, now)
        return holder

    def _note_use(self, holder: Holder, now: float) -> None:
        holder.used_at = self._unwritten_uses[holder.row.id] = now

    def settle(
        self,
        holder: Holder,
        total_tokens: int | None,
        cost_usd: float | None,
        *,
        estimated: bool = False,
        expected: ExpectedUsage = NOTHING,
    ) -> None:
        """Charge a request that has ended; see `Grant.settle`."""
        now = self.now()
        holder.in_flight -= 1
        if expected is not NOTHING:
            prompt, completion, usd = expected
            holder.reserved_tokens -= prompt + completion
            # Sums of fractions do not come back to 0 by themselves.
            holder.reserved_usd = holder.reserved_usd - usd if holder.in_flight else 0.0
            if total_tokens and completion:
                known = total_tokens if total_tokens < MAX_TOKENS else MAX_TOKENS
                holder.usual_completion = max(
                    float(known - prompt), holder.usual_completion * USUAL_DECAY, 1.0
                )
        if now >= holder.until or now < holder.since:
            holder.enter_period(now)
        period = (holder.row.id, holder.since)
        spend = self._unwritten.get(period)
        if spend is None:
            spend = self._unwritten[period] = UnwrittenSpend()
        spend.requests += 1
        if total_tokens:
            spend.tokens += total_tokens
            if holder.tokens is not None:
                holder.tokens.take(total_tokens, now)
        if estimated:
            spend.estimated += 1
        if cost_usd is None or not 0 <= cost_usd <= MAX_USD:
            spend.unpriced += 1
        else:
            spend.usd += cost_usd
            holder.spent_usd += cost_usd

    # what `KeySync` exchanges with the store

    def replace_rows(self, table: KeyTable) -> None:
        """Take over the rows of the store; holders outlive changes of their rows."""
        now = self.now()
        by_hash: dict[bytes, Holder] = {}
        for digest, row in table.by_hash.items():
            holder = self._by_id.get(row.id)
            if holder is None:
                holder = Holder(row, now)
            revoked_at = holder.row.revoked_at
            holder.change(row, now)
            if row.revoked_at is None and revoked_at is not None:
                # In a backup that was put back, the key may still be in use.
                holder.row = msgspec.structs.replace(row, revoked_at=revoked_at)
            by_hash[digest] = holder
        self._by_hash = by_hash
        self._by_id = {holder.row.id: holder for holder in by_hash.values()}
        # Revoked and expired keys count, and those that a database had before it was replaced:
        # losing the last one must not open the door to all.
        self.required = self.required or bool(by_hash)

    def learn_spend(self, stored: Mapping[str, KeySpend]) -> None:
        """Take over what all processes spent, by key id, as the store has it of all keys."""
        for key_id, holder in self._by_id.items():
            holder.learn(stored.get(key_id), self._unwritten)

    def learn_changes(self, stored: Mapping[str, KeySpend]) -> None:
        """Take over what all processes spent, by key id, of keys that spent since the last time."""
        for key_id, spend in stored.items():
            if key_id in self._by_id:
                self._by_id[key_id].learn(spend, self._unwritten)

    def take_unwritten(self) -> UnwrittenSpends:
        """Return what was spent here and is not in the store, for it to be written down."""
        unwritten, self._unwritten = self._unwritten, {}
        return unwritten

    def take_unwritten_uses(self) -> dict[str, float]:
        """Return when keys were used, as far as it is not in the store, for it to be written."""
        uses, self._unwritten_uses = self._unwritten_uses, {}
        return uses

    def put_back_uses(self, uses: Mapping[str, float]) -> None:
        """Take back what the store refused, to be offered again."""
        self._unwritten_uses = {**uses, **self._unwritten_uses}

    def put_back(self, unwritten: UnwrittenSpends) -> None:
        """Take back what the store refused, to be offered again."""
        for period, spend in unwritten.items():
            self._unwritten.setdefault(period, UnwrittenSpend()).add(spend)


def _check_usable(row: KeyRow, now: float) -> None:
    if row.revoked_at is not None:
        raise AuthenticationError("This API key was revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        raise AuthenticationError("This API key has expired.")


def bearer(authorization: bytes | None) -> bytes | None:
    """Return the key in an Authorization header of the scheme Bearer; None without one."""
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip()


def presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key that a request presents; None without one.

    OpenAI's clients send it as a bearer token, Anthropic's as `x-api-key`, Azure's as `api-key`.
    """
    authorization = headers.get(b"authorization")
    if authorization is not None:
        return bearer(authorization)
    key = headers.get(b"x-api-key") or headers.get(b"api-key")
    return None if key is None else key.strip()
