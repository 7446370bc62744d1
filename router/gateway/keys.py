"""Clients' keys: who asks, what they may ask, how much of it.

    keys = Keys(store)
    await keys.load()
    holder = keys.recognise(headers)   # sync, no IO: raises for a stranger
    grant = keys.admit(holder, route)         # raises, or lets the request through
    try:
        ...
    finally:
        grant.settle(total_tokens, cost_usd)    # once, when the request has ended; sync
    await keys.close()

Keys are made, listed and revoked with `evalrouter key`. As soon as there is one, revoked or not,
every request needs one. A task looks at the store every second: it reads what keys spent in all
processes, and the keys themselves when they have changed; beside it, another one writes down what
keys spent here. A write that waits or fails holds up no revocation.

What a request under way may take is reserved when it is let through and settled when it has ended,
so that many requests at a time cannot pass a limit together.

Budgets are shared by all processes on one database. Limits per minute and of parallel requests
are counted in each process by itself: N workers together let N times as much through.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from providers.errors import (
    AuthenticationError,
    EvalrouterError,
    InputError,
    PermissionDeniedError,
    RateLimitError,
)
from providers.names import check_name
from router.gateway.limits import Bucket, in_words, period_around
from router.store.base import KeyRow, KeySpend, KeyTable, Store

log = logging.getLogger("evalrouter")

PREFIX = "er-"
# Tokens of an answer whose request sets no limit, until the key's own answers say better.
USUAL_COMPLETION = 1000
USUAL_DECAY = 0.95  # how much of the largest answer so far is expected of the next one
# More than anything costs, and sums of them are still exact enough and finite.
MAX_USD = 1e12
MAX_TOKENS = 2**53

_UNWRITTEN = "what keys spent is not written down"

EVERY_S = 1.0  # between two looks at the store; also what a kill -9 may lose of a key's spend

RequestHeaders = list[tuple[bytes, bytes]]


def digest_of(key: bytes) -> bytes:
    """What is kept of a key.

    One round of SHA-256 is enough: a key has 256 random bits, so there is nothing to guess, and
    slow hashes exist to protect what people can guess. It costs under a microsecond, per request.
    """
    return hashlib.sha256(key).digest()


class Expected(NamedTuple):
    """What a request may take, reserved from its key while it is under way.

    Attributes:
        prompt: tokens of its prompt.
        completion: tokens of its answer.
        usd: US dollars for both; 0 where the price is unknown.
    """

    prompt: int = 0
    completion: int = 0
    usd: float = 0.0


NOTHING = Expected()


class Grant:
    """Leave to carry out one request. `settle` it once, whatever became of the request.

    Attributes:
        key_id: whose; "" when no key is needed.
    """

    __slots__ = ("_expected", "_holder", "_keys", "_open", "key_id")

    def __init__(
        self, keys: Keys | None, holder: Holder | None, expected: Expected = NOTHING
    ) -> None:
        self._expected = expected
        self._keys = keys
        self._holder = holder
        self._open = True
        self.key_id = holder.row.id if holder else ""

    def headers(self) -> RequestHeaders:
        """OpenAI's `x-ratelimit-*` headers, as things stand now; a new list."""
        if self._keys is None or self._holder is None:
            return []
        return self._holder.headers(self._keys.now())

    def settle(
        self, total_tokens: int | None, cost_usd: float | None, *, estimated: bool = False
    ) -> None:
        """The request has ended: frees its place, counts its tokens and what it cost.

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


NOBODY = Grant(None, None)


class _Tally:
    """What a key spent in a period and the store does not know yet."""

    __slots__ = ("estimated", "requests", "tokens", "unpriced", "usd")

    def __init__(self) -> None:
        self.usd = 0.0
        self.tokens = 0
        self.requests = 0
        self.unpriced = 0
        self.estimated = 0

    def add(self, other: _Tally) -> None:
        self.usd += other.usd
        self.tokens += other.tokens
        self.requests += other.requests
        self.unpriced += other.unpriced
        self.estimated += other.estimated

    def row(self, key_id: str, since: float) -> KeySpend:
        """The same for the store, within what it can take."""
        return KeySpend(
            key_id=key_id,
            since=since,
            usd=min(self.usd, MAX_USD),
            tokens=min(self.tokens, MAX_TOKENS),
            requests=self.requests,
            unpriced=self.unpriced,
            estimated=self.estimated,
        )


# Key id and beginning of the period.
_Tallies = dict[tuple[str, float], _Tally]


class Holder:
    """A key and where it stands. Outlives changes of its row; only `Keys` makes and uses it."""

    __slots__ = (
        "in_flight",
        "requests",
        "reserved_tokens",
        "reserved_usd",
        "row",
        "since",
        "spent_usd",
        "stored",
        "tokens",
        "until",
        "usual_completion",
    )

    def __init__(self, row: KeyRow, now: float) -> None:
        self.row = row
        self.requests = Bucket(row.rpm, now) if row.rpm else None
        self.tokens = Bucket(row.tpm, now) if row.tpm else None
        self.in_flight = 0
        self.reserved_tokens = 0
        self.reserved_usd = 0.0
        self.usual_completion = float(USUAL_COMPLETION)
        # The store's sum of the latest period.
        self.stored: KeySpend | None = None
        self.enter_period(now)

    @property
    def is_metered(self) -> bool:
        """Whether what a request may take has to be reserved."""
        return self.tokens is not None or self.row.budget_usd is not None

    def enter_period(self, now: float) -> None:
        """Begin the budget anew."""
        self.since, self.until = period_around(self.row.budget_period, now)
        self.spent_usd = self._stored_usd()

    def _stored_usd(self) -> float:
        stored = self.stored
        return stored.usd if stored is not None and stored.since == self.since else 0.0

    def learn(self, stored: KeySpend | None, unwritten: _Tallies) -> None:
        """What all processes spent is what the store says and what it was not told yet."""
        self.stored = stored
        tally = unwritten.get((self.row.id, self.since))
        self.spent_usd = self._stored_usd() + (tally.usd if tally else 0.0)

    def check(self, route: str, now: float) -> None:
        """Raise unless a request for the route may go ahead now."""
        row = self.row
        if row.routes is not None and route not in row.routes:
            raise PermissionDeniedError(
                f"This key may not use {route!r}.", param="model", code="model_not_allowed"
            )
        if row.budget_usd is not None:
            if not self.since <= now < self.until:
                self.enter_period(now)
            if self.spent_usd >= row.budget_usd:
                total = row.budget_period == "total"
                per = "" if total else f" per {row.budget_period}"
                raise self._refusal(
                    f"This key has spent its budget of ${row.budget_usd:g}{per}.",
                    None if total else self.until - now,
                    now,
                    code="insufficient_quota",
                )
            if self.reserved_usd and self.spent_usd + self.reserved_usd >= row.budget_usd:
                raise self._refusal(
                    f"What is left of this key's budget of ${row.budget_usd:g} may be needed for "
                    "its requests under way.",
                    1.0,
                    now,
                )
        if row.parallel is not None and self.in_flight >= row.parallel:
            raise self._refusal(
                f"This key may have {row.parallel} requests under way at a time.", 1.0, now
            )
        if self.requests is not None and self.requests.level(now) < 1:
            wait = self.requests.wait(1, now)
            raise self._refusal(f"This key may send {row.rpm} requests per minute.", wait, now)
        if self.tokens is not None and self.tokens.level(now) - self.reserved_tokens < 1:
            # A place that requests under way take may be free again soon.
            wait = max(1.0, self.tokens.wait(1, now))
            raise self._refusal(f"This key may use {row.tpm} tokens per minute.", wait, now)

    def _refusal(
        self, message: str, wait: float | None, now: float, *, code: str = "rate_limit_exceeded"
    ) -> RateLimitError:
        limits = {name.decode(): value.decode() for name, value in self.headers(now)}
        return RateLimitError(message, retry_after=wait, code=code, headers=limits)

    def headers(self, now: float) -> RequestHeaders:
        """OpenAI's `x-ratelimit-*` headers, as things stand at `now`; a new list."""
        headers: RequestHeaders = []
        if self.requests is not None:
            _describe(headers, _REQUESTS, self.requests, now)
        if self.tokens is not None:
            _describe(headers, _TOKENS, self.tokens, now, self.reserved_tokens)
        return headers


class _Names(NamedTuple):
    """OpenAI's headers of one kind of limit."""

    limit: bytes
    remaining: bytes
    reset: bytes

    @classmethod
    def of(cls, what: bytes) -> _Names:
        return cls(*(b"x-ratelimit-%b-%b" % (field.encode(), what) for field in cls._fields))


_REQUESTS = _Names.of(b"requests")
_TOKENS = _Names.of(b"tokens")


def _describe(
    headers: RequestHeaders, names: _Names, bucket: Bucket, now: float, reserved: int = 0
) -> None:
    level, until_full = bucket.state(now)
    headers.append((names.limit, b"%d" % bucket.limit))
    headers.append((names.remaining, b"%d" % max(0, level - reserved)))
    headers.append((names.reset, in_words(until_full).encode()))


class Keys:
    """All keys, in memory.

    Args:
        store: where they are kept; must be open before `load`.
        required: whether a key is needed even while there is none.
        clock: seconds since the epoch.
        every: seconds between two looks at the store.

    Attributes:
        required: whether a request needs a key.
    """

    def __init__(
        self,
        store: Store,
        *,
        required: bool = False,
        clock: Callable[[], float] = time.time,
        every: float = EVERY_S,
    ) -> None:
        self.required = required
        self.now = clock
        self._store = store
        self._every = every
        # The database that was read last, and its version.
        self._read_last = (0, -1)
        self._by_hash: dict[bytes, Holder] = {}
        self._by_id: dict[str, Holder] = {}
        self._unwritten: _Tallies = {}
        self._refreshing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        # How many times the spend was taken away to be written.
        self._writes = 0
        # What fails at present, so that it is logged once and not every second.
        self._failing: set[str] = set()

    async def load(self) -> None:
        """Read the keys and begin to watch for changes.

        Raises:
            StoreError: they cannot be read.
        """
        await self.refresh()
        self._watching = asyncio.create_task(self._watch(), name="evalrouter-keys")

    async def close(self) -> None:
        """Write down what was spent, and stop watching."""
        self._stopping.set()
        if self._watching is not None:
            await self._watching
            self._watching = None
            if self._writing is not None:
                await self._writing
            await self._try(_UNWRITTEN, self._write_down)

    # the hot path

    def recognise(self, headers: Mapping[bytes, bytes]) -> Holder | None:
        """Whose key a request presents, for `admit`; None while no key is needed.

        Raises:
            AuthenticationError: 401, a key is needed and this is none that can be used.
        """
        return self._find(presented(headers), self.now()) if self.required else None

    def admit(self, holder: Holder | None, route: str, expected: Expected = NOTHING) -> Grant:
        """Let a request through, or not. No IO; takes microseconds.

        Args:
            holder: what `recognise` said.
            route: the request's `model`.
            expected: what it may take; for a holder that `is_metered`.

        Raises:
            AuthenticationError: 401, the key can be used no more.
            PermissionDeniedError: 403, the key may not ask for this route.
            RateLimitError: 429, the key's budget or one of its limits is used up.
        """
        if holder is None:
            return NOBODY
        now = self.now()
        # While the body came, the key may have been revoked.
        _check_usable(holder.row, now)
        holder.check(route, now)
        if holder.requests is not None:
            holder.requests.take(1, now)
        holder.in_flight += 1
        if expected is not NOTHING:
            holder.reserved_tokens += expected.prompt + expected.completion
            holder.reserved_usd += expected.usd
        return Grant(self, holder, expected)

    def identify(self, key: bytes | None) -> KeyRow:
        """Whose key this is, without using up anything.

        Raises:
            AuthenticationError: no key that can be used.
        """
        return self._find(key, self.now()).row

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
        return holder

    def settle(
        self,
        holder: Holder,
        total_tokens: int | None,
        cost_usd: float | None,
        *,
        estimated: bool = False,
        expected: Expected = NOTHING,
    ) -> None:
        """See `Grant.settle`."""
        now = self.now()
        holder.in_flight -= 1
        if expected is not NOTHING:
            holder.reserved_tokens -= expected.prompt + expected.completion
            # Sums of fractions do not come back to 0 by themselves.
            holder.reserved_usd = holder.reserved_usd - expected.usd if holder.in_flight else 0.0
            if total_tokens and expected.completion:
                holder.usual_completion = max(
                    float(min(total_tokens, MAX_TOKENS) - expected.prompt),
                    holder.usual_completion * USUAL_DECAY,
                    1.0,
                )
        if cost_usd is not None and not 0 <= cost_usd <= MAX_USD:
            cost_usd = None
        if holder.tokens is not None and total_tokens:
            holder.tokens.take(total_tokens, now)
        if not holder.since <= now < holder.until:
            holder.enter_period(now)
        place = (holder.row.id, holder.since)
        tally = self._unwritten.get(place)
        if tally is None:
            tally = self._unwritten[place] = _Tally()
        tally.requests += 1
        tally.tokens += total_tokens or 0
        tally.estimated += estimated
        if cost_usd is None:
            tally.unpriced += 1
        else:
            tally.usd += cost_usd
            holder.spent_usd += cost_usd

    # the store

    async def refresh(self) -> None:
        """Learn from the store what changed, and tell it what was spent here.

        Raises:
            StoreError: it cannot be read or told; nothing of what was spent here is forgotten.
        """
        async with self._refreshing:
            await self._read()
            await self._write_down()

    async def _read(self) -> None:
        # What is on its way to the store may be in it or not, so sums say nothing meanwhile.
        is_writing = self._writing is not None and not self._writing.done()
        writes = self._writes
        generation = self._store.generation
        state = await self._store.key_state()
        if (generation, state.version) != self._read_last:
            table = await self._store.keys()
            self._take_over(table)
            self._read_last = (generation, table.version)
        if is_writing or writes != self._writes:
            return
        for key_id, holder in self._by_id.items():
            holder.learn(state.spent.get(key_id), self._unwritten)

    async def _write_down(self) -> None:
        """Raises the first error; what was refused stays here, without holding up the rest."""
        if not self._unwritten:
            return
        self._writes += 1
        writing, self._unwritten = self._unwritten, {}
        rows = [tally.row(*place) for place, tally in writing.items()]
        try:
            await self._store.add_key_spend(rows)
        except Exception:  # noqa: BLE001 - what is refused by itself as well is raised below
            # One that the store refuses must not cost the others. Together, so that a store that
            # refuses all of them is waited for once.
            results = await asyncio.gather(
                *(self._store.add_key_spend([row]) for row in rows), return_exceptions=True
            )
            for (place, tally), result in zip(writing.items(), results, strict=True):
                if isinstance(result, BaseException):
                    self._unwritten.setdefault(place, _Tally()).add(tally)
            for result in results:
                if isinstance(result, BaseException):
                    raise result from None

    def _take_over(self, table: KeyTable) -> None:
        now = self.now()
        by_hash: dict[bytes, Holder] = {}
        for digest, row in table.by_hash.items():
            holder = self._by_id.get(row.id)
            if holder is None:
                holder = Holder(row, now)
            revoked_at = holder.row.revoked_at
            holder.row = row
            if row.revoked_at is None and revoked_at is not None:
                # In a backup that was put back, the key may still be in use.
                holder.row = msgspec.structs.replace(row, revoked_at=revoked_at)
            by_hash[digest] = holder
        self._by_hash = by_hash
        self._by_id = {holder.row.id: holder for holder in by_hash.values()}
        # Revoked and expired keys count, and those that a database had before it was replaced:
        # losing the last one must not open the door to all.
        self.required = self.required or bool(by_hash)

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._every):
                    await self._stopping.wait()
            except TimeoutError:
                await self._try("keys and budgets are out of date", self._read)
                if self._writing is None or self._writing.done():
                    self._writing = asyncio.create_task(
                        self._try(_UNWRITTEN, self._write_down), name="evalrouter-key-spend"
                    )

    async def _try(self, failing: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # the watch must outlive whatever happens
            # Keys as last read stay in force, spend is kept in memory; said once, not every second.
            if failing not in self._failing:
                unforeseen = not isinstance(error, EvalrouterError)
                log.error("%s: %s", failing, error, exc_info=unforeseen)
            self._failing.add(failing)
        else:
            self._failing.discard(failing)


def _check_usable(row: KeyRow, now: float) -> None:
    if row.revoked_at is not None:
        raise AuthenticationError("This API key was revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        raise AuthenticationError("This API key has expired.")


def bearer(authorization: bytes | None) -> bytes | None:
    """The key in an Authorization header of the scheme Bearer; None for none."""
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip()


def presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key that a request presents; None for none.

    OpenAI's clients send it as a bearer token, Anthropic's as `x-api-key`, Azure's as `api-key`.
    """
    authorization = headers.get(b"authorization")
    if authorization is not None:
        return bearer(authorization)
    key = headers.get(b"x-api-key") or headers.get(b"api-key")
    return None if key is None else key.strip()


# making and listing keys

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")
_AFTER = re.compile(r"(\d{1,6})([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
# Requests, tokens or dollars: more is no limit.
MAX_LIMIT = 10**9
# A date has four digits for its year.
MAX_YEARS = 1000


async def create(store: Store, name: str, *, now: float, **fields: Any) -> tuple[str, KeyRow]:
    """Make a key: the key itself, which is kept nowhere, and its row.

    Args:
        store: where its hash is kept.
        name: what people call it.
        now: seconds since the epoch.
        fields: further fields of KeyRow.

    Raises:
        InputError: a field has a value that makes no sense.
        ConflictError: a key of that name is in use.
    """
    row = KeyRow(id=f"key_{secrets.token_hex(8)}", name=name, created_at=now, **fields)
    _check(row)
    key = PREFIX + secrets.token_urlsafe(32)
    await store.add_key(row, digest_of(key.encode()))
    return key, row


def _check(row: KeyRow) -> None:
    # A name that looks like an id or like a key would be taken for one.
    if not _NAME.fullmatch(row.name) or row.name.startswith(("key_", PREFIX)):
        raise InputError(
            f"a key's name has 1 to 64 letters, digits and . _ @ : - and does not begin with key_ "
            f"or {PREFIX}"
        )
    for route in row.routes or ():
        check_name(route, "routes", InputError)
    for name, limit in (("rpm", row.rpm), ("tpm", row.tpm), ("parallel", row.parallel)):
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise InputError(
                f"{name} must be from 1 to {MAX_LIMIT:,}; without it there is no limit"
            )
    if row.budget_usd is not None and not 0 < row.budget_usd <= MAX_LIMIT:
        raise InputError(f"a budget is a positive number of US dollars, at most {MAX_LIMIT:,}")
    if row.expires_at is not None and row.expires_at <= row.created_at:
        raise InputError("the key would have expired already")
    if row.expires_at is not None and row.expires_at > row.created_at + MAX_YEARS * 365 * 86400:
        raise InputError(
            f"the time must be within {MAX_YEARS} years; without it the key never expires"
        )
    if row.admin and row.routes is not None:
        raise InputError(
            "a key for administration may evaluate any route, so it cannot be confined to some"
        )


def expiry(text: str, now: float) -> float:
    """`12h`, `30d`, `2w` from now, or a date or date and time in ISO 8601 (UTC unless it says so).

    Returns seconds since the epoch.

    Raises:
        InputError: it is none of these.
    """
    after = _AFTER.fullmatch(text)
    if after is not None:
        return now + int(after[1]) * _SECONDS[after[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{text!r} is no time: write 12h, 30d, 2w, 2027-01-31 or 2027-01-31T12:00+01:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as `evalrouter key list` shows it.

    Attributes:
        key: what it may do.
        state: whether it can be used.
        spent: in the current budget period, as far as servers have written it down.
    """

    key: KeyRow
    state: Literal["active", "expired", "revoked"]
    spent: KeySpend


async def listed(store: Store, now: float) -> list[ListedKey]:
    """All keys, oldest first."""
    state = await store.key_state()
    found = []
    for key in (await store.keys()).by_hash.values():
        since, _ = period_around(key.budget_period, now)
        spent = state.spent.get(key.id)
        if spent is None or spent.since != since:
            spent = KeySpend(key_id=key.id, since=since)
        found.append(ListedKey(key=key, state=_state(key, now), spent=spent))
    return found


def _state(key: KeyRow, now: float) -> Literal["active", "expired", "revoked"]:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"
